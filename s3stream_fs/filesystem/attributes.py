"""What stat shows, worked out from an inode. Pure."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final, NamedTuple

from s3stream_fs.namespace.keys import NAME_MAX
from s3stream_fs.types import shown_mtime

_ALL_READ = 0o444
_ALL_READ_AND_SEARCH = 0o555


PREFERRED_IO_NBYTES: Final = 32 * 1024
"""st_blksize: what Python's open() reads at once for whoever wants a byte, of which it gives the rest away with each
seek. With 128 KiB a library that read columns of Parquet files that way asked for ten times what it used. cp and cat
read 128 KiB and more whatever stands here."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What statfs shows: 1 PiB, all of it free. A bucket has no size, and no tool shall believe that it is full."""

    block_nbytes: int = 4096
    nblocks: int = 1 << 38
    nfiles: int = 1 << 40
    name_max: int = NAME_MAX


CAPACITY: Final = Capacity()


@dataclass(frozen=True, slots=True)
class AttributeConfig:
    """Owner and permission bits that all files and directories show.

    ``file_mode`` and ``dir_mode`` are permission bits; write bits in them are dropped, since nothing can be written.
    """

    uid: int
    gid: int
    file_mode: int = _ALL_READ
    dir_mode: int = _ALL_READ_AND_SEARCH


class Attributes(NamedTuple):
    """One stat result in this package's own type. ``mode`` holds file type and permission bits, times are in ns."""

    inode: int
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int

    @property
    def nblocks(self) -> int:
        """512-byte units, as ``st_blocks`` counts them."""
        return -(-self.size // 512)


def file_attributes(number: int, size: int, mtime_ns: int, archived: bool, config: AttributeConfig) -> Attributes:
    """A file: read-only, its real size, mode 000 while it lies in an archive."""
    permissions = 0 if archived else config.file_mode & _ALL_READ_AND_SEARCH
    # Also what was kept from before is no reason to fail: a kernel's times have no room for all.
    return Attributes(number, stat.S_IFREG | permissions, size, shown_mtime(mtime_ns), config.uid, config.gid)


def directory_attributes(number: int, mtime_ns: int, config: AttributeConfig) -> Attributes:
    """A directory: S3 keeps no times for it, so it shows when it was mounted."""
    return Attributes(
        number, stat.S_IFDIR | config.dir_mode & _ALL_READ_AND_SEARCH, 0, mtime_ns, config.uid, config.gid
    )
