"""What a run becomes: tables, JSON, verdicts, charts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report
from bench.load.spec import Load
from bench.measurement import Results
from bench.scenarios.scenario import Scenario, Unit, Variant
from bench.targets import TARGETS, Evaluation, Target, evaluate
from harness.made import measured, results_of

HEADER = report.Header("2026-01-01 00:00 UTC", "2 cores", "30ms", 3, False, {"s3stream-fs": "1", "rclone": "2"})
SCENARIO = Scenario("small-8", "many files", Unit.FILES, Load(()), variants=(Variant.COLD, Variant.NVME))


def _markdown(results: Results) -> list[str]:
    return report.as_markdown(HEADER, [SCENARIO], results, evaluate(results, TARGETS)).splitlines()


def test_a_row_has_all_columns_and_its_ratio_to_ours() -> None:
    lines = _markdown(Results([measured(), measured(contestant="rclone", seconds=4.0)]))
    (head,) = [line for line in lines if line.startswith("| cold |")]
    (ours,) = [line for line in lines if line.startswith("| s3stream-fs |")]
    (peer,) = [line for line in lines if line.startswith("| rclone |")]

    cells = ["s3stream-fs", "100 files/s", "1", "31 ms", "32 ms", "45 ms", "200 / 0 / 0", "1", "500 µs/file", "300 MiB"]
    assert [cell.strip() for cell in ours.strip("|").split("|")] == cells
    assert peer.split("|")[2:4] == [" 50 files/s ", " 0.5 "]
    assert head.count("|") == ours.count("|") == peer.count("|")


def test_a_failure_is_a_cell_with_the_reason() -> None:
    failed = replace(measured(contestant="rclone"), outcome=None, failure="does not mount: a | b")
    lines = _markdown(Results([measured(), failed]))
    (line,) = [line for line in lines if line.startswith("| rclone |")]

    assert "failed: does not mount: a / b" in line
    assert line.count("|") == 11


def test_variants_that_were_not_run_are_not_shown() -> None:
    assert not [line for line in _markdown(Results([measured()])) if line.startswith("| nvme |")]
    assert [line for line in _markdown(results_of(["small-8", "small-8@nvme"])) if line.startswith("| nvme |")]


def test_json_holds_each_run_and_no_nan() -> None:
    results = Results([measured(run=0), measured(run=1), measured("other", nfiles=0, nbytes=0)])
    text = report.as_json(HEADER, results, evaluate(results, TARGETS))
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    assert [one["run"] for one in data["measurements"]] == [0, 1, 0]
    assert data["measurements"][0]["outcome"]["nfiles"] == 200
    assert data["measurements"][0]["traffic"]["gets"] == 200
    assert len(data["targets"]) == len(TARGETS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.0, "1"), (99.96, "100"), (1234.5, "1,234"), (math.nan, "\N{EN DASH}")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert report.number(value) == text


@pytest.mark.parametrize(
    ("at_least", "measured_value", "verdict"),
    [
        (True, 100.0, "met"),
        (True, 250.0, "met"),
        (True, 99.9, "0.99 of it"),
        (True, 60.0, "0.60 of it"),
        (True, 0.0, "0.00 of it"),
        (False, 100.0, "met"),
        (False, 0.0, "met"),
        (False, 100.1, "0.99 of it"),
        (False, 200.0, "0.50 of it"),
        (True, math.nan, "not measured"),
    ],
)
def test_verdicts(at_least: bool, measured_value: float, verdict: str) -> None:
    assert Evaluation(Target("", lambda _: 0.0, 100.0, "", at_least), measured_value).verdict == verdict


def test_a_target_of_nothing_allows_nothing() -> None:
    none_allowed = Target("", lambda _: 0.0, 0.0, "", at_least=False)

    assert Evaluation(none_allowed, 0.0).verdict == "met"
    assert Evaluation(none_allowed, 1.0).verdict == "0.00 of it"


def test_charts_are_drawn_for_what_was_measured(tmp_path: Path) -> None:
    from bench import plots

    drawn = plots.draw(results_of(["small-8", "small-8@nvme"]), tmp_path)

    assert {path.name for path in drawn} == {"files.png", "warm-files.png", "amplification.png", "memory.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
