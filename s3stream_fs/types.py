"""The nouns that cross every border: byte ranges, object identities, what a listing says of an object.

Owns no behaviour beyond arithmetic on its own fields, and imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

BLOCK_BYTES: Final = 16 * 1024
"""Size of a block, the unit in which presence and checksums are counted, and the least that is fetched.

A column of a Parquet row group, or an index, often takes a dozen KiB here and there: with blocks of 256 KiB (two kernel
reads of 128 KiB) 17 times as much was fetched as was asked for, with 64 KiB 5.5 times, with 16 KiB 2.5 times.
"""

MAX_OBJECT_NBYTES: Final = 1 << 53
"""No store holds objects of 8 PiB; what says so is wrong, and some programs would overflow."""

NANOSECONDS: Final = 1_000_000_000

MAX_MTIME_NS: Final = ((1 << 63) - 1) // NANOSECONDS * NANOSECONDS
"""In April 2262: the last whole second whose nanoseconds 63 bits hold, as files and programs have them."""

_COLD_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects answer GET with 403 until restored. GLACIER_IR is readable at once and not one."""


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """The bytes ``start`` to ``stop``, ``stop`` not included; never empty and never negative."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"not a byte range: {self.start}..{self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def aligned(self, size: int, unit: int = BLOCK_BYTES) -> ByteRange:
        """The smallest range of whole blocks, or of another ``unit``, around this one, cut at the object's ``size``."""
        start = self.start // unit * unit
        stop = -(-self.stop // unit) * unit
        return ByteRange(start, min(stop, size))

    def blocks(self, unit: int = BLOCK_BYTES) -> range:
        """The indexes of all blocks, or of another ``unit``, that this range touches."""
        return range(self.start // unit, -(-self.stop // unit))

    def parts(self, nbytes: int) -> Iterator[ByteRange]:
        """This range cut at the multiples of ``nbytes`` within it."""
        start = self.start
        while start < self.stop:
            stop = min((start // nbytes + 1) * nbytes, self.stop)
            yield ByteRange(start, stop)
            start = stop


class ObjectId(NamedTuple):
    """One version of one object: what a name meant at one moment, for ever.

    Bytes are always named by ``(ObjectId, offset)``, so data never needs invalidation: a changed object has another
    ``etag`` and thereby another name. ``key`` is the whole key in the bucket, ``size`` is in bytes. ``etag`` is without
    quotes; where a store gives none it is ``@`` and the second of the last change (``@1700000000``), and empty where
    the store does not tell that either.
    """

    key: str
    etag: str
    size: int

    @property
    def has_etag(self) -> bool:
        """Whether ``etag`` is one that the store gave."""
        return self.etag[:1] not in ("", "@")

    @property
    def whole(self) -> ByteRange:
        """All bytes of the object. Raises ValueError for an empty object, which has none."""
        return ByteRange(0, self.size)


class ObjectInfo(NamedTuple):
    """What a listing or a HEAD says of one object."""

    id: ObjectId
    mtime_ns: int
    storage_class: str = "STANDARD"
    restored: bool = False
    """A copy of the archived object is readable for a while (only meaningful for archive storage classes)."""

    @property
    def archived(self) -> bool:
        """True where a GET would be refused because the object lies in an archive and is not restored."""
        return is_cold(self.storage_class) and not self.restored


def shown_mtime(mtime_ns: int) -> int:
    """A time that every file system and program can hold, in ns since 1970: 0 for what comes before, which is mostly
    what stores have for a time that they do not know, and at most ``MAX_MTIME_NS``."""
    return min(max(mtime_ns, 0), MAX_MTIME_NS)


def is_cold(storage_class: str) -> bool:
    """Whether objects of this class have to be restored before they can be read."""
    return storage_class in _COLD_CLASSES


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing: objects and common prefixes, both in the order in which the store gave them.

    ``last`` is the greatest key or prefix of the page by its UTF-8 bytes, empty for an empty page. ``next_token`` asks
    for the page after this one and is None on the last page. ``unusable`` are keys of which the store says what cannot
    be true; they are not among the objects.
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    next_token: str | None
    unusable: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        keys = [info.id.key for info in self.objects[-1:]] + list(self.prefixes[-1:])
        return max(keys, key=lambda key: key.encode("utf-8", "surrogatepass"), default="")
