"""The disk tier: blocks on local disk, found again after a restart, bounded, and checked before they are believed.

Passive: it never fetches. A fault of the disk costs a hit, never a read: what cannot be read, or fails its checksum, is
simply not there. Trio's thread never touches the disk: what is known in memory is answered at once, bytes that the page
cache has are copied, and everything else is for the reader threads, which are waited for for a while.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from array import array
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from itertools import islice
from typing import Final

import trio

from s3stream_fs.cache.database import is_damage
from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.checksums import CHECKSUM_NBYTES, Checksums, run_of
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.direct import ALIGNMENT_NBYTES, ReadBuffers
from s3stream_fs.cache.disk.files import DataFile, Descriptors, file_name, lacks_descriptors
from s3stream_fs.cache.disk.filter import Filter, key_of, load
from s3stream_fs.cache.disk.folder import CacheFolder, is_fault
from s3stream_fs.cache.disk.lookups import Lookups, Reading
from s3stream_fs.cache.disk.policy import SEGMENT_NBYTES, file_range
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.cache.disk.writer import Writer
from s3stream_fs.errors import UsageError
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

log = logging.getLogger(__name__)

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

_SLOW_SECONDS: Final = 10.0
"""How long a file is not asked for again whose disk did not answer in time."""

_BUSY_SECONDS: Final = 1.0
"""The same where there was no descriptor for it, or somebody had locked the index."""

_DISTRUST_SECONDS: Final = 300.0
"""How long the kernel is handed no files after an error of the disk. A guess: bad sectors seldom come alone, and it
costs a copy of what is read, where an error costs the reader."""

_MOST_UNNEEDED: Final = 16
"""Descriptors that are closed at once, and files whose pages are let go at once."""

_NAMES_AT_ONCE: Final = 256
"""Data files that are counted by one turn of a thread: 1 ms."""


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
    """See ``open_disk_tier``. All methods are called on trio's thread, and none of them waits there for a disk.

    ``_nowait`` goes by what is known in memory, of which ``learn`` makes more; what is not known counts as absent.
    """

    def __init__(
        self, config: DiskTierConfig, space: str, descriptors: Descriptors, writer: Writer, records: Records
    ) -> None:
        self._config = config
        self._space = space
        self._folder = writer.folder
        self._descriptors = descriptors
        self._writer = writer
        self._records = records
        self._lookups = Lookups(self._folder)
        self._looking: dict[str, trio.Event] = {}
        """Data files that a thread is looking up; set when it is done."""
        self._filter: Filter | None = None
        """None where it would not be true: another process writes, too."""
        self._no_filter = threading.Event()
        """Set when the filter that is being loaded is not wanted any more."""
        self._token = trio.lowlevel.current_trio_token()
        self._threads = ReadThreads(_READ_THREADS, self._tidy_up)
        self._nowait_works = True
        self._buffers = ReadBuffers(_INLINE_NBYTES + 2 * BLOCK_BYTES)
        self._scratch = memoryview(bytearray(_INLINE_NBYTES + 2 * BLOCK_BYTES))
        """Where a read goes that may come to nothing, so that no memory is made for it."""
        self._distrusted_until = float("-inf")
        """Until then the kernel is handed no files: their readers would be given the disk's errors."""
        self._unneeded: deque[DataFile] = deque(maxlen=2 * _MOST_UNNEEDED)
        """Small files that were read to their end, whose pages can go."""
        self._comparing = False
        """A thread is at it."""
        self._told_slow = False
        self._told_fault = False
        self._hits = 0
        self._bad_blocks = 0
        self._errors = 0

    @property
    def enabled(self) -> bool:
        """Whether there is a disk cache, and its disk works at present."""
        if self._config.limit_nbytes == 0 or self._writer.broken:
            return False
        return self._folder is self._writer.folder  # else it was opened anew, which is taken in a moment later

    @property
    def shared(self) -> bool:
        """Whether another process uses the folder, too: what is missing has to be claimed before it is fetched, and
        may be there a moment later."""
        return self._folder is not None and self._folder.claims.others

    def known_nowait(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether it is known in memory what the disk has of these bytes. Where it is not, ``learn`` finds out."""
        if not self._answers:
            return True  # nothing counts
        if self._is_behind:
            self.catch_up()
        now = trio.current_time()
        for whole, inside in _files_of(object_id, wanted):
            record = self._records.get(object_id, whole.start)
            if record is None:
                name = self._name(object_id, whole)
                if self._filter is not None and not self._filter.may_have(key_of(name)):
                    continue
                record = self._records.bring_back(name)
            if record is None or not self._is_known(record, inside, now):
                return False
        return True

    async def learn(self, object_id: ObjectId, wanted: ByteRange, *, again: bool = False) -> None:
        """Find out what the disk has of these bytes, so that it is known. ``again``: ask the index, whatever is known.

        Of several who ask for a file at a time one asks for all. Returns after a few seconds in any case, and raises
        nothing of the disk's: what could not be found out counts as absent, for a while.
        """
        for whole, inside in _files_of(object_id, wanted):
            if again or not self.known_nowait(object_id, inside):
                await self._learn(object_id, whole, inside, again=again)

    def missing_nowait(self, object_id: ObjectId, wanted: ByteRange) -> tuple[ByteRange, ...]:
        """The parts of the block-aligned ``wanted`` that are not on disk, in order, merged; () where all of it is."""
        missing: list[ByteRange] = []
        for whole, inside in _files_of(object_id, wanted):
            record = self._at_hand(object_id, whole.start)
            if record is None:
                absent = [inside]
            elif record.has(inside):
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
        for whole, inside in _files_of(object_id, wanted):
            record = self._at_hand(object_id, whole.start)
            if record is None or not record.has(inside):
                return False
        return True

    def read_nowait(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk, in the page cache, and not more than may be copied on this thread."""
        if len(wanted) > _INLINE_NBYTES or not self._nowait_works:
            return None
        record = self._at_hand(object_id, file_range(object_id, wanted.start).start)
        if record is None or wanted.stop > record.byte_range.stop or not record.has(wanted):
            return None
        file = record.file
        if file is None or _goes_direct(record.byte_range, wanted):
            return None  # even to ask for its pages would have the kernel read them
        span = self._span(file, record, wanted)
        scratch = self._scratch[: len(span)]
        try:
            # Takes what the page cache has, and neither a lock nor a journal: the file is open with O_NOATIME.
            if os.preadv(file.fd, [scratch], record.inside(span).start, os.RWF_NOWAIT) != len(span):
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # this file system cannot say what its page cache has
                self._nowait_works = False
            else:
                self._fault(record, error)
            return None
        if _ends_small_file(record.byte_range, span):
            # Not here: it may wait for those that have not been written yet.
            self._unneeded.append(file)
            if len(self._unneeded) >= _MOST_UNNEEDED and not self._threads.hanging:
                self._threads.begin_nowait(self._tidy)
        return self._checked(record, file, wanted, span, memoryview(bytes(scratch)))

    async def read(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk and right; None, and forgotten, where they are not.

        What is not known is looked up, in the same turn of a thread that reads it.
        """
        found = []
        for whole, inside in _files_of(object_id, wanted):
            view = await self._read(object_id, whole, inside)
            if view is None:
                return None
            found.append(view)
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    async def _read(self, object_id: ObjectId, whole: ByteRange, wanted: ByteRange) -> memoryview | None:
        if not self.known_nowait(object_id, wanted):
            view = await self._learn(object_id, whole, wanted, read=True)
            if view is not None:
                return view
        record = self._at_hand(object_id, whole.start)
        if record is None or not record.has(wanted):
            return None
        file = record.file
        span = wanted.aligned(object_id.size) if file is None else self._span(file, record, wanted)
        reading = self._reading(record.byte_range, wanted, span)
        lookups = self._lookups

        def job() -> tuple[DataFile, memoryview]:
            opened = lookups.open(record.name) if file is None else file
            return opened, reading.of(opened)

        try:
            opened, read_view = await self._threads.run(job)
        except TimeoutError:
            self._put_off(record)
            return None
        except OSError as error:
            self._fault(record, error)
            return None
        if record.file is None and lookups is self._lookups and record.has(wanted):
            record.file = opened
        return self._checked(record, opened, wanted, span, read_view)

    def put_nowait(self, object_id: ObjectId, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Have a block-aligned range written, soon. False where there is no time: it may be given again later."""
        for whole, inside in _files_of(object_id, byte_range):
            if not self.enabled:
                return True  # there is no disk tier, or its disk is at fault
            record = self._record(object_id, whole)
            if record.has(inside):
                self._writer.release(record, inside)
                continue
            own = pieces if inside == byte_range else _cut(pieces, byte_range, inside)
            if not self._writer.put_nowait(record, inside, own):
                return False
        return True

    def claim_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Who is to fetch a block-aligned range that is missing, where the folder is ``shared``: MINE or THEIRS.

        Of what is MINE another process may have brought a part since the index was asked: ``wait_for_claim`` looks. A
        claim ends when ``put_nowait`` has had all of it written, or with ``release_nowait``.
        """
        if self._folder is None or not self.shared or not self.enabled:
            return Claim.MINE
        claimed: list[tuple[Record, ByteRange]] = []
        for whole, inside in _files_of(object_id, byte_range):
            record = self._record(object_id, whole)
            try:
                # A lock of a byte range waits for no disk: the kernel keeps it in memory.
                mine = self._folder.claims.claim(record.name, record.inside(inside))
            except OSError as error:
                self._writer.fail(error)
                return Claim.MINE
            if not mine:
                for held, given_back in claimed:
                    self._writer.release(held, given_back)
                return Claim.THEIRS
            claimed.append((record, inside))
        return Claim.MINE

    def release_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> None:
        """What was claimed is not going to be written, for now."""
        if self._folder is not None and self._folder.claims.any_held and self.enabled:
            for whole, inside in _files_of(object_id, byte_range):
                self._writer.release(self._record(object_id, whole), inside)

    def split_claim_nowait(self, object_id: ObjectId, byte_range: ByteRange, at: int) -> None:
        """What was claimed at once may be written or released in two: up to the block-aligned ``at``, and beyond."""
        if self._folder is not None and self._folder.claims.any_held and self.enabled:
            for whole, inside in _files_of(object_id, byte_range):
                if inside.start < at < inside.stop:
                    record = self._record(object_id, whole)
                    self._folder.claims.split(record.name, record.inside(inside), at - whole.start)

    async def wait_for_claim(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Wait, for a while, until nobody else is fetching this. THEIRS where that takes too long; ON_DISK, and nothing
        is claimed, where another process has brought all of it.

        What it had claimed when it is cancelled has to be released.
        """
        pause = _CLAIM_PAUSE_SECONDS
        give_up_at = trio.current_time() + _CLAIM_SECONDS
        while True:
            # Whoever gave it up has released already what was claimed.
            await trio.lowlevel.checkpoint_if_cancelled()
            claim = self.claim_nowait(object_id, byte_range)
            if claim is not Claim.THEIRS:
                break
            if trio.current_time() >= give_up_at:
                return claim
            await trio.sleep(pause)
            pause = min(2 * pause, _CLAIM_MOST_PAUSE_SECONDS)
        if self.shared and self.enabled:
            await self.learn(object_id, byte_range, again=True)  # others may have ended between a look and the claim
            if self.has_nowait(object_id, byte_range):
                self.release_nowait(object_id, byte_range)
                return Claim.ON_DISK
        return claim

    def whole_file_nowait(self, object_id: ObjectId) -> DataFile | None:
        """The file with all bytes of an object and nothing else, if every block of it has been seen to be right.

        Of one that is all there that is found out, for the next who asks. None of a disk that has given errors lately:
        whoever reads the file is given them, until it is opened anew.
        """
        if object_id.size == 0 or self._config.verify_always or trio.current_time() < self._distrusted_until:
            return None
        record = self._at_hand(object_id, 0)
        if record is None or record.byte_range.stop < object_id.size:
            return None
        file = record.file
        if file is None or not record.has(object_id.whole):
            return None
        if not file.is_verified(object_id.whole):
            self._compare_nowait(record, file)
            return None
        if file.was_longer_than(object_id.size):
            return None
        self._used(record)
        return file

    async def cached_nbytes(self, object_id: ObjectId) -> int:
        """How many bytes of an object are on disk; 0 where the disk does not say."""
        if object_id.size == 0 or not self._answers:
            return 0
        last = object_id.size - 1
        final = file_range(object_id, last)
        known = {record.byte_range.start: record.checksums for record in self._records.of(object_id) if record.known}
        nblocks = sum(len(checksums) for start, checksums in known.items() if start != final.start)
        lookups = self._lookups
        try:
            starts = (start for start in range(0, final.start, SEGMENT_NBYTES) if start not in known)
            while some := tuple(islice(starts, _NAMES_AT_ONCE)):
                nblocks += await self._threads.run(partial(self._count_blocks, lookups, object_id, some))
            checksums = known.get(final.start)
            if checksums is None:
                job = partial(lookups.checksums, self._name(object_id, final), object_id, final)
                checksums = await self._threads.run(job)
        except (OSError, sqlite3.Error):
            self._errors += 1
            return 0
        short = -object_id.size % BLOCK_BYTES if last // BLOCK_BYTES in checksums else 0
        return (nblocks + len(checksums)) * BLOCK_BYTES - short

    def _count_blocks(self, lookups: Lookups, object_id: ObjectId, starts: Sequence[int]) -> int:
        """How many blocks there are in the data files that begin there. For a thread."""
        names = [self._name(object_id, file_range(object_id, start)) for start in starts]
        return lookups.count_blocks(names, object_id)

    def allow(self, fraction: float, ahead_nbytes: int = 0) -> Allowance:
        """What may be used of the cache's disk for something else, up to a fraction of the cache's size. It counts as
        part of it; ``ahead_nbytes`` of it are held free, for who cannot wait."""
        return self._writer.allow(fraction, ahead_nbytes)

    async def flush(self) -> bool:
        """Wait until all that was put is on disk and would be found after a restart. False if that takes too long."""
        return await trio.to_thread.run_sync(self._writer.flush, _FLUSH_SECONDS)

    def forget_all(self) -> None:
        """Once the writer has stopped: nothing is known, and all files can be closed."""
        self._no_filter.set()
        self._threads.close()
        self._records.clear()

    def close_folder(self) -> None:
        """After ``forget_all``. Waits for the disk: for a worker thread."""
        self._descriptors.close_ended()
        self._lookups.close()

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            enabled=self.enabled,
            takes_nothing=self._writer.takes_nothing,
            shared=self.shared,
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

    def catch_up(self) -> None:
        """Take in what the writer has committed, evicted or opened anew meanwhile."""
        for name, there in self._records.changes():
            if not there:
                self._records.drop(name)
            if self._filter is not None:
                (self._filter.add if there else self._filter.discard)(key_of(name))
        if self._folder is not self._writer.folder and not self._writer.broken:  # else it may be taken back
            self._threads.begin_nowait(self._lookups.close)
            self._folder = self._writer.folder
            self._lookups = Lookups(self._folder)
            self._records.clear()
            self._drop_filter()
            self._distrusted_until = trio.current_time() + _DISTRUST_SECONDS
        if self._is_filter_due:
            self._drop_filter()
            if not self.shared:
                self._records.doubt()  # others may have written until they left
                self._load_filter()

    @property
    def _answers(self) -> bool:
        """Whether there is a disk tier whose disk answers."""
        return self.enabled and not self._threads.hanging

    @property
    def _is_behind(self) -> bool:
        """Whether there is something to ``catch_up`` with."""
        return self._records.any_changes or self._folder is not self._writer.folder or self._is_filter_due

    @property
    def _is_filter_due(self) -> bool:
        """Whether there is a filter though others write, too, or none though nobody does."""
        return (self._filter is None) != self.shared

    def _tidy_up(self) -> None:
        """After a turn of a thread. Not after each: it would be in the way of trio's thread, which just wakes up."""
        if self._descriptors.any_to_close(_MOST_UNNEEDED):
            self._tidy()

    def _tidy(self) -> None:
        """What may wait for the disk and is waited for by nobody. In a thread."""
        self._descriptors.close_ended()
        while self._unneeded:
            with suppress(IndexError, OSError):  # IndexError: another thread had it
                self._unneeded.popleft().let_pages_go()

    def _drop_filter(self) -> None:
        self._no_filter.set()
        self._filter = None

    def _load_filter(self) -> None:
        """From the start a filter knows what this process writes; the rest comes from the index as it is read."""
        names = self._filter = Filter()
        self._no_filter = threading.Event()

        def deliver(first: int, shards: list[array[int]]) -> None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(names.loaded, first, shards)

        job = partial(load, self._lookups, deliver, self._no_filter)
        with suppress(RuntimeError):  # no thread to be had: everything counts as perhaps there
            threading.Thread(target=job, name="s3stream-filter", daemon=True).start()

    def _name(self, object_id: ObjectId, whole: ByteRange) -> str:
        return file_name(self._space, object_id, whole)

    def _at_hand(self, object_id: ObjectId, start: int) -> Record | None:
        """The record of a data file, if there is one that counts."""
        if not self._answers:
            return None
        if self._is_behind:
            self.catch_up()
        record = self._records.get(object_id, start)
        return None if record is None or _is_away(record) else record

    def _record(self, object_id: ObjectId, whole: ByteRange, name: str = "") -> Record:
        """That of a data file, of which perhaps nothing is known."""
        record = self._records.get(object_id, whole.start)
        if record is not None:
            return record
        name = name or self._name(object_id, whole)
        record = self._records.bring_back(name)
        if record is None:
            known = self._filter is not None and not self._filter.may_have(key_of(name))
            record = Record(name, object_id, whole, Checksums(whole.blocks()), known=known)
            self._records.add(record)
        return record

    def _is_known(self, record: Record, wanted: ByteRange, now: float) -> bool:
        if record.has(wanted) or now < record.away_until:
            return True
        if self.shared:
            return now < record.asked_at + _ASK_AGAIN_SECONDS
        return record.known

    async def _learn(
        self, object_id: ObjectId, whole: ByteRange, wanted: ByteRange, *, again: bool = False, read: bool = False
    ) -> memoryview | None:
        """Look a data file up that is not known, or wait for whoever does. Gives the bytes ``wanted`` if it came to
        ``read`` them."""
        name = self._name(object_id, whole)
        while (under_way := self._looking.get(name)) is not None:
            await under_way.wait()
            if not again and self.known_nowait(object_id, wanted):
                return None
        over = self._looking[name] = trio.Event()
        try:
            return await self._look_up(name, object_id, whole, wanted, read=read)
        finally:
            del self._looking[name]
            over.set()

    async def _look_up(
        self, name: str, object_id: ObjectId, whole: ByteRange, wanted: ByteRange, *, read: bool
    ) -> memoryview | None:
        span = wanted.aligned(object_id.size)
        reading = self._reading(whole, wanted, span) if read else None
        lookups = self._lookups
        try:
            found = await self._threads.run(partial(lookups.find, name, object_id, whole, span, reading))
        except TimeoutError:
            self._put_off(self._record(object_id, whole))
            return None
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._writer.fail(error)
            else:
                self._errors += 1  # somebody has locked it, or there are no more descriptors
                self._put_off(self._record(object_id, whole), _BUSY_SECONDS)
            return None
        if lookups is not self._lookups or not self.enabled:
            return None  # it was another folder
        if found.checksums is None and self._filter is not None and self._records.get(object_id, whole.start) is None:
            self._filter.discard(key_of(name))
        record = self._record(object_id, whole, name)
        if found.error is not None:
            self._fault(record, found.error)
            return None
        if found.checksums is not None:
            record.checksums.fill(found.checksums)
            record.file = record.file or found.file
        self._is_told(record)
        if found.view is None or found.file is None:
            return None
        return self._checked(record, found.file, wanted, span, found.view)

    def _reading(self, whole: ByteRange, wanted: ByteRange, span: ByteRange) -> Reading:
        """How a thread reads ``span``, for the sake of ``wanted``, of a data file that is for ``whole``."""
        inside = ByteRange(span.start - whole.start, span.stop - whole.start)
        buffer = self._buffers.take(-(-len(span) // ALIGNMENT_NBYTES) * ALIGNMENT_NBYTES)
        direct = buffer is not None and _goes_direct(whole, wanted)
        return Reading(inside, buffer, direct, once=_ends_small_file(whole, span))

    def _span(self, file: DataFile, record: Record, wanted: ByteRange) -> ByteRange:
        """What has to be read for ``wanted``: whole blocks, where it has to be checked."""
        if not self._config.verify_always and file.is_verified(record.inside(wanted)):
            return wanted.aligned(record.object_id.size, ALIGNMENT_NBYTES)
        return wanted.aligned(record.object_id.size)

    def _checked(
        self, record: Record, file: DataFile, wanted: ByteRange, span: ByteRange, view: memoryview
    ) -> memoryview | None:
        """``wanted`` out of ``span``, whose bytes are in ``view``, if they are right."""
        if len(view) != len(span):
            self._forget_bad(record, span.blocks(), "is shorter than its index says")
            return None
        if self._config.verify_always or not file.is_verified(record.inside(wanted)):
            if not record.has(span):
                return None  # evicted while it was being read
            blocks = span.blocks()
            expected, found = record.checksums.run(blocks), run_of(view)
            if found != expected:
                # All that is wrong, so that a file that somebody has overwritten is not fetched block by block.
                starts = range(0, len(found), CHECKSUM_NBYTES)
                wrong = [
                    index
                    for index, at in zip(blocks, starts, strict=True)
                    if found[at : at + CHECKSUM_NBYTES] != expected[at : at + CHECKSUM_NBYTES]
                ]
                self._forget_bad(record, wrong, "has blocks that are not what was written")
                return None
            file.set_verified(record.inside(span))
        self._told_slow = False
        self._hits += 1
        self._used(record)
        return view if span == wanted else view[wanted.start - span.start : wanted.stop - span.start]

    def _compare_nowait(self, record: Record, file: DataFile) -> None:
        """Have a file of a whole object read and compared, one at a time, by a thread for which nobody waits."""
        buffer = None if self._comparing else self._buffers.take(_INLINE_NBYTES)
        if buffer is None:
            return
        self._comparing = True
        checksums = record.checksums

        def job() -> None:
            with suppress(OSError):  # whoever reads it is told
                _compare(file, len(record.byte_range), checksums, buffer)
            self._comparing = False

        self._threads.begin_nowait(job)

    def _used(self, record: Record) -> None:
        now_ms = self._writer.now_ms()
        if now_ms - record.used_ms >= _USE_MS:
            self._records.use(record, now_ms)

    def _forget_bad(self, record: Record, bad: Collection[int], what: str) -> None:
        """Blocks that do not count any more, by their index."""
        log.warning("the cached file of %r %s; they are fetched again", record.object_id.key, what)
        self._is_told(record)  # or the index would say at once that they are there
        self._bad_blocks += len(bad)
        for index in bad:
            del record.checksums[index]
            if record.file is not None:
                start = index * BLOCK_BYTES - record.byte_range.start
                record.file.set_verified(ByteRange(start, start + BLOCK_BYTES), False)

    @staticmethod
    def _is_told(record: Record) -> None:
        """The index need not be asked of it for a while; for ever, where nobody else writes."""
        record.known = True
        record.asked_at = trio.current_time()

    def _put_off(self, record: Record, seconds: float = _SLOW_SECONDS) -> None:
        """It counts as absent for a while."""
        record.away_until = trio.current_time() + seconds
        if seconds == _SLOW_SECONDS and not self._told_slow:
            self._told_slow = True
            log.warning("the disk of the cache does not answer: what it has is asked of the store until it does")

    def _fault(self, record: Record, error: OSError) -> None:
        """This file cannot be had from the disk; its blocks are fetched again."""
        self._errors += 1
        if lacks_descriptors(error):
            self._put_off(record, _BUSY_SECONDS)
            return
        if isinstance(error, FileNotFoundError):
            self._records.lose(record)
        else:
            self._distrusted_until = trio.current_time() + _DISTRUST_SECONDS
        if not self._told_fault:
            self._told_fault = True
            log.error("a file of the disk cache cannot be read: %s; it is fetched again", str(error))
        record.reset()
        self._is_told(record)


def _compare(file: DataFile, size: int, checksums: Checksums, buffer: memoryview) -> None:
    """Read what was not read so far of a file that begins with its object, up to what is wrong. Raises OSError.

    From the end on, so that it meets who reads it from its start: together they read it once.
    """
    for start in reversed(range(0, size, len(buffer))):
        part = ByteRange(start, min(start + len(buffer), size))
        if file.is_verified(part):
            continue
        view = file.read_direct(part, buffer)
        if run_of(view) != checksums.run(part.blocks()):
            return
        file.set_verified(part)


# The kernel keeps what it is given in pages of the mount. A second copy of a data set, in pages of the cache's files,
# would take the memory that could have kept the rest of it.


def _goes_direct(whole: ByteRange, wanted: ByteRange) -> bool:
    """Whether a read of a data file leaves the page cache alone."""
    return len(wanted) >= _DIRECT_NBYTES and len(whole) > _INLINE_NBYTES


def _ends_small_file(whole: ByteRange, span: ByteRange) -> bool:
    """Whether a read of a data file leaves nothing in the page cache."""
    return span.stop == whole.stop and len(whole) <= _INLINE_NBYTES


def _is_away(record: Record) -> bool:
    return record.away_until > 0 and trio.current_time() < record.away_until


def _files_of(object_id: ObjectId, wanted: ByteRange) -> Iterable[tuple[ByteRange, ByteRange]]:
    """The data files in which ``wanted`` lies: what of the object each is for, and what of ``wanted`` lies in it."""
    whole = file_range(object_id, wanted.start)
    if wanted.stop <= whole.stop:
        return ((whole, wanted),)
    return _several_files_of(object_id, wanted)


def _several_files_of(object_id: ObjectId, wanted: ByteRange) -> Iterator[tuple[ByteRange, ByteRange]]:
    start = wanted.start
    while start < wanted.stop:
        whole = file_range(object_id, start)
        yield whole, ByteRange(start, min(wanted.stop, whole.stop))
        start = whole.stop


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
    Opens at once, however much is in it. Raises UsageError for a folder that cannot be used; where that is the disk's
    fault, or it is full and nothing can go, the tier is off until the folder can be opened.
    """
    descriptors = Descriptors(config.most_descriptors)
    records = Records(config.most_open_files)
    folder: CacheFolder | None = None
    fault: OSError | sqlite3.Error | None = None
    try:
        folder = CacheFolder(config.directory, descriptors)
    except OSError as error:
        if not is_fault(error):
            raise UsageError(
                f"cache folder {config.directory} cannot be used: {error.strerror}; choose another --cache-dir"
            ) from None
        fault = error
    except sqlite3.Error as error:
        if not is_fault(error):
            raise UsageError(
                f"the index in cache folder {config.directory} cannot be used: {error}; choose another --cache-dir"
            ) from None
        fault = error
    writer = Writer(config, space, folder, descriptors, records)
    if fault is not None:
        writer.fail(fault)
    tier = DiskTier(config, space, descriptors, writer, records)
    token = trio.lowlevel.current_trio_token()

    def wake_reader() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(tier.catch_up, idempotent=True)

    writer.wake_reader = wake_reader
    writer.start()
    if config.limit_nbytes:
        tier.catch_up()  # begins to load the filter
    try:
        yield tier
    finally:
        writer.wake_reader = lambda: None
        with trio.CancelScope(shield=True):
            stopped = await trio.to_thread.run_sync(writer.stop, _FLUSH_SECONDS)
            if stopped:  # else the disk hangs, and what it is given up with is closed by the end of the process
                tier.forget_all()
                with trio.move_on_after(_FLUSH_SECONDS):
                    await trio.to_thread.run_sync(tier.close_folder, abandon_on_cancel=True)
