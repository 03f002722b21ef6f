"""Requests that wait for a slot, most urgent first. Pure: no clock, no I/O, no tasks."""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Priority(IntEnum):
    """Why bytes are wanted; a smaller value goes first."""

    DEMAND = 0
    """A reader waits for them now."""
    READ_AHEAD = 1
    """A stream will need them soon; may be dropped without harm."""


class RequestQueue(Generic[T]):
    """First in, first out within a priority; every operation takes constant time."""

    def __init__(self) -> None:
        # dicts are ordered sets here: the value says nothing.
        self._waiting: dict[Priority, dict[T, None]] = {priority: {} for priority in Priority}

    def __len__(self) -> int:
        return sum(len(requests) for requests in self._waiting.values())

    def count(self, priority: Priority) -> int:
        return len(self._waiting[priority])

    def push(self, request: T, priority: Priority) -> None:
        self._waiting[priority][request] = None

    def peek(self, priority: Priority) -> T | None:
        """The request of this priority that is next."""
        return next(iter(self._waiting[priority]), None)

    def promote(self, request: T, priority: Priority) -> bool:
        """Move a waiting request up to ``priority``, behind what waits there. False where nothing changes."""
        for lower in Priority:
            if lower > priority and request in self._waiting[lower]:
                del self._waiting[lower][request]
                self._waiting[priority][request] = None
                return True
        return False

    def discard(self, request: T) -> bool:
        """Take a request out, wherever it waits. False where it does not wait."""
        for requests in self._waiting.values():
            if request in requests:
                del requests[request]
                return True
        return False
