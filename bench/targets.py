"""What was promised of the read path, as data, and whether a run keeps it. Pure.

The targets hold for the ``30ms`` preset: 30 ms to the first byte, 90 MB/s per connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.contestants.contestant import MEMORY_MIB
from bench.contestants.ours import NAME as OURS
from bench.measurement import Figures, Results
from bench.scenarios.small import THROTTLED_RATE

Metric = Callable[[Results], float]
"""A figure of a run; NaN where the run did not measure it."""


@dataclass(frozen=True, slots=True)
class Target:
    text: str
    metric: Metric
    bound: float
    unit: str
    at_least: bool = True

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:,.4g} {self.unit}".rstrip()

    def share(self, measured: float) -> float:
        """How much of the target is reached, 1 where all of it is; NaN where it was not measured."""
        if math.isnan(measured):
            return math.nan
        if measured == self.bound:
            return 1.0
        return min(measured / self.bound if self.at_least else self.bound / max(measured, self.bound), 1.0)


@dataclass(frozen=True, slots=True)
class Evaluation:
    target: Target
    measured: float

    @property
    def share(self) -> float:
        return self.target.share(self.measured)

    @property
    def verdict(self) -> str:
        if math.isnan(self.share):
            return "not measured"
        return "met" if self.share == 1.0 else f"{math.floor(self.share * 100) / 100:.2f} of it"


def evaluate(results: Results, targets: Sequence[Target]) -> list[Evaluation]:
    return [Evaluation(target, target.metric(results)) for target in targets]


def _of(row: str, figure: Callable[[Figures], float], contestant: str = OURS) -> Metric:
    def metric(results: Results) -> float:
        found = results.get(row, contestant)
        return math.nan if found is None else figure(found)

    return metric


def _rate(row: str, contestant: str = OURS) -> Metric:
    return _of(row, lambda one: one.rate, contestant)


def _ratio(part: Metric, whole: Metric) -> Metric:
    def metric(results: Results) -> float:
        divisor = whole(results)
        return part(results) / divisor if divisor else math.nan

    return metric


def _largest_rss(results: Results) -> float:
    measured = [one.peak_rss_mib for (_, name), one in results.medians.items() if name == OURS]
    return max(measured, default=math.nan)


def _gets_per_file(row: str) -> Metric:
    return _of(row, lambda one: one.gets / one.nfiles if one.nfiles else math.nan)


def _others(row: str) -> Metric:
    return _of(row, lambda one: one.heads + one.lists)


def _amplification(row: str) -> Metric:
    return _of(row, lambda one: one.amplification)


def _mib_beyond_early_stop(results: Results) -> float:
    found = results.get("early-stop", OURS)
    return math.nan if found is None else found.amplification - 1.0  # each file is read for 1 MiB


def _mib_per_random_4k(results: Results) -> float:
    found = results.get("random-4KiB", OURS)
    return math.nan if found is None else found.amplification * 4 / 1024


def _of_page_after_page(one: Figures) -> float:
    """A page of 1,000 names comes 90 ms after it was asked for, and the next is asked for then."""
    return one.rate / (1000 / 0.090)


UNHEDGED: Final = f"{OURS}-unhedged"
"""What hedging is compared with: to be given to the command line, as in ``--variant unhedged=WORDS``."""

PYFUSE3: Final = f"{OURS}-pyfuse3"
"""What the native binding is compared with: ``--variant pyfuse3=--binding=pyfuse3``."""

PASSTHROUGH: Final = f"{OURS}-passthrough"
"""Complete files read by the kernel: ``--variant passthrough=--open-mode=passthrough``."""

TARGETS: Final = (
    Target("one cold sequential stream", _rate("sequential"), 800, "MiB/s"),
    Target(
        "the same, of what obstore alone gets", _ratio(_rate("sequential"), _rate("sequential", "obstore")), 0.7, ""
    ),
    Target("first MiB of a fresh file, listed before", _of("first-mib", lambda one: one.p50_ms), 60, "ms", False),
    Target("cold shuffled 100 KB files, 1 reader", _rate("small-1"), 30, "files/s"),
    Target("the same, 8 readers", _rate("small-8"), 250, "files/s"),
    Target("the same, 64 readers", _rate("small-64"), 1800, "files/s"),
    Target("no latency, 64 readers", _rate("small-64-none"), 2000, "files/s"),
    Target("CPU per cold 100 KB file", _of("small-64-none", lambda one: one.cpu_per_unit), 400, "µs", False),
    Target("GETs per cold small file", _gets_per_file("small-64"), 1, "", False),
    Target("HEADs and LISTs beyond the directories'", _others("small-64"), 0, "", False),
    Target("bytes fetched / read, sequential", _amplification("sequential"), 1.02, "", False),
    Target("the same, random 256 KiB", _amplification("random-256KiB"), 2, "", False),
    Target("fetched per random 4 KiB: one block", _mib_per_random_4k, 1, "MiB", False),
    Target("fetched beyond an early stop at 1 MiB", _mib_beyond_early_stop, 3, "MiB", False),
    Target(
        "two interleaved streams, of two separate ones", _ratio(_rate("interleaved"), _rate("two-descriptors")), 0.8, ""
    ),
    Target("peak RSS in every scenario", _largest_rss, MEMORY_MIB + 150, "MiB", False),
    Target("GETs per file with the hot tail: hedges included", _gets_per_file("small-8-hot"), 1.05, "", False),
    Target(
        "hedging shortens p99 with the hot tail",
        _ratio(_of("small-8-hot", lambda one: one.p99_ms, UNHEDGED), _of("small-8-hot", lambda one: one.p99_ms)),
        2,
        "times",
    ),
    Target("files/s where 1,000 requests/s are allowed", _rate("throttled"), 0.9 * THROTTLED_RATE, "files/s"),
    Target("epoch from the kernel's pages, files of 100 KB", _rate("epoch@memory"), 30_000, "files/s"),
    Target("the same, of a local folder", _ratio(_rate("epoch@memory"), _rate("epoch@memory", "local")), 0.7, ""),
    Target("CPU per file of it", _of("epoch@memory", lambda one: one.cpu_per_unit), 2, "µs", False),
    Target("walk with stat, of a local folder", _ratio(_rate("walk@memory"), _rate("walk@memory", "local")), 0.7, ""),
    Target("epoch from the disk, of pyfuse3", _ratio(_rate("epoch@nvme"), _rate("epoch@nvme", PYFUSE3)), 3, "times"),
    Target("the same, of a local folder", _ratio(_rate("epoch@nvme"), _rate("epoch@nvme", "local")), 0.5, ""),
    Target(
        "stream from the disk by passthrough, of a local folder",
        _ratio(_rate("epoch-large@complete", PASSTHROUGH), _rate("epoch-large@complete", "local")),
        0.95,
        "",
    ),
    Target("CPU per LOOKUP, one after another", _of("stat@names", lambda one: one.cpu_per_unit), 20, "µs", False),
    Target("the same, 8 readers", _of("stat-8@names", lambda one: one.cpu_per_unit), 20, "µs", False),
    Target(
        "stream from the disk after a restart, of a local folder",
        _ratio(_rate("sequential@remount"), _rate("sequential@remount", "local")),
        0.9,
        "",
    ),
    Target(
        "random 256 KiB from the disk after a restart, of a local folder",
        _ratio(_rate("random-256KiB@remount"), _rate("random-256KiB@remount", "local")),
        0.7,
        "",
    ),
    Target(
        "a million files walked, with a stat of each", _of("tree", lambda one: one.nfiles / one.rate), 25, "s", False
    ),
    Target("LISTs for it", _of("tree", lambda one: one.lists), 1100, "", False),
    Target("HEADs for it", _of("tree", lambda one: one.heads), 0, "", False),
    Target("names of one folder, of what comes page after page", _of("flat", _of_page_after_page), 5, "times"),
)
