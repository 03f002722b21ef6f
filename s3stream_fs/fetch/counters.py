"""What the fetcher has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """See ``FetchStatistics``."""

    memory_hits: int = 0
    disk_hits: int = 0
    joined: int = 0
    demand_gets: int = 0
    ahead_gets: int = 0
    ahead_dropped: int = 0
    abandoned: int = 0
    failed: int = 0
    brought_by_others: int = 0
    nbytes_fetched: int = 0


@dataclass(frozen=True, slots=True)
class FetchStatistics:
    """``*_hits`` count pieces served to readers by tier; ``joined`` those that waited for a GET already under way.

    ``hedged`` counts GETs that were late and sent a second time, ``hedges_won`` those that the second answered first.
    ``brought_by_others`` counts parts that another process fetched into the same cache folder at the same moment.
    ``failed`` counts GETs that ended with an error, because asking again was of no use or nobody waited for it.
    ``paused`` are GETs that failed and wait to be sent again, which takes neither a slot nor memory.
    ``ahead_limit`` is up to how many GETs in flight read-ahead may start another, ``get_seconds`` how long a GET of a
    large part takes when nothing is in its way.
    """

    memory_hits: int
    disk_hits: int
    joined: int
    demand_gets: int
    ahead_gets: int
    ahead_dropped: int
    abandoned: int
    failed: int
    brought_by_others: int
    nbytes_fetched: int
    hedged: int
    hedges_won: int
    in_flight: int
    queued: int
    paused: int
    ahead_limit: int
    get_seconds: float
