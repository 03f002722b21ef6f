"""The index of the disk tier: which blocks of which object are on disk, with their checksums and last use. SQLite.

A block counts only if its row is committed. Opens at once, however many rows there are. Several processes may have it
open (write-ahead log); one connection belongs to one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s3stream_fs.types import ObjectId

_FORMAT: Final = 1
"""Another number is another layout: such a cache is emptied, never guessed at."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS object (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, key TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
    nbytes INTEGER NOT NULL, used REAL NOT NULL);
CREATE INDEX IF NOT EXISTS object_used ON object (used);
CREATE TABLE IF NOT EXISTS block (
    object INTEGER NOT NULL, idx INTEGER NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (object, idx)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (one INTEGER PRIMARY KEY CHECK (one = 1), nbytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (1, 0);
"""


@dataclass(frozen=True, slots=True)
class Victim:
    """An object that may be evicted: its row, its file, and the bytes that go with it."""

    row: int
    name: str
    nbytes: int


class BlockIndex:
    """One connection. Raises sqlite3.Error wherever SQLite does."""

    def __init__(self, path: Path) -> None:
        # The file is made by us first, so that nobody else can read it, not even for a moment.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            # No fsync per commit: a block that did not survive a power loss fails its checksum and is fetched again.
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
            # A log of 1 MiB at the most, so that the room that is kept for it is enough.
            self._db.executescript("PRAGMA wal_autocheckpoint=256; PRAGMA trusted_schema=OFF;")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise sqlite3.DatabaseError(f"format {found}")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_FORMAT}; COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def find(self, name: str, object_id: ObjectId) -> dict[int, bytes] | None:
        """The checksums of an object's blocks by index; None for an object that is not there."""
        row = self._db.execute("SELECT id, key, etag, size FROM object WHERE name = ?", (name,)).fetchone()
        if row is None or row[1:] != (_text(object_id.key), object_id.etag, object_id.size):
            return None
        return dict(self._db.execute("SELECT idx, checksum FROM block WHERE object = ?", (row[0],)))

    def add(self, name: str, object_id: ObjectId, blocks: dict[int, bytes], nbytes: int, now: float) -> None:
        """Blocks that are now on disk; ``nbytes`` is the room that they take. Call ``grow`` once after."""
        # Two statements for each small file: each of them takes the interpreter's lock back from readers.
        self._db.execute(
            "INSERT INTO object (name, key, etag, size, nbytes, used) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET nbytes = nbytes + excluded.nbytes, used = excluded.used",
            (name, _text(object_id.key), object_id.etag, object_id.size, nbytes, now),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO block SELECT id, ?, ? FROM object WHERE name = ?",
            [(index, checksum, name) for index, checksum in blocks.items()],
        )

    def grow(self, nbytes: int) -> None:
        """The room that all blocks of this transaction take. Inside ``transaction``."""
        self._db.execute("UPDATE total SET nbytes = nbytes + ?", (nbytes,))

    def touch(self, used: Iterable[tuple[float, str]]) -> None:
        """Note (time, name) of objects that were read. Inside ``transaction``."""
        self._db.executemany("UPDATE object SET used = ? WHERE name = ?", used)

    def remove(self, row: int) -> None:
        """Forget an object and its blocks. Inside ``transaction``."""
        self._db.execute("DELETE FROM block WHERE object = ?", (row,))
        self._db.execute(
            "UPDATE total SET nbytes = max(0, nbytes - coalesce((SELECT nbytes FROM object WHERE id = ?), 0))", (row,)
        )
        self._db.execute("DELETE FROM object WHERE id = ?", (row,))

    def least_recently_used(self, limit: int) -> list[Victim]:
        rows = self._db.execute("SELECT id, name, nbytes FROM object ORDER BY used LIMIT ?", (limit,))
        return [Victim(*row) for row in rows]

    def has(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM object WHERE name = ?", (name,)).fetchone() is not None

    def nbytes(self) -> int:
        """The room that all blocks take, of every process that shares the folder."""
        (nbytes,) = self._db.execute("SELECT nbytes FROM total").fetchone()
        return int(nbytes)

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _text(key: str) -> str:
    # SQLite refuses lone surrogates, and S3 has none in its keys; whatever has them is only never found again.
    return key.encode("utf-8", "replace").decode()
