"""What the disk did wrong as trio's thread sees it: what the file counts as because of it, how often, and what is said.

A fault costs a hit, never a read: the blocks that are meant count as absent, so that they are fetched again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

import trio

from s3stream_fs.cache.disk.files import lacks_descriptors
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.types import BLOCK_BYTES, ByteRange

log = logging.getLogger(__name__)

_SLOW_SECONDS: Final = 10.0
"""How long a file is not asked for again whose disk did not answer in time."""

_BUSY_SECONDS: Final = 1.0
"""The same where there was no descriptor for it, or somebody had locked the index."""

_DISTRUST_SECONDS: Final = 300.0
"""How long the kernel is handed no files after an error of the disk. A guess: bad sectors seldom come alone, and it
costs a copy of what is read, where an error costs the reader."""


class Faults:
    """``errors`` and ``bad_blocks`` count from the start."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._distrusted_until = float("-inf")
        self._told_slow = False
        self._told_error = False
        self.errors = 0
        self.bad_blocks = 0

    @property
    def distrusted(self) -> bool:
        """Whether the kernel is to be handed no files: their readers would be given the disk's errors."""
        return trio.current_time() < self._distrusted_until

    def distrust(self) -> None:
        """The disk has given errors."""
        self._distrusted_until = trio.current_time() + _DISTRUST_SECONDS

    def answered(self) -> None:
        """The disk has given what it was asked for: should it be slow once more, that is said again."""
        self._told_slow = False

    def unanswered(self) -> None:
        """The disk could not be asked."""
        self.errors += 1

    def slow(self, record: Record) -> None:
        """The disk did not answer in time."""
        record.away_until = trio.current_time() + _SLOW_SECONDS
        if not self._told_slow:
            self._told_slow = True
            log.warning("the disk of the cache does not answer: what it has is asked of the store until it does")

    def busy(self, record: Record) -> None:
        """Somebody had locked the index, or there were no descriptors: it counts as absent for a while."""
        self.errors += 1
        record.away_until = trio.current_time() + _BUSY_SECONDS

    def unreadable(self, record: Record, error: OSError) -> None:
        """This file cannot be had from the disk."""
        if lacks_descriptors(error):
            self.busy(record)
            return
        self.errors += 1
        if isinstance(error, FileNotFoundError):
            self._records.lose(record)
        else:
            self.distrust()
        if not self._told_error:
            self._told_error = True
            log.error("a file of the disk cache cannot be read: %s; it is fetched again", str(error))
        record.reset()
        record.told(trio.current_time())

    def bad(self, record: Record, blocks: Collection[int], what: str) -> None:
        """Blocks that do not count any more, by their index."""
        log.warning("the cached file of %r %s; they are fetched again", record.object_id.key, what)
        record.told(trio.current_time())  # or the index would say at once that they are there
        self.bad_blocks += len(blocks)
        for index in blocks:
            del record.checksums[index]
            if record.file is not None:
                start = index * BLOCK_BYTES - record.byte_range.start
                record.file.set_verified(ByteRange(start, start + BLOCK_BYTES), False)
