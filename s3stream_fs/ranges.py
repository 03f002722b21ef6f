"""Which blocks belong to whom, and which ranges are still missing once some are known to be there. Pure.

A part of 8 MiB has 512 blocks, so what is done with each of them is left to the interpreter's own loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import TypeVar

from s3stream_fs.types import BLOCK_BYTES, ByteRange

Owner = TypeVar("Owner")


def give_blocks(owners: dict[int, Owner], byte_range: ByteRange, owner: Owner) -> None:
    """All blocks of the range are this owner's now, whosever they were."""
    owners.update(dict.fromkeys(byte_range.blocks(), owner))


def take_blocks(owners: dict[int, Owner], byte_range: ByteRange, owner: Owner) -> None:
    """The blocks of the range that are this owner's are nobody's now; those of others stay."""
    blocks = byte_range.blocks()
    taken = list(map(owners.pop, blocks, repeat(None)))
    if taken.count(owner) < len(taken):
        owners.update((index, other) for index, other in zip(blocks, taken, strict=True) if other not in (None, owner))


def absent_ranges(wanted: ByteRange, present: Callable[[int], bool]) -> Iterator[ByteRange]:
    """The parts of the block-aligned ``wanted`` whose blocks are not ``present``, neighbours merged, in order.

    ``present`` is called once with each block index of ``wanted``.
    """
    start: int | None = None
    for index in wanted.blocks():
        if present(index):
            if start is not None:
                yield ByteRange(start, index * BLOCK_BYTES)
                start = None
        elif start is None:
            start = index * BLOCK_BYTES
    if start is not None:
        yield ByteRange(start, wanted.stop)
