"""The disk tier: blocks on local disk, found again after a restart, bounded, and checked before they are believed.

Passive: it never fetches. A fault of the disk costs a hit, never a read: what cannot be read, or fails its checksum, is
simply not there. Reads run on trio's thread when the page cache has the bytes, and in a worker thread otherwise.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
import xxhash
from cachetools import LRUCache

from s3stream_fs.cache.files import DataFile, DataFiles, file_name, make_private_folder
from s3stream_fs.cache.index import BlockIndex
from s3stream_fs.cache.writer import Record, Writer
from s3stream_fs.errors import UsageError
from s3stream_fs.ranges import absent_ranges
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

log = logging.getLogger(__name__)

_MAX_RECORDS: Final = 512
"""Objects whose blocks are known without asking the index, each with an open file at the most."""

_READ_THREADS: Final = 16
"""Reads from the disk at once; an NVMe needs about that many to be busy."""

_FLUSH_SECONDS: Final = 20.0
"""How long an unmount waits for the disk to take what is queued (at most 64 MiB)."""

_INLINE_NBYTES: Final = 1024 * 1024
"""Up to here a copy out of the page cache (0.1 ms) costs less than a thread."""


@dataclass(frozen=True, slots=True)
class DiskTierConfig:
    """``limit_nbytes`` on disk (0: no disk tier); ``reserve_fraction`` of the file system is always left free.

    ``queue_nbytes`` are taken at once; more have to wait in the memory tier, so that a slow disk never holds a reader.
    """

    directory: Path
    limit_nbytes: int
    reserve_fraction: float = 0.10
    queue_nbytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """``hits`` counts reads; ``dropped_writes`` counts writes for which there was no room."""

    enabled: bool
    limit_nbytes: int
    nbytes_used: int
    hits: int
    blocks_written: int
    nbytes_written: int
    dropped_writes: int
    objects_evicted: int
    bad_blocks: int
    errors: int


class DiskTier:
    """See ``open_disk_tier``. All methods are called on trio's thread."""

    def __init__(self, config: DiskTierConfig, space: str, files: DataFiles, index: BlockIndex, writer: Writer) -> None:
        self._config = config
        self._space = space
        self._files = files
        self._index = index
        self._writer = writer
        self._records: LRUCache[ObjectId, Record] = LRUCache(maxsize=_MAX_RECORDS)
        self._names: dict[str, Record] = {}
        self._limiter = trio.CapacityLimiter(_READ_THREADS)
        self._nowait_works = True
        self._hits = 0
        self._bad_blocks = 0
        self._errors = 0

    def missing_nowait(self, object_id: ObjectId, wanted: ByteRange) -> tuple[ByteRange, ...]:
        """The parts of the block-aligned ``wanted`` that are not on disk, in order; () where all of it is."""
        record = self._record(object_id)
        if record is None or not record.checksums:
            return (wanted,)
        return tuple(absent_ranges(wanted, record.checksums.__contains__))

    def read_nowait(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk, in the page cache, and not more than may be copied on this thread."""
        record = self._record(object_id)
        if record is None or not self._has(record, wanted) or not self._nowait_works:
            return None
        if len(wanted) > _INLINE_NBYTES:
            return None
        span = self._span(record, wanted)
        buffer = bytearray(len(span))
        try:
            file = self._open(record)
            if os.preadv(file.fd, [buffer], span.start, os.RWF_NOWAIT) != len(buffer):
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # this file system cannot say what its page cache has
                self._nowait_works = False
            else:
                self._fault(record, error)
            return None
        return self._checked(record, span, buffer, wanted)

    async def read(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk and right; None, and forgotten, where they are not."""
        record = self._record(object_id)
        if record is None or not self._has(record, wanted):
            return None
        span = self._span(record, wanted)
        buffer = bytearray(len(span))
        try:
            file = self._open(record)
            got = await trio.to_thread.run_sync(
                _read_fully, file, buffer, span.start, limiter=self._limiter, abandon_on_cancel=True
            )
        except OSError as error:
            self._fault(record, error)
            return None
        if got != len(buffer):
            self._forget_bad(record, list(span.blocks()), "is shorter than its index says")
            return None
        return self._checked(record, span, buffer, wanted)

    def put_nowait(self, object_id: ObjectId, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Have a block-aligned range written, soon. False where there is no time: it may be given again later."""
        record = self._record(object_id)
        if record is None:
            return True  # there is no disk tier, or its disk is at fault
        if self._has(record, byte_range):
            return True
        return self._writer.put_nowait(record, byte_range, pieces)

    def whole_file_nowait(self, object_id: ObjectId) -> DataFile | None:
        """The file with all bytes of an object and nothing else, if every block of it has been seen to be right."""
        record = self._record(object_id)
        if record is None or object_id.size == 0:
            return None
        nblocks = len(object_id.whole.blocks())
        if len(record.checksums) < nblocks or len(record.verified) < nblocks or not self._has(record, object_id.whole):
            return None
        if not all(index in record.verified for index in object_id.whole.blocks()):
            return None
        try:
            file = self._open(record)
            if os.fstat(file.fd).st_size != object_id.size:
                return None
        except OSError as error:
            self._fault(record, error)
            return None
        record.used = self._writer.touched[record.name] = time.time()
        return file

    def cached_nbytes(self, object_id: ObjectId) -> int:
        """How many bytes of an object are on disk."""
        record = self._record(object_id)
        if record is None:
            return 0
        nbytes = len(record.checksums) * BLOCK_BYTES
        last = (object_id.size - 1) // BLOCK_BYTES
        return nbytes - (BLOCK_BYTES - (object_id.size - last * BLOCK_BYTES)) * (last in record.checksums)

    async def flush(self) -> None:
        """Wait until all that was put is on disk and would be found after a restart."""
        await trio.to_thread.run_sync(self._writer.flush, _FLUSH_SECONDS)

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            enabled=self._enabled,
            limit_nbytes=self._config.limit_nbytes,
            nbytes_used=self._writer.nbytes_used,
            hits=self._hits,
            blocks_written=self._writer.blocks_written,
            nbytes_written=self._writer.nbytes_written,
            dropped_writes=self._writer.dropped,
            objects_evicted=self._writer.objects_evicted,
            bad_blocks=self._bad_blocks,
            errors=self._errors + self._writer.errors,
        )

    @property
    def _enabled(self) -> bool:
        return self._config.limit_nbytes > 0 and not self._writer.broken

    def _record(self, object_id: ObjectId) -> Record | None:
        """What is known of an object; loaded from the index the first time. None where the tier is off."""
        while self._writer.evicted:
            evicted = self._names.pop(self._writer.evicted.popleft(), None)
            if evicted is not None:
                self._records.pop(evicted.object_id, None)
        record = self._records.get(object_id)
        if record is not None:
            return record
        if not self._enabled:
            return None
        record = self._writer.dirty.get(object_id)
        if record is None:
            name = file_name(self._space, object_id)
            record = Record(name, object_id)
            try:
                found = self._index.find(name, object_id)
            except sqlite3.Error as error:
                self._fault(record, error)
                return None
            if found is not None:
                record.checksums = found
        if len(self._records) >= _MAX_RECORDS:
            _, dropped = self._records.popitem()
            self._names.pop(dropped.name, None)
        self._records[object_id] = record
        self._names[record.name] = record
        return record

    @staticmethod
    def _has(record: Record, wanted: ByteRange) -> bool:
        return all(index in record.checksums for index in wanted.blocks())

    @staticmethod
    def _span(record: Record, wanted: ByteRange) -> ByteRange:
        """What has to be read: whole blocks where one of them was never checked."""
        if all(index in record.verified for index in wanted.blocks()):
            return wanted
        return wanted.aligned(record.object_id.size)

    def _open(self, record: Record) -> DataFile:
        if record.file is None:
            record.file = self._files.open(record.name)
        return record.file

    def _checked(self, record: Record, span: ByteRange, buffer: bytearray, wanted: ByteRange) -> memoryview | None:
        """``wanted`` out of ``span``, after the blocks that were never checked have been."""
        view = memoryview(buffer).toreadonly()
        bad = []
        for index in span.blocks():
            if index in record.verified:
                continue
            start = index * BLOCK_BYTES - span.start
            if xxhash.xxh3_64_digest(view[start : start + BLOCK_BYTES]) == record.checksums.get(index):
                record.verified.add(index)
            else:
                bad.append(index)
        if bad:
            self._forget_bad(record, bad, "has blocks that are not what was written")
            return None
        self._hits += 1
        now = time.time()
        if now - record.used > 1:
            record.used = self._writer.touched[record.name] = now
        return view[wanted.start - span.start : wanted.stop - span.start]

    def _forget_bad(self, record: Record, blocks: list[int], what: str) -> None:
        self._bad_blocks += len(blocks)
        log.warning("the cached file of %r %s; they are fetched again", record.object_id.key, what)
        for index in blocks:
            record.checksums.pop(index, None)

    def _fault(self, record: Record, error: Exception) -> None:
        """This object cannot be had from the disk; it is fetched again."""
        self._errors += 1
        if self._errors == 1:
            log.error("the disk cache cannot be read: %s; reads go on without it", error)
        record.checksums.clear()
        record.file = None


def _read_fully(file: DataFile, buffer: bytearray, offset: int) -> int:
    view = memoryview(buffer)
    position = 0
    while position < len(buffer):
        got = os.preadv(file.fd, [view[position:]], offset + position)
        if got == 0:
            break
        position += got
    return position


@asynccontextmanager
async def open_disk_tier(config: DiskTierConfig, space: str) -> AsyncIterator[DiskTier]:
    """The disk tier in ``config.directory``, for the time of the context.

    ``space`` names the store and bucket, so that several share a folder; so may several processes, under one limit.
    Opens at once, however much is in it. Raises UsageError for a folder that cannot be used.
    """
    folder = config.directory
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        blocks = folder / "blocks"
        make_private_folder(blocks)
        files = DataFiles(blocks)
    except OSError as error:
        raise UsageError(
            f"cache folder {folder} cannot be used: {error.strerror}; choose another --cache-dir"
        ) from None
    index, writing = _open_index(blocks / "index.sqlite")
    writer = Writer(files, writing, config.limit_nbytes, config.reserve_fraction, config.queue_nbytes)
    writer.start()
    tier = DiskTier(config, space, files, index, writer)
    try:
        yield tier
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(writer.stop, _FLUSH_SECONDS)
        writing.close()
        index.close()
        files.close()


def _open_index(path: Path) -> tuple[BlockIndex, BlockIndex]:
    """A connection for trio's thread and one for the writer. A damaged index, or one of another format, is emptied."""
    try:
        try:
            return BlockIndex(path), BlockIndex(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            log.warning("the cache's index %s cannot be read (%s): the cache starts empty", path, error)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return BlockIndex(path), BlockIndex(path)
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"cache index {path} cannot be used: {error}; choose another --cache-dir") from None
