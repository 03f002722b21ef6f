"""The sweep: what a kill between a write and its commit has left goes, and other files are counted as they are.

The writer's, under the folder's lock, so that nobody is in between just then.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Final

from s3stream_fs.cache.disk.folder import CacheFolder

_SECONDS: Final = 0.05
"""How long it goes on at a time. A shard of 8,000 files takes twice that."""


class Sweep:
    """Raises OSError and sqlite3.Error wherever the disk and SQLite do."""

    def __init__(self) -> None:
        self._left: deque[str] = deque()
        """Shards that are to be looked at."""
        self.orphans = 0
        """Files that no index knew, and that are gone."""

    def begin(self, folder: CacheFolder) -> None:
        """All of a folder is to be looked at."""
        self._left = deque(folder.files.shards)

    def add(self, name: str) -> None:
        """So is the shard of this file."""
        if name[:2] not in self._left:
            self._left.append(name[:2])

    def all(self, folder: CacheFolder) -> None:
        while self._left:
            self._shard(folder, self._left.popleft())

    def some(self, folder: CacheFolder) -> None:
        """For a moment; counts the index's total anew at the end."""
        enough = time.monotonic() + _SECONDS
        while self._left and time.monotonic() < enough:
            self._shard(folder, self._left.popleft())
            if not self._left:
                folder.writing.recount()

    def _shard(self, folder: CacheFolder, shard: str) -> None:
        unknown = []
        with folder.writing.transaction():
            for name, nbytes in folder.files.names(shard):
                if not folder.writing.resize(name, nbytes):
                    unknown.append(name)
        for name in unknown:
            with suppress(IsADirectoryError):
                folder.files.remove(name)
                self.orphans += 1
