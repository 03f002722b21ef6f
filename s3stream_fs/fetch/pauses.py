"""Flights between two tries: until when each is left alone. Owns the one task that waits for all of them.

A pause holds neither a slot nor memory, so that keys that fail do not hold up others.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import trio

from s3stream_fs.fetch.flight import Flight


class Pauses:
    def __init__(self, again: Callable[[Flight], None]) -> None:
        """``again`` is called with each flight whose pause is over."""
        self._again = again
        self._due: list[tuple[float, int, Flight]] = []
        """A heap, in which those that were discarded stay until they would have been due."""
        self._paused: dict[Flight, int] = {}
        """Which entry of the heap is the one that counts."""
        self._numbers = count()
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._paused)

    def add(self, flight: Flight, due: float) -> None:
        number = next(self._numbers)
        self._paused[flight] = number
        heappush(self._due, (due, number, flight))
        if self._due[0][1] == number:
            self._wake.set()

    def discard(self, flight: Flight) -> None:
        """It does not wait any longer."""
        del self._paused[flight]

    async def run(self) -> None:
        """Ends when it is cancelled."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._wake.wait()
            while self._due and self._due[0][0] <= trio.current_time():
                _, number, flight = heappop(self._due)
                if self._paused.get(flight) == number:
                    del self._paused[flight]
                    self._again(flight)
