"""The data files of the disk tier: sparse, one for each object version or piece of it, blocks where they belong.

Owns names, descriptors and permissions; follows no symlink. Knows nothing of blocks that count and those that do not:
that is the index's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from s3stream_fs.cache.disk.direct import DirectWriter, open_direct
from s3stream_fs.cache.disk.policy import Amount
from s3stream_fs.errors import UsageError
from s3stream_fs.types import ByteRange, ObjectId

_SHARDS: Final = 256
"""Sub-folders, so that a million files are 4,000 to a folder."""

_SECTOR_NBYTES: Final = 512
"""The unit of st_blocks."""

_NAME: Final = re.compile("[0-9a-f]{32}")

_PROBE_NBYTES: Final = 64 * 1024
"""What SQLite asks for at once, at the most."""

_MAX_PIECES: Final = 512
"""Buffers in one pwritev; Linux takes 1,024."""


def lacks_descriptors(error: Exception) -> bool:
    """Whether it says that too many files are open: of this process, or of all."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


class Descriptors:
    """The descriptors of data files: how many there are, and those that nobody uses any more.

    To close a file that was removed frees its blocks, which takes 0.2 to 0.4 s for a GiB and waits for the disk. Who
    lets go of a file, trio's thread among them, therefore only hands its descriptors over (``end``); threads that may
    wait close them.
    """

    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit
        """Up to how many there may be before files do without one that they can do without."""
        self._lock = threading.Lock()
        self._ended: deque[int] = deque()
        self._count = 0

    def __len__(self) -> int:
        """Those in use and those to be closed."""
        return self._count

    def begin(self) -> None:
        """There is another one."""
        with self._lock:
            self._count += 1

    def end(self, fd: int) -> None:
        """Nobody uses it any more. Takes no lock: it is called by ``__del__``, which is to say at any time."""
        self._ended.append(fd)

    def any_to_close(self, least: int) -> bool:
        """Whether there are so many of those that nobody uses any more."""
        return len(self._ended) >= least

    def close_ended(self) -> None:
        """May wait for the disk."""
        while self._ended:
            try:
                fd = self._ended.popleft()
            except IndexError:  # another thread had it
                return
            with contextlib.suppress(OSError):  # of what was written before: it is closed all the same
                os.close(fd)
            with self._lock:
                self._count -= 1

    def direct(self, file: DataFile) -> int | None:
        """A descriptor for reads past the page cache; None where there can be none, or there are enough.

        Opened once for a file, though several threads ask for it. Raises OSError.
        """
        if file.direct_fd is None and self._count < self.limit:
            fd = open_direct(file.fd, os.O_RDONLY)
            if fd is not None:
                with self._lock:
                    if file.direct_fd is None:
                        file.direct_fd, fd = fd, None
                        self._count += 1
            if fd is not None:
                os.close(fd)
        return file.direct_fd


class DataFile:
    """An open data file. Closed when the last one who uses it lets go, so a reader in a thread is never cut off.

    The descriptor stays good when the file is evicted (unlinked): its bytes stay what they were.
    """

    __slots__ = ("_descriptors", "_nbytes", "_verified", "direct_fd", "fd")

    def __init__(self, fd: int, descriptors: Descriptors, nbytes: int = 0) -> None:
        """``fd`` is this object's from now on; the file had ``nbytes`` when it was opened."""
        self.fd = fd
        self.direct_fd: int | None = None
        self._descriptors = descriptors
        self._nbytes = nbytes
        self._verified = bytearray()
        """For each block whether it was seen to be right here."""
        descriptors.begin()

    def __del__(self) -> None:
        self._descriptors.end(self.fd)
        if self.direct_fd is not None:
            self._descriptors.end(self.direct_fd)

    def fileno(self) -> int:
        return self.fd

    def is_verified(self, inside: ByteRange) -> bool:
        """Whether these bytes of the file were seen to be right since it was opened."""
        blocks = inside.blocks()
        return blocks.stop <= len(self._verified) and self._verified.find(0, blocks.start, blocks.stop) < 0

    def set_verified(self, inside: ByteRange, right: bool = True) -> None:
        """Note for whole blocks of the file whether they are right."""
        blocks = inside.blocks()
        if blocks.stop > len(self._verified):
            self._verified.extend(bytes(blocks.stop - len(self._verified)))
        self._verified[blocks.start : blocks.stop] = (b"\1" if right else b"\0") * len(blocks)

    def was_longer_than(self, nbytes: int) -> bool:
        """Whether it had more bytes when it was opened."""
        return self._nbytes > nbytes

    def on_disk(self) -> tuple[int, bool]:
        """The bytes that it takes on disk, and whether it still has its name: an evicted file has none."""
        status = os.fstat(self.fd)
        return status.st_blocks * _SECTOR_NBYTES, status.st_nlink > 0

    def read(self, inside: ByteRange, buffer: memoryview | None = None, *, once: bool = False) -> memoryview:
        """Bytes of the file, fewer where it ends before; in ``buffer``, if one is given, which is large enough.

        ``once``: its pages are not needed again. Raises OSError.
        """
        if buffer is None:
            found = memoryview(os.pread(self.fd, len(inside), inside.start))
        else:
            found = buffer[: os.preadv(self.fd, [buffer[: len(inside)]], inside.start)]
        if once:
            self.let_pages_go()
        return found

    def want_pages(self, inside: ByteRange) -> None:
        """Have the kernel begin to read them from the disk, and do not wait until it has. Raises OSError."""
        os.posix_fadvise(self.fd, inside.start, len(inside), os.POSIX_FADV_WILLNEED)

    def let_pages_go(self) -> None:
        """The kernel's pages of the file are not needed any more, for now. Raises OSError."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def read_direct(self, inside: ByteRange, buffer: memoryview) -> memoryview:
        """As ``read``, past the page cache where that goes: page-aligned, into a ``buffer`` of whole pages."""
        fd = self._descriptors.direct(self)
        if fd is None:
            return self.read(inside, buffer)
        got = os.preadv(fd, [buffer], inside.start)
        return buffer[: min(got, len(inside))]

    def write(self, offset: int, pieces: Sequence[memoryview], direct: DirectWriter) -> None:
        """Write the pieces one after the other at ``offset`` in the file. Raises OSError."""
        written = direct.write(self.fd, offset, pieces)
        offset += written
        left = list(_rest(pieces, written))
        while left:
            written = os.pwritev(self.fd, left[:_MAX_PIECES], offset)
            offset += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]


def _rest(pieces: Sequence[memoryview], written: int) -> Iterator[memoryview]:
    """The pieces without their first ``written`` bytes."""
    for piece in pieces:
        if written < len(piece):
            yield piece[written:]
        written = max(written - len(piece), 0)


def file_name(space: str, object_id: ObjectId, byte_range: ByteRange) -> str:
    """The name of the file for this range of an object: a hash, for keys are longer than names and hold anything."""
    identity = f"{space}\0{object_id.key}\0{object_id.etag}\0{object_id.size}\0{byte_range.start}"
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class DataFiles:
    """The folder with the data files. Raises OSError wherever the disk does."""

    def __init__(self, folder: Path, descriptors: Descriptors) -> None:
        self.descriptors = descriptors
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for shard in self.shards:
                make_private_folder(folder / shard)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    def open(self, name: str) -> DataFile:
        """An existing file. Raises OSError."""
        return self._opened(name, 0)

    def create(self, name: str) -> tuple[DataFile, bool]:
        """A file that may exist, and whether it is new. Raises OSError."""
        try:
            return self._opened(name, os.O_CREAT | os.O_EXCL), True
        except FileExistsError:
            return self._opened(name, os.O_CREAT), False

    def _opened(self, name: str, flags: int) -> DataFile:
        flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in its place would wait for a writer
        # Without O_NOATIME a read from the page cache may note its time on the disk, and wait for it.
        fd = os.open(_path(name), flags | os.O_NOATIME, 0o600, dir_fd=self._fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, f"{name} is not a regular file")
        except BaseException:
            os.close(fd)
            raise
        return DataFile(fd, self.descriptors, status.st_size)

    def exists(self, name: str) -> bool:
        return os.access(_path(name), os.F_OK, dir_fd=self._fd, follow_symlinks=False)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another daemon that shares the folder was first
            os.unlink(_path(name), dir_fd=self._fd)

    def free(self) -> tuple[Amount, Amount]:
        """What is free for this user, and what the whole file system has: no files where it does not count them."""
        status = os.fstatvfs(self._fd)
        return (
            Amount(status.f_bavail * status.f_frsize, status.f_favail),
            Amount(status.f_blocks * status.f_frsize, status.f_files),
        )

    def probe(self) -> None:
        """Raises the OSError with which the disk would answer a small new file."""
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            os.pwrite(fd, bytes(_PROBE_NBYTES), 0)
        finally:
            os.close(fd)

    def names(self, shard: str) -> list[tuple[str, int]]:
        """The data files of one shard, each with the bytes that it takes on disk."""
        fd = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        found = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if _NAME.fullmatch(entry.name) and entry.name.startswith(shard):
                        with contextlib.suppress(FileNotFoundError):
                            found.append((entry.name, entry.stat(follow_symlinks=False).st_blocks * _SECTOR_NBYTES))
        finally:
            os.close(fd)
        return found

    @property
    def shards(self) -> list[str]:
        return [f"{shard:02x}" for shard in range(_SHARDS)]


def make_private_folder(folder: Path) -> None:
    """Make sure that ``folder`` is a real folder of ours that nobody else may enter. Raises UsageError or OSError."""
    try:
        folder.mkdir(0o700)
        return
    except FileExistsError:
        pass
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"cache folder: {folder} is not a folder (perhaps a symlink); remove it or use --cache-dir")
    if status.st_uid != os.geteuid():
        raise UsageError(f"cache folder: {folder} belongs to another user; use another --cache-dir")
    if status.st_mode & 0o077:
        raise UsageError(f"cache folder: others may enter {folder}; run chmod 700 on it or use another --cache-dir")


def _path(name: str) -> str:
    return f"{name[:2]}/{name}"
