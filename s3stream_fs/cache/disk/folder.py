"""The folder of the disk tier, opened: its data files, its index, and the lock of those who write to it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from s3stream_fs.cache.database import is_busy, is_damage, may_be_full, remove_database
from s3stream_fs.cache.disk.claims import Claims
from s3stream_fs.cache.disk.files import DataFiles, Descriptors, make_private_folder
from s3stream_fs.cache.disk.holder import holder_of
from s3stream_fs.cache.disk.index import BlockIndex, oldest_of
from s3stream_fs.cache.disk.policy import Amount

log = logging.getLogger(__name__)

BLOCKS: Final = "blocks"
"""The sub-folder in which everything lies. A cache is reset by removing it."""

INDEX: Final = "index.sqlite"
_LOCK: Final = "writing.lock"
_CLAIMS: Final = "fetching.lock"

LOCK_SECONDS: Final = 5.0
"""Who has had the lock for so long does not work any more: a batch of 32 MiB takes that at 6 MiB/s."""

LOCK_PAUSE_SECONDS: Final = 0.005
"""How often it is tried to be had. A batch takes some ten times that."""

_TO_OPEN_NBYTES: Final = 4 * 1024 * 1024
"""What has to go for an index that has no room to be opened: its log, and what others take meanwhile. A guess."""

_TO_OPEN_NFILES: Final = 4
"""The same of inodes."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_FAULTS: Final = _FULL | {errno.EIO, errno.EUCLEAN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EWOULDBLOCK}


class LockHeldError(OSError):
    """Another process does not let go of the folder. The text says which."""


def patience(seconds: float) -> Callable[[], bool]:
    """Says when so many seconds have passed from now on."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


class CacheFolder:
    """``writing`` is the writer's thread's; ``index``, and what ``open_index`` gives, wait for no others."""

    def __init__(
        self,
        directory: Path,
        descriptors: Descriptors | None = None,
        *,
        damaged_inode: int | None = None,
        may_reset: bool = True,
    ) -> None:
        """Opens at once, however much is in it. Raises OSError, sqlite3.Error or UsageError.

        A damaged index, or one of another format, is removed if it ``may_reset``: the cache starts empty, and its files
        are swept. ``damaged_inode`` is that of an index which was found to be damaged while it was used.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        blocks = directory / BLOCKS
        make_private_folder(blocks)
        self._index_path = blocks / INDEX
        with ExitStack() as stack:
            self.files = DataFiles(blocks, Descriptors() if descriptors is None else descriptors)
            stack.callback(self.files.close)
            self._lock_path = blocks / _LOCK
            self._lock = _open_lock(self._lock_path)
            stack.callback(os.close, self._lock)
            self.claims = Claims(_open_lock(blocks / _CLAIMS))
            stack.callback(self.claims.close)
            try:
                self._open_indexes(damaged_inode, may_reset)
            except sqlite3.Error as error:
                if not self.is_full(error):
                    raise
                gone = self._evict_unread()
                self._open_indexes(damaged_inode, may_reset)
                stack.callback(self.index.close)
                stack.callback(self.writing.close)
                with self._flocked(patience(LOCK_SECONDS)), self.writing.transaction():
                    self.writing.forget(gone)
            stack.pop_all()

    def open_index(self) -> BlockIndex:
        """Another connection like ``index``."""
        return BlockIndex(self._index_path, patient=False)

    def close(self) -> None:
        self.index.close()
        self.writing.close()
        self.files.close()
        self.claims.close()
        os.close(self._lock)

    def is_full(self, error: Exception) -> bool:
        """Whether it says that the disk has no room for more: no bytes, no inodes, or not for this user."""
        if isinstance(error, OSError):
            return error.errno in _FULL
        if not may_be_full(error):
            return False
        try:
            self.files.probe()
        except OSError as found:
            return found.errno in _FULL
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL

    @contextmanager
    def locked(self, give_up: Callable[[], bool]) -> Iterator[None]:
        """Alone among all processes that write here: what is on disk and what the index counts is the same outside.

        Waits for the others, who hold it for a batch at a time, until ``give_up`` says so. A killed one holds nothing.
        Raises LockHeldError then, and OSError also where somebody has put another index in the place of the one that
        is open.
        """
        with self._flocked(give_up):
            if self._index_path.stat().st_ino != self.writing.inode:
                raise OSError(errno.ESTALE, "the index was made anew by another process")
            yield

    @contextmanager
    def _flocked(self, give_up: Callable[[], bool]) -> Iterator[None]:
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if give_up():
                    raise LockHeldError(errno.EWOULDBLOCK, f"{holder_of(self._lock_path)} keeps its lock") from None
                time.sleep(LOCK_PAUSE_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _open_indexes(self, damaged_inode: int | None, may_reset: bool) -> None:
        self.writing = self._open_index(damaged_inode, may_reset)
        try:
            self.index = self.open_index()
        except BaseException:
            self.writing.close()
            raise

    def _evict_unread(self) -> list[str]:
        """Have files go before the index is open: to be opened it needs room for its log. Returns their names."""
        gone = []
        with self._flocked(patience(LOCK_SECONDS)):
            left = Amount(_TO_OPEN_NBYTES, _TO_OPEN_NFILES)
            for victim in oldest_of(self._index_path):
                if self.files.exists(victim.name):
                    self.files.remove(victim.name)
                    gone.append(victim.name)
                    left = Amount(left.nbytes - victim.nbytes, left.nfiles - 1)
                    if left.nbytes <= 0 and left.nfiles <= 0:
                        break
        return gone

    def _open_index(self, damaged_inode: int | None, may_reset: bool) -> BlockIndex:
        path = self._index_path
        if damaged_inode is None:
            try:
                return BlockIndex(path, patient=True)
            except sqlite3.Error as error:
                if not is_damage(error) or not may_reset:
                    raise
        with self._flocked(patience(LOCK_SECONDS)):
            try:
                # Perhaps somebody else has made it anew meanwhile, and uses it.
                if damaged_inode is None or path.stat().st_ino != damaged_inode:
                    return BlockIndex(path, patient=True)
            except FileNotFoundError:
                return BlockIndex(path, patient=True)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                log.warning("the cache's index %s cannot be used (%s): the cache starts empty", path, error)
            remove_database(path)
            return BlockIndex(path, patient=True)


def is_fault(error: OSError | sqlite3.Error) -> bool:
    """Whether a folder could not be opened for a reason that may pass, and is no mistake of the user's."""
    if isinstance(error, OSError):
        return error.errno in _FAULTS
    return is_busy(error) or may_be_full(error)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
