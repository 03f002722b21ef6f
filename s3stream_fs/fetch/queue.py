"""Requests that wait for a slot: most urgent first, then in turn among those who wait. No clock, no I/O, no tasks."""

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
    WARM = 2
    """Somebody asked for them to be in the disk cache, some time."""


class _Line(Generic[T]):
    """Owners take turns; each owner's requests go first in, first out."""

    def __init__(self) -> None:
        # dicts are ordered sets here: the inner values say nothing.
        self._by_owner: dict[Hashable, dict[T, None]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, request: T, owner: Hashable) -> None:
        self._by_owner.setdefault(owner, {})[request] = None
        self._length += 1

    def first(self) -> T | None:
        for requests in self._by_owner.values():
            return next(iter(requests))
        return None

    def discard(self, request: T, owner: Hashable) -> bool:
        requests = self._by_owner.get(owner)
        if requests is None or request not in requests:
            return False
        del requests[request]
        self._length -= 1
        if not requests:
            del self._by_owner[owner]
        return True

    def pop(self) -> T:
        """The first request; its owner's next one goes to the end of the line."""
        owner = next(iter(self._by_owner))
        requests = self._by_owner.pop(owner)
        request = next(iter(requests))
        del requests[request]
        self._length -= 1
        if requests:
            self._by_owner[owner] = requests
        return request


class RequestQueue(Generic[T]):
    """Within a priority, owners (objects being read) take turns. Every operation takes constant time."""

    def __init__(self) -> None:
        self._lines: dict[Priority, _Line[T]] = {priority: _Line() for priority in Priority}

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def count(self, priority: Priority) -> int:
        return len(self._lines[priority])

    def push(self, request: T, priority: Priority, owner: Hashable) -> None:
        self._lines[priority].push(request, owner)

    def peek(self, priority: Priority) -> T | None:
        """The request of this priority that is next."""
        return self._lines[priority].first()

    def pop(self, priority: Priority) -> T:
        """Take that request out; the next one is another owner's, if one waits. Raises IndexError where none does."""
        if not self._lines[priority]:
            raise IndexError("no request waits")
        return self._lines[priority].pop()

    def promote(self, request: T, priority: Priority, owner: Hashable) -> bool:
        """Move a waiting request up to ``priority``, behind what its owner has there. False where nothing changes."""
        for lower in Priority:
            if lower > priority and self._lines[lower].discard(request, owner):
                self._lines[priority].push(request, owner)
                return True
        return False

    def discard(self, request: T, owner: Hashable) -> bool:
        """Take a request out, wherever it waits. False where it does not wait."""
        return any(line.discard(request, owner) for line in self._lines.values())
