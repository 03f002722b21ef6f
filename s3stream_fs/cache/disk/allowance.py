"""What something beside the blocks may take of the cache's disk: names that do not fit memory, listings that are kept.

It counts as part of the cache, within its size and beyond the reserve. The writer makes room for it, ahead of its use,
so that who takes it waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_WAIT_SECONDS: Final = 2.0
"""How long somebody in a thread of its own waits for the writer to make room."""


class Allowance:
    """Used by one side, and granted by the writer, each on its own thread."""

    def __init__(self, limit_nbytes: int, ahead_nbytes: int, wake_writer: Callable[[], None]) -> None:
        """At most ``limit_nbytes``, of which there are ``ahead_nbytes`` more than are in use."""
        self._limit_nbytes = limit_nbytes
        self._ahead_nbytes = ahead_nbytes
        self._wake_writer = wake_writer
        self._changed = threading.Condition()
        self._used_nbytes = 0
        self._granted_nbytes = 0
        self._wanted_nbytes = 0

    def take_nowait(self, nbytes: int) -> bool:
        """Whether so many bytes more may be used, from now on. Where not, they are made room for, if that may be."""
        with self._changed:
            if self._used_nbytes + nbytes <= self._granted_nbytes:
                self._used_nbytes += nbytes
                return True
            # Where all that may be is granted, to wake the writer each time would keep it busy.
            asked = self._wanted_nbytes > self._granted_nbytes or self._granted_nbytes >= self._limit_nbytes
            self._wanted_nbytes = min(self._used_nbytes + nbytes, self._limit_nbytes)
        if not asked:
            self._wake_writer()
        return False

    def give_back(self, nbytes: int) -> None:
        with self._changed:
            self._used_nbytes -= nbytes
            self._wanted_nbytes = self._used_nbytes

    @contextmanager
    def held(self, nbytes: int) -> Iterator[bool]:
        """Whether so many bytes may be used meanwhile. May wait for the writer: for a thread of its own."""
        taken = self.take_nowait(nbytes)
        if not taken and self._used_nbytes + nbytes <= self._limit_nbytes:
            with self._changed:
                self._changed.wait_for(lambda: self._used_nbytes + nbytes <= self._granted_nbytes, _WAIT_SECONDS)
            taken = self.take_nowait(nbytes)
        try:
            yield taken
        finally:
            self.give_back(nbytes if taken else 0)

    # The writer's thread:

    @property
    def granted_nbytes(self) -> int:
        return self._granted_nbytes

    @property
    def unused_nbytes(self) -> int:
        """What is granted and not on the disk so far."""
        return self._granted_nbytes - self._used_nbytes

    def missing_nbytes(self) -> int:
        """How much more is to be granted, by what was asked since; what is negative is not needed any more."""
        with self._changed:
            wanted = max(self._used_nbytes, self._wanted_nbytes) + self._ahead_nbytes
            self._wanted_nbytes = 0  # asked for again, where it still is
            return max(min(wanted, self._limit_nbytes), self._used_nbytes) - self._granted_nbytes

    def grant(self, nbytes: int) -> None:
        with self._changed:
            self._granted_nbytes = max(self._granted_nbytes + nbytes, self._used_nbytes)
            self._changed.notify_all()
