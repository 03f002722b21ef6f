"""How the bytes of data files are read and checked: at once where the page cache has them, else by a reader thread.

Owns the memory that is read into, and what of it leaves the page cache alone. What is not right is never given out.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from s3stream_fs.cache.disk.checksums import CHECKSUM_NBYTES, run_of
from s3stream_fs.cache.disk.direct import ALIGNMENT_NBYTES, ReadBuffers
from s3stream_fs.cache.disk.faults import Faults
from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.cache.disk.leftovers import Leftovers
from s3stream_fs.cache.disk.lookups import Lookups, Reading
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.types import BLOCK_BYTES, ByteRange

INLINE_NBYTES: Final = 1024 * 1024
"""Up to here a copy out of the page cache (0.1 ms) costs less than a thread."""

READ_NBYTES: Final = INLINE_NBYTES + 2 * BLOCK_BYTES
"""The same in whole blocks, wherever it begins."""

_DIRECT_NBYTES: Final = 128 * 1024
"""From here on a read of a file that is not small (above ``INLINE_NBYTES``) leaves the page cache alone."""


class Reads:
    """Trio's thread's. Only of blocks which their record has."""

    def __init__(
        self,
        threads: ReadThreads,
        lookups: Callable[[], Lookups],
        buffers: ReadBuffers,
        records: Records,
        now_ms: Callable[[], int],
        faults: Faults,
        leftovers: Leftovers,
        *,
        verify_always: bool,
    ) -> None:
        """``lookups``: those that open files at present."""
        self._threads = threads
        self._lookups = lookups
        self._buffers = buffers
        self._records = records
        self._now_ms = now_ms
        self._faults = faults
        self._leftovers = leftovers
        self._verify_always = verify_always
        self._nowait_works = True
        self._scratch = memoryview(bytearray(READ_NBYTES))
        """Where a read goes that may come to nothing, so that no memory is made for it."""
        self.hits = 0

    def read_nowait(self, record: Record, wanted: ByteRange) -> memoryview | None:
        """The bytes, if the page cache has them, and they are not more than may be copied on this thread."""
        file = record.file
        if (
            file is None
            or not self._nowait_works
            or len(wanted) > INLINE_NBYTES
            or _goes_direct(record.byte_range, wanted)  # even to ask for its pages would have the kernel read them
        ):
            return None
        span = self._span(file, record, wanted)
        scratch = self._scratch[: len(span)]
        try:
            # Takes what the page cache has, and neither a lock nor a journal: the file is open with O_NOATIME.
            if os.preadv(file.fd, [scratch], record.inside(span).start, os.RWF_NOWAIT) != len(span):
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # this file system cannot say what its page cache has
                self._nowait_works = False
            else:
                self._faults.unreadable(record, error)
            return None
        if _ends_small_file(record.byte_range, span) and self._leftovers.add(file) and not self._threads.hanging:
            self._threads.begin_nowait(self._leftovers.tidy)
        return self.checked(record, file, wanted, span, memoryview(bytes(scratch)))

    async def read(self, record: Record, wanted: ByteRange) -> memoryview | None:
        """The bytes, by a thread; None where they cannot be had or are not right."""
        file = record.file
        span = wanted.aligned(record.object_id.size) if file is None else self._span(file, record, wanted)
        reading = self.reading(record.byte_range, wanted, span)
        lookups = self._lookups()

        def job() -> tuple[DataFile, memoryview]:
            opened = lookups.open(record.name) if file is None else file
            return opened, reading.of(opened)

        try:
            opened, view = await self._threads.run(job)
        except TimeoutError:
            self._faults.slow(record)
            return None
        except OSError as error:
            self._faults.unreadable(record, error)
            return None
        if record.file is None and lookups is self._lookups() and record.has(wanted):
            record.file = opened
        return self.checked(record, opened, wanted, span, view)

    def reading(self, whole: ByteRange, wanted: ByteRange, span: ByteRange) -> Reading:
        """How a thread reads ``span``, for the sake of ``wanted``, of a data file that is for ``whole``."""
        inside = ByteRange(span.start - whole.start, span.stop - whole.start)
        buffer = self._buffers.take(-(-len(span) // ALIGNMENT_NBYTES) * ALIGNMENT_NBYTES)
        direct = buffer is not None and _goes_direct(whole, wanted)
        return Reading(inside, buffer, direct, once=_ends_small_file(whole, span))

    def checked(
        self, record: Record, file: DataFile, wanted: ByteRange, span: ByteRange, view: memoryview
    ) -> memoryview | None:
        """``wanted`` out of ``span``, whose bytes are in ``view``, if they are right."""
        if len(view) != len(span):
            self._faults.bad(record, span.blocks(), "is shorter than its index says")
            return None
        if self._verify_always or not file.is_verified(record.inside(wanted)):
            if not record.has(span):
                return None  # evicted while it was being read
            blocks = span.blocks()
            expected, found = record.checksums.run(blocks), run_of(view)
            if found != expected:
                # All that is wrong, so that a file that somebody has overwritten is not fetched block by block.
                starts = range(0, len(found), CHECKSUM_NBYTES)
                wrong = [
                    index
                    for index, at in zip(blocks, starts, strict=True)
                    if found[at : at + CHECKSUM_NBYTES] != expected[at : at + CHECKSUM_NBYTES]
                ]
                self._faults.bad(record, wrong, "has blocks that are not what was written")
                return None
            file.set_verified(record.inside(span))
        self._faults.answered()
        self.hits += 1
        self._records.use(record, self._now_ms())
        return view if span == wanted else view[wanted.start - span.start : wanted.stop - span.start]

    def _span(self, file: DataFile, record: Record, wanted: ByteRange) -> ByteRange:
        """What has to be read for ``wanted``: whole blocks, where it has to be checked."""
        if not self._verify_always and file.is_verified(record.inside(wanted)):
            return wanted.aligned(record.object_id.size, ALIGNMENT_NBYTES)
        return wanted.aligned(record.object_id.size)


# The kernel keeps what it is given in pages of the mount. A second copy of a data set, in pages of the cache's files,
# would take the memory that could have kept the rest of it.


def _goes_direct(whole: ByteRange, wanted: ByteRange) -> bool:
    """Whether a read of a data file leaves the page cache alone."""
    return len(wanted) >= _DIRECT_NBYTES and len(whole) > INLINE_NBYTES


def _ends_small_file(whole: ByteRange, span: ByteRange) -> bool:
    """Whether a read of a data file leaves nothing in the page cache."""
    return span.stop == whole.stop and len(whole) <= INLINE_NBYTES
