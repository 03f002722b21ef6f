"""A snapshot while it is being written: rows come in any order, and at the end lie in the order of their keys.

Owns the way from rows to a file that ``snapshot`` reads, in bounded memory. Rows are staged in a second file, then
sorted by SQLite, which spills to disk. Knows no bucket and no command: who writes decides where the two files lie and
what becomes of them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import trio

from s3stream_fs.errors import UsageError
from s3stream_fs.store.snapshot.store import (
    APPLICATION_ID,
    FORMAT,
    OBJECTS_TABLE,
    SNAPSHOT_TABLE,
    SnapshotInfo,
    check_sqlite,
)
from s3stream_fs.types import NANOSECONDS, ObjectInfo, shown_mtime

_CACHE_KIB: Final = 32 * 1024
"""SQLite's memory for each of the files and for sorting."""

_SELECTED: Final = "key, size, etag, mtime_ns, storage_class, restored"


class SnapshotDraft:
    """All of it raises UsageError where the files cannot be written."""

    def __init__(self, path: Path, stage: Path) -> None:
        """Both are empty files, or do not exist."""
        # Unfinished files are thrown away, so nothing has to survive a crash, and no journal lies beside them.
        check_sqlite()
        with _told():
            self._db = sqlite3.connect(_uri(path), uri=True, isolation_level=None, check_same_thread=False)
        self.nobjects = 0
        try:
            with _told():
                self._prepare(stage)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, stage: Path) -> None:
        self._db.execute("PRAGMA page_size=8192")  # fewer levels than with 4096, at the same cost of a search
        self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version={FORMAT}")
        self._db.execute("ATTACH ? AS work", (_uri(stage),))
        for name in ("main", "work"):
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
                self._db.execute(f"PRAGMA {name}.{pragma}").fetchall()
            self._db.execute(f"PRAGMA {name}.cache_size=-{_CACHE_KIB}")
        self._db.execute("PRAGMA temp_store=FILE")
        self._db.execute(OBJECTS_TABLE)
        self._db.execute(SNAPSHOT_TABLE)
        self._db.execute(f"CREATE TABLE work.stage ({_SELECTED})")
        self._db.execute("BEGIN")

    def close(self) -> None:
        self._db.close()

    def add(self, infos: Iterable[ObjectInfo]) -> None:
        """Take rows. Raises UsageError for what no snapshot may hold: no version of an object, or no text as a key."""
        rows = []
        for info in infos:
            if not info.id.etag and info.id.size:
                raise UsageError(
                    f"{info.id.key!r} comes without an ETag and without a time, by which a snapshot knows its version"
                )
            mtime_ns = shown_mtime(info.mtime_ns)
            rows.append((info.id.key, info.id.size, info.id.etag, mtime_ns, info.storage_class, info.restored))
        with _told():
            self._db.executemany("INSERT INTO work.stage VALUES (?, ?, ?, ?, ?, ?)", rows)
        self.nobjects += len(rows)

    async def finish(self, bucket: str, prefix: str, endpoint: str, taken_ns: int) -> SnapshotInfo:
        """Sort, and close what is now a whole snapshot. Raises UsageError where a key was given twice."""
        taken = datetime.fromtimestamp(taken_ns // NANOSECONDS, UTC).isoformat().replace("+00:00", "Z")

        def work() -> SnapshotInfo:
            with _told():
                self._db.execute("COMMIT")
                self._db.execute(f"INSERT INTO objects SELECT {_SELECTED} FROM work.stage ORDER BY key")
                totals = "SELECT count(*), coalesce(sum(size), 0) FROM work.stage"
                row = (bucket, prefix, endpoint, taken, *self._db.execute(totals).fetchone())
                self._db.execute("INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?)", row)
                self._db.close()
            return SnapshotInfo(*row)

        failed: UsageError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._interrupt_when_cancelled)
            try:
                # In a thread, so that a signal is heard meanwhile.
                info = await trio.to_thread.run_sync(work)
            except UsageError as error:
                await trio.lowlevel.checkpoint_if_cancelled()
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return info

    async def _interrupt_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with suppress(sqlite3.ProgrammingError):  # it is closed: all is done
                self._db.interrupt()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise UsageError("a key comes twice") from None
    except UnicodeEncodeError:
        raise UsageError("a key is no text") from None
    except sqlite3.Error as error:
        raise UsageError(f"the snapshot cannot be written: {error}") from None


def _uri(path: Path) -> str:
    # Without locks: nobody else knows the file, and where flock is made of them they would meet the caller's.
    return f"file:{quote(os.fsencode(path))}?vfs=unix-none"
