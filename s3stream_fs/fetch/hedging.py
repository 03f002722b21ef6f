"""When a GET is late enough to be sent a second time, and whether that may be afforded. Pure.

S3's slowest answers have nothing to do with what was asked: of requests that take 10 ms, one in a hundred takes 60 to
90, and the same request sent again is answered in 10 (docs/BENCHMARKS.md). The first answer wins.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_QUANTILE: Final = 0.95
_MARGIN: Final = 1.1
"""A GET is late when it takes so much longer than that share of its like: where answers come evenly, none is."""

_BUDGET: Final = 0.05
"""Second requests per first request, at most: what the quantile asks for when answers come as they always do, and a
bound when all of them are slow, where asking twice would only add to the trouble."""

_MAX_SAVED: Final = 10.0
"""Second requests that a quiet time may save up: for a burst, and too few to double a bill."""

_SAMPLES: Final = 512
"""Answers remembered per size class; the p95 of fewer jumps about."""

_LEAST_SAMPLES: Final = 32

_EVERY: Final = 16
"""The quantile is worked out anew after so many answers: sorting 512 numbers takes 30 us."""

_LEAST_SECONDS: Final = 0.005
"""Nothing is late before that: answers of a store next door scatter below it, and so does this process itself."""


class _SizeClass:
    __slots__ = ("seconds", "since", "threshold")

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=_SAMPLES)
        self.since = 0
        self.threshold: float | None = None


class HedgePolicy:
    """Times to the first piece, by size class: powers of two, since a larger piece takes longer."""

    def __init__(self) -> None:
        self._classes: dict[int, _SizeClass] = {}
        self._saved = 0.0

    def late_after(self, nbytes: int) -> float | None:
        """Seconds after which a GET of ``nbytes`` is late; None while too little is known."""
        known = self._classes.get(nbytes.bit_length())
        return None if known is None else known.threshold

    def on_started(self) -> None:
        """A first request was sent."""
        self._saved = min(self._saved + _BUDGET, _MAX_SAVED)

    def on_answered(self, nbytes: int, seconds: float) -> None:
        """The first piece of a GET of ``nbytes`` has come, ``seconds`` after the first request for it."""
        known = self._classes.setdefault(nbytes.bit_length(), _SizeClass())
        known.seconds.append(seconds)
        known.since += 1
        if len(known.seconds) >= _LEAST_SAMPLES and (known.since >= _EVERY or known.threshold is None):
            known.since = 0
            ranked = sorted(known.seconds)
            known.threshold = max(_MARGIN * ranked[int(len(ranked) * _QUANTILE)], _LEAST_SECONDS)

    def spend(self) -> bool:
        """Whether one more second request may be sent now; counts it."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
