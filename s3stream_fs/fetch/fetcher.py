"""The fetcher: joins those who want the same bytes, orders GETs by urgency, and starts as many as the budgets allow.

Owns every GET of data and its task. Never decides what to read ahead (the planner does) and never retries (the store
does).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from s3stream_fs.cache.disk import DiskTier
from s3stream_fs.cache.memory import MemoryTier, Part
from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.fetch.flight import Flight, FlightState
from s3stream_fs.fetch.queue import Priority, RequestQueue
from s3stream_fs.ranges import absent_ranges
from s3stream_fs.store import ObjectStore
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """Ceilings of the fetcher.

    ``max_in_flight``: GETs at once. 64 readers of small files at 30 ms need 64; large streams need about 15 per
    10 Gbit/s (the S3 guidance). 128 leaves room for both; a guess until concurrency adapts itself.
    ``max_queued_ahead``: read-ahead requests that may wait; more are dropped, since a longer queue only grows stale.
    """

    max_in_flight: int = 128
    max_queued_ahead: int = 256

    @property
    def max_ahead_in_flight(self) -> int:
        """Read-ahead leaves a quarter of the slots to demand, so that a demand never waits for it."""
        return self.max_in_flight * 3 // 4


@dataclass(frozen=True, slots=True)
class FetchStatistics:
    """``*_hits`` count pieces served to readers by tier; ``joined`` those that waited for a GET already under way."""

    memory_hits: int
    disk_hits: int
    joined: int
    demand_gets: int
    ahead_gets: int
    ahead_dropped: int
    abandoned: int
    failed: int
    in_flight: int
    queued: int
    nbytes_fetched: int


class Fetcher:
    def __init__(
        self, store: ObjectStore, memory: MemoryTier, disk: DiskTier, config: FetchConfig, nursery: trio.Nursery
    ) -> None:
        self._store = store
        self._memory = memory
        self._disk = disk
        self._config = config
        self._nursery = nursery
        self._queue: RequestQueue[Flight] = RequestQueue()
        self._flights: dict[ObjectId, dict[int, Flight]] = {}
        """Queued and started flights by block; a block is in at most one flight."""
        self._in_flight = 0
        self._ahead_in_flight = 0
        self._memory_hits = 0
        self._disk_hits = 0
        self._joined = 0
        self._demand_gets = 0
        self._ahead_gets = 0
        self._ahead_dropped = 0
        self._abandoned = 0
        self._failed = 0
        self._nbytes_fetched = 0

    def view_nowait(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if one place in memory or the page cache has them all. Never waits and never asks for more."""
        part = self._memory.find(object_id, wanted.start)
        if part is not None:
            if wanted.stop > part.byte_range.stop:
                return None
            self._memory_hits += 1
            return self._memory.read(part, wanted.start, wanted.stop)
        view = self._disk.read_nowait(object_id, wanted)
        if view is not None:
            self._disk_hits += 1
        return view

    def coming(self, object_id: ObjectId, offset: int) -> bool:
        """Whether a GET that brings this byte is queued or under way."""
        return offset // BLOCK_BYTES in self._flights.get(object_id, {})

    def want_nowait(self, object_id: ObjectId, wanted: ByteRange, part_nbytes: int) -> None:
        """Fetch ahead what is missing of the block-aligned ``wanted``. Dropped where a budget is spent."""
        self._request(object_id, wanted, part_nbytes, Priority.READ_AHEAD)
        self._start_what_may()

    def drop_ahead_nowait(self, object_id: ObjectId) -> None:
        """Nobody reads this object any more: forget its read-ahead that has not started."""
        for flight in set(self._flights.get(object_id, {}).values()):
            if flight.state is FlightState.QUEUED and flight.waiters == 0:
                self._queue.discard(flight)
                self._ahead_dropped += 1
                self._land(flight, StoreUnavailable("read-ahead was dropped"))

    async def get(
        self,
        object_id: ObjectId,
        wanted: ByteRange,
        needed: ByteRange,
        ahead: ByteRange | None,
        part_nbytes: int,
    ) -> memoryview:
        """The bytes ``wanted``; what is missing of the block-aligned ``needed`` around them is fetched for it.

        ``ahead`` is wanted soon, as in ``want_nowait``, but never before what this read waits for.
        Raises StoreError. On cancellation, GETs that nobody else waits for are dropped.
        """
        pieces: list[memoryview] = []
        position = wanted.start
        self._request(object_id, needed, part_nbytes, Priority.DEMAND)
        if ahead is not None:
            self._request(object_id, ahead, part_nbytes, Priority.READ_AHEAD)
        self._start_what_may()
        try:
            while position < wanted.stop:
                piece = await self._next_piece(object_id, position, wanted.stop)
                if piece is None:
                    # Evicted, dropped or damaged since it was asked for: ask again for the rest.
                    rest = ByteRange(position, wanted.stop).aligned(object_id.size)
                    self._request(object_id, rest, part_nbytes, Priority.DEMAND)
                    self._start_what_may()
                    await trio.lowlevel.checkpoint()
                    continue
                pieces.append(piece)
                position += len(piece)
        except trio.Cancelled:
            self._abandon(object_id, needed)
            raise
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def statistics(self) -> FetchStatistics:
        return FetchStatistics(
            memory_hits=self._memory_hits,
            disk_hits=self._disk_hits,
            joined=self._joined,
            demand_gets=self._demand_gets,
            ahead_gets=self._ahead_gets,
            ahead_dropped=self._ahead_dropped,
            abandoned=self._abandoned,
            failed=self._failed,
            in_flight=self._in_flight,
            queued=len(self._queue),
            nbytes_fetched=self._nbytes_fetched,
        )

    async def _next_piece(self, object_id: ObjectId, start: int, stop: int) -> memoryview | None:
        """Bytes from ``start`` on, as many as the place that has them holds; None where no place has any."""
        part = self._memory.find(object_id, start)
        if part is not None:
            self._memory_hits += 1
            return self._memory.read(part, start, min(stop, part.byte_range.stop))
        flight = self._flights.get(object_id, {}).get(start // BLOCK_BYTES)
        if flight is not None:
            self._joined += flight.waiters > 0 or flight.priority is not Priority.DEMAND
            stop = min(stop, flight.part.byte_range.stop)
            await flight.wait(stop)
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
            self._disk_hits += 1
        return view

    def _cached_prefix(self, object_id: ObjectId, wanted: ByteRange) -> ByteRange | None:
        """The front of ``wanted`` that the disk tier has."""
        missing = self._disk.missing_nowait(object_id, wanted.aligned(object_id.size))
        if not missing:
            return wanted
        stop = missing[0].start
        return ByteRange(wanted.start, min(stop, wanted.stop)) if stop > wanted.start else None

    def _request(self, object_id: ObjectId, wanted: ByteRange, part_nbytes: int, priority: Priority) -> None:
        """Queue flights for what no tier has and no flight brings; a demand promotes the flights that it joins."""
        for missing in self._missing(object_id, wanted, priority):
            for byte_range in missing.parts(part_nbytes):
                if priority > Priority.DEMAND and self._queue.count(priority) >= self._config.max_queued_ahead:
                    self._ahead_dropped += 1
                    continue
                flight = Flight(Part(object_id, byte_range), priority)
                blocks = self._flights.setdefault(object_id, {})
                for index in byte_range.blocks():
                    blocks[index] = flight
                self._queue.push(flight, priority)

    def _missing(self, object_id: ObjectId, wanted: ByteRange, priority: Priority) -> Iterator[ByteRange]:
        flights = self._flights.get(object_id, {})

        def coming_or_here(index: int) -> bool:
            flight = flights.get(index)
            if flight is not None:
                if priority is Priority.DEMAND and flight.state is FlightState.QUEUED:
                    self._queue.promote(flight, priority)
                return True
            return self._memory.find(object_id, index * BLOCK_BYTES) is not None

        for absent in list(absent_ranges(wanted, coming_or_here)):
            yield from self._disk.missing_nowait(object_id, absent)

    def _start_what_may(self) -> None:
        """Start queued flights while there are slots and memory. Called whenever either may have become free."""
        for priority in Priority:
            while (flight := self._queue.peek(priority)) is not None:
                ahead = priority > Priority.DEMAND
                if self._in_flight >= self._config.max_in_flight:
                    return
                if ahead and self._ahead_in_flight >= self._config.max_ahead_in_flight:
                    return
                if not self._memory.reserve_nowait(len(flight.part.byte_range)):
                    if not ahead:
                        return  # what is in flight will land and make room
                    self._queue.discard(flight)
                    self._ahead_dropped += 1
                    self._land(flight, StoreUnavailable("read-ahead was dropped"))
                    continue
                self._queue.discard(flight)
                flight.state = FlightState.STARTED
                self._in_flight += 1
                self._ahead_in_flight += ahead
                self._demand_gets += not ahead
                self._ahead_gets += ahead
                self._nursery.start_soon(self._fly, flight, ahead)

    async def _fly(self, flight: Flight, ahead: bool) -> None:
        part = flight.part
        error: StoreError | None = None
        try:
            with flight.scope:
                await self._store.get_range(part.object_id, part.byte_range, flight.deliver)
        except StoreError as store_error:
            error = store_error
        except Exception:
            log.exception("bug: GET of %r bytes %r", part.object_id.key, part.byte_range)
            error = StoreUnavailable("internal error, see the log")
        finally:
            # Also on the way out of a cancelled nursery: accounts stay right until the end.
            self._in_flight -= 1
            self._ahead_in_flight -= ahead
            self._nbytes_fetched += part.filled_to - part.byte_range.start
            if part.complete:
                self._memory.hold(part)
                self._disk.put_nowait(part.object_id, part.byte_range, part.pieces)
                self._land(flight, None)
            else:
                self._memory.release(len(part.byte_range))
                self._failed += error is not None
                self._land(flight, error or StoreUnavailable("the request was abandoned"))
            self._start_what_may()

    def _land(self, flight: Flight, error: StoreError | None) -> None:
        self._forget(flight)
        flight.land(error)

    def _forget(self, flight: Flight) -> None:
        """From now on nobody can join this flight."""
        blocks = self._flights.get(flight.part.object_id, {})
        for index in flight.part.byte_range.blocks():
            if blocks.get(index) is flight:
                del blocks[index]
        if not blocks:
            self._flights.pop(flight.part.object_id, None)

    def _abandon(self, object_id: ObjectId, needed: ByteRange) -> None:
        """A reader gave up: drop the demand GETs of ``needed`` that nobody else waits for."""
        flights = self._flights.get(object_id, {})
        for flight in {flights[index] for index in needed.blocks() if index in flights}:
            if flight.waiters or flight.priority is not Priority.DEMAND:
                continue
            self._abandoned += 1
            if flight.state is FlightState.QUEUED:
                self._queue.discard(flight)
                self._land(flight, StoreUnavailable("the request was abandoned"))
            else:
                # Forgotten before it lands: who comes now must not join a GET that is being cancelled.
                self._forget(flight)
                flight.scope.cancel()
