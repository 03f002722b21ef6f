"""The fetcher: gives readers and warming the bytes that they want, from wherever they are or come.

Joins those who want the same bytes. Decides neither what to read ahead (the planner does) nor which GET is sent when
(the scheduler does), and sets no deadline: whoever waits has his own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

import trio

from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import StoreError, StoreUnavailable, TooSlow
from s3stream_fs.fetch.counters import FetchStatistics
from s3stream_fs.fetch.queue import Priority
from s3stream_fs.fetch.scheduler import FetchConfig, Scheduler
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.retry import Retries, RetryPolicy
from s3stream_fs.types import ByteRange, ObjectId

_BRING_TRIES: Final = 5
"""How often warming asks again for what a reader had begun and given up."""


class Fetcher:
    def __init__(
        self,
        store: ObjectStore,
        memory: MemoryTier,
        disk: DiskTier,
        config: FetchConfig,
        congestion: Congestion,
        nursery: trio.Nursery,
        outdated: Callable[[ObjectId], None] = lambda _: None,
        retries: Retries | None = None,
    ) -> None:
        """``store`` is asked once for each try. ``outdated`` is called whenever a GET, wanted by whomever, finds that
        the store has not got a version."""
        self._memory = memory
        self._disk = disk
        self._congestion = congestion
        self._nursery = nursery
        self._learning: set[tuple[ObjectId, ByteRange]] = set()
        """Read-ahead of which the disk tier is being asked."""
        self._retries = retries or Retries(RetryPolicy())
        self._scheduler = Scheduler(store, memory, disk, config, congestion, nursery, outdated, self._retries)
        self._flights = self._scheduler.flights
        self._counters = self._scheduler.counters

    def view_nowait(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if one place in memory or the page cache has them all. Never waits and never asks for more."""
        part = self._memory.find(object_id, wanted.start)
        if part is not None:
            if wanted.stop > part.byte_range.stop:
                return None
            self._counters.memory_hits += 1
            return self._memory.read(part, wanted.start, wanted.stop)
        view = self._disk.read_nowait(object_id, wanted)
        if view is not None:
            self._counters.disk_hits += 1
        return view

    def holds_most(self, object_id: ObjectId) -> bool:
        """Whether most of an object can be had from memory."""
        return self._memory.holds_most(object_id)

    def has_or_awaits(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether a GET that brings the first of these bytes is queued or under way, or all of them are on disk."""
        coming = self._flights.at(object_id, wanted.start) is not None
        return coming or self._disk.has_nowait(object_id, wanted)

    def want_nowait(self, object_id: ObjectId, wanted: tuple[ByteRange, ...], part_nbytes: int) -> None:
        """Fetch ahead what is missing of the block-aligned ``wanted``. Dropped where a budget is spent."""
        self._want(object_id, wanted, part_nbytes)
        self._scheduler.start_what_may()

    def drop_ahead_nowait(self, object_id: ObjectId) -> None:
        """Nobody reads this object any more: drop its read-ahead, unless it is about to be complete."""
        self._scheduler.drop_ahead(object_id)

    async def get(
        self,
        object_id: ObjectId,
        wanted: ByteRange,
        needed: ByteRange,
        ahead: tuple[ByteRange, ...],
        part_nbytes: int,
        deadline: float = math.inf,
    ) -> memoryview:
        """The bytes ``wanted``; what is missing of the block-aligned ``needed`` around them is fetched for it.

        ``ahead`` is wanted soon, as in ``want_nowait``, but never before what this read waits for. ``deadline``, on
        trio's clock, is the reader's: others go on waiting. Raises StoreError, TooSlow after the deadline. GETs that
        nobody else waits for are dropped then, and on cancellation.
        """
        done = False
        try:
            with trio.move_on_at(deadline):
                view = await self._get(object_id, wanted, needed, ahead, part_nbytes)
                done = True
                return view
            raise self._too_slow(object_id, needed)
        finally:
            if not done:
                self._scheduler.abandon(object_id, needed, Priority.DEMAND)

    async def bring(self, object_id: ObjectId, wanted: ByteRange, part_nbytes: int) -> None:
        """Have the disk tier given what it lacks of the block-aligned ``wanted``, after all that is more urgent.

        Returns when there is nothing left to wait for; what the disk makes of it is the disk's. Raises StoreError.
        """
        await self._disk.learn(object_id, wanted)
        self._scheduler.saver.save_held(object_id, self._disk.missing_nowait(object_id, wanted))
        for _ in range(_BRING_TRIES):
            self._scheduler.request(object_id, wanted, part_nbytes, Priority.WARM)
            self._scheduler.start_what_may()
            dropped = False
            try:
                for flight in self._flights.within(object_id, wanted):
                    try:
                        await flight.wait_all()
                    except StoreError:
                        if flight.priority is Priority.WARM:
                            raise
                        dropped = True  # it was a reader's, who does not want it any more
            except trio.Cancelled:
                self._scheduler.abandon(object_id, wanted, Priority.WARM)
                raise
            if not dropped:
                return
        raise StoreUnavailable("readers began it and gave it up, again and again")

    def is_unsaved(self, object_id: ObjectId) -> bool:
        """Whether the disk tier has had no time yet for something of an object."""
        return self._memory.is_unsaved(object_id)

    @property
    def get_seconds(self) -> float:
        """How long a GET of a large part takes when nothing is in its way; 0 while none was seen."""
        return self._scheduler.get_seconds

    def statistics(self) -> FetchStatistics:
        return FetchStatistics(
            **asdict(self._counters),
            hedged=self._scheduler.hedger.hedged,
            hedges_won=self._scheduler.hedger.won,
            in_flight=self._congestion.in_flight,
            queued=self._scheduler.queued,
            paused=self._scheduler.paused,
            ahead_limit=self._scheduler.ahead_limit,
            get_seconds=self.get_seconds,
        )

    async def _get(
        self,
        object_id: ObjectId,
        wanted: ByteRange,
        needed: ByteRange,
        ahead: tuple[ByteRange, ...],
        part_nbytes: int,
    ) -> memoryview:
        pieces: list[memoryview] = []
        position = wanted.start
        if not self._disk.known_nowait(object_id, needed):
            view = await self._disk.read(object_id, wanted)  # in the same turn of a thread as the look-up
            if view is not None:
                self._counters.disk_hits += 1
                self.want_nowait(object_id, ahead, part_nbytes)
                return view
            await self._disk.learn(object_id, needed)
        self._scheduler.request(object_id, needed, part_nbytes, Priority.DEMAND)
        self._want(object_id, ahead, part_nbytes)
        self._scheduler.start_what_may()
        while position < wanted.stop:
            piece = await self._next_piece(object_id, position, wanted.stop)
            if piece is None:
                # Evicted, dropped or damaged since it was asked for: ask again for the rest.
                rest = ByteRange(position, wanted.stop).aligned(object_id.size)
                self._scheduler.request(object_id, rest, part_nbytes, Priority.DEMAND)
                self._scheduler.start_what_may()
                await trio.lowlevel.checkpoint()
                continue
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def _want(self, object_id: ObjectId, wanted: tuple[ByteRange, ...], part_nbytes: int) -> None:
        for byte_range in wanted:
            if self._disk.known_nowait(object_id, byte_range):
                self._scheduler.request(object_id, byte_range, part_nbytes, Priority.READ_AHEAD)
            elif (object_id, byte_range) not in self._learning:
                self._learning.add((object_id, byte_range))
                self._nursery.start_soon(self._learn_and_want, object_id, byte_range, part_nbytes)

    async def _learn_and_want(self, object_id: ObjectId, wanted: ByteRange, part_nbytes: int) -> None:
        try:
            await self._disk.learn(object_id, wanted)
        finally:
            self._learning.discard((object_id, wanted))
        self._scheduler.request(object_id, wanted, part_nbytes, Priority.READ_AHEAD)
        self._scheduler.start_what_may()

    async def _next_piece(self, object_id: ObjectId, start: int, stop: int) -> memoryview | None:
        """Bytes from ``start`` on, as many as the place that has them holds; None where no place has any."""
        part = self._memory.find(object_id, start)
        if part is not None:
            self._counters.memory_hits += 1
            return self._memory.read(part, start, min(stop, part.byte_range.stop))
        flight = self._flights.at(object_id, start)
        if flight is not None:
            self._counters.joined += flight.waiters > 0 or flight.priority is not Priority.DEMAND
            # It may have come as read-ahead since this read began; what somebody waits for is never dropped.
            if self._scheduler.promote(flight):
                self._scheduler.start_what_may()
            stop = min(stop, flight.part.byte_range.stop)
            if not await flight.wait(start, stop):
                return None
            # It may have been held, and even evicted, by now; the flight still has the bytes.
            if self._memory.find(object_id, start) is flight.part:
                return self._memory.read(flight.part, start, stop)
            return flight.part.view(start, stop)
        cached = self._cached_prefix(object_id, ByteRange(start, stop))
        if cached is None:
            return None
        view = self._disk.read_nowait(object_id, cached)
        if view is None:
            view = await self._disk.read(object_id, cached)
        if view is not None:
            self._counters.disk_hits += 1
        return view

    def _cached_prefix(self, object_id: ObjectId, wanted: ByteRange) -> ByteRange | None:
        """The front of ``wanted`` that the disk tier has."""
        missing = self._disk.missing_nowait(object_id, wanted.aligned(object_id.size))
        if not missing:
            return wanted
        stop = missing[0].start
        return ByteRange(wanted.start, min(stop, wanted.stop)) if stop > wanted.start else None

    def _too_slow(self, object_id: ObjectId, needed: ByteRange) -> TooSlow:
        """What a reader is told at its deadline: of the first flight that it needs, which is the one it waited for."""
        for flight in self._flights.within(object_id, needed)[:1]:
            if flight.tries is not None:
                self._retries.on_given_up()
            return TooSlow(flight.state_text(trio.current_time()))
        return TooSlow("its bytes have not come")
