"""The shelf: pieces of bytes of which only so many are in memory; the others lie in a file until they are asked for.

For names: a directory that nobody looks at takes no memory. Trio's thread never touches the file. Whoever needs a piece
that is not in memory is told so (``Elsewhere``), and if it can wait, has a thread bring it. A disk that hangs holds
those threads: a piece is waited for for three seconds, and nothing leaves memory until the disk is back.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeVar
from weakref import ref

import trio

from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.errors import S3StreamError, StoreUnavailable
from s3stream_fs.namespace.scratch import Scratch

log = logging.getLogger(__name__)

T = TypeVar("T")

_NOWHERE: Final = -1

_READ_THREADS: Final = 4
"""A piece comes back in some 0.1 ms where the kernel has its pages: more threads would only wait for the same disk."""

_PATIENCE_SECONDS: Final = 3.0
"""How long a write may take before listings are let go in its place, as ``ReadThreads`` waits for a read."""

_RETRY_SECONDS: Final = 10.0
"""After an error of the disk nothing is written for so long, and a piece that could not be read is not asked for."""

_BATCH_NBYTES: Final = 4 * 1024**2
"""What is written by one turn of a thread, and how far memory is brought below its limit: a turn costs some 0.1 ms."""

_MARGIN: Final = 1 / 8
"""How far beyond its limit memory may be, as a share of it, while a disk that works is slower than names come."""

UNREADABLE: Final = "names cannot be read from the disk"

_CLOSE_SECONDS: Final = 2.0
"""For the file to be closed; the end of the process does it otherwise."""


@dataclass(frozen=True, slots=True)
class ShelfStatistics:
    """Bytes of pieces in memory, and of all that is in the file (some of it also in memory). ``reads`` are from it."""

    nbytes_in_memory: int
    nbytes_on_disk: int
    reads: int
    errors: int


class Elsewhere(S3StreamError):
    """A piece is not in memory. See ``having``."""

    def __init__(self, piece: Shelved) -> None:
        super().__init__("names lie on the disk")
        self.piece = piece


class Shelved:
    """A piece of bytes that may lie on a shelf, once it was put there."""

    __slots__ = ("__weakref__", "_away_until", "_checksum", "_data", "_held", "_shelf", "_where", "nbytes", "used")

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._shelf: Shelf | None = None
        self._where = _NOWHERE
        """In the shelf's file, where it has been written once."""
        self._checksum = 0
        self._away_until = 0.0
        """After an error of the disk."""
        self._held = 0
        """How many tasks need it in memory."""
        self.nbytes = len(data)
        self.used = True

    @property
    def data(self) -> bytes:
        """Raises Elsewhere where it is not in memory, StoreUnavailable where the disk does not give it at present."""
        self.used = True
        data = self._data
        if data is None:
            assert self._shelf is not None
            data = self._shelf.fetch_nowait(self)
        return data

    @property
    def in_memory(self) -> bool:
        """Also if it was not before, and the kernel has its pages."""
        return self._data is not None or (self._shelf is not None and self._shelf.is_at_hand(self))

    @property
    def is_lost(self) -> bool:
        """Whether the disk does not give it at present."""
        return not self.in_memory and self._shelf is not None and not self._shelf.gives(self)

    async def bring(self) -> None:
        """Have it in memory, for whoever goes on from here without waiting. Raises StoreUnavailable."""
        if not self.in_memory:
            assert self._shelf is not None
            await self._shelf.bring(self)

    def __del__(self) -> None:
        if self._shelf is not None:
            self._shelf.forget(self._data is not None, self._where, self.nbytes)


async def having(job: Callable[[], T]) -> T:
    """What ``job`` gives, once all pieces that it needs are in memory. It begins anew for each that has to be brought.

    Where the disk does not give one, ``job`` is told so by the piece.
    """
    held: list[Shelved] = []
    try:
        while True:
            try:
                return job()
            except Elsewhere as elsewhere:
                piece = elsewhere.piece
            piece._held += 1
            held.append(piece)
            with suppress(StoreUnavailable):
                await piece.bring()
    finally:
        for piece in held:
            piece._held -= 1


class _Leaving(NamedTuple):
    """A piece that is being written. Its place is the writer's until then, whatever becomes of the piece."""

    piece: ref[Shelved]
    data: bytes
    where: int


class Shelf:
    """Keeps pieces within ``limit_nbytes`` of memory, with a file for the rest (see ``open_shelf``).

    Without one, and while nothing can be written there, all of them stay in memory, and ``is_full`` says so.
    """

    def __init__(self, scratch: Scratch | None, limit_nbytes: int) -> None:
        self._scratch = scratch
        self._limit_nbytes = limit_nbytes
        self._batch_nbytes = min(_BATCH_NBYTES, limit_nbytes // 8)
        self._retry_at = 0.0
        """After an error of the disk."""
        self._has_room = True
        """There was a place for the last piece that needed one."""
        self._ring: deque[ref[Shelved]] = deque()
        """Those in memory, in the order in which they are looked at: who was used meanwhile gets another round."""
        self._leaving: list[_Leaving] = []
        """What is to be written next."""
        self._nbytes_leaving = 0
        """With what is being written."""
        self._writing_since = math.inf
        self._any_leaving = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()
        self._threads: ReadThreads | None = None
        self._reading: dict[int, trio.Event] = {}
        """By place. Whoever needs the same piece waits for it (single flight)."""
        self._closed = False
        self._npieces = 0
        self._nbytes_in_memory = 0
        self._nbytes_on_disk = 0
        self._reads = 0
        self._errors = 0

    @property
    def is_full(self) -> bool:
        """Whether there is more than may be in memory, and no room for it elsewhere, or none in time."""
        over_nbytes = self._nbytes_in_memory - self._limit_nbytes
        return over_nbytes > 0 and (over_nbytes > _MARGIN * self._limit_nbytes or not self._writes)

    def put(self, piece: Shelved) -> None:
        """Take a piece into account, until nobody refers to it any more."""
        piece._shelf = self
        self._npieces += 1
        self._hold(piece)

    async def wait_written(self) -> None:
        """Return once memory is within its margin, or the disk does not help: after each of many pieces."""
        with trio.move_on_after(_PATIENCE_SECONDS):
            while self._nbytes_leaving > 0 and self._writes and self.is_full:
                await self._written.park()

    def fetch_nowait(self, piece: Shelved) -> bytes:
        """A piece that is not in memory, if the kernel has its pages. Raises Elsewhere and StoreUnavailable."""
        if not self.is_at_hand(piece):
            raise Elsewhere(piece) if self.gives(piece) else StoreUnavailable(UNREADABLE)
        assert piece._data is not None
        return piece._data

    def is_at_hand(self, piece: Shelved) -> bool:
        """Whether the kernel has the pages of a piece that is not in memory: then it is from now on. 20 us for 60 KB,
        where it takes a thread and a task 100 us to bring it."""
        if self._scratch is None or self._closed:
            return False
        data = self._scratch.read_nowait(piece._where, piece.nbytes, piece._checksum)
        if data is None:
            return False
        self._reads += 1
        piece._data = data
        self._hold(piece)
        return True

    def gives(self, piece: Shelved) -> bool:
        """Whether a piece that is not in memory can be brought, as far as is known."""
        hanging = self._threads is not None and self._threads.hanging
        return not self._closed and not hanging and time.monotonic() >= piece._away_until

    async def bring(self, piece: Shelved) -> None:
        """Have a piece in memory. Raises StoreUnavailable."""
        piece._held += 1
        try:
            while not piece.in_memory:
                if not self.gives(piece):
                    raise StoreUnavailable(UNREADABLE)
                under_way = self._reading.get(piece._where)
                if under_way is None:
                    await self._read(piece)
                else:
                    await under_way.wait()  # who began it may have been cancelled
        finally:
            piece._held -= 1

    def forget(self, in_memory: bool, where: int, nbytes: int) -> None:
        """Nobody refers to a piece any more."""
        self._npieces -= 1
        if in_memory:
            self._nbytes_in_memory -= nbytes
        if where != _NOWHERE:
            assert self._scratch is not None
            self._scratch.give_back_nowait(where, nbytes)  # a thread that still reads it does so for nobody
            self._nbytes_on_disk -= nbytes

    async def write_out(self) -> None:
        """Write what is to leave memory, until cancelled."""
        assert self._scratch is not None
        turn = trio.CapacityLimiter(1)
        while True:
            while not self._leaving:
                await self._any_leaving.park()
            batch, self._leaving = self._leaving, []
            self._writing_since = time.monotonic()
            checksums = None
            try:
                checksums = await trio.to_thread.run_sync(
                    self._scratch.write,
                    [(leaving.where, leaving.data) for leaving in batch],
                    abandon_on_cancel=True,
                    limiter=turn,
                )
            except (OSError, RuntimeError) as error:  # the latter where there can be no thread
                self._fail(error)
                self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._writing_since = math.inf
            self._land(batch, checksums)

    async def close(self) -> None:
        """What is in the file is lost."""
        self._closed = True
        if self._threads is not None:
            self._threads.close()
        if self._scratch is not None:
            with trio.move_on_after(_CLOSE_SECONDS), suppress(RuntimeError):  # no thread for it
                await trio.to_thread.run_sync(self._scratch.close, abandon_on_cancel=True)

    def statistics(self) -> ShelfStatistics:
        return ShelfStatistics(self._nbytes_in_memory, self._nbytes_on_disk, self._reads, self._errors)

    @property
    def _writes(self) -> bool:
        """Whether what leaves memory is written, and in time."""
        now = time.monotonic()
        return (
            self._scratch is not None
            and self._has_room
            and now >= self._retry_at
            and now < self._writing_since + _PATIENCE_SECONDS
        )

    async def _read(self, piece: Shelved) -> None:
        assert self._scratch is not None
        if self._threads is None:
            self._threads = ReadThreads(_READ_THREADS)
        self._reads += 1
        where = piece._where
        done = self._reading[where] = trio.Event()
        try:
            data = await self._threads.run(partial(self._scratch.read, where, piece.nbytes, piece._checksum))
            if piece._data is None:  # nobody found its pages at hand meanwhile
                piece._data = data
                self._hold(piece)
        except OSError as error:
            piece._away_until = time.monotonic() + _RETRY_SECONDS
            self._fail(error)
            raise StoreUnavailable(UNREADABLE) from None
        finally:
            del self._reading[where]
            done.set()

    def _hold(self, piece: Shelved) -> None:
        self._nbytes_in_memory += piece.nbytes
        self._ring.append(ref(piece))
        if len(self._ring) > 2 * self._npieces + 16:
            self._ring = deque(known for known in self._ring if known() is not None)
        if self._scratch is not None and self._nbytes_in_memory - self._nbytes_leaving > self._limit_nbytes:
            self._put_out(self._scratch, piece)

    def _put_out(self, scratch: Scratch, spare: Shelved | None) -> None:
        """Let what was not used lately leave memory: at once what is in the file, and the rest once it is there."""
        wanted_nbytes = self._limit_nbytes - self._batch_nbytes
        for _ in range(2 * len(self._ring)):
            if self._nbytes_in_memory - self._nbytes_leaving <= wanted_nbytes:
                break
            known = self._ring.popleft()
            piece = known()
            if piece is None:
                continue
            data = piece._data
            assert data is not None
            if piece.used or piece is spare or piece._held:
                piece.used = False
                self._ring.append(known)
            elif piece._where != _NOWHERE:
                self._drop(piece)
            elif self._nbytes_leaving >= 2 * self._batch_nbytes + 1 or time.monotonic() < self._retry_at:
                self._ring.append(known)
                break
            else:
                where = scratch.take_nowait(piece.nbytes)
                self._has_room = where is not None
                if where is None:
                    self._ring.append(known)
                    break
                self._leaving.append(_Leaving(known, data, where))
                self._nbytes_leaving += piece.nbytes
        if self._leaving:
            self._any_leaving.unpark()

    def _land(self, batch: list[_Leaving], checksums: list[int] | None) -> None:
        """A batch was written; without checksums it was not."""
        assert self._scratch is not None
        for number, (known, data, where) in enumerate(batch):
            self._nbytes_leaving -= len(data)
            piece = known()
            if piece is None or checksums is None:
                self._scratch.give_back_nowait(where, len(data))
                if piece is not None:
                    self._ring.append(known)
                continue
            piece._where, piece._checksum = where, checksums[number]
            self._nbytes_on_disk += piece.nbytes
            if piece.used or piece._held:
                self._ring.append(known)  # somebody came for it meanwhile
            else:
                self._drop(piece)
        if self._nbytes_in_memory - self._nbytes_leaving > self._limit_nbytes:
            self._put_out(self._scratch, None)
        self._written.unpark_all()

    def _drop(self, piece: Shelved) -> None:
        piece._data = None
        self._nbytes_in_memory -= piece.nbytes

    def _fail(self, error: Exception) -> None:
        self._errors += 1
        if self._errors == 1:
            why = error.strerror if isinstance(error, OSError) else error
            log.error("names cannot be kept on the disk: %s", why)


@asynccontextmanager
async def open_shelf(scratch: Scratch | None, limit_nbytes: int) -> AsyncIterator[Shelf]:
    """A shelf for the time of the context, with a task that writes."""
    shelf = Shelf(scratch, limit_nbytes)
    async with trio.open_nursery() as nursery:
        if scratch is not None:
            nursery.start_soon(shelf.write_out)
        try:
            yield shelf
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await shelf.close()
