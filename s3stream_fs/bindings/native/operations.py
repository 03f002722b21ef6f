"""The kernel's operations, answered by a FileSystem: decode, one call, encode. Decides nothing.

A handler gets the node id and the body of a request, and gives the body of the reply; a coroutine that will give it; or
None where the kernel expects no reply. It raises S3StreamError, or OSError for what only the kernel could mean; and
Elsewhere, before it has changed anything.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from s3stream_fs.bindings.native import replies
from s3stream_fs.bindings.native.backing import BackingFiles
from s3stream_fs.bindings.native.directories import Directories
from s3stream_fs.bindings.native.negotiation import Agreement
from s3stream_fs.bindings.native.opening import Opening, Way
from s3stream_fs.bindings.native.protocol import (
    BATCH_FORGET_IN,
    FORGET_IN,
    FORGET_ONE,
    GETXATTR_IN,
    GETXATTR_OUT,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    Body,
    Init,
    Opcode,
    Open,
)
from s3stream_fs.filesystem.attributes import Attributes
from s3stream_fs.filesystem.filesystem import FileSystem
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.shelf import Elsewhere, having

log = logging.getLogger(__name__)

Later = Coroutine[Any, Any, Body]
Reply = Body | Later | None
Handler = Callable[[int, memoryview], Reply]


REFUSED: Final = {
    # Not "not implemented": the kernel would go on asking. Python's open() asks each file whether it is a terminal.
    Opcode.IOCTL: errno.ENOTTY,
    Opcode.READLINK: errno.EINVAL,
    # The mount is read-only for the kernel too, which hardly ever asks for these.
    **dict.fromkeys(
        (
            Opcode.SETATTR,
            Opcode.SYMLINK,
            Opcode.MKNOD,
            Opcode.MKDIR,
            Opcode.UNLINK,
            Opcode.RMDIR,
            Opcode.RENAME,
            Opcode.RENAME2,
            Opcode.LINK,
            Opcode.WRITE,
            Opcode.SETXATTR,
            Opcode.REMOVEXATTR,
            Opcode.CREATE,
            Opcode.FALLOCATE,
            Opcode.COPY_FILE_RANGE,
            Opcode.TMPFILE,
        ),
        errno.EROFS,
    ),
}
"""Operations that get the same error whatever they are about."""


class Operations:
    """``handlers`` by opcode; what is neither there nor refused is answered ENOSYS: the kernel shall use its own."""

    def __init__(self, filesystem: FileSystem, opening: Opening, backing: BackingFiles, *, frozen: bool) -> None:
        """``frozen``: names are valid for ever, so that the kernel need not ask when it opens a directory either."""
        self._filesystem = filesystem
        self._directories = Directories(filesystem)
        self._opening = opening
        self._backing = backing
        self._frozen = frozen
        self._directories_unasked = False
        self.handlers: Final[dict[int, Handler]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.STATX: self._statx,
            Opcode.OPEN: self._open,
            Opcode.RELEASE: self._release,
            Opcode.READ: self._read,
            Opcode.OPENDIR: self._opendir,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.STATFS: self._statfs,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.DESTROY: lambda _number, _body: b"",
        }

    def agreed(self, agreement: Agreement) -> None:
        """INIT is over. Raises UsageError where it allows less than was asked for."""
        self._opening.agreed(
            unasked=Init.NO_OPEN_SUPPORT in agreement.offered, passthrough=Init.PASSTHROUGH in agreement.taken
        )
        self._directories_unasked = self._frozen and Init.NO_OPENDIR_SUPPORT in agreement.offered

    async def answer_later(self, handler: Handler, number: int, body: bytes) -> Body:
        """What a handler gives that needs names which are not in memory."""
        reply = await having(partial(handler, number, memoryview(body)))
        if isinstance(reply, Coroutine):
            return await reply
        return b"" if reply is None else reply

    async def next_notification(self) -> bytes:
        """Wait for something that the kernel has to be told unasked: a whole message."""
        number, name = await self._filesystem.next_change()
        return replies.forget_entry(number, name) if name else replies.forget_pages(number)

    def explanation(self) -> str:
        """What becomes of opens at present, and why."""
        return self._opening.explanation()

    def passed_through(self) -> int:
        """Files that the kernel reads itself at present."""
        return len(self._backing)

    def _lookup(self, number: int, body: memoryview) -> Reply:
        name = _name(body)
        found = self._filesystem.lookup_nowait(number, name)
        return self._ask(number, name) if found is None else replies.entry(found)

    async def _ask(self, number: int, name: bytes) -> bytes:
        return replies.entry(await self._filesystem.lookup(number, name))

    def _forget(self, number: int, body: memoryview) -> None:
        (nlookup,) = FORGET_IN.unpack_from(body)
        self._filesystem.forget(number, nlookup)

    def _batch_forget(self, _number: int, body: memoryview) -> None:
        (count,) = BATCH_FORGET_IN.unpack_from(body)
        rest = body[BATCH_FORGET_IN.size :]
        for number, nlookup in FORGET_ONE.iter_unpack(rest[: count * FORGET_ONE.size]):
            self._filesystem.forget(number, nlookup)

    def _getattr(self, number: int, _body: memoryview) -> bytes:
        return replies.attributes(self._attributes(number))

    def _statx(self, number: int, _body: memoryview) -> bytes:
        return replies.statx(self._attributes(number))

    def _attributes(self, number: int) -> Attributes:
        found = self._filesystem.getattr(number).attributes
        assert found is not None
        return found

    def _open(self, number: int, body: memoryview) -> bytes:
        (flags,) = OPEN_IN.unpack_from(body)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            # The kernel refuses it for a read-only mount; one that somebody else has made may not be.
            raise OSError(errno.EROFS, "")
        size = self._filesystem.open(number)
        way = self._opening.open(number, size, lambda: self._hand_over(number))
        if way is Way.UNASKED:
            raise OSError(errno.ENOSYS, "")
        if way is Way.PASSTHROUGH:
            return OPEN_OUT.pack(number, Open.PASSTHROUGH, self._backing.id_of(number))
        # The content of an inode never changes, so the kernel may keep its pages from one open to the next.
        return OPEN_OUT.pack(number, Open.KEEP_CACHE | Open.NOFLUSH, 0)

    def _hand_over(self, number: int) -> bool:
        """Give the kernel the whole file of the disk cache, if that is there and best. It holds it until released."""
        file = self._filesystem.whole_file(number)
        if file is None or (self._opening.prefers_memory and self._filesystem.mostly_in_memory(number)):
            return False
        try:
            self._backing.open(number, file.fileno())
        except OSError as error:
            log.warning("the kernel takes no files of the cache: %s; reads go on without", error.strerror)
            self._opening.no_passthrough()
            return False
        return True

    def _release(self, number: int, _body: memoryview) -> bytes:
        if self._opening.release(number):
            self._backing.close(number)
            self._filesystem.release(number)
        return b""

    def _read(self, number: int, body: memoryview) -> Reply:
        _handle, offset, size = READ_IN.unpack_from(body)
        view = self._filesystem.read_nowait(number, offset, size)
        return self._filesystem.fetch(number, offset, size) if view is None else view

    def _opendir(self, number: int, _body: memoryview) -> Reply:
        if self._directories_unasked:
            raise OSError(errno.ENOSYS, "")
        listing = self._filesystem.open_directory(number)
        if self._directories.is_worth_waiting(number, listing):
            return self._open_known(number, listing)
        return self._open_directory(number, listing)

    async def _open_known(self, number: int, listing: Listing) -> bytes:
        """Open one of which the kernel has pages, once it is known whether they are still right."""
        await self._directories.wait_known(listing)
        return self._open_directory(number, listing)

    def _open_directory(self, number: int, listing: Listing) -> bytes:
        handle, unchanged = self._directories.open(number, listing)
        return OPEN_OUT.pack(handle, Open.CACHE_DIR | (Open.KEEP_CACHE if unchanged else 0), 0)

    def _releasedir(self, _number: int, body: memoryview) -> bytes:
        (handle,) = RELEASE_IN.unpack_from(body)
        self._directories.release(handle)
        return b""

    def _readdir(self, number: int, body: memoryview) -> Reply:
        return self._list(number, body, plus=False)

    def _readdirplus(self, number: int, body: memoryview) -> Reply:
        return self._list(number, body, plus=True)

    def _list(self, number: int, body: memoryview, plus: bool) -> Reply:
        handle, offset, size = READ_IN.unpack_from(body)
        listing = self._directories.listing(number, handle, offset)
        records = None
        with suppress(Elsewhere):
            records = self._directories.read_nowait(number, listing, offset, size, plus)
        if records is not None:
            return records
        return self._wait_for_entries(number, handle, listing, offset, size, plus)

    async def _wait_for_entries(
        self, number: int, handle: int, listing: Listing, offset: int, size: int, plus: bool
    ) -> bytes:
        listing = await self._directories.wait(number, handle, listing, offset)
        read = partial(self._directories.read_nowait, number, listing, offset, size, plus)
        return await having(read) or b""

    def _statfs(self, _number: int, _body: memoryview) -> bytes:
        return replies.statfs()

    def _getxattr(self, number: int, body: memoryview) -> Reply:
        (size,) = GETXATTR_IN.unpack_from(body)
        name = _name(body[GETXATTR_IN.size :])
        try:
            return _attribute(self._filesystem.xattr_nowait(number, name), size)
        except trio.WouldBlock:
            return self._ask_attribute(number, name, size)

    async def _ask_attribute(self, number: int, name: bytes, size: int) -> bytes:
        return _attribute(await self._filesystem.xattr(number, name), size)

    def _listxattr(self, number: int, body: memoryview) -> bytes:
        (size,) = GETXATTR_IN.unpack_from(body)
        return _sized(b"".join(name + b"\0" for name in self._filesystem.xattr_names(number)), size)


def _name(body: memoryview) -> bytes:
    """A name, which ends with NUL. Raises OSError where it does not."""
    name, nul, _ = bytes(body).partition(b"\0")
    if not nul or not name:
        raise OSError(errno.EINVAL, "a name without its end")
    return name


def _attribute(value: bytes | None, size: int) -> bytes:
    if value is None:
        raise OSError(errno.ENODATA, "")
    return _sized(value, size)


def _sized(value: bytes, size: int) -> bytes:
    """An attribute's value, or how long it is, for a caller with so much room."""
    if size == 0:
        return GETXATTR_OUT.pack(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, "")
    return value
