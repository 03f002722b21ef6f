"""What is to be written to a data file, and what has been and is not in the index so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.cache.disk.policy import Amount
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.rows import Written
from s3stream_fs.types import ByteRange

_COST_NBYTES: Final = 2048
"""Of a write that is queued, beside its bytes: its views, record and names, of which 1,400 bytes were measured."""

_DISK_PAGE_NBYTES: Final = 4096
"""What a file system hands out at least."""


@dataclass(frozen=True, slots=True)
class Write:
    """``byte_range`` of the record's object, whose bytes are in ``pieces``."""

    record: Record
    byte_range: ByteRange
    pieces: Sequence[memoryview]

    @property
    def cost_nbytes(self) -> int:
        """What it takes in the queue."""
        return len(self.byte_range) + _COST_NBYTES

    @property
    def wanted(self) -> Amount:
        """What it takes on disk at the most."""
        known = self.record.file is not None or len(self.record.checksums) > 0
        return Amount(-(-len(self.byte_range) // _DISK_PAGE_NBYTES) * _DISK_PAGE_NBYTES, 0 if known else 1)


@dataclass(frozen=True, slots=True)
class Done:
    """Blocks that are in their file, and not yet in the index: ``found`` are their checksums. ``fresh``: nothing that
    was known of the file holds."""

    write: Write
    found: dict[int, bytes]
    file: DataFile
    fresh: bool

    def row(self) -> Written:
        """Raises OSError."""
        record = self.write.record
        on_disk, _ = self.file.on_disk()
        return Written(record.name, record.object_id, record.byte_range, self.found, on_disk, self.fresh)
