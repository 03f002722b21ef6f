"""How many GETs the store takes at once: every slot until it says SlowDown, then as many as it bears. Pure.

Additive increase, multiplicative decrease. Whoever is told to slow down reports it here; whoever starts GETs asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_CUT: Final = 0.9
"""What is left of the limit after a SlowDown. S3 limits a rate, and at an even latency the rate follows the number in
flight, so a small step back is enough; a half would leave a quarter of the allowed rate unused on average."""

_STEP_SECONDS: Final = 0.1
"""One cut, and one step up, in this time at the most: some round trips, so that one change shows before the next."""


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
        self._cuts = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def on_throttled(self, now: float) -> None:
        """The store answered SlowDown."""
        if now - self._changed_at < _STEP_SECONDS:
            return
        # What counts is what was under way when it became too much, not a limit that nobody had reached.
        self._limit = max(float(min(_LEAST, self._ceiling)), min(self._limit, self.in_flight) * _CUT)
        self._changed_at = now
        self._cuts += 1

    def on_landed(self, now: float) -> None:
        """A GET ended well."""
        if self.in_flight >= self.limit and now - self._changed_at >= _STEP_SECONDS:
            self._limit = min(self._limit + 1.0, float(self._ceiling))
            self._changed_at = now

    def statistics(self) -> CongestionStatistics:
        return CongestionStatistics(self._ceiling, self.limit, self.in_flight, self._cuts)
