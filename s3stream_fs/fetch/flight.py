"""One GET from its request to its last byte, and those who wait for it."""

from __future__ import annotations

from enum import Enum, auto

import trio

from s3stream_fs.cache.memory import Part
from s3stream_fs.errors import StoreError
from s3stream_fs.fetch.queue import Priority


class FlightState(Enum):
    QUEUED = auto()
    STARTED = auto()
    LANDED = auto()
    """Over: either the part is complete or ``error`` is set."""


class Flight:
    """A part on its way. All who want bytes of it wait on the same one (single flight).

    Invariants: ``waiters`` counts the tasks inside ``wait``; ``error`` is set only when LANDED.
    """

    __slots__ = ("_changed", "error", "part", "priority", "scope", "state", "waiters")

    def __init__(self, part: Part, priority: Priority) -> None:
        self.part = part
        self.priority = priority
        """What it was first wanted for; a demand that joins read-ahead does not change it."""
        self.state = FlightState.QUEUED
        self.scope = trio.CancelScope()
        self.error: StoreError | None = None
        self.waiters = 0
        self._changed = trio.lowlevel.ParkingLot()

    def deliver(self, piece: memoryview) -> None:
        """The next bytes of the body have come."""
        self.part.append(piece)
        self._changed.unpark_all()

    def land(self, error: StoreError | None) -> None:
        self.state = FlightState.LANDED
        self.error = error
        self._changed.unpark_all()

    async def wait(self, stop: int) -> None:
        """Return once all bytes before ``stop`` are there, even while later ones are still coming.

        Raises the error with which the flight ended.
        """
        self.waiters += 1
        try:
            while self.part.filled_to < stop:
                if self.error is not None:
                    raise self.error.again()
                await self._changed.park()
        finally:
            self.waiters -= 1
