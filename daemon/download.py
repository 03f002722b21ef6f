"""Whole objects that a command needs as files: snapshots, inventories. Owns their GETs, several at once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from s3stream_daemon.check import STARTUP_SECONDS
from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.source import Object
from s3stream_daemon.startup import reading_error
from s3stream_fs.errors import StoreError, UsageError
from s3stream_fs.store import Bucket, Connection
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.store.rooms import open_bucket
from s3stream_fs.types import ByteRange, ObjectId

_PART_NBYTES: Final = 8 * 1024**2
_FIRST_NBYTES: Final = 1024**2
"""Of the first part, by which is seen that the object can be read: it has to come within the time that a start has."""

_PARTS_AT_ONCE: Final = 8
"""90 MB/s each: as much as a disk writes, and 64 MiB of memory."""


class Downloader:
    """Reads objects of one bucket, by GET alone. Raises ExitError."""

    def __init__(self, s3: Bucket, deadline_seconds: float, started: dict[str, tuple[ObjectId, bytes]]) -> None:
        """``started``: what has been read already, by key: the first part of an object."""
        self._s3 = s3
        self._started = started
        self._connection = s3.connection
        self._store = RetryingStore(s3, RetryPolicy(deadline_seconds=deadline_seconds))

    async def read(self, what: Object, limit: int) -> bytes:
        """All bytes of a small object. Raises UsageError where it has more than ``limit``."""
        object_id, data = await self._start(what, limit)
        if object_id.size > limit:
            raise UsageError(f"{what} has {object_id.size:,} bytes, which is too much for what it should be")
        return data

    async def download(self, what: Object, descriptor: int, on_progress: Callable[[int, int], None]) -> None:
        """Write all bytes to a file, and tell how many of how many there are."""
        object_id, data = await self._start(what, _PART_NBYTES)
        done = 0

        def wrote(part: bytes | memoryview, offset: int) -> None:
            nonlocal done
            view = memoryview(part)
            try:
                while view:
                    count = os.pwrite(descriptor, view, offset)
                    view, offset, done = view[count:], offset + count, done + count
            except OSError as error:
                raise ExitError(f"cannot keep a copy of {what}: {error.strerror}", ExitCode.SNAPSHOT) from None
            on_progress(done, object_id.size)

        async def fetch(part: ByteRange) -> None:
            position = part.start

            def deliver(piece: memoryview) -> None:
                nonlocal position
                wrote(piece, position)
                position += len(piece)

            async with places:
                await self._store.get_range(object_id, part, deliver)

        wrote(data, 0)
        places = trio.CapacityLimiter(_PARTS_AT_ONCE)
        if object_id.size > len(data):
            try:
                async with trio.open_nursery() as nursery:
                    for part in ByteRange(len(data), object_id.size).parts(_PART_NBYTES):
                        nursery.start_soon(fetch, part)
            except* StoreError as errors:
                raise reading_error(_first(errors), what, self._connection) from None

    async def _start(self, what: Object, limit: int) -> tuple[ObjectId, bytes]:
        started = self._started.pop(what.key, None)
        if started is not None and (len(started[1]) == started[0].size or limit == _PART_NBYTES):
            return started
        try:
            return await self._store.retried(f"GET of {what.key!r}", lambda: self._s3.get_start(what.key, limit))
        except StoreError as error:
            raise reading_error(error, what, self._connection) from None


@asynccontextmanager
async def open_downloader(connection: Connection, what: Object, deadline_seconds: float) -> AsyncIterator[Downloader]:
    """For the bucket of ``connection``, of which the first part of ``what`` is read. Raises ExitError."""
    started: dict[str, tuple[ObjectId, bytes]] = {}

    async def probe(s3: Bucket) -> None:
        retrying = RetryingStore(s3, RetryPolicy(deadline_seconds=STARTUP_SECONDS))
        started[what.key] = await retrying.retried(
            f"GET of {what.key!r}", lambda: s3.get_start(what.key, _FIRST_NBYTES)
        )

    async with AsyncExitStack() as stack:
        try:
            s3 = await stack.enter_async_context(open_bucket(what.scheme, connection, probe))
        except StoreError as error:
            raise reading_error(error, what, connection) from None
        yield Downloader(s3, deadline_seconds, started)


def _first(errors: BaseExceptionGroup[StoreError]) -> StoreError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
