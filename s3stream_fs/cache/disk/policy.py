"""What lies in which file, how much must stay free, and what time it is. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from s3stream_fs.types import ByteRange, ObjectId

PINNED: Final = 1 << 62
"""A last use that never comes: what is pinned is last in the order in which files are evicted, and never evicted."""

WHOLE_NBYTES: Final = 1 << 30
"""Objects up to this size lie in one file each, which can be handed to the kernel when it is complete."""

SEGMENT_NBYTES: Final = 64 * 1024 * 1024
"""Of larger objects each such piece is a file of its own. A file is evicted as a whole: whoever reads it meanwhile
keeps its bytes, where a hole punched into it would be read as zeros."""


class Policy(StrEnum):
    LRU = "lru"
    KEEP = "keep"


class Amount(NamedTuple):
    """Of a disk: bytes, and files, of which a disk holds only so many (inodes)."""

    nbytes: int
    nfiles: int


@dataclass(frozen=True, slots=True)
class Victim:
    """A file that may be evicted: its row, its name, and the bytes that go with it."""

    row: int
    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """What stays free on the cache's disk: a share of its bytes and of its inodes, or bytes, whichever is more."""

    fraction: float = 0.10
    nbytes: int = 0

    def of(self, disk_nbytes: int) -> int:
        return max(int(disk_nbytes * self.fraction), self.nbytes)

    def of_files(self, disk_nfiles: int) -> int:
        return int(disk_nfiles * self.fraction)


TENTH: Final = Reserve()
"""The default."""


class Clock:
    """The wall clock as it was at the start, and time that passed since: set forth or back, it changes no order."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def now_ms(self) -> int:
        return int((time.monotonic() + self._ahead) * 1000)


def file_range(object_id: ObjectId, offset: int) -> ByteRange:
    """What of an object lies in the same data file as the byte at ``offset``."""
    if object_id.size <= WHOLE_NBYTES:
        return object_id.whole
    start = offset // SEGMENT_NBYTES * SEGMENT_NBYTES
    return ByteRange(start, min(start + SEGMENT_NBYTES, object_id.size))


def files_of(object_id: ObjectId, wanted: ByteRange) -> Iterable[tuple[ByteRange, ByteRange]]:
    """The data files in which ``wanted`` lies: what of the object each is for, and what of ``wanted`` lies in it."""
    whole = file_range(object_id, wanted.start)
    if wanted.stop <= whole.stop:
        return ((whole, wanted),)
    return _several_files_of(object_id, wanted)


def _several_files_of(object_id: ObjectId, wanted: ByteRange) -> Iterator[tuple[ByteRange, ByteRange]]:
    start = wanted.start
    while start < wanted.stop:
        whole = file_range(object_id, start)
        yield whole, ByteRange(start, min(wanted.stop, whole.stop))
        start = whole.stop
