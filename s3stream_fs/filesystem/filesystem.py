"""The file system: every operation a kernel may ask for, by inode number, in this package's own types.

Owns what the mount means: which inode a name leads to, what stat and xattrs say, who may open what, and that no
operation outlasts its deadline. Reads are by inode and not by handle, so a binding may leave out OPEN altogether.
Raises errors.S3StreamError and nothing else; a binding turns that into an errno. What does not wait raises Elsewhere
where it takes a name that is not in memory: a binding has it brought (``shelf.having``) and asks again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple

import trio

from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.errors import (
    Archived,
    NameTooLong,
    NotFound,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
    TooSlow,
    Transient,
)
from s3stream_fs.filesystem.attributes import AttributeConfig, Attributes, directory_attributes, file_attributes
from s3stream_fs.filesystem.failures import Failures
from s3stream_fs.filesystem.xattrs import CACHED, s3_attributes
from s3stream_fs.namespace.inodes import DirectoryInode, FileInode, InodeTable
from s3stream_fs.namespace.keys import NAME_MAX
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.refresh import RefreshProgress
from s3stream_fs.namespace.rows import Row
from s3stream_fs.namespace.shelf import Elsewhere, having
from s3stream_fs.namespace.tree import Answer, Tree
from s3stream_fs.reading.reader import Reader

log = logging.getLogger(__name__)

FOREVER_SECONDS: Final = 10 * 365 * 86400.0
"""What an infinite time to live becomes where a finite number is needed."""


_LEFT: Final = 0.1
"""So much of an operation's time has to be left for another try; with less it would come to nothing anyway."""

_TOLD_SECONDS: Final = 0.2
"""How long a reader whose file was replaced may be kept from hearing of it, until the kernel was told that the name
stands for something else, which takes some 0.1 ms. It takes as long as somebody's lookup in the same directory, where
one waits for the store; and whoever holds a directory's lock may wait for this very read."""


@dataclass(frozen=True, slots=True)
class FileSystemConfig:
    """``deadline_seconds`` bounds every single operation, ``metadata_ttl_seconds`` is how old a name may be."""

    attributes: AttributeConfig
    metadata_ttl_seconds: float
    deadline_seconds: float
    mounted_at_ns: int


@dataclass(frozen=True, slots=True)
class FileSystemStatistics:
    """``denied_archived`` counts opens and reads refused because the object has to be restored first, ``repeated`` what
    was asked for again just after it had failed."""

    lookups: int
    lookups_not_found: int
    opens: int
    denied_archived: int
    deadlines_missed: int
    repeated: int


class Found(NamedTuple):
    """``attributes`` is None for a name that stands for nothing. A kernel may keep either for ``valid_seconds``."""

    attributes: Attributes | None
    valid_seconds: float


class FileSystem:
    def __init__(
        self, tree: Tree, inodes: InodeTable, reader: Reader, disk: DiskTier, config: FileSystemConfig
    ) -> None:
        self._tree = tree
        self._inodes = inodes
        self._reader = reader
        self._disk = disk
        self._config = config
        self._lookups = 0
        self._lookups_not_found = 0
        self._opens = 0
        self._denied_archived = 0
        self._deadlines_missed = 0
        self._repeated = 0
        self._failures = Failures()

    def seconds_valid(self, fresh_until: float) -> float:
        """How long a kernel may keep an answer that is fresh until then: names grow no older there than here."""
        return max(0.0, min(fresh_until - trio.current_time(), FOREVER_SECONDS))

    async def lookup(self, parent: int, name: bytes) -> Found:
        """What a name stands for. An inode that is found is from now on remembered until ``forget``."""
        directory = await having(partial(self._directory, parent))
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes")
        with self._deadline("lookup", f"{directory.prefix}{name.decode(errors='replace')}", (parent, name)):
            answer = await self._tree.lookup(directory.prefix, name)
            return await having(partial(self._found, answer))

    def lookup_nowait(self, parent: int, name: bytes) -> Found | None:
        """What ``lookup`` gives, where it takes no request; None where it may.

        Here "." and ".." are names too: whoever holds an inode by number alone (NFS does) finds its way from there.
        """
        if name in (b".", b".."):
            return self._found_dots(parent, name)
        directory = self._directory(parent)
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes")
        answer = self._tree.lookup_nowait(directory.prefix, name)
        return None if answer is None else self._found(answer)

    def _found_dots(self, number: int, name: bytes) -> Found:
        try:
            remember = self._inodes.remember_again if name == b"." else self._inodes.remember_parent
            return Found(self._attributes(remember(number)), FOREVER_SECONDS)
        except NotFound:
            raise ObjectChanged(f"inode {number} was forgotten, and a number alone does not bring it back") from None

    def _found(self, answer: Answer) -> Found:
        valid_seconds = self.seconds_valid(answer.fresh_until)
        shown = None if answer.row is None else self.show(answer.row)
        self._lookups += 1
        self._lookups_not_found += shown is None
        return Found(shown, valid_seconds)

    def forget(self, number: int, nlookup: int) -> None:
        """The kernel has dropped ``nlookup`` references."""
        self._inodes.forget(number, nlookup)

    def getattr(self, number: int) -> Found:
        """The attributes of a known inode. They belong to its identity: they cost no request and never change."""
        return Found(self._attributes(self._inodes.get(number)), FOREVER_SECONDS)

    def open_directory(self, number: int) -> Listing:
        """The listing of a directory, perhaps still growing; it stays as it is for who holds it."""
        return self._tree.open_listing(self._directory(number).prefix)

    async def wait_settled(self, listing: Listing, position: int) -> None:
        """Return as soon as it is known what stands at ``position`` (from 0) of a listing."""
        with self._deadline("list", listing.prefix):
            await listing.wait_settled(position)

    async def wait_listed(self, number: int, listing: Listing, position: int) -> Listing:
        """Return as soon as it is known what stands at ``position`` of a directory's listing: of this one, or of the
        one that takes its place.

        Of a listing that somebody else began, and that fails at the end of their time, nothing was told yet: whoever
        came later has time left, in which the store is asked again. So it is where the disk does not give the first
        entries.
        """
        with self._deadline("list", listing.prefix) as deadline:
            await listing.wait_settled(position)
            left = deadline - trio.current_time()
            if (
                isinstance(listing.error, Transient)
                and (len(listing) == 0 or position <= 0)
                and left > _LEFT * self._config.deadline_seconds
            ):
                listing = self.open_directory(number)
                await listing.wait_settled(position)
        return listing

    async def refresh(self, path: bytes, progress: Callable[[RefreshProgress], None]) -> None:
        """Ask the store again for all that is known at, above and below ``path``, relative to the mount, however fresh.

        ``progress`` is told once, and what it was told is kept up to date.
        """
        names = [part for part in path.split(b"/") if part not in (b"", b".")]
        await self._tree.refresh(self._inodes.root_prefix, names, progress)

    async def next_change(self) -> tuple[int, bytes]:
        """Wait until a name stands for something else though a kernel may still keep the last answer.

        Gives the directory's inode and the name; the kernel shall ask again. Without a name: it shall read the
        directory again.
        """
        while True:
            prefix, name = await self._tree.changes.next()
            number = await having(partial(self._inodes.directory, prefix))
            if number is not None:
                return number, name

    def is_certain(self, listing: Listing, row: Row) -> bool:
        """Whether an entry's name stands, as far as is known, for what the listing says; else a lookup has to ask."""
        return self._tree.believes(listing, row)

    def number_of(self, row: Row) -> int:
        """The inode number that an entry has, without remembering it."""
        return self._inodes.number_of(row)

    def show(self, row: Row) -> Attributes:
        """What a lookup of this entry shows. The kernel is being told of it, as by ``lookup``: it is remembered."""
        number = self._inodes.remember(row)
        if row.is_file:
            return file_attributes(number, row.size, row.mtime_ns, row.archived, self._config.attributes)
        return directory_attributes(number, self._config.mounted_at_ns, self._config.attributes)

    def open(self, number: int) -> int:
        """The size of a file that may be read. Raises Archived. A binding may leave it out: reads check it too.

        Raises ObjectChanged for a version that was replaced, upon which the kernel looks the name up again by itself.
        """
        object_id = self._readable(number).info.id
        self._opens += 1
        if self._tree.is_outdated(object_id):
            raise ObjectChanged(f"{object_id.key!r} was replaced")
        return object_id.size

    def whole_file(self, number: int) -> DataFile | None:
        """A local file with exactly the bytes of this one, if the disk tier has it and has seen that it is right."""
        inode = self._inodes.get(number)
        return self._disk.whole_file_nowait(inode.info.id) if isinstance(inode, FileInode) else None

    def mostly_in_memory(self, number: int) -> bool:
        """Whether most of a file's bytes are held in memory, from where they come faster than from a disk."""
        inode = self._inodes.get(number)
        return isinstance(inode, FileInode) and self._reader.holds_most(inode.info.id)

    def release(self, number: int) -> None:
        """A hint that a file was closed for the last time."""
        try:
            inode = self._inodes.get(number)
        except Elsewhere:
            return  # it was not read lately
        if isinstance(inode, FileInode):
            self._reader.close_nowait(inode.info.id)

    async def read(self, number: int, offset: int, size: int) -> memoryview:
        """At most ``size`` bytes at ``offset``, fewer only at the end of the file."""
        view = await having(partial(self.read_nowait, number, offset, size))
        return await self.fetch(number, offset, size) if view is None else view

    def read_nowait(self, number: int, offset: int, size: int) -> memoryview | None:
        """What ``read`` gives, where it is at hand. None where it takes waiting: then go on with ``fetch``."""
        return self._reader.read_nowait(self._readable(number).info.id, offset, size)

    async def fetch(self, number: int, offset: int, size: int) -> memoryview:
        """What ``read`` gives, where ``read_nowait`` has just said that it is not at hand.

        Of an object that was replaced the kernel is told before the reader is, unless that takes long: whoever opens it
        again shall find the new one.
        """
        object_id = (await having(partial(self._readable, number))).info.id
        # The reader ends its wait itself, at the same time: it knows what it waited for.
        with self._deadline("read", object_id.key, number, offset, offset + size, itself=True) as deadline:
            try:
                return await self._reader.fetch(object_id, offset, size, deadline)
            except (ObjectChanged, NotFound):
                with trio.move_on_after(_TOLD_SECONDS):
                    await self._tree.changes.wait_told()
                raise

    def xattr_names(self, number: int) -> list[bytes]:
        """The names of an inode's extended attributes."""
        inode = self._inodes.get(number)
        return [*s3_attributes(inode), *([CACHED] if isinstance(inode, FileInode) else [])]

    async def xattr(self, number: int, name: bytes) -> bytes | None:
        """The value of an extended attribute; None where there is none of that name."""
        inode = await having(partial(self._inodes.get, number))
        if name == CACHED and isinstance(inode, FileInode):
            with self._deadline("getxattr", inode.info.id.key):
                return b"%d" % await self._disk.cached_nbytes(inode.info.id)
        return self.xattr_nowait(number, name)

    def xattr_nowait(self, number: int, name: bytes) -> bytes | None:
        """What ``xattr`` gives. Raises trio.WouldBlock where the disk has to be asked for it."""
        inode = self._inodes.get(number)
        if name == CACHED and isinstance(inode, FileInode):
            raise trio.WouldBlock
        return s3_attributes(inode).get(name)

    def statistics(self) -> FileSystemStatistics:
        return FileSystemStatistics(
            self._lookups,
            self._lookups_not_found,
            self._opens,
            self._denied_archived,
            self._deadlines_missed,
            self._repeated,
        )

    def _readable(self, number: int) -> FileInode:
        inode = self._inodes.get(number)
        if not isinstance(inode, FileInode):
            raise NotFound("a directory has no bytes")  # the kernel asks for none
        if inode.info.archived:
            self._denied_archived += 1
            log.warning(
                "%r cannot be read: it lies in %s and has to be restored first",
                inode.info.id.key,
                inode.info.storage_class,
            )
            raise Archived(f"{inode.info.id.key!r} lies in {inode.info.storage_class}")
        return inode

    def _directory(self, number: int) -> DirectoryInode:
        inode = self._inodes.get(number)
        if not isinstance(inode, DirectoryInode):
            raise NotFound("not a directory")
        return inode

    def _attributes(self, inode: FileInode | DirectoryInode) -> Attributes:
        if isinstance(inode, FileInode):
            info = inode.info
            return file_attributes(inode.number, info.id.size, info.mtime_ns, info.archived, self._config.attributes)
        return directory_attributes(inode.number, self._config.mounted_at_ns, self._config.attributes)

    def _deadline(
        self, what: str, key: str, asked: Hashable = None, start: int = 0, stop: int = 1, *, itself: bool = False
    ) -> _Deadline:
        """Raises what ``asked`` has failed with a moment ago, so that what the kernel asks twice is waited for once.

        The retry policy gives up first where the store is at fault; this also bounds waiting for a slot or memory.
        ``itself``: the operation ends by itself in time, with TooSlow.
        """
        failed = None if asked is None else self._failures.find(asked, start, stop, trio.current_time())
        if failed is not None:
            self._repeated += 1
            raise failed
        return _Deadline(self, what, key, asked, start, stop, self._config.deadline_seconds, itself=itself)

    def failed(self, asked: Hashable, start: int, stop: int, error: StoreError, began: float) -> None:
        """Remember what an operation has come to, which ``began`` at that time."""
        if asked is not None:
            self._failures.note(asked, start, stop, error, began, trio.current_time())

    def missed(self, what: str, key: str, why: str = "") -> StoreUnavailable:
        """Count and log an operation that did not end in time. Returns the error for it."""
        self._deadlines_missed += 1
        text = f"{what} of {key!r} took longer than {self._config.deadline_seconds:g} s{why and f': {why}'}"
        log.error("%s", text)
        return StoreUnavailable(text)


class _Deadline:
    """``with`` it around an operation; gives the time, on trio's clock, by which it is over. A class of its own, since
    a generator costs 4 us more for each read."""

    __slots__ = ("_asked", "_began", "_deadline", "_filesystem", "_key", "_scope", "_start", "_stop", "_what")

    def __init__(
        self,
        filesystem: FileSystem,
        what: str,
        key: str,
        asked: Hashable,
        start: int,
        stop: int,
        seconds: float,
        *,
        itself: bool,
    ) -> None:
        self._filesystem = filesystem
        self._what = what
        self._key = key
        self._asked = asked
        self._start = start
        self._stop = stop
        self._began = trio.current_time()
        self._deadline = self._began + seconds
        self._scope = trio.CancelScope(deadline=math.inf if itself else self._deadline)

    def __enter__(self) -> float:
        self._scope.__enter__()
        return self._deadline

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        handled = self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught or isinstance(error, TooSlow):
            missed = self._filesystem.missed(self._what, self._key, str(error) if isinstance(error, TooSlow) else "")
            self._filesystem.failed(self._asked, self._start, self._stop, missed, self._began)
            raise missed from None
        if isinstance(error, StoreError):
            self._filesystem.failed(self._asked, self._start, self._stop, error, self._began)
        return handled
