"""An existing cache, to be looked at and changed by hand, also while daemons use it.

What goes here, goes there: a daemon finds out within a second that a file of it was removed, and fetches it again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from s3stream_fs.cache.disk.checksums import Checksums, checksum_of
from s3stream_fs.cache.disk.folder import BLOCKS, INDEX, LOCK_PAUSE_SECONDS, CacheFolder, LockHeldError, patience
from s3stream_fs.cache.disk.policy import PINNED, Clock, Victim, file_range
from s3stream_fs.cache.disk.rows import CachedObject, Row, Selection
from s3stream_fs.errors import UsageError
from s3stream_fs.types import BLOCK_BYTES, ObjectId

_BATCH: Final = 256
"""Files that are removed in one transaction, for which everybody else waits."""

_BATCH_ROWS: Final = 4096
"""Rows that are pinned in one, some 30 ms."""

_PAUSE_SECONDS: Final = 2 * LOCK_PAUSE_SECONDS
"""Between two of them, in which whoever waits for the lock gets it."""

_LOCK_SECONDS: Final = 60.0
"""How long a daemon that keeps the lock is waited for: it may be writing to a slow disk."""

Advance = Callable[[int], object]
"""Told, now and then, how many more bytes on disk have been dealt with."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Sizes in bytes on disk. ``limit_nbytes`` is that of the last mount, 0 where there was none."""

    directory: Path
    nfiles: int
    nbytes: int
    index_nbytes: int
    limit_nbytes: int
    pinned_nfiles: int
    pinned_nbytes: int
    disk_free_nbytes: int
    disk_nbytes: int
    spaces: dict[str, tuple[int, int]]
    """Files and bytes of each store and bucket."""
    pins: tuple[tuple[str, str], ...]
    """Store and bucket, and prefix."""


@dataclass(frozen=True, slots=True)
class Removed:
    nfiles: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """``bad_blocks`` and ``missing_files`` are out of the index: they are fetched again."""

    nfiles: int
    nblocks: int
    nbytes: int
    bad_blocks: int
    missing_files: int


class Catalog:
    """``with`` it. Raises UsageError where there is no cache, or none that can be used."""

    def __init__(self, directory: Path) -> None:
        try:
            there = (directory / BLOCKS / INDEX).is_file()
        except OSError as error:
            raise UsageError(f"cache folder {directory} cannot be used: {error.strerror}") from None
        if not there:
            raise UsageError(f"{directory} holds no cache; name the folder with --cache-dir, or a mount that uses it")
        try:
            self._folder = CacheFolder(directory, may_reset=False)
        except OSError as error:
            raise UsageError(f"cache folder {directory} cannot be used: {error.strerror}") from None
        except sqlite3.Error as error:
            raise UsageError(f"the index in cache folder {directory} cannot be used: {error}") from None
        self._directory = directory
        self._index = self._folder.writing

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._folder.close()
        if isinstance(error, LockHeldError):
            raise UsageError(f"cache folder {self._directory} cannot be used now: {error.strerror}") from None
        if isinstance(error, sqlite3.Error):
            raise UsageError(f"the index in cache folder {self._directory} cannot be used: {error}") from None

    def spaces(self) -> dict[str, int]:
        """All stores and buckets, each with its number."""
        return self._index.spaces()

    def space(self, name: str) -> int:
        """The number of a store and bucket, of which nothing need be cached yet."""
        with self._index.transaction():
            return self._index.space(name)

    def summary(self) -> Summary:
        spaces = self._index.spaces()
        names = {number: name for name, number in spaces.items()}
        nfiles, nbytes = self._index.count(Selection())
        pinned = self._index.count_pinned()
        free, whole = self._folder.files.free()
        return Summary(
            directory=self._directory,
            nfiles=nfiles,
            nbytes=self._index.nbytes(),
            index_nbytes=self._index.nbytes() - nbytes,
            limit_nbytes=self._index.limit_nbytes,
            pinned_nfiles=pinned[0],
            pinned_nbytes=pinned[1],
            disk_free_nbytes=free.nbytes,
            disk_nbytes=whole.nbytes,
            spaces={name: self._index.count(Selection((number,))) for name, number in spaces.items()},
            pins=tuple(
                (names.get(space, "?"), prefix.decode("utf-8", "replace")) for space, prefix in self._index.pins()
            ),
        )

    def objects(self, selection: Selection) -> Iterator[CachedObject]:
        """What is cached, by store, bucket and key."""
        return self._index.objects(selection)

    def count(self, selection: Selection) -> tuple[int, int]:
        """How many files, and their bytes on disk."""
        return self._index.count(selection)

    def remove(self, selection: Selection, advance: Advance) -> Removed:
        """Remove files, pinned ones too."""
        nfiles = nbytes = 0
        for rows in self._batches(selection):
            with self._locked():
                with self._index.transaction():
                    removed = self._index.remove(Victim(row.row, row.name, row.nbytes) for row in rows)
                for victim in removed:
                    self._folder.files.remove(victim.name)
            nfiles += len(removed)
            nbytes += sum(victim.nbytes for victim in removed)
            advance(sum(row.nbytes for row in rows))
        return Removed(nfiles, nbytes)

    def verify(self, selection: Selection, advance: Advance) -> Verified:
        """Read every block and compare it with its checksum."""
        nfiles = nblocks = nbytes = bad_blocks = missing = 0
        for rows in self._batches(selection):
            for row in rows:
                nfiles += 1
                good, bad = self._check(row)
                if good is None:
                    missing += self._forget_missing(row)
                else:
                    nblocks += len(good) + bad
                    nbytes += row.nbytes
                    bad_blocks += bad
                    if bad:
                        self._forget_bad(row, good)
                advance(row.nbytes)
        return Verified(nfiles, nblocks, nbytes, bad_blocks, missing)

    def pin(self, selection: Selection) -> tuple[int, int]:
        """What begins with this prefix, now or later, is not evicted. Returns the files and bytes that are there."""
        with self._locked(), self._index.transaction():
            self._index.add_pin(selection)
        for rows in self._row_batches():
            with self._locked(), self._index.transaction():
                self._index.pin(selection, rows)
        return self._index.count(selection)

    def unpin(self, selection: Selection) -> int:
        """Returns how many pins there were."""
        with self._locked(), self._index.transaction():
            count = self._index.remove_pins(selection)
        for rows in self._row_batches():
            with self._locked(), self._index.transaction():
                self._index.unpin(selection, rows, Clock().now_ms())
        return count

    def _locked(self) -> AbstractContextManager[None]:
        return self._folder.locked(patience(_LOCK_SECONDS))

    def _row_batches(self) -> Iterator[range]:
        rows = self._index.rows_after(0, _BATCH_ROWS)
        while rows:
            yield rows
            time.sleep(_PAUSE_SECONDS)
            rows = self._index.rows_after(rows.stop - 1, _BATCH_ROWS)

    def _batches(self, selection: Selection) -> Iterator[list[Row]]:
        after, last = 0, self._index.last_row()  # or it would never end while a daemon writes
        while rows := self._index.rows(selection, after, last, _BATCH):
            after = rows[-1].row
            yield rows
            time.sleep(_PAUSE_SECONDS)

    def _check(self, row: Row) -> tuple[Checksums | None, int]:
        """The checksums of the blocks that are right, and how many are not; None where there is no file."""
        byte_range = file_range(ObjectId("", "", row.size), row.start)
        checksums = Checksums(byte_range.blocks(), row.checksums)
        try:
            file = self._folder.files.open(row.name)
        except OSError:
            return None, 0
        bad = 0
        for index in list(checksums):
            start = index * BLOCK_BYTES
            nbytes = min(BLOCK_BYTES, byte_range.stop - start)
            try:
                block = os.pread(file.fd, nbytes, start - byte_range.start)
            except OSError:
                block = b""
            if len(block) != nbytes or checksum_of(block) != checksums[index]:
                del checksums[index]
                bad += 1
        return checksums, bad

    def _forget_bad(self, row: Row, good: Checksums) -> None:
        with self._locked(), self._index.transaction():
            self._index.replace(row, good.packed())

    def _forget_missing(self, row: Row) -> int:
        """How many files were missing: none, where it was evicted a moment ago."""
        with self._locked(), self._index.transaction():
            return 0 if self._folder.files.exists(row.name) else self._index.forget([row.name])


def is_pinned(cached: CachedObject) -> bool:
    return cached.used_ms >= PINNED
