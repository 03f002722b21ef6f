"""Inodes: numbers for what names stand for, and those that the kernel remembers.

A number is worked out from what it stands for (key and ETag of a file, prefix of a directory), so the same version has
the same number after it was forgotten, in readdir as in stat, and no table of all files is needed. An inode is bound to
one ObjectId for life.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from s3stream_fs.errors import NotFound
from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.types import ObjectInfo

ROOT: Final = 1
"""The number that FUSE gives to the root."""

_FIRST: Final = 16
"""Smaller numbers are left to the root and to the kernel's own meanings (0 says: no such entry)."""


class FileInode(NamedTuple):
    number: int
    info: ObjectInfo


class DirectoryInode(NamedTuple):
    number: int
    prefix: str


Inode = FileInode | DirectoryInode


@dataclass(frozen=True, slots=True)
class InodeStatistics:
    """``remembered`` inodes are those that the kernel holds references to."""

    remembered: int
    collisions: int


class InodeTable:
    """The inodes that the kernel knows, with its count of references to each. A forgotten inode costs nothing."""

    def __init__(self, root_prefix: str) -> None:
        self._inodes: dict[int, Inode] = {ROOT: DirectoryInode(ROOT, root_prefix)}
        self._nlookup: dict[int, int] = {ROOT: 1}
        self._collisions = 0

    def number_of(self, entry: Entry) -> int:
        """The number that this entry has, remembered or not."""
        name = _identity(entry)
        digest = blake2b(name, digest_size=8).digest()
        while True:
            number = max(int.from_bytes(digest, "little"), _FIRST)
            known = self._inodes.get(number)
            if known is None or _stands_for(known, entry):
                return number
            # Two of 64 bits the same: one chance in millions for a whole bucket, but then wrong bytes. Try the next.
            self._collisions += 1
            digest = blake2b(digest, digest_size=8).digest()

    def remember(self, entry: Entry) -> Inode:
        """The inode of an entry that the kernel is being told of: one reference more.

        What may change within a version (an archived object was restored) is brought up to date.
        """
        number = self.number_of(entry)
        inode = FileInode(number, entry.info) if isinstance(entry, FileEntry) else DirectoryInode(number, entry.prefix)
        self._inodes[number] = inode
        self._nlookup[number] = self._nlookup.get(number, 0) + 1
        return inode

    def remember_again(self, number: int) -> Inode:
        """A known inode, of which the kernel is being told again. Raises NotFound."""
        inode = self.get(number)
        self._nlookup[number] += 1
        return inode

    def remember_parent(self, number: int) -> Inode:
        """The directory above a known inode, of which the kernel is being told. The root is its own."""
        inode = self.get(number)
        root = self.get(ROOT)
        assert isinstance(root, DirectoryInode)
        path = inode.info.id.key if isinstance(inode, FileInode) else inode.prefix.removesuffix("/")
        prefix = path[: path.rfind("/") + 1]
        if number == ROOT or len(prefix) <= len(root.prefix):
            return self.remember_again(ROOT)
        return self.remember(DirectoryEntry(b"..", prefix))

    def get(self, number: int) -> Inode:
        """The inode with this number. Raises NotFound where the kernel was never told of it, or has forgotten it."""
        inode = self._inodes.get(number)
        if inode is None:
            raise NotFound(f"inode {number} is not known")
        return inode

    def directory(self, prefix: str) -> int | None:
        """The number of a directory that is remembered; None where the kernel does not know it."""
        root = self.get(ROOT)
        assert isinstance(root, DirectoryInode)
        number = ROOT if prefix == root.prefix else self.number_of(DirectoryEntry(b"", prefix))
        return number if number in self._inodes else None

    def forget(self, number: int, nlookup: int) -> None:
        """The kernel gives ``nlookup`` references back. The root stays."""
        left = self._nlookup.get(number, 0) - nlookup
        if left > 0 or number == ROOT:
            self._nlookup[number] = max(left, 1)
        else:
            self._nlookup.pop(number, None)
            self._inodes.pop(number, None)

    def statistics(self) -> InodeStatistics:
        return InodeStatistics(remembered=len(self._inodes), collisions=self._collisions)


def _identity(entry: Entry) -> bytes:
    if isinstance(entry, DirectoryEntry):
        text = f"d\0{entry.prefix}"
    else:
        # NUL cannot stand in a shown key, so no two versions spell the same.
        key, etag, size = entry.info.id
        text = f"f\0{key}\0{etag}\0{size}"
    return text.encode("utf-8", "surrogatepass")


def _stands_for(inode: Inode, entry: Entry) -> bool:
    if isinstance(inode, FileInode):
        return isinstance(entry, FileEntry) and inode.info.id == entry.info.id
    return isinstance(entry, DirectoryEntry) and inode.prefix == entry.prefix
