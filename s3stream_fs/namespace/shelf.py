"""The shelf: pieces of bytes of which only so many are in memory; the others lie in a file until they are asked for.

For names: a directory that nobody looks at takes no memory. The file has no name, so that nobody else can open it and
nothing is left of it when the process ends.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import ref

from xxhash import xxh3_64_intdigest

from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.errors import StoreUnavailable

log = logging.getLogger(__name__)

_UNIT_NBYTES: Final = 4096
"""Room in the file is given out in multiples of this, so that what was given back fits others of about its size."""

_NOWHERE: Final = -1

_RETRY_SECONDS: Final = 10.0
"""After an error of the disk everything stays in memory for so long."""


@dataclass(frozen=True, slots=True)
class ShelfStatistics:
    """Bytes of pieces in memory, and of all that is in the file (some of it also in memory). ``reads`` are from it."""

    nbytes_in_memory: int
    nbytes_on_disk: int
    reads: int
    errors: int


class Shelved:
    """A piece of bytes that may lie on a shelf, once it was put there."""

    __slots__ = ("__weakref__", "_checksum", "_data", "_shelf", "_where", "nbytes", "used")

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._shelf: Shelf | None = None
        self._where = _NOWHERE
        """In the shelf's file, where it has been written once."""
        self._checksum = 0
        self.nbytes = len(data)
        self.used = True

    @property
    def data(self) -> bytes:
        """Raises StoreUnavailable where the disk has lost it."""
        self.used = True
        data = self._data
        if data is None:
            assert self._shelf is not None
            data = self._shelf.fetch(self)
        return data

    def __del__(self) -> None:
        if self._shelf is not None:
            self._shelf.forget(self._data is not None, self._where, self.nbytes)


class Shelf:
    """Keeps pieces within ``limit_nbytes`` of memory, with a file in ``directory`` for the rest.

    Without a directory, and while nothing can be written there, all of them stay in memory, and ``is_full`` says so.
    """

    def __init__(self, directory: Path | None, limit_nbytes: int, allowance: Allowance | None = None) -> None:
        """The file is within ``allowance``, if there is one; beyond that pieces stay in memory."""
        self._directory = directory
        self._allowance = allowance
        self._retry_at = 0.0
        """After an error of the disk."""
        self._limit_nbytes = limit_nbytes
        self._file = _NOWHERE
        self._end = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        """Places in the file that were given back, by their size."""
        self._ring: deque[ref[Shelved]] = deque()
        """Those in memory, in the order in which they are looked at: who was used meanwhile gets another round."""
        self._npieces = 0
        self._nbytes_in_memory = 0
        self._nbytes_on_disk = 0
        self._reads = 0
        self._errors = 0

    @property
    def is_full(self) -> bool:
        """Whether there is more than may be in memory, and no room for it elsewhere."""
        return self._nbytes_in_memory > self._limit_nbytes

    def put(self, piece: Shelved) -> None:
        """Take a piece into account, until nobody refers to it any more."""
        piece._shelf = self
        self._npieces += 1
        self._hold(piece)

    def fetch(self, piece: Shelved) -> bytes:
        """A piece's bytes, back in memory. Raises StoreUnavailable."""
        self._reads += 1
        try:
            data = os.pread(self._file, piece.nbytes, piece._where)
        except OSError as error:
            self._fail(error)
            raise StoreUnavailable("names cannot be read from the disk") from None
        if xxh3_64_intdigest(data) != piece._checksum:
            self._fail(OSError(0, "it is not what was written"))
            raise StoreUnavailable("names on the disk are damaged")
        piece._data = data
        self._hold(piece)
        return data

    def forget(self, in_memory: bool, where: int, nbytes: int) -> None:
        """Nobody refers to a piece any more."""
        self._npieces -= 1
        if in_memory:
            self._nbytes_in_memory -= nbytes
        if where != _NOWHERE:
            self._free[_room(nbytes)].append(where)
            self._nbytes_on_disk -= nbytes

    def close(self) -> None:
        """What is in the file is lost."""
        if self._file != _NOWHERE:
            os.close(self._file)
            self._file = _NOWHERE
            if self._allowance is not None:
                self._allowance.give_back(self._end)

    def statistics(self) -> ShelfStatistics:
        return ShelfStatistics(self._nbytes_in_memory, self._nbytes_on_disk, self._reads, self._errors)

    def _hold(self, piece: Shelved) -> None:
        self._nbytes_in_memory += piece.nbytes
        self._ring.append(ref(piece))
        if len(self._ring) > 2 * self._npieces + 16:
            self._ring = deque(known for known in self._ring if known() is not None)
        if self.is_full and self._directory is not None and time.monotonic() >= self._retry_at:
            self._write_out(piece)

    def _write_out(self, spare: Shelved) -> None:
        for _ in range(2 * len(self._ring)):
            if not self.is_full:
                break
            known = self._ring.popleft()
            piece = known()
            if piece is None:
                continue
            if piece.used or piece is spare:
                piece.used = False
                self._ring.append(known)
                continue
            try:
                written = self._write(piece)
            except OSError as error:
                self._fail(error)
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                written = False
            if not written:
                self._ring.append(known)
                break
            piece._data = None
            self._nbytes_in_memory -= piece.nbytes

    def _write(self, piece: Shelved) -> bool:
        """False where there may be no more in the file."""
        if piece._where != _NOWHERE:
            return True
        if self._file == _NOWHERE:
            assert self._directory is not None
            self._file = os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        room = _room(piece.nbytes)
        free = self._free[room]
        where = free.pop() if free else self._end
        if where == self._end and self._allowance is not None and not self._allowance.take_nowait(room):
            return False
        data = piece.data
        try:
            if os.pwrite(self._file, data, where) != piece.nbytes:
                raise OSError(0, "the disk is full")
        except OSError:
            if where != self._end:
                free.append(where)
            elif self._allowance is not None:
                self._allowance.give_back(room)
            raise
        if where == self._end:
            self._end += room
        piece._where, piece._checksum = where, xxh3_64_intdigest(data)
        self._nbytes_on_disk += piece.nbytes
        return True

    def _fail(self, error: OSError) -> None:
        self._errors += 1
        if self._errors == 1:
            log.error("names cannot be kept on the disk: %s", error.strerror)


def _room(nbytes: int) -> int:
    return -(-nbytes // _UNIT_NBYTES) * _UNIT_NBYTES
