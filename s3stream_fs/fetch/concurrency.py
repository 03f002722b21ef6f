"""How many GETs are worth having in flight for read-ahead: what keeps the pipe full, and no more. Pure.

By Little's law the number in flight is the rate at which GETs complete times how long each takes. As long as nothing
impedes a GET, more in flight means a higher rate; beyond that they only wait for each other, and each has a connection
with its buffers: to 64 streams, 200 GETs in flight brought 380 MiB/s, and 64 of them 495.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_FLOOR: Final = 32
"""In flight at any time, if anything is wanted: 2.9 GB/s at 90 MB/s per connection, before anything was measured."""

_GAIN: Final = 2.0
"""Times what the rate of the last seconds needed: more is found out by trying, so the number doubles while it helps."""

_BUCKET_SECONDS: Final = 0.25
_BUCKETS: Final = 8
"""The best quarter of the last two seconds counts: a reader's pause is no reason to fall back."""

_LEAST_SECONDS: Final = 10.0
"""The least time of a GET is that of the last 10 to 20 s: long enough for a moment in which little was under way."""

_LARGE_BITS: Final = (4 * 1024 * 1024).bit_length()
"""Parts from this size class on say how long a large GET takes."""


class _Least:
    """The least of what was seen lately."""

    __slots__ = ("_before", "_now", "_since")

    def __init__(self, seconds: float, now: float) -> None:
        self._before = self._now = seconds
        self._since = now

    def add(self, seconds: float, now: float) -> float:
        if now - self._since >= _LEAST_SECONDS:
            self._before, self._now, self._since = self._now, seconds, now
        else:
            self._now = min(self._now, seconds)
        return min(self._before, self._now)


class Concurrency:
    """Watches complete GETs, by size class: powers of two, since a larger part takes longer."""

    def __init__(self) -> None:
        self._least: dict[int, _Least] = {}
        self._needed: deque[float] = deque(maxlen=_BUCKETS)
        """Per quarter of a second: how many GETs in flight would have done, had nothing impeded any."""
        self._bucket_since = float("-inf")
        self._bucket_seconds = 0.0
        self.ahead_limit = _FLOOR
        """GETs in flight up to which read-ahead may start another."""
        self.large_get_seconds = 0.0
        """How long a GET of a large part takes when nothing is in its way; 0 while none was seen."""

    def on_complete(self, nbytes: int, seconds: float, now: float) -> None:
        """A GET of ``nbytes`` has come, ``seconds`` after its request."""
        bits = nbytes.bit_length()
        known = self._least.get(bits)
        if known is None:
            known = self._least[bits] = _Least(seconds, now)
        least = known.add(seconds, now)
        if bits >= _LARGE_BITS:
            self.large_get_seconds = least
        elapsed = now - self._bucket_since
        if elapsed >= _BUCKET_SECONDS:
            if self._bucket_seconds:
                self._needed.append(self._bucket_seconds / elapsed)
                self.ahead_limit = max(int(_GAIN * max(self._needed)), _FLOOR)
            self._bucket_since = now
            self._bucket_seconds = 0.0
        self._bucket_seconds += least
