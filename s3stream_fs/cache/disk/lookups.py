"""Looks into the index and opens data files, for the reader threads. Everything here may wait for the disk.

Owns the connections for it, and that a folder which was opened anew is closed when the last thread has left it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from s3stream_fs.cache.disk.checksums import Checksums
from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.index import BlockIndex
from s3stream_fs.types import ByteRange, ObjectId

_CONNECTIONS: Final = 4
"""To the index, two descriptors each. A look takes 20 us where its pages are in memory, and a seek of the disk where
they are not: four of them are under way at a time then."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a data file: ``checksums`` of its blocks, None where it is not in the index, and the open
    ``file``; ``view``: what was to be read, if all of it is there; ``error``: why the file cannot be had."""

    checksums: Checksums | None
    file: DataFile | None = None
    view: memoryview | None = None
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a thread reads bytes ``inside`` a data file: into ``buffer``, if there is one, with pages enough for them;
    past the page cache if ``direct``; ``once`` if their pages are not needed again."""

    inside: ByteRange
    buffer: memoryview | None
    direct: bool
    once: bool

    def begin(self, file: DataFile) -> None:
        """Have the disk begin. Raises OSError."""
        if not self.direct:
            file.want_pages(self.inside)

    def of(self, file: DataFile) -> memoryview:
        """The bytes, fewer where the file ends before. Raises OSError."""
        if self.direct and self.buffer is not None:
            return file.read_direct(self.inside, self.buffer)
        return file.read(self.inside, self.buffer, once=self.once)


class Lookups:
    """Of one opened folder. Any thread's. Raises sqlite3.Error, and OSError once it is closed."""

    def __init__(self, folder: CacheFolder | None) -> None:
        """None where it could not be opened so far: nothing can be looked up."""
        self._folder = folder
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_CONNECTIONS)
        self._free = [] if folder is None else [folder.index]
        self._users = 0
        self._closed = False

    def find(
        self,
        name: str,
        object_id: ObjectId,
        byte_range: ByteRange,
        span: ByteRange,
        reading: Reading | None,
    ) -> Found:
        """What there is of a data file, for the ``byte_range`` of an object; and read it, if all of ``span``
        is there, so that a read of a file of which nothing is known takes one turn of a thread and not two."""
        with self._using() as folder:
            file, fault = None, None
            try:
                file = folder.files.open(name)
                if reading is not None:
                    reading.begin(file)  # so that the disk is at it while the index is asked
            except OSError as error:
                fault = error.with_traceback(None)  # else it names this frame, and both wait for the collector
            with self._index(folder) as index:
                packed = index.find(name, object_id)
            if packed is None:
                return Found(None)
            if isinstance(fault, FileNotFoundError):  # another process may have made and committed it meanwhile
                try:
                    file, fault = folder.files.open(name), None
                except OSError as error:
                    fault = error.with_traceback(None)
            checksums = Checksums(byte_range.blocks(), packed)
            try:
                if file is not None and reading is not None and checksums.has(span.blocks()):
                    return Found(checksums, file, reading.of(file))
                return Found(checksums, file, None, fault)
            except OSError as error:
                return Found(checksums, None, None, error)

    def open(self, name: str) -> DataFile:
        """A data file. Raises OSError."""
        with self._using() as folder:
            return folder.files.open(name)

    def checksums(self, name: str, object_id: ObjectId, byte_range: ByteRange) -> Checksums:
        """Those of the blocks of a data file that count."""
        with self._using() as folder, self._index(folder) as index:
            return Checksums(byte_range.blocks(), index.find(name, object_id) or b"")

    def count_blocks(self, names: Sequence[str], object_id: ObjectId) -> int:
        """How many blocks of these files count."""
        with self._using() as folder, self._index(folder) as index:
            return sum(len(Checksums.of(packed)) for packed in index.find_all(names, object_id))

    def keys(self, after: bytes, limit: int) -> tuple[bytes, bytes]:
        """See ``BlockIndex.keys``."""
        with self._using() as folder, self._index(folder) as index:
            return index.keys(after, limit)

    def close(self) -> None:
        """Close the folder: now, or when the last thread has left it. May wait for the disk."""
        with self._lock:
            self._closed = True
            last = self._users == 0
        if last:
            self._close()

    @contextmanager
    def _index(self, folder: CacheFolder) -> Iterator[BlockIndex]:
        """A connection that is nobody else's meanwhile."""
        with self._slots:
            try:
                index = self._free.pop()
            except IndexError:
                index = folder.open_index()
            try:
                yield index
            finally:
                self._free.append(index)

    @contextmanager
    def _using(self) -> Iterator[CacheFolder]:
        with self._lock:
            if self._closed or self._folder is None:
                raise OSError("the cache has been opened anew")
            self._users += 1
        try:
            yield self._folder
        finally:
            with self._lock:
                self._users -= 1
                last = self._closed and self._users == 0
            if last:
                self._close()

    def _close(self) -> None:
        while self._free:
            self._free.pop().close()
        if self._folder is not None:
            self._folder.close()
