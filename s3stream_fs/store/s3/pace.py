"""In which pieces a body is asked for: at once where bodies come fast, in small ones where a cut would cost time. Pure.

A piece has to be whole before it is handed over, so what of it has come is lost with the connection. A body that is
asked for at once is the cheapest: obstore puts pieces together while it holds the interpreter's lock, 1 ms for each MiB
of memory that was not used before, in which nobody else gets on. Two streams that begin together, 512 MiB: 440 to 505
MiB/s in pieces of 3 MiB, 550 at once.
"""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

from s3stream_fs.types import ObjectId

_PIECE_SECONDS: Final = 0.25
"""What a cut may cost, at the rate of the last bodies: from 12 MB/s per connection on pieces are the largest, and from
34 MB/s on parts of 8 MiB come at once."""

LEAST_NBYTES: Final = 256 * 1024
"""Smaller pieces would wake trio's thread more often than what a cut costs is worth."""

_MOST_NBYTES: Final = 3 * 1024 * 1024
"""A part of 8 MiB in three pieces, two of whose seams lie in some reader's MiB, which is copied then. One cold stream,
processor time per MiB: in one piece 1.85 ms, of 3 MiB 1.87, of 2 MiB 1.92, of 1 MiB 2.09. One of 4 MiB or more would be
mapped (``daemon/allocator``), and each of its pages touched for the first time."""

_KEPT: Final = 0.9
"""Of what is known, with each piece: the last ten or so count."""

_FORGIVEN: Final = 8
"""So many bodies of an object in a row that are complete, and large pieces are risked again: its parts come side by
side."""

_MOST_CUT: Final = 1000
"""Objects of which it is known that a body was cut."""


class Pace:
    """How fast bodies come, each on its connection, and which of them broke."""

    def __init__(self) -> None:
        self._nbytes = 0.0
        self._seconds = 0.0
        self._cut: LRUCache[ObjectId, int] = LRUCache(maxsize=_MOST_CUT)

    def came(self, nbytes: int, seconds: float) -> None:
        """So much of a body came in so long a time."""
        self._nbytes = self._nbytes * _KEPT + nbytes
        self._seconds = self._seconds * _KEPT + seconds

    def cut(self, object_id: ObjectId) -> None:
        """A body of it ended early. The next ones may as well, each time as far on."""
        self._cut[object_id] = _FORGIVEN

    def complete(self, object_id: ObjectId) -> None:
        """All of a body of it came."""
        if not self._cut:
            return
        left = self._cut.pop(object_id, 0) - 1
        if left > 0:
            self._cut[object_id] = left

    def comes_at_once(self, object_id: ObjectId, nbytes: int, *, told: bool) -> bool:
        """Whether a body of so many bytes is not worth being cut into pieces. ``told``: the store tells its length."""
        if object_id in self._cut:
            return False
        if told and nbytes <= LEAST_NBYTES:
            return True
        return nbytes * self._seconds <= self._nbytes * _PIECE_SECONDS and self._nbytes > 0

    def piece_nbytes(self, object_id: ObjectId) -> int:
        """The least while nothing is known, and of what was cut, so that it gets on however often that happens."""
        if not self._nbytes or object_id in self._cut:
            return LEAST_NBYTES
        wanted = self._nbytes * _PIECE_SECONDS / max(self._seconds, 1e-6)
        return int(min(max(wanted, LEAST_NBYTES), _MOST_NBYTES))
