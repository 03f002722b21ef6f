"""Data files that are an object, byte for byte, so that the kernel may be handed them and reads them past every check.

Owns that such files are read and compared for it in the background, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from s3stream_fs.cache.disk.checksums import Checksums, run_of
from s3stream_fs.cache.disk.direct import ReadBuffers
from s3stream_fs.cache.disk.faults import Faults
from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.reads import INLINE_NBYTES
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.types import ByteRange


class WholeFiles:
    """Trio's thread's."""

    def __init__(
        self,
        threads: ReadThreads,
        buffers: ReadBuffers,
        records: Records,
        now_ms: Callable[[], int],
        faults: Faults,
        *,
        verify_always: bool,
    ) -> None:
        self._threads = threads
        self._buffers = buffers
        self._records = records
        self._now_ms = now_ms
        self._faults = faults
        self._verify_always = verify_always
        self._comparing = False
        """A thread is at it."""

    @property
    def allowed(self) -> bool:
        """Not of a disk that has given errors lately: whoever reads the file is given them, until it is opened anew."""
        return not (self._verify_always or self._faults.distrusted)

    def get_nowait(self, record: Record) -> DataFile | None:
        """The file, if it has all bytes of its object and nothing else, and every block has been seen to be right.

        Of one that is all there that is found out, for the next who asks.
        """
        whole = record.object_id.whole
        file = record.file
        if record.byte_range.stop < whole.stop or file is None or not record.has(whole):
            return None
        if not file.is_verified(whole):
            self._compare_nowait(record, file)
            return None
        if file.was_longer_than(whole.stop):
            return None
        self._records.use(record, self._now_ms())
        return file

    def _compare_nowait(self, record: Record, file: DataFile) -> None:
        """Have it read and compared by a thread for which nobody waits."""
        buffer = None if self._comparing else self._buffers.take(INLINE_NBYTES)
        if buffer is None:
            return
        self._comparing = True
        checksums = record.checksums

        def job() -> None:
            try:
                with suppress(OSError):  # whoever reads it is told
                    _compare(file, len(record.byte_range), checksums, buffer)
            finally:
                self._comparing = False

        self._threads.begin_nowait(job)


def _compare(file: DataFile, size: int, checksums: Checksums, buffer: memoryview) -> None:
    """Read what was not read so far of a file that begins with its object, up to what is wrong. Raises OSError.

    From the end on, so that it meets who reads it from its start: together they read it once.
    """
    for start in reversed(range(0, size, len(buffer))):
        part = ByteRange(start, min(start + len(buffer), size))
        if file.is_verified(part):
            continue
        view = file.read_direct(part, buffer)
        if run_of(view) != checksums.run(part.blocks()):
            return
        file.set_verified(part)
