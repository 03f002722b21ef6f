"""The thread that writes the disk tier: data files first, then the index; evicts, sweeps, and mends what has broken.

Owns every change on disk. Order is what makes it crash-safe without fsync: bytes are written before their row is
committed, and a row is gone (committed) before its file is removed.
"""

from __future__ import annotations

import errno
import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from s3stream_fs.cache.disk.checksums import checksums_of
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.direct import DirectWriter
from s3stream_fs.cache.disk.files import DataFile, lacks_descriptors
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.index import Written, is_damage
from s3stream_fs.cache.disk.policy import Clock, Policy, evictable_before
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.errors import UsageError
from s3stream_fs.types import ByteRange

log = logging.getLogger(__name__)

_GATHER_NBYTES: Final = 8 * 1024 * 1024
"""The thread is woken for so much at a time, and otherwise looks every ``_IDLE_SECONDS``: woken for each small file, it
took a quarter of the files per second from the readers (one interpreter lock, and a commit for every file)."""

_BATCH_NBYTES: Final = 32 * 1024 * 1024
"""Bytes written per commit at the most: a kill loses no more than this."""

_BATCH_WRITES: Final = 256
"""Writes per commit at the most: each keeps a file open until then."""

_INDEX_ROOM_NBYTES: Final = 2 * 1024 * 1024
"""Free space that is left in any case, for the index and its log to grow into."""

_DISK_PAGE_NBYTES: Final = 4096
"""What a file system hands out at least."""

_IDLE_SECONDS: Final = 0.5
"""How long the thread waits for work before it writes down last uses, looks how full the disk is and sweeps."""

_SHARED_IDLE_SECONDS: Final = 0.02
"""The same where other processes may be waiting for what is to be written."""

_SWEEP_SECONDS: Final = 0.05
"""How long it sweeps at a time. A shard of 8,000 files takes twice that."""

_VICTIMS: Final = 64
"""Files that are evicted in one transaction at the most."""


@dataclass(frozen=True, slots=True)
class _Write:
    record: Record
    byte_range: ByteRange
    pieces: Sequence[memoryview]


@dataclass(frozen=True, slots=True)
class _Done:
    """Blocks that are in their file, and not yet in the index."""

    write: _Write
    found: dict[int, bytes]
    file: DataFile
    fresh: bool


def room_of(byte_range: ByteRange) -> int:
    """What these blocks take on disk."""
    return -(-len(byte_range) // _DISK_PAGE_NBYTES) * _DISK_PAGE_NBYTES


def _is_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


class Writer:
    """Takes writes from trio's thread, never blocks it, and is bounded in what it holds."""

    def __init__(self, config: DiskTierConfig, space: str, folder: CacheFolder, records: Records) -> None:
        self._config = config
        self._records = records
        self._space = space
        self.folder = folder
        """Another one after the disk has failed and come back; trio's thread sees to it that the old one is closed."""
        self._space_number = 0
        self._direct = DirectWriter()
        self._clock = Clock()
        self._queue: deque[_Write] = deque()
        self._queued_nbytes = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._give_up_at = math.inf
        """When not to wait any more for other processes."""
        self._flushing = 0
        """How many wait for the queue to be empty."""
        self._busy = True
        self._unswept: deque[str] = deque()
        self._retry_at = 0.0
        self._tend_at = 0.0
        self._damaged_inode: int | None = None
        """The index has to be made anew, if it still is this one."""
        self.wake_reader: Callable[[], None] = lambda: None
        """Has trio's thread look at what was evicted, and whether the folder was opened anew."""
        self.broken = False
        """The disk or the index cannot be used at present."""
        self.nbytes_used = folder.writing.nbytes()
        self.blocks_written = 0
        self.nbytes_written = 0
        self.files_evicted = 0
        self.dropped = 0
        self.orphans = 0
        self.errors = 0
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
            if self._queued_nbytes and self._queued_nbytes + len(byte_range) > self._config.queue_nbytes:
                return False
            self._queued_nbytes += len(byte_range)
            self._queue.append(_Write(record, byte_range, pieces))
            self._records.queued(record)
            if self._queued_nbytes >= _GATHER_NBYTES:
                self._wake.notify_all()
        return True

    def fail(self, error: Exception) -> None:
        """The cache is off until the disk works again; says so once. From any thread."""
        with self._wake:
            self.errors += 1
            if not self.broken:
                text = f"{type(error).__name__}: {error}" if not str(error) else str(error)
                log.error(
                    "the disk cache is off: %s; reads go on without it, and it is tried again every %g s",
                    text,
                    self._config.retry_seconds,
                )
            self.broken = True
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._damaged_inode = self.folder.writing.inode
            self._retry_at = time.monotonic() + self._config.retry_seconds

    def release(self, record: Record, byte_range: ByteRange) -> None:
        """Other processes need not wait any longer for these blocks. From any thread."""
        try:
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
        self._guarded(self._begin)
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                urgent = self._stopping or (self._flushing and self._queue)
                if self._queued_nbytes < _GATHER_NBYTES and not urgent:
                    self._wake.wait(_SHARED_IDLE_SECONDS if self.folder.claims.others else _IDLE_SECONDS)
                batch = self._take_batch()
                self._busy = True
                stopping = self._stopping and not batch
            if self.broken and not stopping and time.monotonic() >= self._retry_at:
                self._guarded(self._mend)
            if batch and self.broken:
                self.dropped += len(batch)
            elif batch:
                self._guarded(partial(self._write_or_drop, batch))
            if not self.broken and (stopping or time.monotonic() >= self._tend_at):
                self._guarded(self._write_last_uses)
                if not stopping:
                    self._guarded(self._tend)
                self._tend_at = time.monotonic() + _IDLE_SECONDS
            for write in batch:
                self.release(write.record, write.byte_range)
            with self._wake:
                self._queued_nbytes -= sum(len(write.byte_range) for write in batch)
                waiting = {write.record.name for write in self._queue}
                for write in batch:
                    if write.record.name not in waiting:
                        self._records.saved(write.record.name)
            batch.clear()  # nor keep its files open
            self.folder.files.descriptors.close_ended()
            if stopping:
                break
        with self._wake:
            self._busy = False
            self._wake.notify_all()

    def _locked(self) -> AbstractContextManager[None]:
        return self.folder.locked(lambda: time.monotonic() >= self._give_up_at)

    def _guarded(self, step: Callable[[], None]) -> None:
        """One step of the thread's work; whatever goes wrong turns the cache off."""
        try:
            step()
        except (OSError, sqlite3.Error, UsageError) as error:
            if isinstance(error, UsageError) or not (_is_full(error) or lacks_descriptors(error)):
                self.fail(error)
            else:
                self.errors += 1  # somebody else filled the disk, to its last block, or opened all that may be open
        except Exception as error:
            log.exception("bug in the disk cache")
            self.fail(error)

    def _take_batch(self) -> list[_Write]:
        batch: list[_Write] = []
        nbytes = 0
        most = min(_BATCH_WRITES, self._records.limit)
        while self._queue and nbytes < _BATCH_NBYTES and len(batch) < most:
            batch.append(self._queue.popleft())
            nbytes += len(batch[-1].byte_range)
        return batch

    def _begin(self) -> None:
        """Before the first write: what an earlier process, or another configuration, has left is put in order."""
        self._unswept = deque(self.folder.files.shards)
        self.folder.claims.join()
        with self._locked():
            while not self.folder.writing.swept and self._unswept:
                # Files of a cache whose index was lost: they take room that nobody has counted.
                self._sweep(self._unswept.popleft())
            with self.folder.writing.transaction():
                self._space_number = self.folder.writing.space(self._space)
                self.folder.writing.start(self._config.limit_nbytes)
                self.folder.writing.bring_back(self._clock.now_ms())
            self._make_room(0, set(), Policy.LRU)

    def _mend(self) -> None:
        """The disk failed a while ago: open everything anew. Raises what it failed with, if it still does."""
        descriptors, old = self.folder.files.descriptors, self.folder
        folder = CacheFolder(self._config.directory, descriptors, damaged_inode=self._damaged_inode)
        self._damaged_inode = None
        self.folder = folder
        try:
            self._begin()
        except BaseException:
            self.folder = old
            folder.close()
            raise
        self.broken = False
        self.wake_reader()
        log.warning("the disk cache is back")

    def _write_or_drop(self, batch: list[_Write]) -> None:
        try:
            self._write(batch)
        except (OSError, sqlite3.OperationalError) as error:
            if not _is_full(error):
                raise
            # Somebody else filled the disk: do without these blocks, and go on when there is room again.
            self.dropped += len(batch)
            self._unswept = deque(self.folder.files.shards)  # some were written, and nothing knows of them

    def _write(self, batch: list[_Write]) -> None:
        index = self.folder.writing
        with self._locked():
            with self._wake:
                # Also what is queued behind this batch: its records hold the files open.
                writing = self._records.unsaved_names()
            room = self._make_room(sum(room_of(write.byte_range) for write in batch), writing, self._config.policy)
            done: list[_Done] = []
            for write in batch:
                needed = room_of(write.byte_range)
                if needed > room:
                    self.dropped += 1
                    continue
                room -= needed
                try:
                    done.append(self._write_one(write))
                except OSError as error:
                    if not lacks_descriptors(error):
                        raise
                    self.dropped += 1
            with index.transaction():
                index.add(
                    self._space_number,
                    [
                        Written(
                            one.write.record.name,
                            one.write.record.object_id,
                            one.write.record.byte_range,
                            one.found,
                            one.file.on_disk()[0],
                            one.fresh,
                        )
                        for one in done
                    ],
                    self._clock.now_ms(),
                )
            self.nbytes_used = index.nbytes()
        self._records.committed(one.write.record.name for one in done)
        for one in done:
            one.file.set_verified(one.write.record.inside(one.write.byte_range))
            one.write.record.checksums.update(one.found)
            self.blocks_written += len(one.found)
            self.nbytes_written += len(one.write.byte_range)

    def _write_one(self, write: _Write) -> _Done:
        record = write.record
        file, fresh = record.file, False
        if file is None or not file.on_disk()[1]:
            record.reset()  # another process has evicted it
            file, fresh = self.folder.files.create(record.name)
            record.file = file
        file.write(write.byte_range.start - record.byte_range.start, write.pieces, self._direct)
        return _Done(write, checksums_of(write.byte_range, write.pieces), file, fresh)

    def _make_room(self, wanted: int, spare: set[str], policy: Policy) -> int:
        """Evict until ``wanted`` bytes fit, but none of ``spare``, which is in use. Returns how much may be written.

        Under the lock.
        """
        index = self.folder.writing
        # Asked once: a file that somebody still has open takes its room until that is closed, and to evict more would
        # not help.
        free, whole = self.folder.files.free_nbytes()
        free -= self._config.reserve.of(whole) + _INDEX_ROOM_NBYTES
        folded = False
        while self._config.limit_nbytes:
            room = min(self._config.limit_nbytes - index.nbytes(), free)
            if room >= wanted:
                return wanted
            if not folded:
                folded = True
                index.fold()  # the index's log counts, and no file shall go for it
                continue
            self._write_last_uses()
            before = evictable_before(policy, self._clock.now_ms())
            victims = []
            for victim in index.oldest(_VICTIMS + len(spare), before):
                if victim.name not in spare and room < wanted:
                    victims.append(victim)
                    room += victim.nbytes
            if not victims:
                return max(room, 0)
            with index.transaction():
                victims = index.remove(victims)
            for victim in victims:
                free += victim.nbytes
                self.folder.files.remove(victim.name)
                self._records.evict(victim.name)
                self.files_evicted += 1
            self.wake_reader()
        return 0

    def _write_last_uses(self) -> None:
        uses = self._records.take_uses()
        if uses:
            with self.folder.writing.transaction():
                self.folder.writing.touch((used_ms, name) for name, used_ms in uses.items())

    def _tend(self) -> None:
        """Twice a second: keep the reserve free, and tidy up a little."""
        removed = [one.name for one in self._records.open_ones() if one.file is not None and not one.file.on_disk()[1]]
        for name in removed:  # by another process: its bytes take room until it is closed
            self._records.evict(name)
        if removed:
            self.wake_reader()
        self.folder.claims.look()
        with self._locked():
            self._make_room(0, self._records.unsaved_names(), Policy.LRU)
            enough = time.monotonic() + _SWEEP_SECONDS
            while self._unswept and time.monotonic() < enough:
                self._sweep(self._unswept.popleft())
            lost = self._records.take_lost()
            if lost:
                with self.folder.writing.transaction():
                    # Not those that somebody has evicted and written again meanwhile.
                    self.folder.writing.forget(name for name in lost if not self.folder.files.exists(name))
            self.folder.writing.shrink()
            self.nbytes_used = self.folder.writing.nbytes()

    def _sweep(self, shard: str) -> None:
        """What a kill between a write and its commit has left: unknown files go, others are counted as they are.

        Under the lock, so that nobody is in between just now.
        """
        index = self.folder.writing
        unknown = []
        with index.transaction():
            for name, nbytes in self.folder.files.names(shard):
                if not index.resize(name, nbytes):
                    unknown.append(name)
        for name in unknown:
            with suppress(IsADirectoryError):
                self.folder.files.remove(name)
                self.orphans += 1
