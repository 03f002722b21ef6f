"""Which ranges are still missing once some blocks are known to be there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from s3stream_fs.types import BLOCK_BYTES, ByteRange


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
