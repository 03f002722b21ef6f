"""Changes: names that stand for something else than was said of them, for whoever has to pass that on.

Owns the queue between those who find them out and the one who tells the kernel.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import trio

_MOST: Final = 1000
"""Changes that nobody has been told of yet."""


class Change(NamedTuple):
    """``name`` in the directory ``prefix``; without a name, the directory holds others than were shown."""

    prefix: str
    name: bytes


class Changes:
    """One takes them, one after another; any number of tasks announce them."""

    def __init__(self) -> None:
        self._queue: deque[Change] = deque()
        self._any = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._told = trio.lowlevel.ParkingLot()
        self._nannounced = 0
        self._ntaken = 0
        self._ntold = 0
        """Those that have been passed on: who asks for the next one has done so with all that it took before."""

    def __len__(self) -> int:
        return len(self._queue)

    def announce_nowait(self, change: Change) -> None:
        """Where there are too many it is left out: it shows when what was said of the name has grown old."""
        if len(self._queue) < _MOST:
            self._queue.append(change)
            self._nannounced += 1
            self._any.unpark()

    async def announce(self, change: Change) -> None:
        """Waits where there are too many."""
        while len(self._queue) >= _MOST:
            await self._room.park()
        self.announce_nowait(change)

    async def next(self) -> Change:
        """The next one. Who comes back for it has passed on the last."""
        self._ntold = self._ntaken
        self._told.unpark_all()
        while not self._queue:
            await self._any.park()
        self._room.unpark()
        self._ntaken += 1
        return self._queue.popleft()

    async def wait_told(self) -> None:
        """Return once all that has been announced so far was passed on, whatever else is announced meanwhile."""
        nannounced = self._nannounced
        while self._ntold < nannounced:
            await self._told.park()
