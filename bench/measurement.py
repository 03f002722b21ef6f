"""One measured run of one load by one contestant, and the median of several. Owns the figures derived from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.load.spec import Outcome
from bench.scenarios.scenario import Unit
from bench.simulated import Traffic
from bench.summary import median
from bench.usage import Usage

MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Measurement:
    """``failure`` is why there is no result, in one line; without it all of the rest is there.

    ``preset`` is the latency that the simulated S3 had. ``listing`` is the traffic of mounting and listing, before the
    clock started; ``traffic`` is that of the load itself.
    """

    row: str
    contestant: str
    run: int
    unit: Unit
    preset: str
    outcome: Outcome | None = None
    listing: Traffic | None = None
    traffic: Traffic | None = None
    usage: Usage | None = None
    failure: str = ""

    @property
    def trouble(self) -> str:
        """What is wrong with this measurement, in one line; empty where all is well."""
        if self.outcome is None:
            return self.failure
        if self.outcome.wrong_reads:
            return f"{self.outcome.wrong_reads} of {self.outcome.nreads} reads gave wrong bytes"
        if self.outcome.nerrors:
            return f"{self.outcome.nerrors} files failed: {self.outcome.errors[0]}"
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a table shows of one contestant in one row. NaN where there is nothing to show."""

    unit: Unit
    rate: float
    first_read_ms: float
    p50_ms: float
    p99_ms: float
    gets: float
    heads: float
    lists: float
    nfiles: float
    refused: float
    amplification: float
    cpu_per_unit: float
    """Microseconds of the daemon's CPU per file or read, milliseconds per GiB where the unit is MiB."""
    peak_rss_mib: float


def figures(measurement: Measurement) -> Figures:
    outcome, traffic, usage = measurement.outcome, measurement.traffic, measurement.usage
    if outcome is None or traffic is None or usage is None:
        raise ValueError(f"{measurement.contestant} has no result in {measurement.row}: {measurement.failure}")
    done, cpu_scale = {
        Unit.MIB: (outcome.nbytes / MIB, 1e3 * GIB / MIB),
        Unit.FILES: (outcome.nfiles, 1e6),
        Unit.READS: (outcome.nreads, 1e6),
    }[measurement.unit]
    return Figures(
        unit=measurement.unit,
        rate=_ratio(done, outcome.seconds),
        first_read_ms=outcome.first_read_ms,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        gets=traffic.gets,
        heads=traffic.heads,
        lists=traffic.lists,
        nfiles=outcome.nfiles,
        refused=traffic.refused,
        amplification=_ratio(traffic.nbytes, outcome.nbytes),
        cpu_per_unit=_ratio(usage.cpu_seconds * cpu_scale, done),
        peak_rss_mib=usage.peak_rss_nbytes / MIB,
    )


def middle(runs: Sequence[Figures]) -> Figures:
    """Each figure's own median over the runs."""

    def of(figure: Callable[[Figures], float]) -> float:
        return median([value for one in runs if not math.isnan(value := figure(one))])

    return Figures(
        unit=runs[0].unit,
        rate=of(lambda one: one.rate),
        first_read_ms=of(lambda one: one.first_read_ms),
        p50_ms=of(lambda one: one.p50_ms),
        p99_ms=of(lambda one: one.p99_ms),
        gets=of(lambda one: one.gets),
        heads=of(lambda one: one.heads),
        lists=of(lambda one: one.lists),
        nfiles=of(lambda one: one.nfiles),
        refused=of(lambda one: one.refused),
        amplification=of(lambda one: one.amplification),
        cpu_per_unit=of(lambda one: one.cpu_per_unit),
        peak_rss_mib=of(lambda one: one.peak_rss_mib),
    )


class Results:
    """All measurements of a run, and the medians: ``(row, contestant)`` to figures, in order of measurement."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.measurements = list(measurements)
        self.rows = list(dict.fromkeys(one.row for one in self.measurements))
        self.contestants = list(dict.fromkeys(one.contestant for one in self.measurements))
        grouped: dict[tuple[str, str], list[Figures]] = {}
        self.troubles: dict[tuple[str, str], str] = {}
        for one in self.measurements:
            if one.trouble:
                self.troubles[one.row, one.contestant] = one.trouble
            else:
                grouped.setdefault((one.row, one.contestant), []).append(figures(one))
        self.medians = {place: middle(runs) for place, runs in grouped.items()}

    def get(self, row: str, contestant: str) -> Figures | None:
        return self.medians.get((row, contestant))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
