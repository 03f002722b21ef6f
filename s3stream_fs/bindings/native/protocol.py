"""The kernel's FUSE protocol: operations, flags and structures, each declared once and named as in <linux/fuse.h>.

Knows layouts only. Numbers are in the machine's byte order, and every structure is padded to 8 bytes, as there. What
this mount never looks at is skipped as padding (``x``), so that a layout can be read beside the header, field by field.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45
"""The newest protocol that was read for this module; with an older kernel its own minor version holds."""

LEAST_MINOR: Final = 31
"""Linux 5.4, the oldest that this was written for: all structures have had their present size since 7.23."""

ROOT_ID: Final = 1


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


UNANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
"""Operations to which no reply may be sent."""


class Init(IntFlag):
    """Flags of INIT, both ways: what the kernel offers, and what of it this side takes."""

    ASYNC_READ = 1 << 0
    EXPORT_SUPPORT = 1 << 4
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    INIT_EXT = 1 << 30
    """There is a second word of flags."""
    PASSTHROUGH = 1 << 37


class Open(IntFlag):
    """``open_flags`` in the reply to OPEN and OPENDIR."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


class Notify(IntEnum):
    """What this side tells the kernel unasked; stands where a reply has its error."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4


EXPIRE_ONLY: Final = 1
"""A flag of INVAL_ENTRY since 7.38: the kernel asks for the name again, and leaves what is open or mounted below."""


IN_HEADER: Final = Struct("=IIQQ8xIH2x")
"""fuse_in_header: len, opcode, unique, nodeid, (uid, gid), pid of the thread, total_extlen in units of 8 bytes,
(padding)."""

OUT_HEADER: Final = Struct("=IiQ")
"""fuse_out_header: len, error (negative), unique."""

INIT_IN: Final = Struct("=IIII")
"""fuse_init_in as of 7.31: major, minor, max_readahead, flags."""
INIT_IN_EXT: Final = Struct("=IIIII44x")
"""fuse_init_in as of 7.36: ..., flags2, (unused[11])."""
INIT_OUT: Final = Struct("=IIIIHHIIHHII24x")
"""fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
max_pages, map_alignment, flags2, max_stack_depth, (unused[6])."""

ATTR: Final = Struct("=QQQQQQIIIIIIIIII")
"""fuse_attr: ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev,
blksize, flags."""
ENTRY_OUT: Final = Struct("=QQQQII")
"""The front of fuse_entry_out: nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec; then a
fuse_attr."""
ATTR_OUT: Final = Struct("=QI4x")
"""The front of fuse_attr_out: attr_valid, attr_valid_nsec, (dummy); then a fuse_attr."""

FORGET_IN: Final = Struct("=Q")
"""fuse_forget_in: nlookup."""
BATCH_FORGET_IN: Final = Struct("=I4x")
"""fuse_batch_forget_in: count, (dummy); then so many fuse_forget_one."""
FORGET_ONE: Final = Struct("=QQ")
"""fuse_forget_one: nodeid, nlookup."""

OPEN_IN: Final = Struct("=I4x")
"""fuse_open_in: flags, (open_flags)."""
OPEN_OUT: Final = Struct("=QIi")
"""fuse_open_out: fh, open_flags, backing_id."""
RELEASE_IN: Final = Struct("=Q16x")
"""fuse_release_in: fh, (flags, release_flags, lock_owner)."""
READ_IN: Final = Struct("=QQI20x")
"""fuse_read_in, for READ, READDIR and READDIRPLUS: fh, offset, size, (read_flags, lock_owner, flags, padding)."""
DIRENT: Final = Struct("=QQII")
"""The front of fuse_dirent: ino, off, namelen, type; then the name, padded to 8 bytes."""

GETXATTR_IN: Final = Struct("=I4x")
"""fuse_getxattr_in: size, (padding); for GETXATTR then the name."""
GETXATTR_OUT: Final = Struct("=I4x")
"""fuse_getxattr_out: size, (padding). The reply where the caller gave no room and asks how much it takes."""

STATFS_OUT: Final = Struct("=QQQQQIII4x24x")
"""fuse_statfs_out: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, (padding, spare[6])."""

STATX_OUT: Final = Struct("=QI20x")
"""The front of fuse_statx_out: attr_valid, attr_valid_nsec, (flags, spare[2]); then a fuse_statx."""
STATX: Final = Struct("=IIQIIIHHQQQQqIiqIiqIiqIiIIII112x")
"""fuse_statx: mask, blksize, attributes, nlink, uid, gid, mode, spare0, ino, size, blocks, attributes_mask; atime,
btime, ctime and mtime, each as seconds, nanoseconds, reserved; rdev_major, rdev_minor, dev_major, dev_minor,
(spare2[14])."""

INTERRUPT_IN: Final = Struct("=Q")
"""fuse_interrupt_in: unique."""

NOTIFY_INVAL_INODE_OUT: Final = Struct("=Qqq")
"""fuse_notify_inval_inode_out: ino, off, len."""
NOTIFY_INVAL_ENTRY_OUT: Final = Struct("=QII")
"""fuse_notify_inval_entry_out: parent, namelen, flags; then the name and a NUL."""


Body = bytes | memoryview
"""What a reply carries behind its header."""


def padded(nbytes: int) -> int:
    """The next multiple of 8, to which the kernel aligns records (FUSE_REC_ALIGN)."""
    return -(-nbytes // 8) * 8
