"""What is known in this process of one data file of the cache."""

from __future__ import annotations

from dataclasses import dataclass

from s3stream_fs.cache.disk.checksums import Checksums
from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.types import ByteRange, ObjectId


@dataclass(slots=True, eq=False)
class Record:
    """Shared by trio's thread, which reads it, adds and drops, and the writer's, which adds.

    ``byte_range`` is what of the object the file is for; ``checksums`` are those of its blocks that count.
    """

    name: str
    object_id: ObjectId
    byte_range: ByteRange
    checksums: Checksums
    file: DataFile | None = None
    used_ms: int = 0
    known: bool = False
    """Whether all is known that the index has of it, as far as this process alone writes it."""
    asked_at: float = float("-inf")
    """When the index was asked the last time."""
    away_until: float = float("-inf")
    """Until then it counts as absent: its disk did not answer in time, or there was no descriptor for it."""

    def reset(self) -> None:
        """The file is gone, or another one: nothing of it is there any more."""
        self.checksums.clear()
        self.file = None

    def told(self, now: float) -> None:
        """The index need not be asked of it for a while; for ever, where nobody else writes."""
        self.known = True
        self.asked_at = now

    def inside(self, wanted: ByteRange) -> ByteRange:
        """Bytes of the object, counted from the start of the file."""
        start = self.byte_range.start
        return ByteRange(wanted.start - start, wanted.stop - start) if start else wanted

    def has(self, wanted: ByteRange) -> bool:
        return self.checksums.has(wanted.blocks())
