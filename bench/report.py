"""A run as JSON and as Markdown tables. Owns the layout; every figure comes from ``measurement`` and ``targets``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.contestants.ours import NAME as OURS
from bench.measurement import Figures, Results
from bench.scenarios.scenario import Scenario, Unit
from bench.targets import Evaluation

_HEAD: Final = (
    "| {first} | rate | / ours | first read | p50 | p99 | GET / HEAD / LIST | fetched / read | CPU | peak RSS |"
)
_DASH: Final = "\N{EN DASH}"
"""Where there is nothing to show."""

_RULE: Final = "|---|---|---|---|---|---|---|---|---|---|"

_COLUMNS: Final = """\
Rate counts all of the load's time. A latency is that of one read, a file's first one with its open; `first read` is the
median over the files. Requests and bytes are counted at the server, from the end of the listing on. CPU and RSS are the
daemon's. Each figure is the median of the runs. A local folder has no daemon and no requests."""


@dataclass(frozen=True, slots=True)
class Header:
    """Where and how a run was made."""

    date: str
    machine: str
    preset: str
    nruns: int
    quick: bool
    versions: Mapping[str, str]


def as_json(header: Header, results: Results, evaluations: Sequence[Evaluation]) -> str:
    """Everything, each run of each contestant. NaN becomes null, as JSON has none."""
    data: dict[str, Any] = {
        "header": {**asdict(header)},
        "measurements": [one.as_json() for one in results.measurements],
        "targets": [
            {
                "text": one.target.text,
                "wanted": one.target.wanted,
                "measured": one.measured,
                "verdict": one.verdict,
            }
            for one in evaluations
        ],
    }
    return json.dumps(_without_nan(data), indent=1, ensure_ascii=False) + "\n"


def as_markdown(
    header: Header, scenarios: Sequence[Scenario], results: Results, evaluations: Sequence[Evaluation]
) -> str:
    parts = [_heading(header), _targets(evaluations)]
    parts += [_scenario(one, header.preset, results) for one in scenarios]
    return "\n\n".join(parts) + "\n"


def _heading(header: Header) -> str:
    quick = ", `--quick`: smaller sizes" if header.quick else ""
    versions = "; ".join(f"{name} {version}" for name, version in header.versions.items())
    return "\n".join(
        [
            "# Benchmark results",
            "",
            f"- {header.date}",
            f"- {header.machine}",
            f"- preset `{header.preset}`, {header.nruns} run{'s' if header.nruns != 1 else ''}{quick}",
            f"- {versions}",
            "",
            _COLUMNS,
        ]
    )


def _targets(evaluations: Sequence[Evaluation]) -> str:
    lines = ["## Targets", "", "| target | wanted | measured | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {one.target.text} | {one.target.wanted} | {number(one.measured)} | {one.verdict} |" for one in evaluations
    ]
    return "\n".join(lines)


def _scenario(scenario: Scenario, preset: str, results: Results) -> str:
    lines = [f"## {scenario.name}", "", f"{scenario.summary}; preset `{scenario.preset or preset}`."]
    for variant in scenario.variants:
        row = scenario.row(variant)
        if row not in results.rows:
            continue
        lines += ["", _HEAD.format(first=f"{variant or 'cold'}"), _RULE]
        ours = results.get(row, OURS)
        lines += [_line(name, row, results, ours) for name in results.contestants if _was_run(name, row, results)]
    return "\n".join(lines)


def _was_run(contestant: str, row: str, results: Results) -> bool:
    return results.get(row, contestant) is not None or (row, contestant) in results.troubles


def _line(contestant: str, row: str, results: Results, ours: Figures | None) -> str:
    if trouble := results.troubles.get((row, contestant)):
        return f"| {contestant} | failed: {trouble.replace('|', '/')} |" + " |" * 8
    one = results.medians[row, contestant]
    ratio = one.rate / ours.rate if ours is not None and ours.rate else math.nan
    daemon = one.peak_rss_mib > 0
    cells = [
        contestant,
        f"{number(one.rate)} {one.unit}/s",
        "1" if contestant == OURS else number(ratio),
        f"{number(one.first_read_ms)} ms",
        f"{number(one.p50_ms)} ms",
        f"{number(one.p99_ms)} ms",
        _requests(one) if daemon else _DASH,
        number(one.amplification) if daemon else _DASH,
        _cpu(one) if daemon else _DASH,
        f"{number(one.peak_rss_mib)} MiB" if daemon else _DASH,
    ]
    return "| " + " | ".join(cells) + " |"


def _requests(one: Figures) -> str:
    refused = f" ({one.refused:,.0f} answered 503)" if one.refused else ""
    return f"{one.gets:,.0f} / {one.heads:,.0f} / {one.lists:,.0f}{refused}"


def _cpu(one: Figures) -> str:
    unit = {Unit.MIB: "ms/GiB", Unit.FILES: "µs/file", Unit.READS: "µs/read"}[one.unit]
    return f"{number(one.cpu_per_unit)} {unit}"


def number(value: float) -> str:
    """Three significant digits and no more; a dash for NaN."""
    if math.isnan(value):
        return _DASH
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _without_nan(data: Any) -> Any:
    if isinstance(data, float) and math.isnan(data):
        return None
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return data
