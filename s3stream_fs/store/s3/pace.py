"""In which pieces a body is asked for: large ones where bodies come fast, small ones where a cut would cost time. Pure.

A piece has to be whole before it is handed over, so what of it has come is lost with the connection.
"""

from __future__ import annotations

from typing import Final

from s3stream_fs.types import BLOCK_BYTES

_PIECE_SECONDS: Final = 0.25
"""What a cut may cost, at the rate of the last bodies: from 12 MB/s per connection on, pieces are the largest."""

_LEAST_NBYTES: Final = BLOCK_BYTES
"""Less cannot be kept of a body that ended early."""

_MOST_NBYTES: Final = 3 * 1024 * 1024
"""A part of 8 MiB in three pieces, two of whose seams lie in some reader's MiB, which is copied then. One cold stream,
processor time per MiB: in one piece 1.85 ms, of 3 MiB 1.87, of 2 MiB 1.92, of 1 MiB 2.09. One of 4 MiB or more would be
mapped (``daemon/allocator``), and each of its pages touched for the first time."""

_KEPT: Final = 0.9
"""Of what is known, with each piece: the last ten or so count."""


class Pace:
    """How fast bodies come, each on its connection."""

    def __init__(self) -> None:
        self._nbytes = 0.0
        self._seconds = 0.0

    def came(self, nbytes: int, seconds: float) -> None:
        """So much of a body came in so long a time."""
        self._nbytes = self._nbytes * _KEPT + nbytes
        self._seconds = self._seconds * _KEPT + seconds

    @property
    def piece_nbytes(self) -> int:
        """The least while nothing is known."""
        if not self._nbytes:
            return _LEAST_NBYTES
        wanted = self._nbytes * _PIECE_SECONDS / max(self._seconds, 1e-6)
        return int(min(max(wanted, _LEAST_NBYTES), _MOST_NBYTES))
