"""Finds out what is not known of the data files: has reader threads ask the index, and open what there is.

Owns that of several who ask for a file at a time one asks for all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final

import trio

from s3stream_fs.cache.database import is_damage
from s3stream_fs.cache.disk.faults import Faults
from s3stream_fs.cache.disk.knowledge import Knowledge
from s3stream_fs.cache.disk.lookups import Lookups
from s3stream_fs.cache.disk.policy import SEGMENT_NBYTES, file_range, files_of
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.reads import Reads
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

_NAMES_AT_ONCE: Final = 256
"""Data files that are counted by one turn of a thread: 1 ms."""


class Learner:
    """Trio's thread's. Raises nothing of the disk's: what cannot be found out counts as absent, for a while."""

    def __init__(
        self,
        knowledge: Knowledge,
        reads: Reads,
        threads: ReadThreads,
        faults: Faults,
        on_damage: Callable[[Exception], None],
    ) -> None:
        """``on_damage`` is told that the index is damaged."""
        self._knowledge = knowledge
        self._reads = reads
        self._threads = threads
        self._faults = faults
        self._on_damage = on_damage
        self._under_way: dict[str, trio.Event] = {}
        """Data files that a thread is looking up; set when it is done."""

    async def learn(self, object_id: ObjectId, wanted: ByteRange, *, again: bool = False) -> None:
        """Find out what the disk has of these bytes. ``again``: ask the index, whatever is known."""
        for whole, inside in files_of(object_id, wanted):
            if again or not self._knowledge.known_nowait(object_id, inside):
                await self._learn(object_id, whole, inside, again=again)

    async def read(self, object_id: ObjectId, whole: ByteRange, wanted: ByteRange) -> memoryview | None:
        """Look the data file for ``whole`` up, which is not known, and read ``wanted`` in the same turn of a thread.

        None also where somebody else has looked it up meanwhile: it is known then.
        """
        return await self._learn(object_id, whole, wanted, read=True)

    async def cached_nbytes(self, object_id: ObjectId) -> int:
        """How many bytes of an object are on disk; 0 where the disk does not say."""
        if object_id.size == 0 or not self._knowledge.answers:
            return 0
        last = object_id.size - 1
        final = file_range(object_id, last)
        known = self._knowledge.known_files(object_id)
        nblocks = sum(len(checksums) for start, checksums in known.items() if start != final.start)
        lookups = self._knowledge.lookups
        try:
            starts = (start for start in range(0, final.start, SEGMENT_NBYTES) if start not in known)
            while some := tuple(islice(starts, _NAMES_AT_ONCE)):
                nblocks += await self._threads.run(partial(self._count_blocks, lookups, object_id, some))
            checksums = known.get(final.start)
            if checksums is None:
                job = partial(lookups.checksums, self._knowledge.name(object_id, final), object_id, final)
                checksums = await self._threads.run(job)
        except (OSError, sqlite3.Error):
            self._faults.unanswered()
            return 0
        short = -object_id.size % BLOCK_BYTES if last // BLOCK_BYTES in checksums else 0
        return (nblocks + len(checksums)) * BLOCK_BYTES - short

    def _count_blocks(self, lookups: Lookups, object_id: ObjectId, starts: Sequence[int]) -> int:
        """How many blocks there are in the data files that begin there. For a thread."""
        names = [self._knowledge.name(object_id, file_range(object_id, start)) for start in starts]
        return lookups.count_blocks(names, object_id)

    async def _learn(
        self, object_id: ObjectId, whole: ByteRange, wanted: ByteRange, *, again: bool = False, read: bool = False
    ) -> memoryview | None:
        """Look a data file up that is not known, or wait for whoever does. Gives the bytes ``wanted`` if it came to
        ``read`` them."""
        name = self._knowledge.name(object_id, whole)
        while (under_way := self._under_way.get(name)) is not None:
            await under_way.wait()
            if not again and self._knowledge.known_nowait(object_id, wanted):
                return None
        over = self._under_way[name] = trio.Event()
        try:
            return await self._look_up(name, object_id, whole, wanted, read=read)
        finally:
            del self._under_way[name]
            over.set()

    async def _look_up(
        self, name: str, object_id: ObjectId, whole: ByteRange, wanted: ByteRange, *, read: bool
    ) -> memoryview | None:
        span = wanted.aligned(object_id.size)
        reading = self._reads.reading(whole, wanted, span) if read else None
        lookups = self._knowledge.lookups
        try:
            found = await self._threads.run(partial(lookups.find, name, object_id, whole, span, reading))
        except TimeoutError:
            self._faults.slow(self._knowledge.record(object_id, whole, name))
            return None
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._on_damage(error)
            else:
                self._faults.busy(self._knowledge.record(object_id, whole, name))
            return None
        if lookups is not self._knowledge.lookups or not self._knowledge.enabled:
            return None  # it was another folder
        record = self._knowledge.record(object_id, whole, name)
        if found.error is not None:
            self._faults.unreadable(record, found.error)
            return None
        if found.checksums is not None:
            record.checksums.fill(found.checksums)
            record.file = record.file or found.file
        record.told(trio.current_time())
        if found.view is None or found.file is None:
            return None
        return self._reads.checked(record, found.file, wanted, span, found.view)
