"""What the index takes and gives: rows, objects, and which of them are meant. Values only; SQLite is the index's."""

from __future__ import annotations

from dataclasses import dataclass

from s3stream_fs.types import ByteRange, ObjectId


@dataclass(frozen=True, slots=True)
class Row:
    """One data file as the index has it. ``start`` is where in the object it begins."""

    row: int
    name: str
    key: bytes
    size: int
    start: int
    checksums: bytes
    nbytes: int


@dataclass(frozen=True, slots=True)
class CachedObject:
    """What is cached of one version of an object. ``nblocks`` of it count; ``used_ms`` is PINNED for what is pinned."""

    space: str
    key: bytes
    etag: str
    size: int
    nblocks: int
    nbytes_on_disk: int
    used_ms: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Files of these ``spaces`` (of all: None) whose keys begin with ``prefix``."""

    spaces: tuple[int, ...] | None = None
    prefix: bytes = b""

    @property
    def where(self) -> str:
        spaces = "" if self.spaces is None else f" AND file.space IN ({','.join(map(str, self.spaces))})"
        return f"substr(file.key, 1, {len(self.prefix)}) = ?{spaces}"


@dataclass(frozen=True, slots=True)
class Written:
    """Blocks that are now in a file, which takes ``nbytes`` on disk. ``fresh``: nothing that was known of it holds."""

    name: str
    object_id: ObjectId
    byte_range: ByteRange
    found: dict[int, bytes]
    nbytes: int
    fresh: bool
