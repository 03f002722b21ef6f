"""One part on its way, from its request to its last byte: those who wait for it, and the GETs that race for it."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import trio

from s3stream_fs.cache.memory.part import Part
from s3stream_fs.cache.memory.tier import cost_nbytes
from s3stream_fs.errors import StoreError
from s3stream_fs.fetch.queue import Priority
from s3stream_fs.store.retry import Tries, get_text
from s3stream_fs.types import ByteRange


class FlightState(Enum):
    QUEUED = auto()
    STARTED = auto()
    PAUSED = auto()
    """Its last try came to nothing: it is queued again in a while, and has neither a slot nor memory until then."""
    LANDED = auto()
    """Over: the part is complete, or ``error`` is set."""


_CONNECTION_NBYTES: Final = 512 * 1024
"""What the buffers of one connection grow to: the HTTP client reads up to 400 KiB at a time."""


class Attempt:
    """One GET of a flight. Mostly the only one; a hedge is a second."""

    __slots__ = ("_flight", "hedge", "scope")

    def __init__(self, flight: Flight, hedge: bool) -> None:
        self._flight: Flight | None = flight
        self.hedge = hedge
        self.scope = trio.CancelScope()

    def over(self) -> None:
        """Let go of the flight: an error's traceback may name this attempt until the collector of cycles comes, and
        bytes must not wait for that."""
        self._flight = None

    def deliver(self, piece: memoryview) -> None:
        """The next bytes of the body have come. Whoever brings the first piece brings them all."""
        flight = self._flight
        if flight is None:
            return  # both answers came in the same moment, and the other one was taken
        if flight.leader is None:
            flight.leader = self
            flight.answered_at = trio.current_time()
            for other in flight.attempts - {self}:
                other.scope.cancel()
        if flight.leader is self:
            flight.deliver(piece)


class Flight:
    """A part on its way. All who want bytes of it wait on the same one (single flight), each as long as it likes.

    Invariants: ``waiters`` counts the tasks inside ``wait`` and ``wait_all``, ``readers`` those of the first alone;
    ``error`` is set only when LANDED; only the ``leader``, once there is one, delivers.
    """

    __slots__ = (
        "_changed",
        "answered_at",
        "attempts",
        "brought",
        "counted_ahead",
        "error",
        "leader",
        "line",
        "part",
        "priority",
        "readers",
        "sent_from",
        "started_at",
        "state",
        "tries",
        "waiters",
    )

    def __init__(self, part: Part, priority: Priority) -> None:
        self.part = part
        """What is still wanted of it: what came of tries that failed is a part of its own."""
        self.priority = priority
        """What it was first wanted for; a demand that joins read-ahead does not change it."""
        self.line = priority
        """Where it queues: with demands, once one has joined it."""
        self.state = FlightState.QUEUED
        self.started_at = self.answered_at = 0.0
        """When the first request of this try was sent, and when its first piece came."""
        self.sent_from = part.byte_range.start
        """Where the bytes of this try begin."""
        self.tries: Tries | None = None
        """What came of it so far, where a try has failed."""
        self.counted_ahead = False
        """It was started as read-ahead, and takes one of the slots of read-ahead."""
        self.brought = False
        """Another process has fetched it: it is on disk now, and not in ``part``."""
        self.attempts: set[Attempt] = set()
        """The GETs that are under way."""
        self.leader: Attempt | None = None
        self.error: StoreError | None = None
        self.readers = 0
        self.waiters = 0
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def nbytes(self) -> int:
        """Memory to set aside for it: its part, and what of its body may lie in its connection's buffers as well."""
        return cost_nbytes(self.part) + min(len(self.part.byte_range), _CONNECTION_NBYTES)

    @property
    def asked(self) -> ByteRange:
        """The bytes that this try asks for, a hedge as well."""
        return ByteRange(self.sent_from, self.part.byte_range.stop)

    @property
    def moved(self) -> bool:
        """Whether this try has brought bytes."""
        return self.part.filled_to > self.sent_from

    def attempt(self, hedge: bool = False) -> Attempt:
        """Another GET for the same bytes."""
        made = Attempt(self, hedge)
        self.attempts.add(made)
        return made

    def deliver(self, piece: memoryview) -> None:
        self.part.append(piece)
        self._changed.unpark_all()

    def go_on_with(self, part: Part) -> None:
        """What came before ``part`` is kept elsewhere; those who wait for it look for it there."""
        self.part = part
        self._changed.unpark_all()

    def ended(self, attempt: Attempt) -> bool:
        """A GET has ended. Whether the try is over with it; then those that are left are aborted and bring nothing."""
        if attempt not in self.attempts:
            return False
        self.attempts.discard(attempt)
        attempt.over()
        if self.attempts and self.leader is not attempt:
            return False
        self.abort()
        return True

    def abort(self) -> None:
        """Cancel every GET. What they bring from now on is nobody's."""
        for attempt in self.attempts:
            attempt.scope.cancel()
            attempt.over()
        self.attempts.clear()

    def land(self, error: StoreError | None) -> None:
        self.state = FlightState.LANDED
        self.error = error and error.again()  # without the traceback, which holds this flight
        self._changed.unpark_all()

    async def wait(self, start: int, stop: int) -> bool:
        """Return once all bytes from ``start`` to ``stop`` are in ``part``, even while later ones are still coming.

        False where they are not here any more: on disk, or kept as a part of their own. Raises the error with which
        the flight ended.
        """
        self.readers += 1
        self.waiters += 1
        try:
            while not self.brought and start >= self.part.byte_range.start:
                if self.part.filled_to >= stop:
                    return True
                if self.error is not None:
                    raise self.error.again()
                await self._changed.park()
            return False
        finally:
            self.readers -= 1
            self.waiters -= 1

    async def wait_all(self) -> None:
        """Return once it has landed, for those who read none of it. Raises the error with which it ended."""
        self.waiters += 1
        try:
            while self.state is not FlightState.LANDED:
                await self._changed.park()
            if self.error is not None:
                raise self.error.again()
        finally:
            self.waiters -= 1

    def state_text(self, now: float) -> str:
        """How far it is, for a log that tells why somebody has waited in vain."""
        if self.tries is not None:
            return str(self.tries.error(now - self.tries.since))
        what = get_text(self.part.object_id, self.part.byte_range)
        if self.state is FlightState.STARTED:
            came = self.part.filled_to - self.part.byte_range.start
            return f"{what} was sent {now - self.started_at:.3g} s ago, and {came:,} bytes have come"
        return f"{what} has waited for a slot or for memory"
