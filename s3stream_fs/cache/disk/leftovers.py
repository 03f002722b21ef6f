"""What nobody needs any more of data files: descriptors that are to be closed, and pages that can go.

Owns when a reader thread sees to it, which nobody waits for: both may wait for the disk.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Final

from s3stream_fs.cache.disk.files import DataFile, Descriptors

_MOST: Final = 16
"""Descriptors that are closed at once, and files whose pages are let go at once."""


class Leftovers:
    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._files: deque[DataFile] = deque(maxlen=2 * _MOST)
        """Small files that were read to their end."""

    def add(self, file: DataFile) -> bool:
        """The pages of a file can go. Whether it is time to ``tidy``."""
        # Not here: it may wait for those that have not been written yet.
        self._files.append(file)
        return len(self._files) >= _MOST

    def tidy_up(self) -> None:
        """After a turn of a thread. Not after each: it would be in the way of trio's thread, which just wakes up."""
        if self._descriptors.any_to_close(_MOST):
            self.tidy()

    def tidy(self) -> None:
        """In a thread."""
        self._descriptors.close_ended()
        while self._files:
            with suppress(IndexError, OSError):  # IndexError: another thread had it
                self._files.popleft().let_pages_go()
