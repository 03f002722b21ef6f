"""One part on its way, from its request to its last byte: those who wait for it, and the GETs that race for it."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import trio

from s3stream_fs.cache.memory.part import Part
from s3stream_fs.errors import StoreError
from s3stream_fs.fetch.queue import Priority


class FlightState(Enum):
    QUEUED = auto()
    STARTED = auto()
    LANDED = auto()
    """Over: either the part is complete or ``error`` is set."""


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
        if flight is None or flight.state is FlightState.LANDED:
            return  # both answers came in the same moment, and the other one was taken
        if flight.leader is None:
            flight.leader = self
            flight.answered_at = trio.current_time()
            for other in flight.attempts - {self}:
                other.scope.cancel()
        if flight.leader is self:
            flight.deliver(piece)


class Flight:
    """A part on its way. All who want bytes of it wait on the same one (single flight).

    Invariants: ``waiters`` counts the tasks inside ``wait``; ``error`` is set only when LANDED; only the ``leader``,
    once there is one, delivers.
    """

    __slots__ = (
        "_changed",
        "answered_at",
        "attempts",
        "brought",
        "counted_ahead",
        "error",
        "leader",
        "part",
        "priority",
        "started_at",
        "state",
        "waiters",
    )

    def __init__(self, part: Part, priority: Priority) -> None:
        self.part = part
        self.priority = priority
        """What it was first wanted for; a demand that joins read-ahead does not change it."""
        self.state = FlightState.QUEUED
        self.started_at = self.answered_at = 0.0
        """When the first request for it was sent, and when the first piece came."""
        self.counted_ahead = False
        """It was started as read-ahead, and takes one of the slots of read-ahead."""
        self.brought = False
        """Another process has fetched it: it is on disk now, and not in ``part``."""
        self.attempts: set[Attempt] = set()
        """The GETs that are under way."""
        self.leader: Attempt | None = None
        self.error: StoreError | None = None
        self.waiters = 0
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def nbytes(self) -> int:
        """Memory to set aside for it: its body, and what of that may lie in its connection's buffers as well."""
        return len(self.part.byte_range) + min(len(self.part.byte_range), _CONNECTION_NBYTES)

    def attempt(self, hedge: bool = False) -> Attempt:
        """Another GET for the same bytes."""
        made = Attempt(self, hedge)
        self.attempts.add(made)
        return made

    def deliver(self, piece: memoryview) -> None:
        self.part.append(piece)
        self._changed.unpark_all()

    def cancel(self) -> None:
        """Abort every GET. The flight lands, with an error, once they are gone."""
        for attempt in self.attempts:
            attempt.scope.cancel()

    def land(self, error: StoreError | None) -> None:
        self.state = FlightState.LANDED
        self.error = error
        self._changed.unpark_all()

    async def wait(self, stop: int) -> None:
        """Return once all bytes before ``stop`` are there, even while later ones are still coming; or on disk.

        Raises the error with which the flight ended.
        """
        self.waiters += 1
        try:
            while self.part.filled_to < stop and not self.brought:
                if self.error is not None:
                    raise self.error.again()
                await self._changed.park()
        finally:
            self.waiters -= 1
