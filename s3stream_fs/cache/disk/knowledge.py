"""What is known in memory of the data files, and whether it counts: records, the filter, and the folder they are of.

Trio's thread's, and never touches the disk: what is not known counts as absent.
"""

from __future__ import annotations

import threading
from array import array
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import trio

from s3stream_fs.cache.disk.checksums import Checksums
from s3stream_fs.cache.disk.faults import Faults
from s3stream_fs.cache.disk.files import file_name
from s3stream_fs.cache.disk.filter import Filter, key_of, load
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.lookups import Lookups
from s3stream_fs.cache.disk.policy import files_of
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

_ASK_AGAIN_SECONDS: Final = 0.25
"""How old an absence may be: another process that shares the folder may have written the block meanwhile."""


class Keeper(Protocol):
    """Who opens the folder, and opens it anew after the disk has failed and come back."""

    @property
    def folder(self) -> CacheFolder | None: ...

    @property
    def broken(self) -> bool:
        """Whether the disk or the index cannot be used at present."""


class Knowledge:
    """``folder`` is the one of which all this is known; ``lookups`` find out more of it."""

    def __init__(
        self, space: str, keeper: Keeper, records: Records, threads: ReadThreads, faults: Faults, *, off: bool
    ) -> None:
        """``off``: there is no disk cache."""
        self._space = space
        self._keeper = keeper
        self._records = records
        self._threads = threads
        self._faults = faults
        self._off = off
        self.folder = keeper.folder
        self.lookups = Lookups(self.folder)
        self._filter: Filter | None = None
        """None where it would not be true: another process writes, too."""
        self._no_filter = threading.Event()
        """Set when the filter that is being loaded is not wanted any more."""
        self._token = trio.lowlevel.current_trio_token()

    @property
    def enabled(self) -> bool:
        """Whether there is a disk cache, and its disk works at present."""
        if self._off or self._keeper.broken:
            return False
        return self.folder is self._keeper.folder  # else it was opened anew, which is taken in a moment later

    @property
    def answers(self) -> bool:
        """Whether there is a disk cache whose disk answers."""
        return self.enabled and not self._threads.hanging

    @property
    def shared(self) -> bool:
        """Whether another process uses the folder, too."""
        return self.folder is not None and self.folder.claims.others

    def known_nowait(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether it is known what the disk has of these bytes."""
        if not self.answers:
            return True  # nothing counts
        if self._is_behind:
            self.catch_up()
        now = trio.current_time()
        for whole, inside in files_of(object_id, wanted):
            record = self._records.get(object_id, whole.start)
            if record is None:
                name = self.name(object_id, whole)
                if self._filter is not None and not self._filter.may_have(key_of(name)):
                    continue
                record = self._records.bring_back(name)
            if record is None or not self._is_known(record, inside, now):
                return False
        return True

    def missing_nowait(self, object_id: ObjectId, wanted: ByteRange) -> tuple[ByteRange, ...]:
        """The parts of the block-aligned ``wanted`` that are not on disk, in order, merged; () where all of it is."""
        missing: list[ByteRange] = []
        for whole, inside in files_of(object_id, wanted):
            record = self.at_hand(object_id, whole.start)
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
        for whole, inside in files_of(object_id, wanted):
            record = self.at_hand(object_id, whole.start)
            if record is None or not record.has(inside):
                return False
        return True

    def at_hand(self, object_id: ObjectId, start: int) -> Record | None:
        """The record of the data file which begins at ``start`` in the object, if there is one that counts."""
        if not self.answers:
            return None
        if self._is_behind:
            self.catch_up()
        record = self._records.get(object_id, start)
        return None if record is None or _is_away(record) else record

    def record(self, object_id: ObjectId, whole: ByteRange, name: str = "") -> Record:
        """That of the data file for ``whole`` of an object, of which perhaps nothing is known."""
        record = self._records.get(object_id, whole.start)
        if record is not None:
            return record
        name = name or self.name(object_id, whole)
        record = self._records.bring_back(name)
        if record is None:
            known = self._filter is not None and not self._filter.may_have(key_of(name))
            record = Record(name, object_id, whole, Checksums(whole.blocks()), known=known)
            self._records.add(record)
        return record

    def name(self, object_id: ObjectId, whole: ByteRange) -> str:
        """That of the data file for ``whole`` of an object."""
        return file_name(self._space, object_id, whole)

    def known_files(self, object_id: ObjectId) -> dict[int, Checksums]:
        """The checksums of those data files of an object of which all is known, by where they begin."""
        return {record.byte_range.start: record.checksums for record in self._records.of(object_id) if record.known}

    def catch_up(self) -> None:
        """Take in what the writer has committed, evicted or opened anew meanwhile."""
        for name, there in self._records.changes():
            if not there:
                self._records.drop(name)
            if self._filter is not None:
                (self._filter.add if there else self._filter.discard)(key_of(name))
        if self.folder is not self._keeper.folder and not self._keeper.broken:  # else it may be taken back
            self._threads.begin_nowait(self.lookups.close)
            self.folder = self._keeper.folder
            self.lookups = Lookups(self.folder)
            self._records.clear()
            self._drop_filter()
            self._faults.distrust()
        if self._is_filter_due:
            self._drop_filter()
            if not self.shared:
                self._records.doubt()  # whoever was there may have written since the index was asked
                self._load_filter()

    def forget_all(self) -> None:
        """Nothing is known, and all files can be closed."""
        self._no_filter.set()
        self._records.clear()

    @property
    def _is_behind(self) -> bool:
        """Whether there is something to ``catch_up`` with."""
        return self._records.any_changes or self.folder is not self._keeper.folder or self._is_filter_due

    @property
    def _is_filter_due(self) -> bool:
        """Whether there is a filter though others write, too, or none though nobody does."""
        return (self._filter is None) != self.shared

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

        job = partial(load, self.lookups, deliver, self._no_filter)
        with suppress(RuntimeError):  # no thread to be had: everything counts as perhaps there
            threading.Thread(target=job, name="s3stream-filter", daemon=True).start()

    def _is_known(self, record: Record, wanted: ByteRange, now: float) -> bool:
        if record.has(wanted) or now < record.away_until:
            return True
        if self.shared:
            return now < record.asked_at + _ASK_AGAIN_SECONDS
        return record.known


def _is_away(record: Record) -> bool:
    return record.away_until > 0 and trio.current_time() < record.away_until
