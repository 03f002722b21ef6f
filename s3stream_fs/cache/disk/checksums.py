"""Checksums of blocks: they tell what was written from what a disk, or somebody, made of it. Pure.

A block has one of 64 bits (xxh3), and is what is checked at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import xxhash

from s3stream_fs.types import BLOCK_BYTES, ByteRange

CHECKSUM_NBYTES: Final = 8
"""Of one block. A TiB of blocks takes 512 MiB in the index."""

_ABSENT: Final = bytes(CHECKSUM_NBYTES)


class Checksums:
    """The checksums of a data file's blocks, by their index in the object. A block without one does not count.

    One thread may add while another reads and drops: a block is present after its checksum, and no longer than it.
    """

    __slots__ = ("_first", "_packed", "_present")

    def __init__(self, blocks: range, packed: bytes = b"") -> None:
        """``packed`` is what ``packed()`` gave; what is more than ``blocks`` is left out."""
        nbytes = len(blocks) * CHECKSUM_NBYTES
        self._first = blocks.start
        self._packed = bytearray(packed[:nbytes].ljust(nbytes, b"\0"))
        self._present = bytearray(map(bool, memoryview(bytes(self._packed)).cast("Q")))

    @classmethod
    def of(cls, packed: bytes) -> Checksums:
        """As ``packed`` has them, their indexes counted from the start of the file."""
        return cls(range(-(-len(packed) // CHECKSUM_NBYTES)), packed)

    def __contains__(self, index: int) -> bool:
        return self._present[index - self._first] == 1

    def __getitem__(self, index: int) -> bytes:
        """The checksum of a block; zeros, which no block has, for one that is not there."""
        at = (index - self._first) * CHECKSUM_NBYTES
        return bytes(self._packed[at : at + CHECKSUM_NBYTES])

    def __setitem__(self, index: int, checksum: bytes) -> None:
        at = (index - self._first) * CHECKSUM_NBYTES
        self._packed[at : at + CHECKSUM_NBYTES] = checksum
        self._present[index - self._first] = 1

    def __delitem__(self, index: int) -> None:
        at = (index - self._first) * CHECKSUM_NBYTES
        self._present[index - self._first] = 0
        self._packed[at : at + CHECKSUM_NBYTES] = bytes(CHECKSUM_NBYTES)

    def __iter__(self) -> Iterator[int]:
        """The indexes of the blocks that count, in order."""
        return (self._first + at for at, present in enumerate(bytes(self._present)) if present)

    def __len__(self) -> int:
        """How many blocks count."""
        return self._present.count(1)

    def has(self, blocks: range) -> bool:
        """Whether all of them count."""
        return self._present.find(0, blocks.start - self._first, blocks.stop - self._first) < 0

    def absent(self, blocks: range) -> Iterator[range]:
        """Those that do not count, in runs, in order."""
        stop = blocks.stop - self._first
        start = self._present.find(0, blocks.start - self._first, stop)
        while start >= 0:
            end = self._present.find(1, start, stop)
            end = stop if end < 0 else end
            yield range(self._first + start, self._first + end)
            start = self._present.find(0, end, stop)

    def run(self, blocks: range) -> bytes:
        """The checksums of blocks, one behind the other; zeros for one that is not there."""
        start = (blocks.start - self._first) * CHECKSUM_NBYTES
        return bytes(self._packed[start : start + len(blocks) * CHECKSUM_NBYTES])

    def clear(self) -> None:
        self._present[:] = bytes(len(self._present))
        self._packed[:] = bytes(len(self._packed))

    def fill(self, other: Checksums) -> None:
        """Take over the blocks of ``other``, which has those of the same file, that are not here."""
        others = int.from_bytes(other._present, "little")
        new = (others & ~int.from_bytes(self._present, "little")).to_bytes(len(self._present), "little")
        start = new.find(1)
        while start >= 0:
            stop = new.find(0, start)
            stop = len(new) if stop < 0 else stop
            packed = slice(start * CHECKSUM_NBYTES, stop * CHECKSUM_NBYTES)
            self._packed[packed] = other._packed[packed]
            self._present[start:stop] = b"\1" * (stop - start)
            start = new.find(1, stop)

    def update(self, found: dict[int, bytes]) -> None:
        """Add the checksums of a run of blocks, in order."""
        if not found:
            return
        start = next(iter(found)) - self._first
        stop = start + len(found)
        self._packed[start * CHECKSUM_NBYTES : stop * CHECKSUM_NBYTES] = b"".join(found.values())
        self._present[start:stop] = b"\1" * len(found)

    def packed(self) -> bytes:
        """All of it, to be kept: eight bytes a block up to the last one that counts."""
        nbytes = len(self._packed.rstrip(b"\0"))
        return bytes(self._packed[: -(-nbytes // 8) * 8])


def add_run(packed: bytearray, first: int, found: dict[int, bytes]) -> None:
    """Put the checksums of a run of blocks, in order, into what ``packed`` gave of a file that begins with block
    ``first``. Of a file of 1 GiB there are 65,536, which nobody looks at one by one here."""
    if found:
        start = (next(iter(found)) - first) * CHECKSUM_NBYTES
        packed.extend(bytes(max(start - len(packed), 0)))
        packed[start : start + len(found) * CHECKSUM_NBYTES] = b"".join(found.values())


def checksum_of(block: memoryview | bytes) -> bytes:
    """Of one block. 0.1 s per GiB."""
    return _marked(xxhash.xxh3_64_digest(block))


def run_of(blocks: memoryview) -> bytes:
    """Of a run of blocks, one behind the other, as ``Checksums.run`` has them."""
    return b"".join(_digests(blocks, len(blocks)))


def checksums_of(byte_range: ByteRange, pieces: Sequence[memoryview]) -> dict[int, bytes]:
    """Of each block of a block-aligned range whose bytes lie in ``pieces``, by the block's index, in order."""
    found: list[bytes] = []
    pending = deque(pieces)
    left = len(byte_range)
    while left:
        piece = pending.popleft()
        # All whole blocks of the piece at once; only what crosses into the next piece is put together.
        whole = left if len(piece) >= left else len(piece) // BLOCK_BYTES * BLOCK_BYTES
        found += _digests(piece, whole)
        left -= whole
        if left and whole < len(piece):
            pending.appendleft(piece[whole:])
            crossing = min(BLOCK_BYTES, left)
            found.append(_across(pending, crossing))
            left -= crossing
    return dict(zip(byte_range.blocks(), found, strict=True))


def _digests(piece: memoryview, nbytes: int) -> list[bytes]:
    """Of each block of the first ``nbytes`` of a piece that begins with a block."""
    found = [xxhash.xxh3_64_digest(piece[start : start + BLOCK_BYTES]) for start in range(0, nbytes, BLOCK_BYTES)]
    return list(map(_marked, found)) if _ABSENT in found else found


def _across(pending: deque[memoryview], left: int) -> bytes:
    """The checksum of the first ``left`` bytes of several pieces, which are taken off."""
    digest = xxhash.xxh3_64()
    while left:
        piece = pending[0]
        digest.update(piece[:left])
        if len(piece) >= left:
            pending[0] = piece[left:]
            break
        left -= len(piece)
        pending.popleft()
    return _marked(digest.digest())


def _marked(digest: bytes) -> bytes:
    # Zero says that a block is not there; one block in 2**64 shares its checksum with that neighbour.
    return digest if digest != _ABSENT else b"\1" + _ABSENT[1:]
