"""Figures from measurements, and their medians."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.measurement import MIB, Results, figures
from bench.scenarios.scenario import Unit
from bench.simulated import Traffic
from bench.usage import parse_cpu_seconds, parse_peak_rss_nbytes
from harness.made import measured


@pytest.mark.parametrize(
    ("unit", "rate", "cpu"),
    [
        (Unit.MIB, 50.0, 1_024.0),  # 100 MiB in 2 s; 0.1 s of CPU for 100 MiB is 1,024 ms for a GiB
        (Unit.FILES, 100.0, 500.0),  # 200 files in 2 s; 0.1 s for 200 files is 500 µs each
        (Unit.READS, 100.0, 500.0),
    ],
)
def test_rate_and_cpu_are_in_the_scenarios_unit(unit: Unit, rate: float, cpu: float) -> None:
    found = figures(measured(unit=unit))

    assert found.rate == pytest.approx(rate)
    assert found.cpu_per_unit == pytest.approx(cpu)


def test_amplification_is_what_was_fetched_for_what_was_read() -> None:
    assert figures(measured(fetched_nbytes=250 * MIB)).amplification == pytest.approx(2.5)


def test_nothing_done_has_no_figures_and_raises_nothing() -> None:
    found = figures(measured(nbytes=0, nfiles=0))

    assert math.isnan(found.amplification)
    assert math.isnan(found.cpu_per_unit)
    assert found.rate == 0


def test_the_median_is_each_figures_own() -> None:
    results = Results(
        [
            measured(run=0, seconds=1.0, gets=203),
            measured(run=1, seconds=4.0, gets=201),
            measured(run=2, seconds=2.0, gets=202),
        ]
    )
    found = results.get("small-8", "s3stream-fs")

    assert found is not None
    assert (found.rate, found.gets) == (100.0, 202)


def test_trouble_is_told_and_counts_in_no_median() -> None:
    failed = replace(measured("small-1"), outcome=None, failure="does not mount: no fuse")
    results = Results([measured(run=0), measured(run=1, wrong_reads=3), failed])

    assert results.troubles == {
        ("small-8", "s3stream-fs"): "3 of 200 reads gave wrong bytes",
        ("small-1", "s3stream-fs"): "does not mount: no fuse",
    }
    assert ("small-1", "s3stream-fs") not in results.medians


def test_failed_reads_are_trouble() -> None:
    assert measured(nerrors=2).trouble == "2 files failed: OSError: [Errno 5] Input/output error"


def test_traffic_is_read_from_the_servers_counters() -> None:
    counters = {
        "requests": {"GET": 7, "HEAD": 1, "LIST": 2, "OTHER": 4},
        "nbytes": {"GET": 700, "HEAD": 0, "LIST": 90, "OTHER": 0},
        "statuses": {"206": 5, "503": 2},
        "connections": 3,
        "in_flight": 0,
        "max_in_flight": 6,
        "faults": {},
    }

    assert Traffic.from_json(counters) == Traffic(7, 1, 2, 700, 3, 6, 2)


def test_cpu_time_is_found_behind_any_name_of_a_process() -> None:
    stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 1000 1 1"

    assert parse_cpu_seconds(stat) == pytest.approx(2.0)  # Linux counts 100 ticks a second for user space


def test_peak_memory_is_the_high_water_mark() -> None:
    assert parse_peak_rss_nbytes("VmPeak:\t 900 kB\nVmHWM:\t   300 kB\nVmRSS:\t 200 kB\n") == 300 * 1024
    assert parse_peak_rss_nbytes("Name:\tgone\n") == 0
