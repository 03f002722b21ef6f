"""Results that nobody measured, for tests of what is made from results."""

from __future__ import annotations

from collections.abc import Sequence

from bench.contestants.ours import NAME as OURS
from bench.load.spec import Outcome
from bench.measurement import MIB, Measurement, Results
from bench.scenarios.scenario import Unit
from bench.simulated import Traffic
from bench.targets import PASSTHROUGH, PYFUSE3, UNHEDGED
from bench.usage import Usage


def measured(
    row: str = "small-8",
    contestant: str = OURS,
    *,
    run: int = 0,
    unit: Unit = Unit.FILES,
    nbytes: int = 100 * MIB,
    nfiles: int = 200,
    seconds: float = 2.0,
    fetched_nbytes: int = 100 * MIB,
    gets: int = 200,
    cpu_seconds: float = 0.1,
    peak_rss_nbytes: int = 300 * MIB,
    wrong_reads: int = 0,
    nerrors: int = 0,
) -> Measurement:
    errors = ["OSError: [Errno 5] Input/output error"] if nerrors else []
    return Measurement(
        row,
        contestant,
        run,
        unit,
        "30ms",
        Outcome(nbytes, nfiles, nfiles, seconds, 31.0, 32.0, 45.0, wrong_reads, nerrors, errors),
        Traffic(0, 1, 1, 0, 1, 1, 0),
        Traffic(gets, 0, 0, fetched_nbytes, 8, 8, 0),
        Usage(cpu_seconds, peak_rss_nbytes),
    )


def results_of(rows: Sequence[str]) -> Results:
    """The same figures in each row, of all that the targets compare."""
    compared = (OURS, UNHEDGED, PYFUSE3, PASSTHROUGH, "obstore", "local")
    return Results(measured(row, contestant) for row in rows for contestant in compared)
