"""What is to be written to the disk tier, between trio's thread, which puts it, and the writer's, which takes it.

Owns how much may be queued, and when the writer is woken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.cache.disk.writes import Write
from s3stream_fs.types import ByteRange

_GATHER_NBYTES: Final = 8 * 1024 * 1024
"""The thread is woken for so much at a time, or for half of what may be queued, and otherwise looks every now and then:
woken for each small file, it took a quarter of the files per second from the readers (one interpreter lock, and a
commit for every file)."""

_BATCH_NBYTES: Final = 32 * 1024 * 1024
"""Bytes written per commit at the most: a kill loses no more than this."""

_BATCH_WRITES: Final = 256
"""Writes per commit at the most: each keeps a file open until then."""


class WriteQueue:
    def __init__(self, limit_nbytes: int, records: Records) -> None:
        self._limit_nbytes = limit_nbytes
        self._gather_nbytes = min(_GATHER_NBYTES, limit_nbytes // 2)
        self._records = records
        self._writes: deque[Write] = deque()
        self._nbytes = 0
        """Of these, and of the batch that is being written."""
        self._changed = threading.Condition()
        self._stopping = False
        self._flushing = 0
        """How many wait for the queue to be empty."""
        self._busy = True

    def put_nowait(self, record: Record, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Queue a write. False where the queue is full."""
        with self._changed:
            write = Write(record, byte_range, pieces)
            if self._nbytes and self._nbytes + write.cost_nbytes > self._limit_nbytes:
                return False
            self._nbytes += write.cost_nbytes
            self._writes.append(write)
            self._records.queued(record)
            if self._nbytes >= self._gather_nbytes:
                self._changed.notify_all()
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued has been dealt with. Blocks; for a worker thread."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._writes and not self._busy, timeout)
            self._flushing -= 1
            return done

    def wake(self) -> None:
        """Have the writer look now, whatever is queued."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """The writer is to end when it has taken all."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def clear(self) -> None:
        """What has not been taken will not be written."""
        with self._changed:
            self._writes.clear()

    # The writer's thread:

    def take(self, patience_seconds: float) -> tuple[list[Write], bool]:
        """What is to be written next, of which there may be nothing; and whether to end, since nothing will come.

        Waits for so long where there is little.
        """
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            urgent = self._stopping or (self._flushing and self._writes)
            if self._nbytes < self._gather_nbytes and not urgent:
                self._changed.wait(patience_seconds)
            batch: list[Write] = []
            nbytes = 0
            most = min(_BATCH_WRITES, self._records.limit)
            while self._writes and nbytes < _BATCH_NBYTES and len(batch) < most:
                batch.append(self._writes.popleft())
                nbytes += batch[-1].cost_nbytes
            self._busy = True
            return batch, self._stopping and not batch

    def dealt_with(self, batch: Sequence[Write]) -> None:
        """These are written, or will not be."""
        with self._changed:
            self._nbytes -= sum(write.cost_nbytes for write in batch)
            waiting = {write.record.name for write in self._writes}
            for write in batch:
                if write.record.name not in waiting:
                    self._records.saved(write.record.name)

    def unsaved_names(self) -> set[str]:
        """Names of files with blocks that are to be written: their records hold them open."""
        with self._changed:
            return self._records.unsaved_names()

    def end(self) -> None:
        """The writer takes no more."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
