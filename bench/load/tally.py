"""What one reader saw, and how the tallies of all readers become one outcome. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.load.spec import Outcome
from bench.summary import median, percentile

ERRORS_KEPT: Final = 5
"""How many error texts an outcome holds: enough to see what is wrong, few enough to read."""


@dataclass(slots=True)
class Tally:
    """Counts of one reader thread; no other thread touches them until it has ended."""

    nbytes: int = 0
    nfiles: int = 0
    wrong_reads: int = 0
    nerrors: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    first_reads_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def took(self, latency_ms: float, *, first: bool) -> None:
        self.latencies_ms.append(latency_ms)
        if first:
            self.first_reads_ms.append(latency_ms)

    def failed(self, error: Exception) -> None:
        self.nerrors += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(f"{type(error).__name__}: {error}")


def outcome(tallies: Sequence[Tally], seconds: float, cpu_seconds: float) -> Outcome:
    latencies = [latency for tally in tallies for latency in tally.latencies_ms]
    first_reads = [latency for tally in tallies for latency in tally.first_reads_ms]
    errors = [error for tally in tallies for error in tally.errors]
    return Outcome(
        nbytes=sum(tally.nbytes for tally in tallies),
        nfiles=sum(tally.nfiles for tally in tallies),
        nreads=len(latencies),
        seconds=seconds,
        first_read_ms=median(first_reads),
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        wrong_reads=sum(tally.wrong_reads for tally in tallies),
        nerrors=sum(tally.nerrors for tally in tallies),
        errors=errors[:ERRORS_KEPT],
        cpu_seconds=cpu_seconds,
    )
