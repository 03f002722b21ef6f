"""The binding over pyfuse3 (libfuse). Translates requests and replies; decides nothing.

In pyfuse3 any exception other than FUSEError ends the mount, so every handler passes through ``_answered``.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
import trio

from s3stream_fs.bindings import SUBTYPE, Session
from s3stream_fs.bindings.device import MountOptions, escaped
from s3stream_fs.errors import S3StreamError, UsageError, errno_of
from s3stream_fs.filesystem.attributes import CAPACITY, PREFERRED_IO_NBYTES
from s3stream_fs.filesystem.filesystem import FileSystem, Found
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.shelf import Elsewhere, having

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_MAX_TASKS: Final = 512
"""Requests handled at once. A kernel sends at most max_background (12 by default) reads ahead, but one more for every
process that waits; above this they queue in the kernel."""


def _answered(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """Turn what a handler raises into an errno; a bug is logged and becomes EIO."""

    async def wrapper(self: Operations, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except S3StreamError as error:
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except trio.Cancelled:
            # The end. It may hold a directory's lock, for which the thread waits that tells the kernel of a name, and
            # no process ends before all its threads do. Whoever called this is cancelled all the same.
            raise pyfuse3.FUSEError(errno.ENOTCONN) from None
        except Exception:
            log.exception("bug: %s%r", handler.__name__, args)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return functools.wraps(handler)(wrapper)  # type: ignore[return-value]


class Operations(pyfuse3.Operations):
    """pyfuse3's requests, answered by a FileSystem.

    A file handle is the inode number, so that a read needs no table. A directory handle is a key of ``_listings``.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: FileSystem) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._listings: dict[int, tuple[int, Listing]] = {}
        self._next_handle = 1
        self._open_counts: dict[int, int] = {}

    @_answered
    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return _entry(await self._filesystem.lookup(parent, name))

    @_answered
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, nlookup in inode_list:
            self._filesystem.forget(number, nlookup)

    @_answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return _entry(await having(partial(self._filesystem.getattr, inode)))

    @_answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        await having(partial(self._filesystem.open, inode))
        self._open_counts[inode] = self._open_counts.get(inode, 0) + 1
        # The content of an inode never changes, so the kernel may keep its pages from one open to the next.
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    @_answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes any contiguous buffer, though its signature says bytes.
        return await self._filesystem.read(fh, off, size)  # type: ignore[return-value]

    @_answered
    async def flush(self, fh: int) -> None:
        # Answered once, and the kernel never asks again: one message less per close.
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @_answered
    async def release(self, fh: int) -> None:
        self._open_counts[fh] -= 1
        if self._open_counts[fh] == 0:
            del self._open_counts[fh]
            self._filesystem.release(fh)

    @_answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        listing = await having(partial(self._filesystem.open_directory, inode))
        handle = self._next_handle
        self._next_handle += 1
        self._listings[handle] = (inode, listing)
        return pyfuse3.FileHandleT(handle)

    @_answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        inode, listing = self._listings[fh]
        position = start_id
        here = _entry(await having(partial(self._filesystem.getattr, inode)))
        for dot in (b".", b"..")[start_id:]:
            position += 1
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(dot), here, position):
                return
        listing = await self._filesystem.wait_listed(inode, listing, position - 2)
        self._listings[fh] = (inode, listing)
        valid_seconds = self._filesystem.seconds_valid(listing.fresh_until)
        listing.check(position - 2)
        # What is known goes out now; the kernel comes back for the rest.
        with suppress(Elsewhere):  # behind the first one, which is in memory
            for row in listing.rows_nowait(position - 2):
                attributes = await having(partial(self._filesystem.show, row))
                certain = self._filesystem.is_certain(listing, row)
                shown = _entry(Found(attributes, valid_seconds if certain else 0.0))
                position += 1
                if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(row.name), shown, position):
                    self._filesystem.forget(attributes.inode, 1)  # there was no room left to tell of it
                    return

    @_answered
    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    @_answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = CAPACITY.block_nbytes
        data.f_blocks = data.f_bfree = data.f_bavail = CAPACITY.nblocks
        data.f_files = data.f_ffree = data.f_favail = CAPACITY.nfiles
        data.f_namemax = CAPACITY.name_max
        return data

    @_answered
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        value = await self._filesystem.xattr(inode, name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    @_answered
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        names = await having(partial(self._filesystem.xattr_names, inode))
        return [pyfuse3.XAttrNameT(name) for name in names]

    async def _refuse(self, *args: Any) -> Any:
        """Every operation that would change anything. The mount is also read-only for the kernel, which asks rarely."""
        raise pyfuse3.FUSEError(errno.EROFS)

    create = link = mkdir = mknod = removexattr = rename = rmdir = _refuse  # type: ignore[assignment]
    setattr = setxattr = symlink = unlink = write = _refuse  # type: ignore[assignment]


def _entry(found: Found) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.entry_timeout = entry.attr_timeout = found.valid_seconds
    attributes = found.attributes
    if attributes is None:
        # Inode 0 with a timeout: the kernel remembers that the name is absent.
        entry.st_ino = pyfuse3.InodeT(0)
        return entry
    entry.st_ino = pyfuse3.InodeT(attributes.inode)
    entry.st_mode = pyfuse3.ModeT(attributes.mode)
    entry.st_nlink = 1  # for directories too: it says that the number of sub-directories is not known
    entry.st_size = attributes.size
    entry.st_blocks = attributes.nblocks
    entry.st_blksize = PREFERRED_IO_NBYTES
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.mtime_ns
    return entry


@dataclass(frozen=True, slots=True)
class Pyfuse3Statistics:
    """pyfuse3 counts nothing itself."""

    binding: str = "pyfuse3"
    open_mode: str = "daemon: pyfuse3 knows no other"


class _Pyfuse3Session:
    """See Session. pyfuse3 knows one mount per process."""

    def __init__(self, filesystem: FileSystem, mountpoint: Path) -> None:
        self._filesystem = filesystem
        self._mountpoint = mountpoint

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notify)
            await pyfuse3.main(min_tasks=8, max_tasks=_MAX_TASKS)
            nursery.cancel_scope.cancel()

    async def _notify(self) -> None:
        """Tell the kernel of names that stand for something else."""
        while True:
            parent, name = await self._filesystem.next_change()
            if not name:
                continue  # libfuse asks for a directory's entries each time it is opened
            # pyfuse3 does it on a thread, which may have to wait for somebody who waits for a reply of ours.
            pyfuse3.invalidate_entry_async(
                pyfuse3.InodeT(parent), pyfuse3.FileNameT(name), deleted=pyfuse3.InodeT(0), ignore_enoent=True
            )

    async def wait_ready(self) -> None:
        # Answered after INIT, of which libfuse does not tell.
        await trio.to_thread.run_sync(os.statvfs, self._mountpoint, abandon_on_cancel=True)

    def statistics(self) -> Pyfuse3Statistics:
        return Pyfuse3Statistics()


@asynccontextmanager
async def mounted(filesystem: FileSystem, mountpoint: Path, options: MountOptions) -> AsyncIterator[Session]:
    """Mount for the time of the context. Raises UsageError where the kernel or fusermount3 refuses."""
    words = {f"fsname={escaped(options.source)}", f"subtype={SUBTYPE}", "ro", "default_permissions"}
    if options.allow_other:
        words.add("allow_other")
    try:
        pyfuse3.init(Operations(filesystem), str(mountpoint), words)
    except RuntimeError as error:
        raise UsageError(
            f"cannot mount on {mountpoint}: FUSE refused ({error}); see the lines above or dmesg"
        ) from None
    try:
        yield _Pyfuse3Session(filesystem, mountpoint)
    finally:
        # Detaches even a busy mount; whoever has files open on it gets ENOTCONN from then on.
        pyfuse3.close(unmount=True)
