"""The fetcher: joins those who want the same bytes, orders GETs by urgency, and starts as many as the budgets allow.

Owns every GET of data and its task. Never decides what to read ahead (the planner does) and never retries (the store
does).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.cache.disk.tier import Claim, DiskTier
from s3stream_fs.cache.memory.part import Part
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import NotFound, ObjectChanged, StoreError, StoreUnavailable
from s3stream_fs.fetch.concurrency import Concurrency
from s3stream_fs.fetch.flight import Attempt, Flight, FlightState
from s3stream_fs.fetch.hedging import HedgePolicy
from s3stream_fs.fetch.queue import Priority, RequestQueue
from s3stream_fs.ranges import absent_ranges, give_blocks, take_blocks
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """Ceilings of the fetcher.

    ``ahead_fraction``: of the slots, for read-ahead; the rest is left to demand, so that it never waits for read-ahead.
    ``max_queued_ahead``: read-ahead requests that may wait; more are dropped, since a longer queue only grows stale.
    ``hedging``: whether late GETs are sent a second time.
    """

    ahead_fraction: float = 0.75
    max_queued_ahead: int = 256
    hedging: bool = True


@dataclass(frozen=True, slots=True)
class FetchStatistics:
    """``*_hits`` count pieces served to readers by tier; ``joined`` those that waited for a GET already under way.

    ``hedged`` counts GETs that were late and sent a second time, ``hedges_won`` those that the second answered first.
    ``brought_by_others`` counts parts that another process fetched into the same cache folder at the same moment.
    ``ahead_limit`` is up to how many GETs in flight read-ahead may start another, ``get_seconds`` how long a GET of a
    large part takes when nothing is in its way.
    """

    memory_hits: int
    disk_hits: int
    joined: int
    demand_gets: int
    ahead_gets: int
    ahead_dropped: int
    abandoned: int
    hedged: int
    hedges_won: int
    failed: int
    brought_by_others: int
    in_flight: int
    queued: int
    nbytes_fetched: int
    ahead_limit: int
    get_seconds: float


_FINISH_NBYTES: Final = 1024 * 1024
"""Read-ahead that nobody wants any more may bring so much yet; for more its connection is given up."""

_BRING_TRIES: Final = 5
"""How often warming asks again for what a reader had begun and given up."""

_LEAST_PAUSE_SECONDS: Final = 0.002
_MOST_PAUSE_SECONDS: Final = 0.02
"""Late GETs are looked for so often, while any are under way."""

_SAVE_PAUSE_SECONDS: Final = 0.05
"""A disk of 1 GB/s writes 50 MB in that time, of the 64 MiB that it is given at once."""


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
    ) -> None:
        """``outdated`` is called whenever a GET, wanted by whomever, finds that the store has not got a version."""
        self._store = store
        self._memory = memory
        self._disk = disk
        self._config = config
        self._congestion = congestion
        self._nursery = nursery
        self._outdated = outdated
        self._hedging = HedgePolicy()
        self._concurrency = Concurrency()
        self._unanswered: dict[Flight, None] = {}
        """Started flights without a byte and without a hedge, in the order in which they started."""
        self._any_unanswered = trio.lowlevel.ParkingLot()
        self._any_unsaved = trio.lowlevel.ParkingLot()
        self._queue: RequestQueue[Flight] = RequestQueue()
        self._flights: dict[ObjectId, dict[int, Flight]] = {}
        """Queued and started flights by block; a block is in at most one flight."""
        self._ahead_in_flight = 0
        self._warm_in_flight = 0
        self._memory_hits = 0
        self._disk_hits = 0
        self._joined = 0
        self._demand_gets = 0
        self._ahead_gets = 0
        self._ahead_dropped = 0
        self._abandoned = 0
        self._hedged = 0
        self._hedges_won = 0
        self._failed = 0
        self._brought = 0
        self._nbytes_fetched = 0
        nursery.start_soon(self._save_the_unsaved)
        if config.hedging:
            nursery.start_soon(self._send_late_ones_again)

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

    def holds_most(self, object_id: ObjectId) -> bool:
        """Whether most of an object can be had from memory."""
        return self._memory.holds_most(object_id)

    def has_or_awaits(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether a GET that brings the first of these bytes is queued or under way, or all of them are on disk."""
        coming = wanted.start // BLOCK_BYTES in self._flights.get(object_id, {})
        return coming or self._disk.has_nowait(object_id, wanted)

    def want_nowait(self, object_id: ObjectId, wanted: tuple[ByteRange, ...], part_nbytes: int) -> None:
        """Fetch ahead what is missing of the block-aligned ``wanted``. Dropped where a budget is spent."""
        for byte_range in wanted:
            self._request(object_id, byte_range, part_nbytes, Priority.READ_AHEAD)
        self._start_what_may()

    def drop_ahead_nowait(self, object_id: ObjectId) -> None:
        """Nobody reads this object any more: drop its read-ahead, unless it is about to be complete."""
        for flight in set(self._flights.get(object_id, {}).values()):
            if flight.waiters or flight.priority is not Priority.READ_AHEAD:
                continue
            if flight.state is FlightState.QUEUED or flight.part.missing_nbytes > _FINISH_NBYTES:
                self._ahead_dropped += 1
                self._give_up(flight, StoreUnavailable("read-ahead was dropped"))

    async def get(
        self,
        object_id: ObjectId,
        wanted: ByteRange,
        needed: ByteRange,
        ahead: tuple[ByteRange, ...],
        part_nbytes: int,
    ) -> memoryview:
        """The bytes ``wanted``; what is missing of the block-aligned ``needed`` around them is fetched for it.

        ``ahead`` is wanted soon, as in ``want_nowait``, but never before what this read waits for.
        Raises StoreError. On cancellation, GETs that nobody else waits for are dropped.
        """
        pieces: list[memoryview] = []
        position = wanted.start
        self._request(object_id, needed, part_nbytes, Priority.DEMAND)
        for byte_range in ahead:
            self._request(object_id, byte_range, part_nbytes, Priority.READ_AHEAD)
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
            self._abandon(object_id, needed, Priority.DEMAND)
            raise
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    async def bring(self, object_id: ObjectId, wanted: ByteRange, part_nbytes: int) -> None:
        """Have the disk tier given what it lacks of the block-aligned ``wanted``, after all that is more urgent.

        Returns when there is nothing left to wait for; what the disk makes of it is the disk's. Raises StoreError.
        """
        held = {
            self._memory.find(object_id, index * BLOCK_BYTES)
            for absent in self._disk.missing_nowait(object_id, wanted)
            for index in absent.blocks()
        }
        for part in held:
            if part is not None and not self._disk.put_nowait(object_id, part.byte_range, part.pieces):
                self._remember_unsaved(part)
        for _ in range(_BRING_TRIES):
            self._request(object_id, wanted, part_nbytes, Priority.WARM)
            self._start_what_may()
            flights = self._flights.get(object_id, {})
            joined = {flights[index] for index in wanted.blocks() if index in flights}
            dropped = False
            try:
                for flight in joined:
                    try:
                        await flight.wait(flight.part.byte_range.stop)
                    except StoreError:
                        if flight.priority is Priority.WARM:
                            raise
                        dropped = True  # it was a reader's, who does not want it any more
            except trio.Cancelled:
                self._abandon(object_id, wanted, Priority.WARM)
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
        return self._concurrency.large_get_seconds

    @property
    def _ahead_limit(self) -> int:
        """Read-ahead in flight at most: what is worth it, and never all slots."""
        slots = max(int(self._congestion.limit * self._config.ahead_fraction), 1)
        return min(slots, self._concurrency.ahead_limit)

    def statistics(self) -> FetchStatistics:
        return FetchStatistics(
            memory_hits=self._memory_hits,
            disk_hits=self._disk_hits,
            joined=self._joined,
            demand_gets=self._demand_gets,
            ahead_gets=self._ahead_gets,
            ahead_dropped=self._ahead_dropped,
            abandoned=self._abandoned,
            hedged=self._hedged,
            hedges_won=self._hedges_won,
            failed=self._failed,
            brought_by_others=self._brought,
            in_flight=self._congestion.in_flight,
            queued=len(self._queue),
            nbytes_fetched=self._nbytes_fetched,
            ahead_limit=self._ahead_limit,
            get_seconds=self.get_seconds,
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
            if flight.state is FlightState.QUEUED:
                # It may have come as read-ahead since this read began; what somebody waits for is never dropped.
                self._queue.promote(flight, Priority.DEMAND, object_id)
            stop = min(stop, flight.part.byte_range.stop)
            await flight.wait(stop)
            if flight.brought:
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
                if priority is Priority.READ_AHEAD and self._queue.count(priority) >= self._config.max_queued_ahead:
                    self._ahead_dropped += 1
                    continue
                flight = Flight(Part(object_id, byte_range), priority)
                give_blocks(self._flights.setdefault(object_id, {}), byte_range, flight)
                self._queue.push(flight, priority, object_id)

    def _missing(self, object_id: ObjectId, wanted: ByteRange, priority: Priority) -> Iterator[ByteRange]:
        flights = self._flights.get(object_id, {})
        if not flights and self._disk.has_nowait(object_id, wanted):
            return  # without a look at each block: a window has thousands
        if flights.keys().isdisjoint(wanted.blocks()) and not self._memory.holds_any(object_id, wanted):
            yield from self._disk.missing_nowait(object_id, wanted)
            return

        def coming_or_here(index: int) -> bool:
            flight = flights.get(index)
            if flight is not None:
                if priority is Priority.DEMAND and flight.state is FlightState.QUEUED:
                    self._queue.promote(flight, priority, object_id)
                return True
            return self._memory.find(object_id, index * BLOCK_BYTES) is not None

        for absent in list(absent_ranges(wanted, coming_or_here)):
            yield from self._disk.missing_nowait(object_id, absent)

    def _start_what_may(self) -> None:
        """Start queued flights while there are slots and memory. Called whenever either may have become free."""
        congestion = self._congestion
        for priority in Priority:
            while (flight := self._queue.peek(priority)) is not None:
                ahead = priority > Priority.DEMAND
                if congestion.in_flight >= congestion.limit:
                    return
                if ahead and self._ahead_in_flight >= self._ahead_limit:
                    return
                if priority is Priority.WARM and self._warm_waits:
                    return
                if not self._memory.reserve_nowait(flight.nbytes):
                    return  # what is in flight will land and make room
                self._start(self._queue.pop(priority), ahead)

    @property
    def _warm_waits(self) -> bool:
        """Whether warming has its share already, or the disk has enough to do."""
        return self._warm_in_flight >= max(self._ahead_limit // 2, 1) or self._memory.first_unsaved() is not None

    def _start(self, flight: Flight, ahead: bool) -> None:
        flight.state = FlightState.STARTED
        flight.counted_ahead = ahead
        self._congestion.in_flight += 1
        self._ahead_in_flight += ahead
        self._warm_in_flight += flight.priority is Priority.WARM
        if self._disk.claim_nowait(flight.part.object_id, flight.part.byte_range) is Claim.MINE:
            self._send(flight)
        else:
            self._nursery.start_soon(self._leave_to_others, flight, flight.attempt())

    async def _leave_to_others(self, flight: Flight, attempt: Attempt) -> None:
        """Another process fetches these bytes: they are on disk then; or here after all, if they do not come."""
        part = flight.part
        claim: Claim | None = None
        try:
            with attempt.scope:
                claim = await self._disk.wait_for_claim(part.object_id, part.byte_range)
        finally:
            flight.attempts.discard(attempt)
            attempt.over()
            if claim is None or claim is Claim.ON_DISK:
                flight.brought = claim is Claim.ON_DISK
                self._brought += flight.brought
                self._end(flight, None)
        if flight.state is not FlightState.LANDED:
            self._send(flight)

    def _send(self, flight: Flight) -> None:
        flight.started_at = trio.current_time()
        self._demand_gets += not flight.counted_ahead
        self._ahead_gets += flight.counted_ahead
        self._hedging.on_started()
        self._unanswered[flight] = None
        self._any_unanswered.unpark()
        self._nursery.start_soon(self._fly, flight, flight.attempt())

    async def _fly(self, flight: Flight, attempt: Attempt) -> None:
        """One GET of a flight, and the end of the flight if it was the one that counts."""
        error: StoreError | None = None
        try:
            with attempt.scope:
                await self._store.get_range(flight.part.object_id, flight.part.byte_range, attempt.deliver)
        except StoreError as store_error:
            error = store_error
        except Exception:
            log.exception("bug: GET of %r bytes %r", flight.part.object_id.key, flight.part.byte_range)
            error = StoreUnavailable("internal error, see the log")
        finally:
            # Also on the way out of a cancelled nursery: accounts stay right until the end.
            flight.attempts.discard(attempt)
            attempt.over()
            over = flight.leader is attempt or not flight.attempts
            if over and flight.state is not FlightState.LANDED:
                self._end(flight, error)

    def _end(self, flight: Flight, error: StoreError | None) -> None:
        """The last GET of a flight is over, or the one that brought its bytes."""
        part = flight.part
        now = trio.current_time()
        flight.cancel()
        self._unanswered.pop(flight, None)
        if flight.leader is not None:
            self._hedging.on_answered(len(part.byte_range), flight.answered_at - flight.started_at)
            self._hedges_won += flight.leader.hedge
            flight.leader = None  # they name each other, and bytes must not wait for the collector of cycles
        if part.complete:
            self._congestion.on_landed(now)
        self._congestion.in_flight -= 1
        self._ahead_in_flight -= flight.counted_ahead
        self._warm_in_flight -= flight.priority is Priority.WARM
        self._nbytes_fetched += part.filled_to - part.byte_range.start
        self._memory.release(flight.nbytes)
        if part.complete:
            self._concurrency.on_complete(len(part.byte_range), now - flight.started_at, now)
            saved = self._disk.put_nowait(part.object_id, part.byte_range, part.pieces)
            if not saved or flight.priority is not Priority.WARM:  # which shall not push out what readers want
                self._memory.hold(part)
            if not saved:
                self._disk.release_nowait(part.object_id, part.byte_range)
                self._remember_unsaved(part)
            self._land(flight, None)
        elif flight.brought:
            self._land(flight, None)
        else:
            self._disk.release_nowait(part.object_id, part.byte_range)
            self._failed += error is not None
            gone = isinstance(error, NotFound | ObjectChanged)
            if gone:
                self._outdated(part.object_id)  # before those who wait for it hear of it
            self._land(flight, error or StoreUnavailable("the request was abandoned"))
            if gone:
                self.drop_ahead_nowait(part.object_id)
        self._start_what_may()

    def _remember_unsaved(self, part: Part) -> None:
        self._memory.remember_unsaved(part)
        self._any_unsaved.unpark_all()

    async def _save_the_unsaved(self) -> None:
        """Give the disk tier, whenever it has time, what it had no time for and memory still holds."""
        while True:
            part = self._memory.first_unsaved()
            if part is None:
                await self._any_unsaved.park()
            elif self._disk.put_nowait(part.object_id, part.byte_range, part.pieces):
                self._memory.forget_unsaved(part)
                self._start_what_may()
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(_SAVE_PAUSE_SECONDS)

    async def _send_late_ones_again(self) -> None:
        """Hedge: a GET for which somebody waits and which is later than most of its like is sent a second time."""
        while True:
            now = trio.current_time()
            due = self._hedge_nowait(now)
            if self._unanswered:
                await trio.sleep_until(max(due, now + _LEAST_PAUSE_SECONDS))
            else:
                await self._any_unanswered.park()

    def _hedge_nowait(self, now: float) -> float:
        """Send those again that are late now. Returns when to look again."""
        due = now + _MOST_PAUSE_SECONDS
        for flight in list(self._unanswered):
            if flight.leader is not None:
                del self._unanswered[flight]
                continue
            late_after = self._hedging.late_after(len(flight.part.byte_range))
            if late_after is None or not flight.waiters:
                continue
            if now < flight.started_at + late_after:
                due = min(due, flight.started_at + late_after)
            elif self._hedging.spend():
                del self._unanswered[flight]
                self._hedged += 1
                self._nursery.start_soon(self._fly, flight, flight.attempt(hedge=True))
        return due

    def _land(self, flight: Flight, error: StoreError | None) -> None:
        self._forget(flight)
        flight.land(error)

    def _forget(self, flight: Flight) -> None:
        """From now on nobody can join this flight."""
        blocks = self._flights.get(flight.part.object_id, {})
        take_blocks(blocks, flight.part.byte_range, flight)
        if not blocks:
            self._flights.pop(flight.part.object_id, None)

    def _give_up(self, flight: Flight, error: StoreError) -> None:
        """Nobody wants this flight."""
        if flight.state is FlightState.QUEUED:
            self._queue.discard(flight, flight.part.object_id)
            self._land(flight, error)
        else:
            # Forgotten before it lands: who comes now must not join a GET that is being cancelled.
            self._forget(flight)
            flight.cancel()

    def _abandon(self, object_id: ObjectId, needed: ByteRange, priority: Priority) -> None:
        """Somebody gave up: drop the GETs of ``needed``, of this priority, that nobody else waits for."""
        flights = self._flights.get(object_id, {})
        for flight in {flights[index] for index in needed.blocks() if index in flights}:
            if flight.waiters == 0 and flight.priority is priority:
                self._abandoned += 1
                self._give_up(flight, StoreUnavailable("the request was abandoned"))
