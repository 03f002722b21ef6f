"""A part: what one GET brings of one object, and the views of it that are in use."""

from __future__ import annotations

import weakref
from bisect import bisect_right

from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId


class Part:
    """A block-aligned range of one object, filled from its start by the pieces of a GET, without a copy."""

    __slots__ = ("_pieces", "_starts", "byte_range", "filled_to", "object_id", "spent")

    def __init__(self, object_id: ObjectId, byte_range: ByteRange) -> None:
        self.object_id = object_id
        self.byte_range = byte_range
        self.spent = False
        """It was read to its end."""
        self.filled_to = byte_range.start
        """Absolute offset up to which bytes have arrived; only grows."""
        self._pieces: list[memoryview] = []
        self._starts: list[int] = []

    @property
    def complete(self) -> bool:
        return self.filled_to == self.byte_range.stop

    @property
    def missing_nbytes(self) -> int:
        return self.byte_range.stop - self.filled_to

    @property
    def pieces(self) -> tuple[memoryview, ...]:
        """The bytes that have arrived so far, in order."""
        return tuple(self._pieces)

    def append(self, piece: memoryview) -> None:
        """Take the next bytes. Raises ValueError for more bytes than the part has room for."""
        if self.filled_to + len(piece) > self.byte_range.stop:
            raise ValueError("more bytes than the part can hold")
        if len(piece):
            self._starts.append(self.filled_to)
            self._pieces.append(piece)
            self.filled_to += len(piece)

    def view(self, start: int, stop: int) -> memoryview:
        """The bytes ``start`` to ``stop`` (absolute, already arrived). A copy only where they cross two pieces."""
        index = bisect_right(self._starts, start) - 1
        first = start - self._starts[index]
        piece = self._pieces[index]
        if first + stop - start <= len(piece):
            return piece[first : first + stop - start]
        found = []
        while start < stop:
            piece = self._pieces[index]
            first = start - self._starts[index]
            found.append(piece[first : first + stop - start])
            start += len(found[-1])
            index += 1
        return memoryview(b"".join(found))  # into memory that was not set to zero before

    def kept(self) -> Part | None:
        """What has come of a body that ended early, as a complete part of whole blocks; None where not one has come.

        It shares this part's buffers, which live as long as either of them.
        """
        start, stop = self.byte_range.start, self.filled_to
        if not self.complete:
            stop = stop // BLOCK_BYTES * BLOCK_BYTES
        if stop <= start:
            return None
        kept = Part(self.object_id, ByteRange(start, stop))
        for piece in self._pieces:
            kept.append(piece[: kept.missing_nbytes])
        return kept


class Loan(weakref.ref[memoryview]):
    """A view in use: gone when its last user drops it. Equal by identity, since a view's own hash reads its bytes."""

    __slots__ = ("part",)
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    part: Part
