"""What came to nothing a moment ago, after it was waited for: whoever asks the same again is told the same. Pure.

For one call of a program the kernel asks up to three times: where a read ahead has failed it asks for the one page
that is needed (and, in a page fault, again), and where it was not told whether a name still stands it looks the name
up. Each would wait anew. The kernel comes back within a millisecond, and does not say why it asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from s3stream_fs.errors import StoreError

MOMENT_SECONDS: Final = 0.5
"""So long a failure is remembered. A guess, far above what the kernel takes on a busy machine, and so short that a
program that tries again, or a person, finds the store asked again."""

_MOST: Final = 10_000
"""Failures that are remembered, at some 400 bytes each: more than there are requests that wait."""


@dataclass(frozen=True, slots=True)
class _Failure:
    what: Hashable
    start: int
    stop: int
    until: float
    error: StoreError


class Failures:
    """By what was asked for, and the range of it."""

    def __init__(self) -> None:
        self._known: dict[Hashable, deque[_Failure]] = {}
        self._by_age: deque[_Failure] = deque()

    def note(self, what: Hashable, start: int, stop: int, error: StoreError, began: float, now: float) -> None:
        """``error`` is what came of the range of ``what``, which was asked for when it ``began``.

        One that came at once is left out: to find it anew costs nobody more than that.
        """
        self._let_go(now)
        if now - began < MOMENT_SECONDS:
            return
        failure = _Failure(what, start, stop, now + MOMENT_SECONDS, error.again())
        self._known.setdefault(what, deque()).append(failure)
        self._by_age.append(failure)
        if len(self._by_age) > _MOST:
            self._drop_oldest()

    def find(self, what: Hashable, start: int, stop: int, now: float) -> StoreError | None:
        """The error of a moment ago, where any of the same range was asked for."""
        if not self._by_age:
            return None
        self._let_go(now)
        for failure in self._known.get(what, ()):
            if failure.start < stop and start < failure.stop:
                return failure.error.again()
        return None

    def _let_go(self, now: float) -> None:
        while self._by_age and self._by_age[0].until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        what = self._by_age.popleft().what
        same = self._known[what]
        same.popleft()
        if not same:
            del self._known[what]
