"""A scratch file: bytes that are put aside on a disk, in a file without a name.

So nobody else can open it, and nothing is left of it when the process ends. Owns who has which place in it. Trio's
thread gives places out, and reads what the kernel has in its pages; whatever touches the disk is for other threads.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_intdigest

from s3stream_fs.cache.disk.allowance import Allowance

_UNIT_NBYTES: Final = 4096
"""Places are multiples of this, so that what was given back fits others of about its size."""


class Scratch:
    """Within ``allowance``, if there is one. It has no file before something is written."""

    def __init__(self, directory: Path, allowance: Allowance | None = None) -> None:
        self._directory = directory
        self._allowance = allowance
        self._end = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        """Places that were given back, by their size."""
        self._using = threading.Lock()
        """Of what follows. Held for no longer than it takes to open the file."""
        self._file: int | None = None
        self._users = 0
        """Threads that read or write. The last one closes a file that nobody shall use any more."""
        self._closed = False

    def take_nowait(self, nbytes: int) -> int | None:
        """A place for so many bytes; None where there may be no more. It is asked for then, and may be there later."""
        room = _room(nbytes)
        free = self._free[room]
        if free:
            return free.pop()
        if self._allowance is not None and not self._allowance.take_nowait(room):
            return None
        where = self._end
        self._end += room
        return where

    def give_back_nowait(self, where: int, nbytes: int) -> None:
        """A place that nobody reads, and to which nobody is writing."""
        self._free[_room(nbytes)].append(where)

    def read_nowait(self, where: int, nbytes: int, checksum: int) -> bytes | None:
        """What was written there, if the kernel has its pages; this reads no disk. None where a thread has to see."""
        if self._closed or self._file is None:
            return None
        buffer = bytearray(nbytes)
        try:
            found = os.preadv(self._file, [buffer], where, os.RWF_NOWAIT)
        except OSError:
            return None
        return bytes(buffer) if found == nbytes and xxh3_64_intdigest(buffer) == checksum else None

    # What follows runs in other threads.

    def write(self, pieces: Sequence[tuple[int, bytes]]) -> list[int]:
        """Write what belongs to some places. Gives their checksums. Raises OSError."""
        with self._opened() as file:
            for where, data in pieces:
                if os.pwrite(file, data, where) != len(data):
                    raise OSError(errno.ENOSPC, "the disk is full")
        return [xxh3_64_intdigest(data) for _, data in pieces]

    def read(self, where: int, nbytes: int, checksum: int) -> bytes:
        """What was written there. Raises OSError, also where it is something else."""
        with self._opened() as file:
            data = os.pread(file, nbytes, where)
        if xxh3_64_intdigest(data) != checksum:
            raise OSError(errno.EIO, "it is not what was written")
        return data

    def close(self) -> None:
        """Its bytes are lost. Takes as long as the disk does to free them, or as whoever is using it."""
        with self._using:
            self._closed = True
        self._close_unused()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with self._using:
            if self._closed:
                raise OSError(errno.EBADF, "the file is closed")
            if self._file is None:
                # A read that noted its time would wait for the disk's journal.
                flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | os.O_NOATIME
                self._file = os.open(self._directory, flags, 0o600)
            self._users += 1
            file = self._file
        try:
            yield file
        finally:
            with self._using:
                self._users -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        with self._using:
            if not self._closed or self._users > 0:
                return
            file, self._file = self._file, None
            unused, self._end = self._end, 0
        if file is not None:
            os.close(file)
        if self._allowance is not None:
            self._allowance.give_back(unused)


def _room(nbytes: int) -> int:
    return -(-nbytes // _UNIT_NBYTES) * _UNIT_NBYTES
