"""Replies: what the file system says, laid out for the kernel. Pure."""

from __future__ import annotations

from struct import Struct
from typing import Final

from s3stream_fs.bindings.native.protocol import (
    ATTR,
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    EXPIRE_ONLY,
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE_OUT,
    OUT_HEADER,
    STATFS_OUT,
    STATX,
    STATX_OUT,
    Notify,
    padded,
)
from s3stream_fs.filesystem.attributes import CAPACITY, PREFERRED_IO_NBYTES, Attributes
from s3stream_fs.filesystem.filesystem import FOREVER_SECONDS, Found
from s3stream_fs.types import NANOSECONDS

_FOREVER: Final = int(FOREVER_SECONDS)
_NO_ATTRIBUTES: Final = bytes(ATTR.size)
_NOTHING: Final = bytes(ENTRY_OUT.size + ATTR.size)
_DIRENTPLUS: Final = Struct(ENTRY_OUT.format + ATTR.format[1:] + DIRENT.format[1:])

_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800


def _attr(attributes: Attributes) -> tuple[int, ...]:
    """The fields of a fuse_attr."""
    inode, mode, size, mtime_ns, uid, gid = attributes
    seconds, nanoseconds = divmod(mtime_ns, NANOSECONDS)
    return (
        inode,
        size,
        (size + 511) // 512,
        seconds,
        seconds,
        seconds,
        nanoseconds,
        nanoseconds,
        nanoseconds,
        mode,
        1,  # for directories too: it says that the number of sub-directories is not known
        uid,
        gid,
        0,
        PREFERRED_IO_NBYTES,
        0,
    )


def validity(valid_seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds for which a kernel may keep a name."""
    seconds = int(valid_seconds)
    return seconds, int((valid_seconds - seconds) * NANOSECONDS)


def entry(found: Found) -> bytes:
    """A fuse_entry_out. Inode 0 with a time to live: the kernel remembers that the name is absent."""
    attributes = found.attributes
    seconds, nanoseconds = validity(found.valid_seconds)
    if attributes is None:
        return ENTRY_OUT.pack(0, 0, seconds, 0, nanoseconds, 0) + _NO_ATTRIBUTES
    # A name may come to mean something else; the attributes of what it means now belong to the inode, for ever.
    return ENTRY_OUT.pack(attributes.inode, 0, seconds, _FOREVER, nanoseconds, 0) + ATTR.pack(*_attr(attributes))


def attributes(found: Attributes) -> bytes:
    """A fuse_attr_out."""
    return ATTR_OUT.pack(_FOREVER, 0) + ATTR.pack(*_attr(found))


def statx(found: Attributes) -> bytes:
    """A fuse_statx_out. An object has one time, at which it was made and changed."""
    time = (*divmod(found.mtime_ns, NANOSECONDS), 0)
    return STATX_OUT.pack(_FOREVER, 0) + STATX.pack(
        _STATX_BASIC_STATS | _STATX_BTIME,
        PREFERRED_IO_NBYTES,
        0,
        1,
        found.uid,
        found.gid,
        found.mode,
        0,
        found.inode,
        found.size,
        found.nblocks,
        0,
        *time,
        *time,
        *time,
        *time,
        *[0] * 4,
    )


def statfs() -> bytes:
    """A fuse_statfs_out."""
    return STATFS_OUT.pack(
        CAPACITY.nblocks,
        CAPACITY.nblocks,
        CAPACITY.nblocks,
        CAPACITY.nfiles,
        CAPACITY.nfiles,
        CAPACITY.block_nbytes,
        CAPACITY.name_max,
        CAPACITY.block_nbytes,
    )


def forget_entry(parent: int, name: bytes) -> bytes:
    """A whole message, which answers no request: what was said of this name is not true any more."""
    body = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), EXPIRE_ONLY) + name + b"\0"
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), Notify.INVAL_ENTRY, 0) + body


def forget_pages(number: int) -> bytes:
    """A whole message, which answers no request: pages that are kept of this inode are not right any more."""
    body = NOTIFY_INVAL_INODE_OUT.pack(number, 0, 0)
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), Notify.INVAL_INODE, 0) + body


def dirent_nbytes(name: bytes, plus: bool) -> int:
    """The size of a fuse_dirent or fuse_direntplus with its name and padding."""
    return padded(DIRENT.size + len(name) + (ENTRY_OUT.size + ATTR.size if plus else 0))


def dirent(number: int, mode: int, name: bytes, next_offset: int, plus: bool) -> bytes:
    """A fuse_dirent, or a fuse_direntplus that says no more: the kernel takes the name alone, and counts no lookup.

    ``next_offset`` is where a reader goes on behind it.
    """
    record = DIRENT.pack(number, next_offset, len(name), mode >> 12) + name
    record = _NOTHING + record if plus else record
    return record + bytes(-len(record) % 8)


def direntplus(attributes: Attributes, valid: tuple[int, int], name: bytes, next_offset: int) -> bytes:
    """A fuse_direntplus, by which the kernel also looks the name up."""
    inode, mode = attributes[:2]
    seconds, nanoseconds = valid
    nbytes = len(name)
    return (
        _DIRENTPLUS.pack(
            *(inode, 0, seconds, _FOREVER, nanoseconds, 0),
            *_attr(attributes),
            *(inode, next_offset, nbytes, mode >> 12),
        )
        + name
        + bytes(-nbytes % 8)  # its front is a multiple of 8
    )
