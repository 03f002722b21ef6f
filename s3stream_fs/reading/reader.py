"""The reader: serves one read from wherever its bytes are, and keeps each object's streams.

Owns the planners. Makes no requests itself and holds no bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import trio
from cachetools import LRUCache

from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.reading.planner import Planner, ReadPlan
from s3stream_fs.reading.stream import Conditions, ReadAheadConfig
from s3stream_fs.types import ByteRange, ObjectId

_MAX_PLANNERS: Final = 1024
"""Large objects whose streams are remembered; an object that is read again after 1,024 others starts afresh."""

_AHEAD_FRACTION: Final = 0.5
"""Of the memory limit, for read-ahead; the rest is for demand, for what was read and is still held, and for parts that
do not end where a window does."""

_COUNT_SECONDS: Final = 0.1
"""How old the count of active streams may be. Counting them takes about 1 us per remembered object."""


@dataclass(frozen=True, slots=True)
class ReadStatistics:
    """``seconds_waited`` adds up, over all readers, the time in which their bytes were not there yet."""

    reads: int
    nbytes_read: int
    reads_that_waited: int
    seconds_waited: float


class Reader:
    def __init__(self, fetcher: Fetcher, config: ReadAheadConfig, memory_limit_nbytes: int) -> None:
        self._fetcher = fetcher
        self._config = config
        self._ahead_nbytes = int(memory_limit_nbytes * _AHEAD_FRACTION)
        self._share_nbytes = self._ahead_nbytes
        self._share_counted_at = float("-inf")
        self._planners: LRUCache[ObjectId, Planner] = LRUCache(maxsize=_MAX_PLANNERS)
        self._reads = 0
        self._nbytes_read = 0
        self._reads_that_waited = 0
        self._seconds_waited = 0.0

    async def read(self, object_id: ObjectId, offset: int, size: int) -> memoryview:
        """At most ``size`` bytes at ``offset``, fewer only at the end of the object. Raises StoreError."""
        view = self.read_nowait(object_id, offset, size)
        return await self.fetch(object_id, offset, size) if view is None else view

    def holds_most(self, object_id: ObjectId) -> bool:
        """Whether most of an object can be had from memory."""
        return self._fetcher.holds_most(object_id)

    def read_nowait(self, object_id: ObjectId, offset: int, size: int) -> memoryview | None:
        """What ``read`` gives, where it is at hand. None where it takes waiting: then go on with ``fetch``."""
        stop = min(offset + size, object_id.size)
        if offset >= stop:
            return memoryview(b"")
        wanted = ByteRange(offset, stop)
        view = self._fetcher.view_nowait(object_id, wanted)
        if view is None:
            return None
        plan = self._plan(object_id, wanted, trio.current_time(), at_hand=True)
        if plan.ahead:
            self._fetcher.want_nowait(object_id, plan.ahead, plan.part_nbytes)
        self._reads += 1
        self._nbytes_read += len(view)
        return view

    async def fetch(self, object_id: ObjectId, offset: int, size: int, deadline: float = math.inf) -> memoryview:
        """What ``read`` gives, where ``read_nowait`` has just said that it is not at hand. Raises StoreError, TooSlow
        where it has not come by ``deadline`` on trio's clock."""
        wanted = ByteRange(offset, min(offset + size, object_id.size))
        started = trio.current_time()
        plan = self._plan(object_id, wanted, started, at_hand=False)
        self._reads_that_waited += 1
        try:
            view = await self._fetcher.get(object_id, wanted, plan.need, plan.ahead, plan.part_nbytes, deadline)
        finally:
            self._seconds_waited += trio.current_time() - started
        self._reads += 1
        self._nbytes_read += len(view)
        return view

    def close_nowait(self, object_id: ObjectId) -> None:
        """A hint that nobody has this object open: its read-ahead that has not started is dropped."""
        planner = self._planners.get(object_id)
        if planner is not None:
            planner.close()
        self._fetcher.drop_ahead_nowait(object_id)

    def statistics(self) -> ReadStatistics:
        return ReadStatistics(self._reads, self._nbytes_read, self._reads_that_waited, self._seconds_waited)

    def _plan(self, object_id: ObjectId, wanted: ByteRange, now: float, at_hand: bool) -> ReadPlan:
        if object_id.size <= self._config.whole_nbytes:
            return ReadPlan(object_id.whole, (), self._config.part_nbytes)
        planner = self._planners.get(object_id)
        if planner is None:
            planner = self._planners[object_id] = Planner(object_id.size, self._config)
            self._share_counted_at = float("-inf")  # one more to share with
        if not at_hand and not self._fetcher.has_or_awaits(object_id, wanted):
            planner.lost(wanted.start)
        return planner.on_read(wanted.start, len(wanted), self._conditions(now), at_hand=at_hand)

    def _conditions(self, now: float) -> Conditions:
        """What plans depend on at this moment: streams that read share the memory for read-ahead equally."""
        if now - self._share_counted_at > _COUNT_SECONDS:
            active = sum(planner.active_streams(now) for planner in self._planners.values())
            self._share_nbytes = self._ahead_nbytes // max(active, 1)
            self._share_counted_at = now
        return Conditions(now, self._share_nbytes, self._fetcher.get_seconds)
