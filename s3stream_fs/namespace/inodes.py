"""Inodes: numbers for what names stand for, and those that the kernel remembers.

A number is worked out from what it stands for (key and ETag of a file, prefix of a directory), so the same version has
the same number after it was forgotten, in readdir as in stat, and no table of all files is needed. An inode is bound to
one ObjectId for life.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from s3stream_fs.errors import NotFound, ObjectChanged, StoreUnavailable
from s3stream_fs.namespace.entries import FileEntry
from s3stream_fs.namespace.rows import MOST_ROWS, Row, Rows, row_of
from s3stream_fs.types import ObjectInfo

ROOT: Final = 1
"""The number that FUSE gives to the root."""

_FIRST: Final = 16
"""Smaller numbers are left to the root and to the kernel's own meanings (0 says: no such entry)."""

_NSHARDS: Final = 4096
"""With ten million inodes each has 2,400, and to insert one moves 20 KB: 0.3 us."""

_LEAST_ROOM: Final = 32
"""Inodes in a shard for which nothing is given back."""

_MAX_LATELY: Final = 4096
"""Inodes that are kept as objects: those that are being read."""


_from_bytes: Final = int.from_bytes


class FileInode(NamedTuple):
    number: int
    info: ObjectInfo


class DirectoryInode(NamedTuple):
    number: int
    prefix: str


Inode = FileInode | DirectoryInode


@dataclass(frozen=True, slots=True)
class InodeStatistics:
    """``remembered`` inodes are those that the kernel holds references to, ``forgotten`` those that it did."""

    remembered: int
    forgotten: int
    collisions: int


class InodeTable:
    """The inodes that the kernel knows, with its count of references to each. A forgotten inode costs nothing.

    What an inode stands for lies where a listing keeps it, in ``Rows``, which therefore live as long as the kernel
    knows one of them. The table itself takes 26 bytes for each. Whatever needs rows that are not in memory raises
    Elsewhere, and has changed nothing then.
    """

    def __init__(self, root_prefix: str) -> None:
        self._root = DirectoryInode(ROOT, root_prefix)
        self._shards = [_Shard() for _ in range(_NSHARDS)]
        self._pieces: dict[int, Rows] = {}
        """Those that inodes refer to, by serial."""
        self._next_serial = 1
        self._lately: dict[int, Inode] = {}
        self._remembered = 1
        self._forgotten = 0
        self._collisions = 0

    @property
    def root_prefix(self) -> str:
        """With which all keys of the mount begin."""
        return self._root.prefix

    @property
    def forgotten(self) -> int:
        """How many the kernel has forgotten since the start."""
        return self._forgotten

    def number_of(self, row: Row) -> int:
        """The number that this entry has, remembered or not."""
        return self._number_of(row)[0]

    def remember(self, row: Row) -> int:
        """The number of an entry of which the kernel is being told: one reference more.

        What may change within a version (an archived object was restored) is brought up to date.
        """
        number, shard, at = self._number_of(row)
        if at < 0:
            shard.insert(~at, number, self._refer(row))
            self._remembered += 1
            return number
        shard.counts[at] += 1
        serial, index = divmod(shard.places[at], MOST_ROWS)
        if index != row.at or serial != row.rows.serial:
            shard.places[at] = self._refer(row)
            self._unrefer(serial)
            self._lately.pop(number, None)
        return number

    def remember_again(self, number: int) -> Inode:
        """A known inode, of which the kernel is being told again. Raises NotFound."""
        inode = self.get(number)
        shard, at = self._find(number)
        if at >= 0:
            shard.counts[at] += 1
        return inode

    def remember_parent(self, number: int) -> Inode:
        """The directory above a known inode, of which the kernel is being told. The root is its own."""
        inode = self.get(number)
        path = inode.info.id.key if isinstance(inode, FileInode) else inode.prefix.removesuffix("/")
        prefix = path[: path.rfind("/") + 1]
        if number == ROOT or len(prefix) <= len(self._root.prefix):
            return self._root
        return self.get(self.remember(_directory(prefix)))

    def get(self, number: int) -> Inode:
        """The inode with this number. Raises NotFound where the kernel was never told of it, or has forgotten it;
        ObjectChanged where the disk does not give what it stands for: whoever looks its path up again is told."""
        inode = self._lately.get(number)
        if inode is not None:
            return inode
        if number == ROOT:
            return self._root
        shard, at = self._find(number)
        if at < 0:
            raise NotFound(f"inode {number} is not known")
        serial, index = divmod(shard.places[at], MOST_ROWS)
        try:
            entry = self._pieces[serial].entry(index)
        except StoreUnavailable as error:
            raise ObjectChanged(f"what inode {number} stands for is not known: {error}") from None
        inode = FileInode(number, entry.info) if isinstance(entry, FileEntry) else DirectoryInode(number, entry.prefix)
        if len(self._lately) >= _MAX_LATELY:
            self._lately.clear()
        self._lately[number] = inode
        return inode

    def directory(self, prefix: str) -> int | None:
        """The number of a directory that is remembered; None where the kernel does not know it."""
        if prefix == self._root.prefix:
            return ROOT
        number, _, at = self._number_of(_directory(prefix))
        return None if at < 0 else number

    def forget(self, number: int, nlookup: int) -> None:
        """The kernel gives ``nlookup`` references back. The root stays."""
        shard, at = self._find(number)
        if at < 0:
            return
        left = shard.counts[at] - nlookup
        if left > 0:
            shard.counts[at] = left
            return
        self._unrefer(shard.places[at] // MOST_ROWS)
        shard.remove(at)
        self._remembered -= 1
        self._forgotten += 1
        self._lately.pop(number, None)

    def statistics(self) -> InodeStatistics:
        return InodeStatistics(remembered=self._remembered, forgotten=self._forgotten, collisions=self._collisions)

    def _number_of(self, row: Row) -> tuple[int, _Shard, int]:
        """The number of an entry, and where it is or belongs."""
        digest = blake2b(row.identity, digest_size=8).digest()
        while True:
            number = max(_from_bytes(digest, "little"), _FIRST)
            shard = self._shards[number % _NSHARDS]
            at = shard.find(number)
            if at < 0:
                return number, shard, at
            serial, index = divmod(shard.places[at], MOST_ROWS)
            if serial == row.rows.serial and index == row.at:
                return number, shard, at
            if self._is_or_was(serial, index, row):
                return number, shard, at
            # Two of 64 bits the same: one chance in millions for a whole bucket, but then wrong bytes. Try the next.
            self._collisions += 1
            digest = blake2b(digest, digest_size=8).digest()

    def _is_or_was(self, serial: int, index: int, row: Row) -> bool:
        try:
            return self._pieces[serial].row(index).identity == row.identity
        except StoreUnavailable:
            # The disk has lost what the number stands for. That two have it, and one of them is lost, will not happen.
            return True

    def _find(self, number: int) -> tuple[_Shard, int]:
        shard = self._shards[number % _NSHARDS]
        return shard, shard.find(number)

    def _refer(self, row: Row) -> int:
        """A reference to an entry, as the table keeps it."""
        rows = row.rows
        if rows.nknown == 0:
            rows.serial = self._next_serial
            self._next_serial += 1
            self._pieces[rows.serial] = rows
        rows.nknown += 1
        return rows.serial * MOST_ROWS + row.at

    def _unrefer(self, serial: int) -> None:
        rows = self._pieces[serial]
        rows.nknown -= 1
        if rows.nknown == 0:
            del self._pieces[serial]
            rows.serial = 0


class _Shard:
    """Inodes by number: three sorted columns, so that nothing is spent on objects, nor on empty places."""

    __slots__ = ("_room", "counts", "numbers", "places")

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.places = array("Q")
        """Which rows, and which of them."""
        self.counts = array("Q")
        """The kernel's references."""
        self._room = _LEAST_ROOM
        """How many there were at the most since the columns were made."""

    def find(self, number: int) -> int:
        """The index of a number; where it is absent, the bitwise complement of where it belongs."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else ~at

    def insert(self, at: int, number: int, place: int) -> None:
        self.numbers.insert(at, number)
        self.places.insert(at, place)
        self.counts.insert(at, 1)
        self._room = max(self._room, len(self.numbers))

    def remove(self, at: int) -> None:
        del self.numbers[at], self.places[at], self.counts[at]
        if 2 * len(self.numbers) < self._room:
            # An array from which one after another is taken never becomes smaller by itself.
            self.numbers, self.places, self.counts = (
                array("Q", column) for column in (self.numbers, self.places, self.counts)
            )
            self._room = max(len(self.numbers), _LEAST_ROOM)


def _directory(prefix: str) -> Row:
    path = prefix.removesuffix("/")
    cut = path.rfind("/") + 1
    return row_of(path[:cut], path[cut:].encode("utf-8", "surrogatepass"), None)
