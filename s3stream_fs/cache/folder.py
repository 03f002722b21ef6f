"""The folder of the disk tier, opened: its data files, its index, and the lock of those who write to it."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from s3stream_fs.cache.files import DataFiles, make_private_folder
from s3stream_fs.cache.index import BlockIndex, is_damage

log = logging.getLogger(__name__)

BLOCKS: Final = "blocks"
"""The sub-folder in which everything lies. A cache is reset by removing it."""

INDEX: Final = "index.sqlite"
_LOCK: Final = "writing.lock"


class CacheFolder:
    """``index`` is for trio's thread and never waits; ``writing`` and ``files`` are for the writer's."""

    def __init__(self, directory: Path, *, damaged: bool = False) -> None:
        """Opens at once, however much is in it. Raises OSError, sqlite3.Error or UsageError.

        ``damaged``: the index has been found to be, and is made anew.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        blocks = directory / BLOCKS
        make_private_folder(blocks)
        self.files = DataFiles(blocks)
        try:
            self._lock = os.open(blocks / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self.writing = _open_index(blocks / INDEX, damaged)
                try:
                    self.index = BlockIndex(blocks / INDEX, patient=False)
                except BaseException:
                    self.writing.close()
                    raise
            except BaseException:
                os.close(self._lock)
                raise
        except BaseException:
            self.files.close()
            raise

    def close(self) -> None:
        self.index.close()
        self.writing.close()
        self.files.close()
        os.close(self._lock)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes that write here: what is on disk and what the index counts is the same outside.

        Waits for the others, who hold it for one batch at a time. A killed one holds nothing.
        """
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def _open_index(path: Path, damaged: bool) -> BlockIndex:
    """A damaged index, or one of another format, is removed: the cache starts empty, and its files are swept."""
    if not damaged:
        try:
            return BlockIndex(path, patient=True)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            log.warning("the cache's index %s cannot be used (%s): the cache starts empty", path, error)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return BlockIndex(path, patient=True)
