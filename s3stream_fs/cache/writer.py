"""The thread that writes the disk tier: data files first, then the index, then eviction of what is least recently used.

Owns every change on disk. Order is what makes it crash-safe without fsync: bytes are written before their row is
committed, and a row is gone (committed) before its file is removed.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import xxhash

from s3stream_fs.cache.direct import DirectWriter
from s3stream_fs.cache.files import DataFile, DataFiles
from s3stream_fs.cache.index import BlockIndex
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

log = logging.getLogger(__name__)

_GATHER_NBYTES: Final = 8 * 1024 * 1024
"""The thread is woken for so much at a time, and otherwise looks every ``_IDLE_SECONDS``: woken for each small file, it
took a quarter of the files per second from the readers (one interpreter lock, and a commit for every file)."""

_BATCH_NBYTES: Final = 32 * 1024 * 1024
"""Bytes written per commit at the most: a kill loses no more than this."""

_INDEX_ROOM_NBYTES: Final = 2 * 1024 * 1024
"""Free space that is left in any case, for the index and its log to grow into."""

_BATCH_WRITES: Final = 256
"""Writes per commit at the most: each keeps a file open until then."""

_DISK_PAGE_NBYTES: Final = 4096
"""What a file system hands out at least."""

_IDLE_SECONDS: Final = 0.5
"""How long the thread waits for work before it writes down last uses and sweeps one shard."""

_SWEEP_AGE_SECONDS: Final = 3600
"""A file that the index does not know is removed once it is so old that nobody can still be writing it."""


@dataclass(slots=True, eq=False)
class Record:
    """What is known of one object's blocks. Shared by trio's thread, which reads it, and the writer, which adds.

    ``checksums`` holds the blocks that count. Blocks in ``verified`` have been seen to be right in this process.
    """

    name: str
    object_id: ObjectId
    checksums: dict[int, bytes] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)
    file: DataFile | None = None
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class _Write:
    record: Record
    byte_range: ByteRange
    pieces: Sequence[memoryview]


def checksums_of(byte_range: ByteRange, pieces: Sequence[memoryview]) -> dict[int, bytes]:
    """The checksum of each block of a block-aligned range whose bytes lie in ``pieces``. 0.1 s per GiB (xxh3)."""
    found = {}
    pending = deque(pieces)
    for index in byte_range.blocks():
        left = min((index + 1) * BLOCK_BYTES, byte_range.stop) - index * BLOCK_BYTES
        digest = xxhash.xxh3_64()
        while left:
            piece = pending.popleft()
            digest.update(piece[:left])
            if len(piece) > left:
                pending.appendleft(piece[left:])
            left -= min(left, len(piece))
        found[index] = digest.digest()
    return found


def room_of(byte_range: ByteRange) -> int:
    """What these blocks take on disk."""
    return -(-len(byte_range) // _DISK_PAGE_NBYTES) * _DISK_PAGE_NBYTES


def _is_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL


class Writer:
    """Takes writes from trio's thread, never blocks it, and is bounded in what it holds.

    ``broken`` is set, and stays set, once the disk or the index cannot be used.
    """

    def __init__(
        self, files: DataFiles, index: BlockIndex, limit_nbytes: int, reserve_fraction: float, queue_nbytes: int
    ) -> None:
        self._files = files
        self._index = index
        self._limit_nbytes = limit_nbytes
        self._reserve_fraction = reserve_fraction
        self._max_queued_nbytes = queue_nbytes
        self._direct = DirectWriter()
        self._queue: deque[_Write] = deque()
        self._queued_nbytes = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._flushing = 0
        """How many wait for the queue to be empty."""
        self._busy = False
        self._unswept = deque(files.shards)
        self.dirty: dict[ObjectId, Record] = {}
        """Records with blocks on disk that are not committed yet, so that nobody loads an older state of them."""
        self.touched: dict[str, float] = {}
        """Last uses by file name, to be written down."""
        self.evicted: deque[str] = deque()
        """Names of files that were evicted, for trio's thread to forget their records."""
        self.broken = False
        self.nbytes_used = index.nbytes()
        self.blocks_written = 0
        self.nbytes_written = 0
        self.objects_evicted = 0
        self.dropped = 0
        self.errors = 0
        self._thread = threading.Thread(target=self._run, name="s3stream-disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put_nowait(self, record: Record, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Queue a write. False where the queue is full."""
        with self._wake:
            if self.broken:
                return True  # nothing will ever come of it
            if self._queued_nbytes and self._queued_nbytes + len(byte_range) > self._max_queued_nbytes:
                return False
            self._queued_nbytes += len(byte_range)
            self._queue.append(_Write(record, byte_range, pieces))
            self.dirty[record.object_id] = record
            if self._queued_nbytes >= _GATHER_NBYTES:
                self._wake.notify_all()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued is written and committed. Blocks; for a worker thread."""
        with self._wake:
            self._flushing += 1
            self._wake.notify_all()
            done = self._wake.wait_for(lambda: not self._queue and not self._busy, timeout)
            self._flushing -= 1
            return done

    def stop(self, timeout: float) -> None:
        """Write what is queued, if that goes within ``timeout`` seconds, and end. Blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._wake:
                self._queue.clear()
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                urgent = self._stopping or (self._flushing and self._queue)
                if self._queued_nbytes < _GATHER_NBYTES and not urgent:
                    self._wake.wait(_IDLE_SECONDS)
                batch = self._take_batch()
                self._busy = True
                stopping = self._stopping and not batch
            try:
                if batch:
                    self._write_or_drop(batch)
                else:
                    self._write_last_uses()
                    if not stopping:
                        self._sweep_one_shard()
            except (OSError, sqlite3.Error) as error:
                self._fail(error)
            except Exception:
                log.exception("bug: the disk cache is off")
                self._fail(None)
            finally:
                with self._wake:
                    self._queued_nbytes -= sum(len(write.byte_range) for write in batch)
            if stopping:
                break
        with self._wake:
            self._busy = False
            self._wake.notify_all()

    def _take_batch(self) -> list[_Write]:
        batch: list[_Write] = []
        nbytes = 0
        while self._queue and nbytes < _BATCH_NBYTES and len(batch) < _BATCH_WRITES:
            batch.append(self._queue.popleft())
            nbytes += len(batch[-1].byte_range)
        return batch

    def _fail(self, error: Exception | None) -> None:
        """Say it once and turn the cache off; reads go on from the store."""
        self.errors += 1
        if not self.broken and error is not None:
            log.error("the disk cache is off: %s; reads go on without it", error)
        self.broken = True
        self.dirty.clear()
        try:
            self._index.rollback()
        except sqlite3.Error:
            log.debug("no transaction to roll back")

    def _write_or_drop(self, batch: list[_Write]) -> None:
        if self.broken:
            return
        try:
            self._write(batch)
        except (OSError, sqlite3.OperationalError) as error:
            if not _is_full(error):
                raise
            # Somebody else filled the disk: do without these blocks, and go on when there is room again.
            self._index.rollback()
            self.dropped += len(batch)
            for write in batch:
                for index in write.byte_range.blocks():
                    write.record.checksums.pop(index, None)
        with self._wake:
            waiting = {write.record.object_id for write in self._queue}
            for write in batch:
                if write.record.object_id not in waiting:
                    self.dirty.pop(write.record.object_id, None)

    def _write(self, batch: list[_Write]) -> None:
        done: list[tuple[_Write, dict[int, bytes], int]] = []
        with self._wake:
            # Also what is queued behind this batch: its records hold the files open.
            writing = {record.name for record in self.dirty.values()}
        room = self._make_room(sum(room_of(write.byte_range) for write in batch), writing)
        for write in batch:
            needed = room_of(write.byte_range)
            if needed > room:
                self.dropped += 1
                continue
            room -= needed
            record = write.record
            if record.file is None:
                record.file = self._files.open(record.name, create=True)
            record.file.write(write.byte_range.start, write.pieces, self._direct)
            found = checksums_of(write.byte_range, write.pieces)
            record.verified.update(found)
            record.checksums.update(found)
            done.append((write, found, needed))
        self._index.begin()
        now = time.time()
        for write, found, needed in done:
            self._index.add(write.record.name, write.record.object_id, found, needed, now)
            self.blocks_written += len(found)
            self.nbytes_written += len(write.byte_range)
        self._index.grow(sum(needed for _, _, needed in done))
        self._index.commit()
        self.nbytes_used = self._index.nbytes()

    def _make_room(self, wanted: int, spare: set[str]) -> int:
        """Evict until ``wanted`` bytes fit, but none of ``spare``, which is in use. Returns how much may be written."""
        while True:
            free, whole = self._files.free_nbytes()
            room = min(
                self._limit_nbytes - self._index.nbytes(),
                free - max(int(whole * self._reserve_fraction), _INDEX_ROOM_NBYTES),
            )
            if room >= wanted:
                return wanted
            victims = [victim for victim in self._index.least_recently_used(64) if victim.name not in spare]
            if not victims:
                return max(room, 0)
            self._index.begin()
            removed = []
            for victim in victims:
                self._index.remove(victim.row)
                removed.append(victim.name)
                room += victim.nbytes
                if room >= wanted:
                    break
            self._index.commit()
            for name in removed:
                self._files.remove(name)
                self.evicted.append(name)
                self.objects_evicted += 1

    def _write_last_uses(self) -> None:
        if self.broken or not self.touched:
            return
        touched, self.touched = self.touched, {}
        self._index.begin()
        self._index.touch((used, name) for name, used in touched.items())
        self._index.commit()

    def _sweep_one_shard(self) -> None:
        """Remove files that the index does not know: a kill between a write and its commit leaves them."""
        if self.broken or not self._unswept:
            return
        oldest = time.time() - _SWEEP_AGE_SECONDS
        for name, changed in list(self._files.names(self._unswept.popleft())):
            if changed < oldest and not self._index.has(name):
                self._files.remove(name)
