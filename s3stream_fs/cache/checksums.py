"""Checksums of blocks (xxh3, 64 bits): they tell what was written from what a disk, or somebody, made of it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import xxhash

from s3stream_fs.types import BLOCK_BYTES, ByteRange

CHECKSUM_NBYTES: Final = 8

_ABSENT: Final = bytes(CHECKSUM_NBYTES)


class Checksums:
    """The checksums of a data file's blocks, by their index in the object. A block without one does not count.

    One thread may add while another reads and drops: each of these is one slice of one bytearray.
    """

    __slots__ = ("_first", "_packed")

    def __init__(self, blocks: range, packed: bytes = b"") -> None:
        """``packed`` is what ``packed()`` gave; what is more than ``blocks`` is left out."""
        nbytes = len(blocks) * CHECKSUM_NBYTES
        self._first = blocks.start
        self._packed = bytearray(packed[:nbytes].ljust(nbytes, b"\0"))

    @classmethod
    def of(cls, packed: bytes) -> Checksums:
        """As ``packed`` has them, their indexes counted from the start of the file."""
        return cls(range(len(packed) // CHECKSUM_NBYTES), packed)

    def __contains__(self, index: int) -> bool:
        at = (index - self._first) * CHECKSUM_NBYTES
        return self._packed[at : at + CHECKSUM_NBYTES] != _ABSENT

    def __getitem__(self, index: int) -> bytes:
        """The checksum of a block; eight zeros, which no block has, for one that is not there."""
        at = (index - self._first) * CHECKSUM_NBYTES
        return bytes(self._packed[at : at + CHECKSUM_NBYTES])

    def __setitem__(self, index: int, checksum: bytes) -> None:
        at = (index - self._first) * CHECKSUM_NBYTES
        self._packed[at : at + CHECKSUM_NBYTES] = checksum

    def __delitem__(self, index: int) -> None:
        self[index] = _ABSENT

    def __iter__(self) -> Iterator[int]:
        """The indexes of the blocks that count, in order."""
        words = memoryview(bytes(self._packed)).cast("Q").tolist()
        return (self._first + at for at, word in enumerate(words) if word)

    def __len__(self) -> int:
        """How many blocks count."""
        words = memoryview(bytes(self._packed)).cast("Q").tolist()
        return len(words) - words.count(0)

    def clear(self) -> None:
        self._packed[:] = bytes(len(self._packed))

    def update(self, found: dict[int, bytes]) -> None:
        for index, checksum in found.items():
            self[index] = checksum

    def packed(self) -> bytes:
        """All of it, to be kept: eight bytes a block up to the last one that counts."""
        nbytes = len(self._packed.rstrip(b"\0"))
        return bytes(self._packed[: -(-nbytes // CHECKSUM_NBYTES) * CHECKSUM_NBYTES])


def checksum_of(block: memoryview | bytes) -> bytes:
    """Of one block. 0.1 s per GiB."""
    return _marked(xxhash.xxh3_64_digest(block))


def checksums_of(byte_range: ByteRange, pieces: Sequence[memoryview]) -> dict[int, bytes]:
    """Of each block of a block-aligned range whose bytes lie in ``pieces``, by the block's index."""
    found = {}
    pending = deque(pieces)
    for index in byte_range.blocks():
        left = min((index + 1) * BLOCK_BYTES, byte_range.stop) - index * BLOCK_BYTES
        digest = xxhash.xxh3_64()
        while left:
            piece = pending.popleft()
            digest.update(piece[:left])
            if len(piece) > left:
                pending.appendleft(piece[left:])
            left -= min(left, len(piece))
        found[index] = _marked(digest.digest())
    return found


def _marked(digest: bytes) -> bytes:
    # Zero says that a block is not there; one block in 2**64 shares its checksum with that neighbour.
    return digest if digest != _ABSENT else b"\1" + _ABSENT[1:]
