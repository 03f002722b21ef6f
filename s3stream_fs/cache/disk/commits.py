"""One commit of the disk tier: bytes into data files, then their rows into the index.

The writer's, under the folder's lock. Owns that a block counts only once its bytes are written, and that a file goes
which did not get so far.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from s3stream_fs.cache.disk.checksums import checksums_of
from s3stream_fs.cache.disk.direct import DirectWriter
from s3stream_fs.cache.disk.eviction import Eviction
from s3stream_fs.cache.disk.files import lacks_descriptors
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.intake import NO_DESCRIPTORS, no_room
from s3stream_fs.cache.disk.policy import Amount
from s3stream_fs.cache.disk.room import Room
from s3stream_fs.cache.disk.sweep import Sweep
from s3stream_fs.cache.disk.writes import Done, Write

_LOG_NBYTES: Final = 1024 * 1024
"""What has to go for a commit that found no room."""


class Commits:
    """Raises OSError and sqlite3.Error wherever the disk and SQLite do."""

    def __init__(
        self,
        space: str,
        limit_nbytes: int,
        folder: Callable[[], CacheFolder],
        now_ms: Callable[[], int],
        room: Room,
        eviction: Eviction,
        sweep: Sweep,
    ) -> None:
        """``folder`` gives the one that is open; ``sweep`` is told of files with bytes that do not count."""
        self._space = space
        self._space_number = 0
        self._limit_nbytes = limit_nbytes
        self._folder = folder
        self._now_ms = now_ms
        self._room = room
        self._eviction = eviction
        self._sweep = sweep
        self._direct = DirectWriter()

    def begin(self) -> None:
        """The first one to a folder: whose blocks these will be, and how many may be there."""
        self._room.fitted(self._note_start, _LOG_NBYTES, set(), self._eviction)

    def write(self, batch: Sequence[Write], spare: set[str]) -> tuple[list[Done], str]:
        """What of a batch is written and committed, as far as there is room; and why not the rest. None of the files
        ``spare`` goes for it."""
        new = {write.record.name for write in batch if write.wanted.nfiles}
        wanted = Amount(sum(write.wanted.nbytes for write in batch), len(new))
        room = self._room.make(wanted, spare, self._eviction)
        done: list[Done] = []
        refusal = self._room.short_of
        try:
            for write in batch:
                needed = write.wanted
                if needed.nbytes > room.nbytes or needed.nfiles > room.nfiles:
                    continue
                room = Amount(room.nbytes - needed.nbytes, room.nfiles - needed.nfiles)
                job = partial(self._write_one, write)
                try:
                    done.append(self._room.fitted(job, needed.nbytes, spare, self._eviction))
                except OSError as error:
                    if lacks_descriptors(error):
                        refusal = NO_DESCRIPTORS
                        continue
                    if not self._folder().is_full(error):
                        raise
                    refusal = no_room(error)
            if done:
                self._room.fitted(partial(self._commit, done), _LOG_NBYTES, spare, self._eviction)
        except (OSError, sqlite3.Error):
            self._take_back(done)
            raise
        return done, refusal

    def _note_start(self) -> None:
        index = self._folder().writing
        with index.transaction():
            self._space_number = index.space(self._space)
            index.start(self._limit_nbytes)
            index.bring_back(self._now_ms())

    def _write_one(self, write: Write) -> Done:
        record = write.record
        file, fresh = record.file, False
        if file is None or not file.on_disk()[1]:
            record.reset()  # another process has evicted it
            file, fresh = self._folder().files.create(record.name)
            record.file = file
        done = Done(write, checksums_of(write.byte_range, write.pieces), file, fresh)
        try:
            file.write(write.byte_range.start - record.byte_range.start, write.pieces, self._direct)
        except OSError:
            self._take_back([done])
            raise
        return done

    def _commit(self, done: Sequence[Done]) -> None:
        index = self._folder().writing
        with index.transaction():
            index.add(self._space_number, [one.row() for one in done], self._now_ms())

    def _take_back(self, done: Sequence[Done]) -> None:
        """Files that nothing knows of go; what was added to others is counted by a sweep."""
        for one in done:
            record = one.write.record
            if one.fresh:
                self._folder().files.remove(record.name)
                record.reset()
            else:
                self._sweep.add(record.name)
