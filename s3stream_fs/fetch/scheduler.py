"""The scheduler: which GET is sent next, with what slot and memory, and what becomes of each try.

Owns every GET of data, its task, its slot and its reservation, and the queue and the pauses in which flights wait for
theirs. Decides neither what is wanted (``fetcher``), nor whether and when what failed is sent again (``store.retry``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.cache.disk.claims import Claim
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.cache.memory.part import Part
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import NotFound, ObjectChanged, StoreError, StoreUnavailable, Throttled
from s3stream_fs.fetch.concurrency import Concurrency
from s3stream_fs.fetch.counters import Counters
from s3stream_fs.fetch.flight import Attempt, Flight, FlightState
from s3stream_fs.fetch.flights import Flights
from s3stream_fs.fetch.hedger import Hedger
from s3stream_fs.fetch.pauses import Pauses
from s3stream_fs.fetch.queue import Priority, RequestQueue
from s3stream_fs.fetch.saver import Saver
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.retry import Retries, Tries, get_text
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


_FINISH_NBYTES: Final = 1024 * 1024
"""Read-ahead that nobody wants any more may bring so much yet; for more its connection is given up."""

_AHEAD_TRIES: Final = 6
"""Read-ahead for which nobody waits is given up after so many, within some 3 s: whoever comes to it asks anew."""


class Scheduler:
    def __init__(
        self,
        store: ObjectStore,
        memory: MemoryTier,
        disk: DiskTier,
        config: FetchConfig,
        congestion: Congestion,
        nursery: trio.Nursery,
        outdated: Callable[[ObjectId], None],
        retries: Retries,
    ) -> None:
        """See ``Fetcher``."""
        self._store = store
        self._memory = memory
        self._disk = disk
        self._config = config
        self._congestion = congestion
        self._nursery = nursery
        self._outdated = outdated
        self._retries = retries
        self._concurrency = Concurrency()
        self._queue: RequestQueue[Flight] = RequestQueue()
        self._pauses = Pauses(self._requeue)
        self._ahead_in_flight = 0
        self._warm_in_flight = 0
        self.flights = Flights()
        self.hedger = Hedger(self._send_hedge)
        self.saver = Saver(memory, disk, self.start_what_may)
        self.counters = Counters()
        nursery.start_soon(self._pauses.run)
        nursery.start_soon(self.saver.run)
        if config.hedging:
            nursery.start_soon(self.hedger.run)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def paused(self) -> int:
        return len(self._pauses)

    @property
    def get_seconds(self) -> float:
        """How long a GET of a large part takes when nothing is in its way; 0 while none was seen."""
        return self._concurrency.large_get_seconds

    @property
    def ahead_limit(self) -> int:
        """Read-ahead in flight at most: what is worth it, and never all slots."""
        slots = max(int(self._congestion.limit * self._config.ahead_fraction), 1)
        return min(slots, self._concurrency.ahead_limit)

    def request(self, object_id: ObjectId, wanted: ByteRange, part_nbytes: int, priority: Priority) -> None:
        """Queue flights for what no tier has and no flight brings; a demand promotes the flights that it joins."""
        if object_id not in self.flights and self._disk.has_nowait(object_id, wanted):
            return  # without a look at each block: a window has thousands

        def held(index: int) -> bool:
            return self._memory.find(object_id, index * BLOCK_BYTES) is not None

        joined = self.promote if priority is Priority.DEMAND else lambda _: None
        all_absent = not self.flights.bring_any(object_id, wanted) and not self._memory.holds_any(object_id, wanted)
        for absent in [wanted] if all_absent else self.flights.absent(object_id, wanted, held, joined):
            for missing in self._disk.missing_nowait(object_id, absent):
                for byte_range in missing.parts(part_nbytes):
                    if priority is Priority.READ_AHEAD and self._queue.count(priority) >= self._config.max_queued_ahead:
                        self.counters.ahead_dropped += 1
                        continue
                    flight = Flight(Part(object_id, byte_range), priority)
                    self.flights.add(flight)
                    self._queue.push(flight, priority, object_id)

    def promote(self, flight: Flight) -> bool:
        """A demand has joined a flight. Whether it is more urgent now than it was."""
        if flight.line is Priority.DEMAND:
            return False
        flight.line = Priority.DEMAND
        if flight.state is FlightState.PAUSED:
            # Somebody else's pauses are not the reader's, who would have asked at once.
            self._pauses.discard(flight)
            assert flight.tries is not None
            flight.tries.start_over()
            self._requeue(flight)
        else:
            self._queue.promote(flight, Priority.DEMAND, flight.part.object_id)
        return True

    def drop_ahead(self, object_id: ObjectId) -> None:
        """Nobody reads this object any more: drop its read-ahead, unless it is about to be complete."""
        dropped = [
            flight
            for flight in self.flights.of(object_id)
            if not flight.waiters and flight.priority is Priority.READ_AHEAD
            if flight.state is not FlightState.STARTED or flight.part.missing_nbytes > _FINISH_NBYTES
        ]
        self.counters.ahead_dropped += len(dropped)
        self._give_up(dropped, StoreUnavailable("read-ahead was dropped"))

    def abandon(self, object_id: ObjectId, needed: ByteRange, priority: Priority) -> None:
        """Somebody gave up: drop the GETs of ``needed``, of this priority, that nobody else waits for."""
        unwanted = [
            flight
            for flight in self.flights.within(object_id, needed)
            if flight.waiters == 0 and flight.priority is priority
        ]
        self.counters.abandoned += len(unwanted)
        self._give_up(unwanted, StoreUnavailable("the request was abandoned"))

    def start_what_may(self) -> None:
        """Start queued flights while there are slots and memory. Called whenever either may have become free."""
        congestion = self._congestion
        for priority in Priority:
            while (flight := self._queue.peek(priority)) is not None:
                ahead = priority > Priority.DEMAND
                if congestion.in_flight >= congestion.limit:
                    return
                if ahead and self._ahead_in_flight >= self.ahead_limit:
                    return
                if priority is Priority.WARM and self._warm_waits:
                    return
                if not self._memory.reserve_nowait(flight.nbytes):
                    return  # what is in flight will land and make room
                self._start(self._queue.pop(priority), ahead)

    @property
    def _warm_waits(self) -> bool:
        """Whether warming has its share already, or the disk has enough to do."""
        return self._warm_in_flight >= max(self.ahead_limit // 2, 1) or self.saver.behind

    def _start(self, flight: Flight, ahead: bool) -> None:
        flight.state = FlightState.STARTED
        flight.counted_ahead = ahead
        self._congestion.in_flight += 1
        self._ahead_in_flight += ahead
        self._warm_in_flight += flight.priority is Priority.WARM
        if not self._disk.shared:
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
            if flight.ended(attempt):
                flight.brought = claim is Claim.ON_DISK
                self.counters.brought_by_others += flight.brought
                if flight.brought or claim is None:
                    self._end(flight, None if flight.brought else StoreUnavailable("the request was abandoned"))
                    self.start_what_may()
                else:
                    self._send(flight)

    def _send(self, flight: Flight) -> None:
        flight.started_at = trio.current_time()
        flight.sent_from = flight.part.filled_to
        if flight.tries is not None:
            self._retries.on_sent_again()
        else:
            self.counters.demand_gets += not flight.counted_ahead
            self.counters.ahead_gets += flight.counted_ahead
        self.hedger.on_sent(flight)
        self._nursery.start_soon(self._fly, flight, flight.attempt())

    def _send_hedge(self, flight: Flight) -> None:
        self._nursery.start_soon(self._fly, flight, flight.attempt(hedge=True))

    async def _fly(self, flight: Flight, attempt: Attempt) -> None:
        """One GET of a flight, and the end of the try if it was the one that counts."""
        error: StoreError | None = None
        try:
            with attempt.scope:
                await self._store.get_range(flight.part.object_id, flight.asked, attempt.deliver)
        except StoreError as store_error:
            error = store_error
        except Exception:
            log.exception("bug: GET of %r bytes %r", flight.part.object_id.key, flight.part.byte_range)
            error = StoreError("internal error, see the log")
        finally:
            # Also on the way out of a cancelled nursery: accounts stay right until the end.
            if isinstance(error, Throttled):
                self._congestion.on_throttled(trio.current_time())
            if flight.ended(attempt):
                self._over(flight, error)
            error = None  # its traceback holds this frame, and with that the bytes, until the collector of cycles comes

    def _over(self, flight: Flight, error: StoreError | None) -> None:
        """The last GET of a try is over, or the one that brought its bytes."""
        now = trio.current_time()
        pause: float | None = None
        self.hedger.on_over(flight)
        if flight.part.complete:
            self._congestion.on_landed(now, now - flight.started_at)
            self._concurrency.on_complete(len(flight.asked), now - flight.started_at, now)
            error = None
        elif error is None:
            error = StoreUnavailable("the request was abandoned")
        else:
            name = get_text(flight.part.object_id, flight.part.byte_range)
            flight.tries = flight.tries or Tries(name, flight.started_at)
            pause = self._retries.pause(flight.tries, error, now, moved=flight.moved)
            if pause is not None and (failure := self._in_vain(flight, flight.tries, now)):
                pause, error = None, failure
            self.counters.failed += pause is None
        if pause is None:
            self._end(flight, error)
        elif pause == 0.0:
            self._send(flight)
            return
        else:
            self._free(flight)
            self._keep_front(flight)
            flight.state = FlightState.PAUSED
            self._pauses.add(flight, now + pause)
        self.start_what_may()

    def _in_vain(self, flight: Flight, tries: Tries, now: float) -> StoreError | None:
        """The error with which a flight ends that failed and that no reader waits for; None while it goes on."""
        if flight.readers:
            return None  # each until its own deadline
        seconds = now - tries.since
        if flight.waiters:
            if seconds < self._retries.policy.deadline_seconds:
                return None
            log.error("%s", tries.error(seconds))
        elif tries.ntries < _AHEAD_TRIES and len(self._pauses) < self._config.max_queued_ahead:
            return None
        self._retries.on_given_up()
        return tries.error(seconds)

    def _requeue(self, flight: Flight) -> None:
        """It is to be sent again, when its turn comes."""
        flight.state = FlightState.QUEUED
        self._queue.push(flight, flight.line, flight.part.object_id)
        self.start_what_may()

    def _free(self, flight: Flight) -> None:
        """Give back what a started flight has of the budgets."""
        self._congestion.in_flight -= 1
        self._ahead_in_flight -= flight.counted_ahead
        self._warm_in_flight -= flight.priority is Priority.WARM
        self.counters.nbytes_fetched += flight.part.filled_to - flight.part.byte_range.start
        self._memory.release(flight.nbytes)

    def _keep_front(self, flight: Flight) -> None:
        """Of a body that did not come to its end, keep the whole blocks: the flight goes on behind them, or others."""
        part = flight.part
        kept = part.kept()
        rest = part.byte_range if kept is None else ByteRange(kept.byte_range.stop, part.byte_range.stop)
        if kept is not None:
            self._disk.split_claim_nowait(part.object_id, part.byte_range, rest.start)
            self.saver.take(kept, hold=flight.priority is not Priority.WARM)
            self.flights.forget(flight, kept.byte_range)
        flight.go_on_with(Part(part.object_id, rest))
        self._disk.release_nowait(part.object_id, rest)

    def _end(self, flight: Flight, error: StoreError | None) -> None:
        """A started flight is over."""
        part = flight.part
        self._free(flight)
        if part.complete:
            # What was warmed shall not push out what readers want.
            self.saver.take(part, hold=flight.priority is not Priority.WARM)
        elif not flight.brought:
            self._keep_front(flight)
        gone = isinstance(error, NotFound | ObjectChanged)
        if gone:
            self._outdated(part.object_id)  # before those who wait for it hear of it
        self._land(flight, error)
        if gone:
            self.drop_ahead(part.object_id)

    def _land(self, flight: Flight, error: StoreError | None) -> None:
        self.flights.forget(flight, flight.part.byte_range)
        flight.land(error)

    def _give_up(self, flights: list[Flight], error: StoreError) -> None:
        """Nobody wants these flights any more."""
        started = []
        for flight in flights:
            if flight.state is FlightState.STARTED:
                started.append(flight)
                continue
            if flight.state is FlightState.PAUSED:
                self._pauses.discard(flight)
            else:
                self._queue.discard(flight, flight.part.object_id)
            self._land(flight, error)
        for flight in started:
            flight.abort()
            self.hedger.on_over(flight)
            self._end(flight, error)
        if started:
            self.start_what_may()
