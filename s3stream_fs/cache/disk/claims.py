"""Who of several processes that share a cache folder fetches what: each says so, and the others wait for its bytes.

Kept in locks of byte ranges of a file without bytes: they cost a microsecond, and are gone with whoever held them,
however that ended. Two ranges that mean different blocks and collide cost a wait, and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import Enum, auto
from typing import Final

from s3stream_fs.types import ByteRange

_BLOCKS: Final = 1 << 16
"""Bytes of the lock file for each data file: one for each block of a GiB, which is as large as they become."""

_FILES: Final = 1 << 46

_PRESENT: Final = _BLOCKS * _FILES
"""The byte that everybody holds who would wait for others."""

_FLOCK: Final = "@hhqqi0q"
"""struct flock: type, whence, start, length, process."""


class Claim(Enum):
    """Who fetches what no tier has."""

    MINE = auto()
    THEIRS = auto()
    """Another process that shares the folder is at it."""
    ON_DISK = auto()
    """Nobody: another process has brought it just now."""


class Claims:
    """Any thread's. Raises OSError where the file system has no such locks."""

    def __init__(self, fd: int) -> None:
        """``fd`` is open for reading and writing, and this object's from now on."""
        self._fd = fd
        self._held: set[tuple[int, int]] = set()
        self.others = False
        """Whether anybody else was there the last time that ``look`` looked."""

    @property
    def any_held(self) -> bool:
        return bool(self._held)

    def close(self) -> None:
        os.close(self._fd)

    def join(self) -> None:
        """Let the others know that somebody is here."""
        self._lock(fcntl.F_RDLCK, _PRESENT, 1)
        self.look()

    def look(self) -> None:
        """See whether anybody else has joined."""
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _PRESENT, 1, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        self.others = found[0] != fcntl.F_UNLCK

    def claim(self, name: str, inside: ByteRange) -> bool:
        """Whether this process may fetch these bytes of a data file: nobody else does."""
        span = _span(name, inside)
        try:
            self._lock(fcntl.F_WRLCK, *span)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        self._held.add(span)
        return True

    def release(self, name: str, inside: ByteRange) -> None:
        """These bytes are where the others find them, or will not come. Without effect where nothing was claimed."""
        if not self._held:
            return
        span = _span(name, inside)
        if span in self._held:
            self._held.discard(span)
            self._lock(fcntl.F_UNLCK, *span)

    def split(self, name: str, inside: ByteRange, at: int) -> None:
        """What was claimed at once may be released in two: up to ``at``, and from there on. Bytes of a data file."""
        span = _span(name, inside)
        if span in self._held and inside.start < at < inside.stop:
            self._held.add(_span(name, ByteRange(inside.start, at)))
            self._held.add(_span(name, ByteRange(at, inside.stop)))
            self._held.discard(span)

    def _lock(self, kind: int, start: int, length: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def _span(name: str, inside: ByteRange) -> tuple[int, int]:
    blocks = inside.blocks()
    return int(name, 16) % _FILES * _BLOCKS + blocks.start, len(blocks)
