"""A small event loop: readiness of sockets by epoll, and timers. One thread, no tasks.

asyncio would do, at two to three times the CPU per request; the server has one core and must not be what limits.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from typing import Final

EARLY_SECONDS: Final = 0.0005
"""epoll counts whole milliseconds. A timer that is due within half of one runs now, so that the error has no bias."""

Callback = Callable[[], None]


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._sequence = 0
        self._stopped = False
        self.now = time.monotonic()
        """The time at which the loop woke up last."""

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler`` with the events of ``fd``, from now on."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at(self, when: float, callback: Callback) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, callback))

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        timers, handlers, poll = self._timers, self._handlers, self._epoll.poll
        while not self._stopped:
            timeout = -1.0 if not timers else max(0.0, timers[0][0] - time.monotonic() - EARLY_SECONDS)
            ready = poll(timeout)
            self.now = time.monotonic()
            for fd, events in ready:
                handler = handlers.get(fd)
                if handler is not None:
                    handler(events)
            due = time.monotonic() + EARLY_SECONDS
            last = self._sequence
            # Timers that are set meanwhile wait for the next round, so that sockets are heard in between.
            while timers and timers[0][0] <= due and timers[0][1] <= last:
                heapq.heappop(timers)[2]()
