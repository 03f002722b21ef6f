"""How many GETs the store takes at once: every slot until it says SlowDown, then as many as it bears. Pure.

A SlowDown costs a tenth; what comes back, comes one by one at first and then by tenths. Whoever is told to slow down a
GET reports it here; whoever starts GETs asks here. LISTs have rates of their own at the store, and none of these slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_CUT: Final = 0.9
"""What is left after a SlowDown. S3 limits a rate, and at an even latency the rate follows the number in flight, so a
small step back is enough; a half would leave a quarter of the allowed rate unused on average."""

_RISE: Final = 1.1
"""A step up once no SlowDown has come for a while: from the least to 256 it takes 5 s."""

_CAREFUL_SECONDS: Final = 3.0
"""So long after a SlowDown a step up is a single GET: at a steady rate limit, steps of a tenth had 12 to 20 % of all
requests refused, and single ones 5 to 14 (simulated, 64 and 256 readers)."""

_STEP_SECONDS: Final = 0.1
"""One cut, and one step up, in this time at the most: some round trips, so that one change shows before the next."""

_SPELL_SECONDS: Final = 1.0
"""A SlowDown that follows another within that time is not an accident: until then what is in flight says little of what
the store bears, as it may be two GETs of a moment in which little is read."""

_WELL_SECONDS: Final = 1.0
"""What goes well is counted over such a time: some large GETs on a slow link."""

_LEAST: Final = 8
"""The limit never falls below that: a lower rate is reached by the pauses before retries, and with a single GET under
way one that meets fault after fault would hold up everybody."""


@dataclass(frozen=True, slots=True)
class CongestionStatistics:
    """``limit`` is how many GETs may be in flight at present, at most ``ceiling``; ``cuts`` how often it fell."""

    ceiling: int
    limit: int
    in_flight: int
    cuts: int


class Congestion:
    """Counts what is in flight. Invariant: ``0 <= in_flight``, ``min(8, ceiling) <= limit <= ceiling``."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(ceiling)
        self._changed_at = float("-inf")
        self._throttled_at = float("-inf")
        self._cuts = 0
        self._well_since = float("-inf")
        self._well_seconds = 0.0
        """How long those GETs took, all together, that have ended well since then."""
        self._well_before = 0.0
        """How many GETs that ended well were in flight on average, in the time before that."""
        self.in_flight = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def on_throttled(self, now: float) -> None:
        """The store answered a GET with SlowDown."""
        again = now - self._throttled_at < _SPELL_SECONDS
        self._throttled_at = now
        if now - self._changed_at < _STEP_SECONDS:
            return
        # In a spell of them what counts is what was under way, and not a limit that nobody had reached.
        reached = min(self._limit, self.in_flight) if again else self._limit
        well = min(self._well(now), self._limit)
        self._limit = max(float(min(_LEAST, self._ceiling)), well, reached * _CUT)
        self._changed_at = now
        self._cuts += 1

    def on_landed(self, now: float, seconds: float) -> None:
        """A GET ended well, ``seconds`` after it was sent."""
        self._well(now)
        self._well_seconds += seconds
        if self.in_flight >= self.limit and now - self._changed_at >= _STEP_SECONDS:
            careful = now - self._throttled_at < _CAREFUL_SECONDS
            self._limit = min(self._limit + 1.0 if careful else self._limit * _RISE, float(self._ceiling))
            self._changed_at = now

    def statistics(self) -> CongestionStatistics:
        return CongestionStatistics(self._ceiling, self.limit, self.in_flight, self._cuts)

    def _well(self, now: float) -> float:
        """How many GETs were in flight lately that ended well: by Little's law their rate times how long each took.

        SlowDowns that come whatever is in flight, some in a hundred, would otherwise bring the limit down to its least.
        """
        elapsed = now - self._well_since
        if elapsed >= _WELL_SECONDS:
            recent = elapsed < 2 * _WELL_SECONDS
            self._well_before = self._well_seconds / elapsed if recent else 0.0
            self._well_since, self._well_seconds = now, 0.0
        return self._well_before
