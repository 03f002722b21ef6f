"""The file system: every operation a kernel may ask for, by inode number, in this package's own types.

Owns what the mount means: which inode a name leads to, what stat and xattrs say, who may open what, and that no
operation outlasts its deadline. Reads are by inode and not by handle, so a binding may leave out OPEN altogether.
Raises errors.S3StreamError and nothing else; a binding turns that into an errno.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.cache.disk import DiskTier
from s3stream_fs.errors import Archived, NameTooLong, NotFound, StoreUnavailable
from s3stream_fs.filesystem.attributes import AttributeConfig, Attributes, directory_attributes, file_attributes
from s3stream_fs.filesystem.xattrs import extended_attributes
from s3stream_fs.namespace.entries import Entry, FileEntry
from s3stream_fs.namespace.inodes import DirectoryInode, FileInode, InodeTable
from s3stream_fs.namespace.keys import NAME_MAX
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.reading.reader import Reader

log = logging.getLogger(__name__)

FOREVER_SECONDS: Final = 10 * 365 * 86400.0
"""What an infinite time to live becomes where a finite number is needed."""


@dataclass(frozen=True, slots=True)
class FileSystemConfig:
    """``deadline_seconds`` bounds every single operation, ``metadata_ttl_seconds`` is how old a name may be."""

    attributes: AttributeConfig
    metadata_ttl_seconds: float
    deadline_seconds: float
    mounted_at_ns: int


@dataclass(frozen=True, slots=True)
class FileSystemStatistics:
    """``denied_archived`` counts opens refused because the object has to be restored first."""

    lookups: int
    lookups_not_found: int
    opens: int
    denied_archived: int
    deadlines_missed: int


@dataclass(frozen=True, slots=True)
class Found:
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

    def seconds_valid(self, fresh_until: float) -> float:
        """How long a kernel may keep an answer that is fresh until then: names grow no older there than here."""
        return max(0.0, min(fresh_until - trio.current_time(), FOREVER_SECONDS))

    async def lookup(self, parent: int, name: bytes) -> Found:
        """What a name stands for. An inode that is found is from now on remembered until ``forget``."""
        self._lookups += 1
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes")
        directory = self._directory(parent)
        with self._deadline("lookup", directory.prefix):
            answer = await self._tree.lookup(directory.prefix, name)
        valid_seconds = self.seconds_valid(answer.fresh_until)
        if answer.entry is None:
            self._lookups_not_found += 1
            return Found(None, valid_seconds)
        return Found(self._attributes(self._inodes.remember(answer.entry)), valid_seconds)

    def forget(self, number: int, nlookup: int) -> None:
        """The kernel has dropped ``nlookup`` references."""
        self._inodes.forget(number, nlookup)

    def getattr(self, number: int) -> Found:
        """The attributes of a known inode. They belong to its identity: they cost no request and never change."""
        return Found(self._attributes(self._inodes.get(number)), FOREVER_SECONDS)

    def open_directory(self, number: int) -> Listing:
        """The listing of a directory, perhaps still growing; it stays as it is for who holds it."""
        return self._tree.open_listing(self._directory(number).prefix)

    async def directory_entry(self, listing: Listing, position: int) -> Entry | None:
        """The entry at ``position`` (from 0) as soon as it is known for sure; None past the end."""
        with self._deadline("list", listing.prefix):
            return await listing.entry(position)

    def entry_attributes(self, entry: Entry) -> Attributes:
        """What a lookup of this entry would show, without remembering its inode."""
        number = self._inodes.number_of(entry)
        if isinstance(entry, FileEntry):
            return file_attributes(number, entry.info, self._config.attributes)
        return directory_attributes(number, self._config.mounted_at_ns, self._config.attributes)

    def remember(self, entry: Entry) -> None:
        """The kernel was given this entry together with its attributes: count it as a lookup."""
        self._inodes.remember(entry)

    def open(self, number: int) -> None:
        """Check that a file may be read. Raises Archived."""
        self._opens += 1
        inode = self._inodes.get(number)
        if isinstance(inode, FileInode) and inode.info.archived:
            self._denied_archived += 1
            log.warning(
                "%r cannot be read: it lies in %s and has to be restored first",
                inode.info.id.key,
                inode.info.storage_class,
            )
            raise Archived(f"{inode.info.id.key!r} lies in {inode.info.storage_class}")

    def release(self, number: int) -> None:
        """A hint that a file was closed for the last time."""
        inode = self._inodes.get(number)
        if isinstance(inode, FileInode):
            self._reader.close_nowait(inode.info.id)

    async def read(self, number: int, offset: int, size: int) -> memoryview:
        """At most ``size`` bytes at ``offset``, fewer only at the end of the file."""
        inode = self._inodes.get(number)
        if not isinstance(inode, FileInode):
            raise NotFound("a directory has no bytes")  # the kernel asks for none
        with self._deadline("read", inode.info.id.key):
            return await self._reader.read(inode.info.id, offset, size)

    def xattrs(self, number: int) -> dict[bytes, bytes]:
        """All extended attributes of an inode by name."""
        inode = self._inodes.get(number)
        cached_nbytes = self._disk.cached_nbytes(inode.info.id) if isinstance(inode, FileInode) else 0
        return extended_attributes(inode, cached_nbytes)

    def statistics(self) -> FileSystemStatistics:
        return FileSystemStatistics(
            self._lookups, self._lookups_not_found, self._opens, self._denied_archived, self._deadlines_missed
        )

    def _directory(self, number: int) -> DirectoryInode:
        inode = self._inodes.get(number)
        if not isinstance(inode, DirectoryInode):
            raise NotFound("not a directory")
        return inode

    def _attributes(self, inode: FileInode | DirectoryInode) -> Attributes:
        if isinstance(inode, FileInode):
            return file_attributes(inode.number, inode.info, self._config.attributes)
        return directory_attributes(inode.number, self._config.mounted_at_ns, self._config.attributes)

    @contextmanager
    def _deadline(self, what: str, key: str) -> Iterator[None]:
        # The retry policy gives up first where the store is at fault; this also bounds waiting for a slot or memory.
        with trio.move_on_after(self._config.deadline_seconds) as scope:
            yield
        if scope.cancelled_caught:
            self._deadlines_missed += 1
            log.error("%s of %r took longer than %g s", what, key, self._config.deadline_seconds)
            raise StoreUnavailable(f"{what} of {key!r} took longer than {self._config.deadline_seconds:g} s")
