"""What is known in this process of one data file of the cache."""

from __future__ import annotations

from dataclasses import dataclass

from s3stream_fs.cache.disk.checksums import Checksums
from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.types import ByteRange, ObjectId


@dataclass(slots=True, eq=False)
class Record:
    """Shared by trio's thread, which reads it and drops from it, and the writer's, which adds.

    ``byte_range`` is what of the object the file is for; ``checksums`` are those of its blocks that count.
    """

    name: str
    object_id: ObjectId
    byte_range: ByteRange
    checksums: Checksums
    file: DataFile | None = None
    used_ms: int = 0
    asked_at: float = 0.0
    """When the index was asked the last time."""

    def reset(self) -> None:
        """The file is gone, or another one: nothing is known any more."""
        self.checksums.clear()
        self.file = None

    def inside(self, wanted: ByteRange) -> ByteRange:
        """Bytes of the object, counted from the start of the file."""
        start = self.byte_range.start
        return ByteRange(wanted.start - start, wanted.stop - start) if start else wanted

    def has(self, wanted: ByteRange) -> bool:
        return self.checksums.has(wanted.blocks())
