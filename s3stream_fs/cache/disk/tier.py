"""The disk tier: blocks on local disk, found again after a restart, bounded, and checked before they are believed.

Passive: it never fetches. A fault of the disk costs a hit, never a read: what cannot be read, or fails its checksum, is
simply not there. Reads run on trio's thread when the page cache has the bytes, and in a worker thread otherwise.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Final

import trio
from cachetools import LRUCache

from s3stream_fs.cache.database import is_damage
from s3stream_fs.cache.disk.checksums import GRAIN_NBYTES, Checksums, grain_checksum
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.direct import ALIGNMENT_NBYTES, ReadBuffers
from s3stream_fs.cache.disk.files import DataFile, file_name
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.policy import file_range
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.writer import Writer
from s3stream_fs.errors import UsageError
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

log = logging.getLogger(__name__)

_MAX_RECORDS: Final = 512
"""Data files of which it is known what they hold, without asking the index, each of them open at the most."""

_READ_THREADS: Final = 16
"""Reads from the disk at once; an NVMe needs about that many to be busy."""

_FLUSH_SECONDS: Final = 20.0
"""How long an unmount waits for the disk to take what is queued (at most 64 MiB)."""

_INLINE_NBYTES: Final = 1024 * 1024
"""Up to here a copy out of the page cache (0.1 ms) costs less than a thread."""

_DIRECT_NBYTES: Final = 128 * 1024
"""From here on a read of a file that is not small (above ``_INLINE_NBYTES``) leaves the page cache alone."""

_CLAIM_SECONDS: Final = 2.0
"""How long somebody else's GET is waited for before a second one is sent: four times what a large part takes."""

_CLAIM_PAUSE_SECONDS: Final = 0.005
_CLAIM_MOST_PAUSE_SECONDS: Final = 0.04

_USE_MS: Final = 1000
"""Uses of a file within such a time count as one."""

_ASK_AGAIN_SECONDS: Final = 0.25
"""How old an absence may be: another process that shares the folder may have written the block meanwhile."""


class Claim(Enum):
    """Who fetches what no tier has."""

    MINE = auto()
    THEIRS = auto()
    """Another process that shares the folder is at it."""
    ON_DISK = auto()
    """Nobody: another process has brought it just now."""


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """``takes_nothing``: why nothing new is cached; nothing where it is. ``shared``: another process uses the folder,
    too. ``hits`` counts reads; ``dropped_writes`` those for which there was no room, or which the policy refused.
    ``nbytes_used`` are those on disk, the index among them. ``orphans_removed``: files that a kill had left behind."""

    enabled: bool
    takes_nothing: str
    shared: bool
    limit_nbytes: int
    nbytes_used: int
    hits: int
    blocks_written: int
    nbytes_written: int
    dropped_writes: int
    files_evicted: int
    orphans_removed: int
    bad_blocks: int
    errors: int


class DiskTier:
    """See ``open_disk_tier``. All methods are called on trio's thread."""

    def __init__(self, config: DiskTierConfig, space: str, folder: CacheFolder, writer: Writer) -> None:
        self._config = config
        self._space = space
        self._folder = folder
        self._writer = writer
        self._records: LRUCache[tuple[ObjectId, int], Record] = LRUCache(maxsize=_MAX_RECORDS)
        self._threads = ReadThreads(_READ_THREADS)
        self._nowait_works = True
        self._buffers = ReadBuffers(_INLINE_NBYTES + 2 * GRAIN_NBYTES)
        self._scratch = memoryview(bytearray(_INLINE_NBYTES + 2 * GRAIN_NBYTES))
        """Where a read goes that may come to nothing, so that no memory is made for it."""
        self._hits = 0
        self._bad_blocks = 0
        self._errors = 0

    def missing_nowait(self, object_id: ObjectId, wanted: ByteRange) -> tuple[ByteRange, ...]:
        """The parts of the block-aligned ``wanted`` that are not on disk, in order, merged; () where all of it is."""
        missing: list[ByteRange] = []
        for record, inside in self._records_of(object_id, wanted):
            if record is None:
                absent = [inside]
            elif record.has(inside) or (self._ask_again(record) and record.has(inside)):
                continue
            else:
                absent = [
                    ByteRange(blocks.start * BLOCK_BYTES, min(blocks.stop * BLOCK_BYTES, inside.stop))
                    for blocks in record.checksums.absent(inside.blocks())
                ]
            if missing and absent and missing[-1].stop == absent[0].start:
                absent[0] = ByteRange(missing.pop().start, absent[0].stop)
            missing += absent
        return tuple(missing)

    def has_nowait(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether all of ``wanted`` is on disk."""
        return all(record is not None and record.has(inside) for record, inside in self._records_of(object_id, wanted))

    def read_nowait(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk, in the page cache, and not more than may be copied on this thread."""
        if len(wanted) > _INLINE_NBYTES or not self._nowait_works:
            return None
        record = self._record(object_id, wanted.start)
        if record is None or wanted.stop > record.byte_range.stop or not record.has(wanted):
            return None
        if self._goes_direct(record, wanted):
            return None  # even to ask for its pages would have the kernel read them
        try:
            file, span, unchecked = self._opened(record, wanted)
            scratch = self._scratch[: len(span)]
            if os.preadv(file.fd, [scratch], record.inside(span).start, os.RWF_NOWAIT) != len(span):
                return None
            if self._ends_small_file(record, span):
                file.let_pages_go()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # this file system cannot say what its page cache has
                self._nowait_works = False
            else:
                self._fault(record, error)
            return None
        return self._checked(record, file, wanted, span, unchecked, memoryview(bytes(scratch)))

    async def read(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk and right; None, and forgotten, where they are not."""
        found = []
        for record, inside in self._records_of(object_id, wanted):
            view = None if record is None else await self._read(record, inside)
            if view is None:
                return None
            found.append(view)
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    async def _read(self, record: Record, wanted: ByteRange) -> memoryview | None:
        if not record.has(wanted):
            return None
        try:
            file, span, unchecked = self._opened(record, wanted)
            read = partial(file.read, record.inside(span), once=self._ends_small_file(record, span))
            if self._goes_direct(record, wanted):
                buffer = self._buffers.take(-(-len(span) // ALIGNMENT_NBYTES) * ALIGNMENT_NBYTES)
                if buffer is not None:
                    read = partial(file.read_direct, record.inside(span), buffer)
            view = await self._threads.run(read)
        except OSError as error:
            self._fault(record, error)
            return None
        if len(view) != len(span):
            self._forget_bad(record, span, "is shorter than its index says")
            return None
        return self._checked(record, file, wanted, span, unchecked, view)

    def put_nowait(self, object_id: ObjectId, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Have a block-aligned range written, soon. False where there is no time: it may be given again later."""
        for record, inside in self._records_of(object_id, byte_range):
            if record is None:
                return True  # there is no disk tier, or its disk is at fault
            if record.has(inside):
                self._writer.release(record, inside)
                continue
            own = pieces if inside == byte_range else _cut(pieces, byte_range, inside)
            if not self._writer.put_nowait(record, inside, own):
                return False
        return True

    def claim_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Who is to fetch a block-aligned range that is missing, where several processes share the folder.

        A claim ends when ``put_nowait`` has had all of it written, or with ``release_nowait``.
        """
        if not self._folder.claims.others:
            return Claim.MINE
        records = [(record, inside) for record, inside in self._records_of(object_id, byte_range) if record is not None]
        for number, (record, inside) in enumerate(records):
            try:
                claimed = self._folder.claims.claim(record.name, record.inside(inside))
            except OSError as error:
                self._writer.fail(error)
                return Claim.MINE
            if not claimed:
                for mine, given_back in records[:number]:
                    self._writer.release(mine, given_back)
                return Claim.THEIRS
        for record, _ in records:
            self._load(record)  # they may have ended between a look into the index and the claim
        if not records or not all(record.has(inside) for record, inside in records):
            return Claim.MINE
        self.release_nowait(object_id, byte_range)
        return Claim.ON_DISK

    def release_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> None:
        """What was claimed is not going to be written, for now."""
        if self._folder.claims.any_held:
            for record, inside in self._records_of(object_id, byte_range):
                if record is not None:
                    self._writer.release(record, inside)

    async def wait_for_claim(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Wait, for a while, until nobody else is fetching this. THEIRS where that takes too long."""
        pause = _CLAIM_PAUSE_SECONDS
        give_up_at = trio.current_time() + _CLAIM_SECONDS
        while (claim := self.claim_nowait(object_id, byte_range)) is Claim.THEIRS:
            if trio.current_time() >= give_up_at:
                break
            await trio.sleep(pause)
            pause = min(2 * pause, _CLAIM_MOST_PAUSE_SECONDS)
        return claim

    def whole_file_nowait(self, object_id: ObjectId) -> DataFile | None:
        """The file with all bytes of an object and nothing else, if every block of it has been seen to be right."""
        if object_id.size == 0 or self._config.verify_always:
            return None
        record = self._record(object_id, 0)
        if record is None or record.byte_range.stop < object_id.size:
            return None
        file = record.file
        if file is None or not file.is_verified(object_id.whole) or not record.has(object_id.whole):
            return None
        try:
            if os.fstat(file.fd).st_size != object_id.size:
                return None
        except OSError as error:
            self._fault(record, error)
            return None
        self._used(record)
        return file

    def cached_nbytes(self, object_id: ObjectId) -> int:
        """How many bytes of an object are on disk."""
        if object_id.size == 0:
            return 0
        nbytes = 0
        for record, _ in self._records_of(object_id, object_id.whole):
            if record is not None:
                nbytes += len(record.checksums) * BLOCK_BYTES
                last = (object_id.size - 1) // BLOCK_BYTES
                if last in record.byte_range.blocks() and last in record.checksums:
                    nbytes -= BLOCK_BYTES - (object_id.size - last * BLOCK_BYTES)
        return nbytes

    async def flush(self) -> bool:
        """Wait until all that was put is on disk and would be found after a restart. False if that takes too long."""
        return await trio.to_thread.run_sync(self._writer.flush, _FLUSH_SECONDS)

    @property
    def enabled(self) -> bool:
        """Whether there is a disk cache, and its disk works at present."""
        return self._config.limit_nbytes > 0 and not self._writer.broken

    def close(self) -> None:
        """Once the writer has stopped."""
        self._threads.close()
        self.catch_up()
        self._records.clear()
        self._writer.live.clear()
        self._writer.folder.close()

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            enabled=self.enabled,
            takes_nothing=self._writer.takes_nothing,
            shared=self._folder.claims.others,
            limit_nbytes=self._config.limit_nbytes,
            nbytes_used=self._writer.nbytes_used,
            hits=self._hits,
            blocks_written=self._writer.blocks_written,
            nbytes_written=self._writer.nbytes_written,
            dropped_writes=self._writer.dropped,
            files_evicted=self._writer.files_evicted,
            orphans_removed=self._writer.orphans,
            bad_blocks=self._bad_blocks,
            errors=self._errors + self._writer.errors,
        )

    def _records_of(self, object_id: ObjectId, wanted: ByteRange) -> Iterator[tuple[Record | None, ByteRange]]:
        """The data files in which ``wanted`` lies, each with what of it lies there."""
        start = wanted.start
        while start < wanted.stop:
            record = self._record(object_id, start)
            stop = wanted.stop if record is None else min(wanted.stop, record.byte_range.stop)
            yield record, wanted if (start, stop) == (wanted.start, wanted.stop) else ByteRange(start, stop)
            start = stop

    def _record(self, object_id: ObjectId, offset: int) -> Record | None:
        """What is known of a data file; loaded from the index the first time. None where the tier is off."""
        if not self.enabled:
            return None
        self.catch_up()
        byte_range = file_range(object_id, offset)
        record = self._records.get((object_id, byte_range.start))
        if record is not None:
            return record
        name = file_name(self._space, object_id, byte_range)
        record = self._writer.dirty.get(name)
        if record is None:
            record = Record(name, object_id, byte_range, Checksums(byte_range.blocks()))
            self._load(record)
        if len(self._records) >= _MAX_RECORDS:
            _, dropped = self._records.popitem()
            self._writer.live.pop(dropped.name, None)
        self._records[object_id, byte_range.start] = record
        self._writer.live[name] = record
        return record

    def catch_up(self) -> None:
        """Let go of what the writer has evicted or opened anew meanwhile."""
        while self._writer.evicted:
            name, _ = self._writer.evicted.popitem()
            evicted = self._writer.live.pop(name, None)
            if evicted is not None:
                self._records.pop((evicted.object_id, evicted.byte_range.start), None)
                evicted.reset()  # closed now, whoever else remembers the record
        if self._writer.retired:
            self._folder = self._writer.folder
            self._records.clear()
            self._writer.live.clear()
            while self._writer.retired:
                self._writer.retired.popleft().close()

    def _load(self, record: Record) -> None:
        """Ask the index for blocks that are not known."""
        record.asked_at = trio.current_time()
        try:
            packed = self._folder.index.find(record.name, record.object_id)
        except sqlite3.Error as error:
            if is_damage(error):
                self._writer.fail(error)
            else:
                self._errors += 1  # somebody has locked it; a read does not wait for that
            return
        if packed is None:
            return
        found = Checksums(record.byte_range.blocks(), packed)
        for index in found:
            if index not in record.checksums:
                record.checksums[index] = found[index]

    def _ask_again(self, record: Record) -> bool:
        """Whether the index was asked anew."""
        if trio.current_time() < record.asked_at + _ASK_AGAIN_SECONDS:
            return False
        self._load(record)
        return True

    def _opened(self, record: Record, wanted: ByteRange) -> tuple[DataFile, ByteRange, range]:
        """The file, what has to be read of it, and which grains of that are to be checked, for which they are whole."""
        file = self._open(record)
        if not self._config.verify_always and file.is_verified(record.inside(wanted)):
            return file, wanted.aligned(record.object_id.size, ALIGNMENT_NBYTES), range(0)
        span = wanted.aligned(record.object_id.size, GRAIN_NBYTES)
        return file, span, span.blocks(GRAIN_NBYTES)

    # The kernel keeps what it is given in pages of the mount. A second copy of a data set, in pages of the cache's
    # files, would take the memory that could have kept the rest of it.

    @staticmethod
    def _goes_direct(record: Record, wanted: ByteRange) -> bool:
        """Whether a read leaves the page cache alone."""
        return len(wanted) >= _DIRECT_NBYTES and len(record.byte_range) > _INLINE_NBYTES

    @staticmethod
    def _ends_small_file(record: Record, span: ByteRange) -> bool:
        """Whether a read leaves nothing in the page cache."""
        return span.stop == record.byte_range.stop and len(record.byte_range) <= _INLINE_NBYTES

    def _open(self, record: Record) -> DataFile:
        file = record.file
        if file is None:
            file = record.file = self._folder.files.open(record.name)
        return file

    def _checked(
        self,
        record: Record,
        file: DataFile,
        wanted: ByteRange,
        span: ByteRange,
        unchecked: range,
        view: memoryview,
    ) -> memoryview | None:
        """``wanted`` out of ``span``, whose bytes are in ``view``, if its ``unchecked`` grains are right."""
        if unchecked:
            if not record.has(span):
                return None  # evicted while it was being read
            checksums = record.checksums
            for index in unchecked:
                start = index * GRAIN_NBYTES - span.start
                if grain_checksum(view[start : start + GRAIN_NBYTES]) != checksums.grain(index):
                    bad = ByteRange(index * GRAIN_NBYTES, index * GRAIN_NBYTES + 1)
                    self._forget_bad(record, bad, "has blocks that are not what was written")
                    return None
            file.set_verified(record.inside(span))
        self._hits += 1
        self._used(record)
        return view if span == wanted else view[wanted.start - span.start : wanted.stop - span.start]

    def _used(self, record: Record) -> None:
        now_ms = self._writer.now_ms()
        if now_ms - record.used_ms >= _USE_MS:
            record.used_ms = self._writer.touched[record.name] = now_ms

    def _forget_bad(self, record: Record, bad: ByteRange, what: str) -> None:
        log.warning("the cached file of %r %s; they are fetched again", record.object_id.key, what)
        record.asked_at = trio.current_time()  # not to be told of them by the index at once
        for index in bad.blocks():
            self._bad_blocks += 1
            del record.checksums[index]
        if record.file is not None:
            record.file.set_verified(record.inside(bad.aligned(record.object_id.size)), False)

    def _fault(self, record: Record, error: OSError) -> None:
        """This file cannot be had from the disk; its blocks are fetched again."""
        if isinstance(error, FileNotFoundError):
            self._writer.lost.append(record.name)
        self._errors += 1
        if self._errors == 1:
            log.error("a file of the disk cache cannot be read: %s; it is fetched again", str(error))
        record.reset()
        record.asked_at = trio.current_time()


def _cut(pieces: Sequence[memoryview], byte_range: ByteRange, inside: ByteRange) -> list[memoryview]:
    """The bytes ``inside`` out of the pieces of ``byte_range``."""
    found = []
    start = byte_range.start
    for piece in pieces:
        own = piece[max(inside.start - start, 0) : max(inside.stop - start, 0)]
        if len(own):
            found.append(own)
        start += len(piece)
    return found


@asynccontextmanager
async def open_disk_tier(config: DiskTierConfig, space: str) -> AsyncIterator[DiskTier]:
    """The disk tier in ``config.directory``, for the time of the context.

    ``space`` names the store and bucket, so that several share a folder; so may several processes, under one limit.
    Opens at once, however much is in it. Raises UsageError for a folder that cannot be used.
    """
    try:
        folder = CacheFolder(config.directory)
        writer = Writer(config, space, folder)
    except OSError as error:
        raise UsageError(
            f"cache folder {config.directory} cannot be used: {error.strerror}; choose another --cache-dir"
        ) from None
    except sqlite3.Error as error:
        raise UsageError(
            f"the index in cache folder {config.directory} cannot be used: {error}; choose another --cache-dir"
        ) from None
    tier = DiskTier(config, space, folder, writer)
    token = trio.lowlevel.current_trio_token()

    def wake_reader() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(tier.catch_up, idempotent=True)

    writer.wake_reader = wake_reader
    writer.start()
    try:
        yield tier
    finally:
        writer.wake_reader = lambda: None
        with trio.CancelScope(shield=True):
            stopped = await trio.to_thread.run_sync(writer.stop, _FLUSH_SECONDS)
        if stopped:  # else the disk hangs, and what it is given up with is closed by the end of the process
            tier.close()
