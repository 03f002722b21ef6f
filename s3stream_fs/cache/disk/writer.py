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
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, TypeVar

from s3stream_fs.cache.database import is_busy, is_damage
from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.checksums import checksums_of
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.direct import DirectWriter
from s3stream_fs.cache.disk.eviction import Lru, eviction_of
from s3stream_fs.cache.disk.files import Descriptors, lacks_descriptors
from s3stream_fs.cache.disk.folder import LOCK_PAUSE_SECONDS, CacheFolder, LockHeldError, patience
from s3stream_fs.cache.disk.intake import Intake
from s3stream_fs.cache.disk.policy import Amount, Clock, Policy, Victim
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.cache.disk.room import Room
from s3stream_fs.cache.disk.sweep import Sweep
from s3stream_fs.cache.disk.writes import Done, Write
from s3stream_fs.errors import UsageError
from s3stream_fs.types import ByteRange

log = logging.getLogger(__name__)

_GATHER_NBYTES: Final = 8 * 1024 * 1024
"""The thread is woken for so much at a time, or for half of what may be queued, and otherwise looks every
``_IDLE_SECONDS``: woken for each small file, it took a quarter of the files per second from the readers (one
interpreter lock, and a commit for every file)."""

_BATCH_NBYTES: Final = 32 * 1024 * 1024
"""Bytes written per commit at the most: a kill loses no more than this."""

_BATCH_WRITES: Final = 256
"""Writes per commit at the most: each keeps a file open until then."""

_LOG_NBYTES: Final = 1024 * 1024
"""What has to go for a commit that found no room."""

_LITTLE: Final = Amount(1024 * 1024, 1)
"""With room for so much the cache takes what is new."""

_ALWAYS: Final = Lru()
"""What is beyond the limits goes, whatever the policy says of what is new."""

Outcome = TypeVar("Outcome")

_IDLE_SECONDS: Final = 0.5
"""How long the thread waits for work before it writes down last uses, looks how full the disk is and sweeps."""

_SHARED_IDLE_SECONDS: Final = 0.02
"""The same where other processes may be waiting for what is to be written."""

_EVICTED_PAUSES_SECONDS: Final = (0.0, 0.01, 0.05, 0.25)
"""Between the eviction of files and the next try of what had no room: who still has one open closes it meanwhile."""

_NO_DESCRIPTORS: Final = "this process may open no more files"


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class Writer:
    """Takes writes from trio's thread, never blocks it, and is bounded in what it holds."""

    def __init__(
        self, config: DiskTierConfig, space: str, folder: CacheFolder | None, descriptors: Descriptors, records: Records
    ) -> None:
        self._config = config
        self._records = records
        self._descriptors = descriptors
        self._space = space
        self.folder = folder
        """None until it could be opened. Another one after the disk has failed and come back; trio's thread sees to it
        that the old one is closed."""
        self._space_number = 0
        self._direct = DirectWriter()
        self._clock = Clock()
        self._eviction = eviction_of(config.policy)
        self._intake = Intake()
        self._evict_again_at = 0.0
        """When files may go again for what has no room though there seems to be some: the last time it did not help."""
        self._queue: deque[Write] = deque()
        self._queued_nbytes = 0
        self._gather_nbytes = min(_GATHER_NBYTES, config.queue_nbytes // 2)
        self._wake = threading.Condition()
        self._stopping = False
        self._give_up_at = math.inf
        """When not to wait any more for other processes."""
        self._flushing = 0
        """How many wait for the queue to be empty."""
        self._busy = True
        self._begun = False
        """What an earlier process has left was put in order; nothing is written before."""
        self._sweep = Sweep()
        self._retry_at = 0.0
        self._tend_at = 0.0
        self._damaged_inode: int | None = None
        """The index has to be made anew, if it still is this one."""
        self.wake_reader: Callable[[], None] = lambda: None
        """Has trio's thread look at what was evicted, and whether the folder was opened anew."""
        self.broken = False
        """The disk or the index cannot be used at present."""
        self._off = ""
        """Why."""
        self.nbytes_used = 0
        self.blocks_written = 0
        self.nbytes_written = 0
        self.files_evicted = 0
        self.dropped = 0
        self.errors = 0
        self._allowances: list[Allowance] = []
        self._room = Room(
            config, lambda: self._there, self.now_ms, self._allowances, self._write_last_uses, self._evicted
        )
        self._thread = threading.Thread(target=self._run, name="s3stream-disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def put_nowait(self, record: Record, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Queue a write. False where the queue is full."""
        with self._wake:
            if self.broken:
                return True  # or it would be offered again until the disk is back
            write = Write(record, byte_range, pieces)
            if self._queued_nbytes and self._queued_nbytes + write.cost_nbytes > self._config.queue_nbytes:
                return False
            self._queued_nbytes += write.cost_nbytes
            self._queue.append(write)
            self._records.queued(record)
            if self._queued_nbytes >= self._gather_nbytes:
                self._wake.notify_all()
        return True

    def allow(self, fraction: float, ahead_nbytes: int) -> Allowance:
        """What somebody may use of the cache's size beside blocks, up to a fraction of it. From any thread."""
        limit_nbytes = int(self._config.limit_nbytes * fraction)
        allowance = Allowance(limit_nbytes, min(ahead_nbytes, limit_nbytes // 16), self._tend_soon)
        self._allowances.append(allowance)
        return allowance

    def _tend_soon(self) -> None:
        with self._wake:
            self._tend_at = 0.0
            self._wake.notify_all()

    def fail(self, error: Exception) -> None:
        """The cache is off until the disk works again; says so once. From any thread."""
        with self._wake:
            self.errors += 1
            if not self.broken:
                log.error(
                    "the disk cache is off: %s; reads go on without it, and it is tried again every %g s",
                    str(error) or type(error).__name__,
                    self._config.retry_seconds,
                )
            self.broken = True
            self._off = str(error) or type(error).__name__
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._damaged_inode = self._there.writing.inode
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
        with self._wake:
            self._flushing += 1
            self._wake.notify_all()
            done = self._wake.wait_for(lambda: not self._queue and not self._busy, timeout)
            self._flushing -= 1
            return done

    def stop(self, timeout: float) -> bool:
        """Write what is queued, if that goes within ``timeout`` seconds, and end. Blocks. False where it hangs."""
        with self._wake:
            self._stopping = True
            self._give_up_at = time.monotonic() + timeout
            self._wake.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._wake:
                self._queue.clear()
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if not self.broken:
            self._guarded(self._begin)
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                urgent = self._stopping or (self._flushing and self._queue)
                if self._queued_nbytes < self._gather_nbytes and not urgent:
                    self._wake.wait(_SHARED_IDLE_SECONDS if self._any_others else _IDLE_SECONDS)
                batch = self._take_batch()
                self._busy = True
                stopping = self._stopping and not batch
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
            with self._wake:
                self._queued_nbytes -= sum(write.cost_nbytes for write in batch)
                waiting = {write.record.name for write in self._queue}
                for write in batch:
                    if write.record.name not in waiting:
                        self._records.saved(write.record.name)
            batch.clear()  # nor keep its files open
            self._descriptors.close_ended()
            if stopping:
                break
        with self._wake:
            self._busy = False
            self._wake.notify_all()

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
            self._intake.stop(_text(error))
        except (OSError, sqlite3.Error, UsageError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                self._intake.stop("another process keeps its index locked")
            elif lacks_descriptors(error):
                self.errors += 1
                self._intake.stop(_NO_DESCRIPTORS)
            elif not isinstance(error, UsageError) and not self.broken and self._there.is_full(error):
                self.errors += 1
                self._intake.stop(f"its disk has no room, whatever goes ({_text(error)})")
            else:
                self.fail(error)
        except Exception as error:
            log.exception("bug in the disk cache")
            self.fail(error)
        return False

    def _take_batch(self) -> list[Write]:
        batch: list[Write] = []
        nbytes = 0
        most = min(_BATCH_WRITES, self._records.limit)
        while self._queue and nbytes < _BATCH_NBYTES and len(batch) < most:
            batch.append(self._queue.popleft())
            nbytes += batch[-1].cost_nbytes
        return batch

    def _begin(self) -> None:
        """Before the first write: what an earlier process, or another configuration, has left is put in order."""
        self._sweep.begin(self._there)
        self._there.claims.join()
        with self._locked():
            if not self._there.writing.swept:
                # Files of a cache whose index was lost: they take room that nobody has counted.
                self._sweep.all(self._there)
            self._fitted(self._note_start, _LOG_NBYTES, set())
            self._room.make(Amount(0, 0), (), _ALWAYS)
            self.nbytes_used = self._there.writing.nbytes()
        self._begun = True

    def _note_start(self) -> None:
        with self._there.writing.transaction():
            self._space_number = self._there.writing.space(self._space)
            self._there.writing.start(self._config.limit_nbytes)
            self._there.writing.bring_back(self._clock.now_ms())

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
        self.wake_reader()
        log.warning("the disk cache is back")

    def _write(self, batch: list[Write]) -> None:
        with self._locked():
            with self._wake:
                # Also what is queued behind this batch: its records hold the files open.
                spare = self._records.unsaved_names()
            new = {write.record.name for write in batch if write.wanted.nfiles}
            wanted = Amount(sum(write.wanted.nbytes for write in batch), len(new))
            room = self._room.make(wanted, spare, self._eviction)
            done: list[Done] = []
            refusal = self._room.short_of
            for write in batch:
                needed = write.wanted
                if needed.nbytes > room.nbytes or needed.nfiles > room.nfiles:
                    continue
                room = Amount(room.nbytes - needed.nbytes, room.nfiles - needed.nfiles)
                try:
                    done.append(self._fitted(partial(self._write_one, write), needed.nbytes, spare))
                except OSError as error:
                    if lacks_descriptors(error):
                        refusal = _NO_DESCRIPTORS
                        continue
                    if not self._there.is_full(error):
                        raise
                    refusal = f"its disk has no room, whatever goes ({_text(error)})"
            if done:
                try:
                    self._fitted(partial(self._commit, done), _LOG_NBYTES, spare)
                except sqlite3.Error:
                    self._take_back(done)
                    raise
            self.nbytes_used = self._there.writing.nbytes()
        self.dropped += len(batch) - len(done)
        self._records.committed(one.write.record.name for one in done)
        for one in done:
            one.write.record.checksums.update(one.found)
            self.blocks_written += len(one.found)
            self.nbytes_written += len(one.write.byte_range)
        if not done:
            self._intake.stop(refusal, logging.INFO if self._config.policy is Policy.KEEP else logging.WARNING)

    def _fitted(self, step: Callable[[], Outcome], nbytes: int, spare: set[str]) -> Outcome:
        """What ``step`` comes to. Where the disk has no room for it, files go and it is tried again.

        How full a disk is does not say whether there is room: there are quotas, and others who write. Raises what
        ``step`` raises.
        """
        nfiles = 1
        for pause in _EVICTED_PAUSES_SECONDS:
            try:
                return step()
            except (OSError, sqlite3.Error) as error:
                if time.monotonic() < self._evict_again_at or not self._there.is_full(error):
                    raise
            if not self._room.force(Amount(nbytes, nfiles), spare, self._eviction):
                break
            nfiles *= 2
            time.sleep(pause)
            self._descriptors.close_ended()
        try:
            return step()
        except (OSError, sqlite3.Error):
            self._evict_again_at = time.monotonic() + self._config.retry_seconds
            raise

    def _write_one(self, write: Write) -> Done:
        record = write.record
        file, fresh = record.file, False
        if file is None or not file.on_disk()[1]:
            record.reset()  # another process has evicted it
            file, fresh = self._there.files.create(record.name)
            record.file = file
        done = Done(write, checksums_of(write.byte_range, write.pieces), file, fresh)
        try:
            file.write(write.byte_range.start - record.byte_range.start, write.pieces, self._direct)
        except OSError:
            self._take_back([done])
            raise
        return done

    def _commit(self, done: list[Done]) -> None:
        with self._there.writing.transaction():
            self._there.writing.add(self._space_number, [one.row() for one in done], self._clock.now_ms())

    def _take_back(self, done: list[Done]) -> None:
        """Files that nothing knows of go; what was added to others is counted by a sweep."""
        for one in done:
            record = one.write.record
            if one.fresh:
                self._there.files.remove(record.name)
                record.reset()
            else:
                self._sweep.add(record.name)

    def _evicted(self, victims: list[Victim]) -> None:
        for victim in victims:
            self._records.evict(victim.name)
        self.files_evicted += len(victims)
        self.wake_reader()

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
            self.wake_reader()
        self._there.claims.look()
        with self._locked():
            self._room.make(Amount(0, 0), self._records.unsaved_names(), _ALWAYS)
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
