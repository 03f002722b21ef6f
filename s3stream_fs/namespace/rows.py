"""Rows: entries of one directory, packed into one piece of bytes and read from there. Pure.

A million files as Python objects take 350 MB; packed they take 24 bytes each, and what the name and the ETag have. Only
what is asked for becomes an object again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.namespace.keys import component
from s3stream_fs.namespace.shelf import Shelved
from s3stream_fs.types import MAX_OBJECT_NBYTES, ObjectId, ObjectInfo, is_cold

_COUNT: Final = Struct("<I")
_START: Final = Struct("<I")
"""Where the text of a row begins."""
_ROW: Final = Struct("<QqBHB")
"""Size, mtime in ns, bytes of the name, bytes of the rest of the text, kind."""
_NAME_AT: Final = 16
"""Where in a row the size of its name stands."""
_WIDTH: Final = _START.size + _ROW.size

_MOST_TEXT_NBYTES: Final = 0xFFFF
_LEAST_TIME, _MOST_TIME = -(1 << 63), (1 << 63) - 1

# The kind of an entry, a byte: 0 is a directory.
_FILE: Final = 1
_HEX: Final = 2
"""The ETag's first 32 characters are 16 bytes."""
_RESTORED: Final = 4
_CLASS_SHIFT: Final = 3

_CLASSES: Final = (
    "STANDARD",
    "STANDARD_IA",
    "INTELLIGENT_TIERING",
    "ONEZONE_IA",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
    "SNOW",
    "FSX_OPENZFS",
)
_CLASS_NUMBERS: Final = {name: number for number, name in enumerate(_CLASSES)}
_OTHER_CLASS: Final = 31
"""The class is spelt out behind the ETag."""
_COLD_NUMBERS: Final = frozenset(number for name, number in _CLASS_NUMBERS.items() if is_cold(name))

MOST_ROWS: Final = 1 << 16
"""In one piece, so that 16 bits number them."""


class Row(NamedTuple):
    """One of ``rows``, with what stat and an inode need to know of it. A directory's ``size`` and ``mtime_ns`` are 0.

    ``identity`` is what makes it the one that it is: a directory's prefix, a file's key and version. NUL cannot stand
    in a shown key, so no two spell the same.
    """

    rows: Rows
    at: int
    name: bytes
    is_file: bool
    archived: bool
    size: int
    mtime_ns: int
    identity: bytes

    @property
    def entry(self) -> Entry:
        return self.rows.entry(self.at)


class Rows(Shelved):
    """Up to ``MOST_ROWS`` entries below ``prefix`` in the order of their names.

    ``serial`` and ``nknown`` belong to the inode table: its number for this piece, and how many inodes refer to it.
    """

    __slots__ = ("nknown", "prefix", "serial")

    def __init__(self, prefix: str, data: bytes) -> None:
        super().__init__(data)
        self.prefix = prefix
        self.serial = 0
        self.nknown = 0

    @classmethod
    def packed(cls, prefix: str, entries: Iterable[tuple[bytes, ObjectInfo | None]]) -> Rows:
        """Of names in order, each with what it stands for; None for a directory."""
        starts: list[bytes] = []
        fixed: list[bytes] = []
        texts: list[bytes] = []
        at = 0
        for name, info in entries:
            if info is None:
                text, kind, size, mtime_ns = b"", 0, 0, 0
            else:
                (_, etag, size), mtime_ns, storage_class, restored = info
                mtime_ns = min(max(mtime_ns, _LEAST_TIME), _MOST_TIME)
                text, kind = _text_of(etag, storage_class)
                if restored:
                    kind |= _RESTORED
            starts.append(_START.pack(at))
            fixed.append(_ROW.pack(size, mtime_ns, len(name), len(text), kind))
            texts += (name, text)
            at += len(name) + len(text)
        return cls(prefix, b"".join((_COUNT.pack(len(fixed)), *starts, *fixed, *texts)))

    def __len__(self) -> int:
        return int(_COUNT.unpack_from(self.data)[0])

    @property
    def content(self) -> tuple[memoryview, memoryview]:
        """Two pieces of bytes; those of neighbours, joined, are the same however their rows were cut into pieces."""
        view = memoryview(self.data)
        count = len(self)
        return view[_COUNT.size + count * _START.size :][: count * _ROW.size], view[_COUNT.size + count * _WIDTH :]

    def name(self, index: int) -> bytes:
        data = self.data
        _, _, nbytes, _, _, start = self._row(index)
        return data[start : start + nbytes]

    def find(self, name: bytes) -> int:
        """The index of a name; where it is absent, the bitwise complement of the index at which it would stand."""
        data = self.data
        low, high = 0, len(self)
        fixed = _COUNT.size + high * _START.size + _NAME_AT
        text = _COUNT.size + high * _WIDTH
        while low < high:
            middle = (low + high) >> 1
            (start,) = _START.unpack_from(data, _COUNT.size + middle * _START.size)
            start += text
            other = data[start : start + data[fixed + middle * _ROW.size]]
            if other < name:
                low = middle + 1
            elif other == name:
                return middle
            else:
                high = middle
        return ~low

    def row(self, index: int) -> Row:
        return next(self.rows(index))

    def rows(self, first: int = 0) -> Iterator[Row]:
        """From ``first`` on."""
        data = self.data
        count = len(self)
        view = memoryview(data)
        text = _COUNT.size + count * _WIDTH
        fixed = _COUNT.size + count * _START.size
        starts = _START.iter_unpack(view[_COUNT.size + first * _START.size : fixed])
        packed = _ROW.iter_unpack(view[fixed + first * _ROW.size : text])
        prefix = self.prefix.encode("utf-8", "surrogatepass")
        index = first - 1
        for (start,), (size, mtime_ns, nbytes, ntext, kind) in zip(starts, packed, strict=True):
            index += 1
            start += text
            middle = start + nbytes
            name = data[start:middle]
            if kind == 0:
                yield Row(self, index, name, False, False, 0, 0, b"d\0%b%b/" % (prefix, name))
                continue
            version = data[middle : middle + ntext]
            if kind >> _CLASS_SHIFT == _OTHER_CLASS:
                version = version[: version.rindex(b"\0")]
            version = b"f\0%b%b\0%d %d %b" % (prefix, name, size, kind & _HEX, version)
            archived = kind >> _CLASS_SHIFT in _COLD_NUMBERS and not kind & _RESTORED
            yield Row(self, index, name, True, archived, size, mtime_ns, version)

    def entry(self, index: int) -> Entry:
        data = self.data
        size, mtime_ns, nbytes, ntext, kind, start = self._row(index)
        middle = start + nbytes
        name = data[start:middle]
        key = self.prefix + name.decode()
        if not kind:
            return DirectoryEntry(name, key + "/")
        etag, storage_class = _meaning_of(data[middle : middle + ntext], kind)
        object_id = ObjectId(key, etag, size)
        return FileEntry(name, ObjectInfo(object_id, mtime_ns, storage_class, bool(kind & _RESTORED)))

    def is_sound(self) -> bool:
        """Whether bytes that somebody may have tampered with are rows, of names that a directory can hold; not none."""
        before = b""
        try:
            for row in self.rows():
                name = row.name
                if name <= before or b"/" in name or component(name.decode()) != name or row.size > MAX_OBJECT_NBYTES:
                    return False
                before = name
                _ = row.entry
        except (ValueError, IndexError, StructError):
            return False
        return before != b""

    def _row(self, index: int) -> tuple[int, int, int, int, int, int]:
        """What is packed of a row, and where its text begins."""
        data = self.data
        (count,) = _COUNT.unpack_from(data)
        (start,) = _START.unpack_from(data, _COUNT.size + index * _START.size)
        fixed = _COUNT.size + count * _START.size
        size, mtime_ns, nbytes, ntext, kind = _ROW.unpack_from(data, fixed + index * _ROW.size)
        return size, mtime_ns, nbytes, ntext, kind, _COUNT.size + count * _WIDTH + start


def row_of(prefix: str, name: bytes, info: ObjectInfo | None) -> Row:
    """An entry by itself, below ``prefix``; without ``info`` a directory."""
    return Rows.packed(prefix, [(name, info)]).row(0)


def _text_of(etag: str, storage_class: str) -> tuple[bytes, int]:
    """The ETag packed, with what the kind says of it and of the class."""
    head = etag[:32]
    text, kind = b"", _FILE
    with suppress(ValueError):
        text = bytes.fromhex(head)
    if len(head) == 32 and text.hex() == head:
        kind |= _HEX
        if len(etag) > 32:
            text += etag[32:].encode("utf-8", "surrogatepass")
    else:
        text = etag.encode("utf-8", "surrogatepass")
    number = _CLASS_NUMBERS.get(storage_class, _OTHER_CLASS)
    if number == _OTHER_CLASS:
        text += b"\0" + storage_class.encode("utf-8", "surrogatepass")
    if len(text) > _MOST_TEXT_NBYTES:
        raise ValueError("an ETag of more than 64 KiB")
    return text, kind | number << _CLASS_SHIFT


def _meaning_of(text: bytes, kind: int) -> tuple[str, str]:
    """ETag and storage class."""
    number = kind >> _CLASS_SHIFT
    if number == _OTHER_CLASS:
        text, _, other = text.rpartition(b"\0")
        storage_class = other.decode("utf-8", "surrogatepass")
    else:
        storage_class = _CLASSES[number]
    if not kind & _HEX:
        return text.decode("utf-8", "surrogatepass"), storage_class
    if len(text) == 16:
        return text.hex(), storage_class
    return text[:16].hex() + text[16:].decode("utf-8", "surrogatepass"), storage_class
