"""The thread that writes the disk tier: data files first, then the index; evicts, sweeps, and mends what has broken.

Owns every change on disk. Order is what makes it crash-safe without fsync: bytes are written before their row is
committed, and a row is gone (committed) before its file is removed.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from s3stream_fs.cache.database import is_busy, is_damage
from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.commits import Commits
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.eviction import Lru, eviction_of
from s3stream_fs.cache.disk.files import Descriptors, lacks_descriptors
from s3stream_fs.cache.disk.folder import LOCK_PAUSE_SECONDS, CacheFolder, LockHeldError, patience
from s3stream_fs.cache.disk.intake import NO_DESCRIPTORS, Intake, no_room
from s3stream_fs.cache.disk.policy import Amount, Clock, Policy, Victim
from s3stream_fs.cache.disk.queue import WriteQueue
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.cache.disk.room import Room
from s3stream_fs.cache.disk.sweep import Sweep
from s3stream_fs.cache.disk.writes import Write
from s3stream_fs.errors import UsageError
from s3stream_fs.types import ByteRange

log = logging.getLogger(__name__)

_LITTLE: Final = Amount(1024 * 1024, 1)
"""With room for so much the cache takes what is new."""

_ALWAYS: Final = Lru()
"""What is beyond the limits goes, whatever the policy says of what is new."""

_IDLE_SECONDS: Final = 0.5
"""How long the thread waits for work before it writes down last uses, looks how full the disk is and sweeps."""

_SHARED_IDLE_SECONDS: Final = 0.02
"""The same where other processes may be waiting for what is to be written."""


class Writer:
    """Takes writes from trio's thread, never blocks it, and is bounded in what it holds."""

    def __init__(
        self, config: DiskTierConfig, space: str, folder: CacheFolder | None, descriptors: Descriptors, records: Records
    ) -> None:
        self._config = config
        self._records = records
        self._descriptors = descriptors
        self.folder = folder
        """None until it could be opened. Another one after the disk has failed and come back; trio's thread sees to it
        that the old one is closed."""
        self._clock = Clock()
        self._eviction = eviction_of(config.policy)
        self._intake = Intake()
        self._queue = WriteQueue(config.queue_nbytes, records)
        self._give_up_at = math.inf
        """When not to wait any more for other processes."""
        self._begun = False
        """What an earlier process has left was put in order; nothing is written before."""
        self._sweep = Sweep()
        self._retry_at = 0.0
        self._tend_at = 0.0
        self._damaged_inode: int | None = None
        """The index has to be made anew, if it still is this one."""
        self._wake_reader: Callable[[], None] = lambda: None
        self.broken = False
        """The disk or the index cannot be used at present."""
        self._off = ""
        """Why."""
        self._failing = threading.Lock()
        self.nbytes_used = 0
        self.blocks_written = 0
        self.nbytes_written = 0
        self.files_evicted = 0
        self.dropped = 0
        self.errors = 0
        self._allowances: list[Allowance] = []
        self._room = Room(
            config,
            lambda: self._there,
            descriptors,
            self.now_ms,
            self._allowances,
            self._write_last_uses,
            self._evicted,
        )
        self._commits = Commits(
            space, config.limit_nbytes, lambda: self._there, self.now_ms, self._room, self._eviction, self._sweep
        )
        self._thread = threading.Thread(target=self._run, name="s3stream-disk", daemon=True)

    def start(self, wake_reader: Callable[[], None]) -> None:
        """``wake_reader`` has trio's thread look at what was evicted, and whether the folder was opened anew. It is
        called from the thread, until that is to ``stop``."""
        self._wake_reader = wake_reader
        self._thread.start()

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def put_nowait(self, record: Record, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Queue a write. False where the queue is full."""
        if self.broken:
            return True  # or it would be offered again until the disk is back
        return self._queue.put_nowait(record, byte_range, pieces)

    def allow(self, fraction: float, ahead_nbytes: int) -> Allowance:
        """What somebody may use of the cache's size beside blocks, up to a fraction of it. From any thread."""
        limit_nbytes = int(self._config.limit_nbytes * fraction)
        allowance = Allowance(limit_nbytes, min(ahead_nbytes, limit_nbytes // 16), self._tend_soon)
        self._allowances.append(allowance)
        return allowance

    def _tend_soon(self) -> None:
        self._tend_at = 0.0
        self._queue.wake()

    def fail(self, error: Exception) -> None:
        """The cache is off until the disk works again; says so once. From any thread."""
        with self._failing:
            self.errors += 1
            if not self.broken:
                log.error(
                    "the disk cache is off: %s; reads go on without it, and it is tried again every %g s",
                    str(error) or type(error).__name__,
                    self._config.retry_seconds,
                )
            self.broken = True
            self._off = str(error) or type(error).__name__
            if self.folder is not None and isinstance(error, sqlite3.Error) and is_damage(error):
                self._damaged_inode = self.folder.writing.inode
            self._retry_at = time.monotonic() + self._config.retry_seconds

    def release(self, record: Record, byte_range: ByteRange) -> None:
        """Other processes need not wait any longer for these blocks. From any thread."""
        try:
            if self.folder is not None:
                self.folder.claims.release(record.name, record.inside(byte_range))
        except OSError as error:
            self.fail(error)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued is written and committed. Blocks; for a worker thread."""
        return self._queue.flush(timeout)

    def stop(self, timeout: float) -> bool:
        """Write what is queued, if that goes within ``timeout`` seconds, and end. Blocks. False where it hangs."""
        self._wake_reader = lambda: None
        self._give_up_at = time.monotonic() + timeout
        self._queue.stop()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._queue.clear()
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if not self.broken:
            self._guarded(self._begin)
        while True:
            batch, stopping = self._queue.take(_SHARED_IDLE_SECONDS if self._any_others else _IDLE_SECONDS)
            if self.broken and not stopping and time.monotonic() >= self._retry_at:
                self._guarded(self._mend)
            if not (self._begun or self.broken or stopping):
                self._guarded(self._begin)
            if batch and (self.broken or not self._begun or not self._guarded(partial(self._write, batch))):
                self.dropped += len(batch)
            if self._begun and not self.broken and (stopping or time.monotonic() >= self._tend_at):
                self._guarded(self._write_last_uses)
                if not stopping:
                    self._guarded(self._tend)
                self._tend_at = time.monotonic() + _IDLE_SECONDS
            for write in batch:
                self.release(write.record, write.byte_range)
            if batch and self._any_others:
                time.sleep(2 * LOCK_PAUSE_SECONDS)  # in which somebody else gets the lock
            self._queue.dealt_with(batch)
            batch.clear()  # nor keep its files open
            self._descriptors.close_ended()
            if stopping:
                break
        self._queue.end()

    @property
    def _there(self) -> CacheFolder:
        """The folder, which is open: nothing is done with it before."""
        assert self.folder is not None
        return self.folder

    @property
    def _any_others(self) -> bool:
        return self.folder is not None and self.folder.claims.others

    @property
    def orphans(self) -> int:
        """Files that a kill had left behind, and that are gone."""
        return self._sweep.orphans

    @property
    def takes_nothing(self) -> str:
        """Why nothing new is taken; nothing where it is."""
        return self._off or self._intake.why_not

    def _locked(self) -> AbstractContextManager[None]:
        tired = patience(self._config.lock_seconds)
        return self._there.locked(lambda: tired() or time.monotonic() >= self._give_up_at)

    def _guarded(self, step: Callable[[], None]) -> bool:
        """One step of the thread's work. False where it failed: what is at fault for longer turns the cache off."""
        try:
            step()
            return True
        except LockHeldError as error:
            self._intake.stop(str(error.strerror))
        except (OSError, sqlite3.Error, UsageError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                self._intake.stop("another process keeps its index locked")
            elif lacks_descriptors(error):
                self.errors += 1
                self._intake.stop(NO_DESCRIPTORS)
            elif not isinstance(error, UsageError) and not self.broken and self._there.is_full(error):
                self.errors += 1
                self._intake.stop(no_room(error))
            else:
                self.fail(error)
        except Exception as error:
            log.exception("bug in the disk cache")
            self.fail(error)
        return False

    def _begin(self) -> None:
        """Before the first write: what an earlier process, or another configuration, has left is put in order."""
        self._sweep.begin(self._there)
        self._there.claims.join()
        with self._locked():
            if not self._there.writing.swept:
                # Files of a cache whose index was lost: they take room that nobody has counted.
                self._sweep.all(self._there)
            self._commits.begin()
            self._room.keep((), _ALWAYS)
            self.nbytes_used = self._there.writing.nbytes()
        self._begun = True

    def _mend(self) -> None:
        """The disk failed a while ago: open everything anew. Raises what it failed with, if it still does."""
        old = self.folder
        folder = CacheFolder(self._config.directory, self._descriptors, damaged_inode=self._damaged_inode)
        self._damaged_inode = None
        self.folder = folder
        try:
            self._begin()
        except BaseException:
            self.folder = old
            folder.close()
            raise
        self.broken, self._off = False, ""
        self._wake_reader()
        log.warning("the disk cache is back")

    def _write(self, batch: list[Write]) -> None:
        with self._locked():
            # None of what is queued behind this batch goes for it either: its records hold the files open.
            done, refusal = self._commits.write(batch, self._queue.unsaved_names())
            self.nbytes_used = self._there.writing.nbytes()
        self.dropped += len(batch) - len(done)
        self._records.committed(one.write.record.name for one in done)
        for one in done:
            one.write.record.checksums.update(one.found)
            self.blocks_written += len(one.found)
            self.nbytes_written += len(one.write.byte_range)
        if not done:
            self._intake.stop(refusal, logging.INFO if self._config.policy is Policy.KEEP else logging.WARNING)

    def _evicted(self, victims: list[Victim]) -> None:
        for victim in victims:
            self._records.evict(victim.name)
        self.files_evicted += len(victims)
        self._wake_reader()

    def _write_last_uses(self) -> None:
        uses = self._records.take_uses()
        if not uses:
            return
        try:
            with self._there.writing.transaction():
                self._there.writing.touch((used_ms, name) for name, used_ms in uses.items())
        except sqlite3.Error as error:
            if not self._there.is_full(error):
                raise
            self.errors += 1  # what goes next is chosen without them

    def _tend(self) -> None:
        """Twice a second: keep the reserve free, and tidy up a little."""
        # Trio's thread may let go of a file at any time.
        removed = [one.name for one in self._records.open_ones() if (file := one.file) and not file.on_disk()[1]]
        for name in removed:  # by another process: its bytes take room until it is closed
            self._records.evict(name)
        if removed:
            self._wake_reader()
        self._there.claims.look()
        with self._locked():
            self._room.keep(self._records.unsaved_names(), _ALWAYS)
            self._room.grant(self._records.unsaved_names(), _ALWAYS)
            if self._intake.why_not and self._takes_again():
                self._intake.resume()
            self._sweep.some(self._there)
            lost = self._records.take_lost()
            if lost:
                with self._there.writing.transaction():
                    # Not those that somebody has evicted and written again meanwhile.
                    self._there.writing.forget(name for name in lost if not self._there.files.exists(name))
            self._there.writing.shrink()
            self.nbytes_used = self._there.writing.nbytes()

    def _takes_again(self) -> bool:
        """Whether there is room for what may come, though there was none."""
        if not self._room.has(_LITTLE, self._records.unsaved_names(), self._eviction):
            return False
        try:
            self._there.files.probe()
        except OSError as error:
            if not self._there.is_full(error):
                raise
            return False
        return True
