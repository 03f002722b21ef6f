"""What may be evicted, how much must stay free, and what time it is. Pure but for the clock.

``lru`` always makes room for what is new. ``keep`` does not for a data set that is being read: each epoch reads all of
it, so whatever goes is missed as surely as what comes is hit. With room for half of the data set LRU hits 15 % of the
time and ``keep`` 50 %. A data set that nobody has read for a day makes room.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from s3stream_fs.types import ByteRange, ObjectId

IDLE_MS: Final = 24 * 3600 * 1000
"""A day: longer than most epochs and the pause over night, shorter than what people wait for a cache to turn over."""

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


@dataclass(frozen=True, slots=True)
class Reserve:
    """What stays free on the cache's disk: a share of it, or bytes, whichever is more."""

    fraction: float = 0.10
    nbytes: int = 0

    def of(self, disk_nbytes: int) -> int:
        return max(int(disk_nbytes * self.fraction), self.nbytes)


TENTH: Final = Reserve()
"""The default."""


class Clock:
    """The wall clock as it was at the start, and time that passed since: set forth or back, it changes no order."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def now_ms(self) -> int:
        return int((time.monotonic() + self._ahead) * 1000)


def evictable_before(policy: Policy, now_ms: int) -> int:
    """Files whose last use was before this time may be evicted."""
    return PINNED if policy is Policy.LRU else now_ms - IDLE_MS


def file_range(object_id: ObjectId, offset: int) -> ByteRange:
    """What of an object lies in the same data file as the byte at ``offset``."""
    if object_id.size <= WHOLE_NBYTES:
        return object_id.whole
    start = offset // SEGMENT_NBYTES * SEGMENT_NBYTES
    return ByteRange(start, min(start + SEGMENT_NBYTES, object_id.size))
