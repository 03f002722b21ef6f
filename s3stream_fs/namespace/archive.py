"""The archive: listings on disk that outlive the process, so that a restart within their time to live lists nothing.

Owns one SQLite file in the cache folder, which several processes may share. A fault of the disk costs a listing, never
an answer: what cannot be read, or is not what was written, is simply not there.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import trio
from xxhash import xxh3_64_intdigest

from s3stream_fs.cache.database import is_damage, open_database, remove_database
from s3stream_fs.errors import StoreUnavailable
from s3stream_fs.namespace.rows import Rows

log = logging.getLogger(__name__)

T = TypeVar("T")

_FORMAT: Final = 1

_SCHEMA: Final = """
CREATE TABLE listing (
    id INTEGER PRIMARY KEY, space TEXT NOT NULL, prefix TEXT NOT NULL, listed_ms INTEGER NOT NULL,
    digest BLOB NOT NULL, UNIQUE (space, prefix));
CREATE INDEX listing_age ON listing (listed_ms);
CREATE TABLE piece (
    id INTEGER PRIMARY KEY, listing INTEGER NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX piece_of ON piece (listing);
"""

_WAIT_SECONDS: Final = 2.0
"""How long a commit of another process is waited for, in a thread of its own."""

_MAX_QUEUED: Final = 10_000
"""Listings that wait to be written. More are left out."""

_BATCH: Final = 64
"""Listings in a transaction."""

_CLOSE_SECONDS: Final = 5.0
"""For what is queued when the mount ends, and as long again for the file to be closed."""

_PATIENCE_SECONDS: Final = 2.0
"""How long a directory waits for what the disk has of it, or for a transaction that is under way: a few round trips."""

_AWAY_SECONDS: Final = 10.0
"""How long a disk that did not answer by then is not asked."""

_SHRUNK_TO: Final = 0.75
"""Of the limit, where it was reached."""

_SIGNED: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """``path`` of the file, in a folder that is private. ``space`` names the store and the bucket.

    ``room`` makes room there for so many bytes more, for a while; False where there is none. It may wait.
    """

    path: Path
    space: str
    limit_nbytes: int
    room: Callable[[int], AbstractContextManager[bool]]


@dataclass(frozen=True, slots=True)
class Archived:
    """A complete listing that hides nothing. ``listed_ms`` is when it was begun, in ms since 1970."""

    prefix: str
    listed_ms: int
    digest: bytes
    pieces: tuple[Rows, ...]


@dataclass(frozen=True, slots=True)
class _Packed:
    """The same as plain bytes, for another thread: rows belong to trio's, and so does their shelf."""

    prefix: str
    listed_ms: int
    digest: bytes
    pieces: tuple[bytes, ...]

    @classmethod
    async def of(cls, archived: Archived) -> _Packed:
        """Raises StoreUnavailable where the shelf does not give a piece."""
        pieces: list[bytes] = []
        for rows in archived.pieces:
            await rows.bring()
            pieces.append(rows.data)
        return cls(archived.prefix, archived.listed_ms, archived.digest, tuple(pieces))


@dataclass(frozen=True, slots=True)
class ArchiveStatistics:
    """``enabled``: it is used, or would be. ``errors`` of the disk, or of what was found there."""

    enabled: bool
    found: int
    saved: int
    errors: int


class Archive:
    """See ``open_archive``. Its connection is used by one worker thread at a time."""

    def __init__(self, config: ArchiveConfig) -> None:
        self._config = config
        self._db: sqlite3.Connection | None = None
        self._turn = trio.CapacityLimiter(1)
        """A thread has it until it comes back, also one for which nobody waits any more."""
        self._away_until = float("-inf")
        self._queue: deque[Archived | str] = deque()
        """What is to be written; of a prefix alone the listing is to be dropped."""
        self._queued = trio.lowlevel.ParkingLot()
        self._may_have_any = False
        self._damaged = False
        """The file is at fault, and goes with this process."""
        self._found = 0
        self._saved = 0
        self._errors = 0

    async def find(self, prefix: str, ttl_seconds: float) -> Archived | None:
        """A directory's listing that is not older than that."""
        if not self._may_have_any or trio.current_time() < self._away_until:
            return None
        found = None
        with trio.move_on_after(_PATIENCE_SECONDS) as patience:
            try:
                found = await self._in_thread(partial(self._find, prefix, time.time() - ttl_seconds))
            except (sqlite3.Error, OSError) as error:
                self._fail(error)
        if patience.cancelled_caught:
            self._away_until = trio.current_time() + _AWAY_SECONDS
            self._fail(TimeoutError("their disk does not answer in time"))
        self._found += found is not None
        return found

    def save_nowait(self, archived: Archived) -> None:
        """Have a listing written, soon."""
        if self._db is not None and len(self._queue) < _MAX_QUEUED:
            self._queue.append(archived)
            self._queued.unpark()

    def drop_nowait(self, prefix: str) -> None:
        """Have a directory's listing taken away, soon: it is not right any more."""
        if self._db is not None and len(self._queue) < _MAX_QUEUED and not (self._queue and self._queue[-1] == prefix):
            self._queue.append(prefix)
            self._queued.unpark()

    def statistics(self) -> ArchiveStatistics:
        return ArchiveStatistics(self._db is not None, self._found, self._saved, self._errors)

    async def open(self, ttl_seconds: float) -> None:
        try:
            self._may_have_any = await self._in_thread(partial(self._open, time.time() - ttl_seconds))
        except (sqlite3.Error, OSError) as error:
            self._fail(error)

    async def write(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            while not self._queue:
                await self._queued.park()
            await self._write_batch()

    async def close(self) -> None:
        with trio.move_on_after(_CLOSE_SECONDS):
            while self._queue:
                await self._write_batch()
        with trio.move_on_after(_CLOSE_SECONDS):  # otherwise it is left to the end of the process
            await self._in_thread(self._close)

    async def _write_batch(self) -> None:
        batch: list[_Packed | str] = []
        queued = list(islice(self._queue, _BATCH))
        for one in queued:
            with suppress(StoreUnavailable):  # the disk has lost some of it meanwhile
                batch.append(one if isinstance(one, str) else await _Packed.of(one))
        for _ in queued:
            self._queue.popleft()  # not before: the end of the mount may come while a piece is waited for
        try:
            await self._in_thread(partial(self._save, batch))
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
        except Exception as error:
            log.exception("bug: listings are not kept")  # which is no reason to end the mount
            self._fail(error)

    async def _in_thread(self, job: Callable[[], T]) -> T:
        """After all that a thread is at. Cancelled at once; the job goes on then, for nobody."""
        return await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=self._turn)

    # What follows runs in a worker thread.

    def _open(self, since: float) -> bool:
        """Whether there is any listing of this space that was made since then."""
        path = self._config.path
        for damaged in (False, True):
            if damaged:
                remove_database(path)
            try:
                db = open_database(path, _FORMAT, _SCHEMA, _WAIT_SECONDS)
                try:
                    row = db.execute(
                        "SELECT 1 FROM listing WHERE space = ? AND listed_ms > ? LIMIT 1",
                        (self._config.space, _ms(since)),
                    ).fetchone()
                except BaseException:
                    db.close()
                    raise
            except sqlite3.Error as error:
                if damaged or not is_damage(error):
                    raise  # locked, or the disk is at fault
                log.warning("the listings in %s cannot be used (%s): they are made anew", path, error)
                continue
            self._db = db
            return row is not None
        return False

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
            if self._damaged:
                with suppress(OSError):
                    remove_database(self._config.path)

    def _find(self, prefix: str, since: float) -> Archived | None:
        if self._db is None:
            return None
        row = self._db.execute(
            "SELECT id, listed_ms, digest FROM listing WHERE space = ? AND prefix = ? AND listed_ms > ?",
            (self._config.space, prefix, _ms(since)),
        ).fetchone()
        if row is None:
            return None
        number, listed_ms, digest = row
        pieces = _pieces(
            prefix, self._db.execute("SELECT checksum, data FROM piece WHERE listing = ? ORDER BY id", (number,))
        )
        if pieces is None or not isinstance(listed_ms, int) or not isinstance(digest, bytes):
            # Nobody shall meet it again: a listing that is the same would leave it as it is.
            self._remove(self._db, "id = ?", (number,))
            raise OSError(errno.EIO, f"the listing of {prefix!r} is not what was written")
        if listed_ms > time.time() * 1000:
            return None  # the clock was set back
        return Archived(prefix, listed_ms, digest, pieces)

    def _save(self, batch: list[_Packed | str]) -> None:
        nbytes = sum(len(piece) for packed in batch if isinstance(packed, _Packed) for piece in packed.pieces)
        with self._config.room(nbytes) as has_room:
            if nbytes > self._config.limit_nbytes or not has_room:
                batch, nbytes = [dropped for dropped in batch if isinstance(dropped, str)], 0
            if batch and self._db is not None:
                self._write_down(self._db, batch, nbytes)

    def _write_down(self, db: sqlite3.Connection, batch: list[_Packed | str], nbytes: int) -> None:
        space = self._config.space
        db.execute("BEGIN IMMEDIATE")
        try:
            self._shrink(db, nbytes)
            for packed in batch:
                if isinstance(packed, str):
                    self._remove(db, "space = ? AND prefix = ?", (space, packed))
                    continue
                same = (packed.listed_ms, space, packed.prefix, packed.digest)
                if db.execute(
                    "UPDATE listing SET listed_ms = ? WHERE space = ? AND prefix = ? AND digest = ?", same
                ).rowcount:
                    continue
                self._remove(db, "space = ? AND prefix = ?", (space, packed.prefix))
                number = db.execute(
                    "INSERT INTO listing (listed_ms, space, prefix, digest) VALUES (?, ?, ?, ?)", same
                ).lastrowid
                db.executemany(
                    "INSERT INTO piece (listing, checksum, data) VALUES (?, ?, ?)",
                    ((number, xxh3_64_intdigest(piece) - _SIGNED, piece) for piece in packed.pieces),
                )
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self._saved += sum(isinstance(packed, _Packed) for packed in batch)

    def _shrink(self, db: sqlite3.Connection, more_nbytes: int) -> None:
        """Let the oldest go where the file would become too large."""
        (page_nbytes,), (pages,), (free,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "page_count", "freelist_count")
        )
        if (pages - free) * page_nbytes + more_nbytes <= self._config.limit_nbytes:
            return
        excess = (pages - free) * page_nbytes + more_nbytes - int(_SHRUNK_TO * self._config.limit_nbytes)
        for number, nbytes in db.execute(
            "SELECT listing.id, coalesce(sum(length(data)), 0) FROM listing LEFT JOIN piece ON listing = listing.id"
            " GROUP BY listing.id ORDER BY listed_ms"
        ).fetchall():
            self._remove(db, "id = ?", (number,))
            excess -= nbytes
            if excess <= 0:
                break

    @staticmethod
    def _remove(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> None:
        db.execute(f"DELETE FROM piece WHERE listing IN (SELECT id FROM listing WHERE {where})", values)
        db.execute(f"DELETE FROM listing WHERE {where}", values)

    def _fail(self, error: Exception) -> None:
        self._errors += 1
        self._damaged = self._damaged or (isinstance(error, sqlite3.Error) and is_damage(error))
        if self._errors == 1:
            log.error("listings are not kept on the disk as they should be: %s", error)


def _pieces(prefix: str, found: Iterable[tuple[object, object]]) -> tuple[Rows, ...] | None:
    """Rows with their checksums, if they are what was written, and a listing's. Nothing of them is believed before."""
    pieces: list[Rows] = []
    for checksum, data in found:
        if not isinstance(data, bytes) or xxh3_64_intdigest(data) - _SIGNED != checksum:
            return None
        rows = Rows(prefix, data)
        if not rows.is_sound() or (pieces and pieces[-1].name(len(pieces[-1]) - 1) >= rows.name(0)):
            return None
        pieces.append(rows)
    return tuple(pieces)


def _ms(seconds: float) -> int:
    return int(max(seconds, 0) * 1000)


@asynccontextmanager
async def open_archive(config: ArchiveConfig, ttl_seconds: float) -> AsyncIterator[Archive]:
    """The archive at ``config.path``, for the time of the context, for listings that are used for so long."""
    archive = Archive(config)
    await archive.open(ttl_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.write)
        try:
            yield archive
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await archive.close()
