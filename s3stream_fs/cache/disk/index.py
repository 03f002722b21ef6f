"""The index of the disk tier: each data file with its blocks' checksums and its last use. SQLite.

A block counts only if its file's row, with its checksum, is committed. Opens at once, however many rows there are.
Several processes may have it open (write-ahead log); one connection belongs to one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from s3stream_fs.cache.database import database_nbytes, log_nbytes, open_database
from s3stream_fs.cache.disk.checksums import CHECKSUM_NBYTES, Checksums, add_run
from s3stream_fs.cache.disk.policy import PINNED, Victim
from s3stream_fs.cache.disk.rows import CachedObject, Row, Selection, Written
from s3stream_fs.types import ObjectId

_FORMAT: Final = 4
"""Another number is another layout: such a cache is emptied, never guessed at."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS space (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS file (
    id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, space INTEGER NOT NULL, key BLOB NOT NULL, etag BLOB NOT NULL,
    size INTEGER NOT NULL, start INTEGER NOT NULL, checksums BLOB NOT NULL, nbytes INTEGER NOT NULL,
    used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS file_used ON file (used);
CREATE TABLE IF NOT EXISTS pin (space INTEGER NOT NULL, prefix BLOB NOT NULL, PRIMARY KEY (space, prefix));
CREATE TABLE IF NOT EXISTS total (
    one INTEGER PRIMARY KEY CHECK (one = 1), nbytes INTEGER NOT NULL, swept INTEGER NOT NULL,
    limit_nbytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (1, 0, 0, 0);
"""

NAMES: Final = "names.sqlite"
"""Beside the index: the listings of earlier processes, which count as well."""

_WAIT_SECONDS: Final = 5.0
"""How long a writer waits for another process's commit."""

_READER_WAIT_MS: Final = 200
"""How long a reader does, in a thread: with a log there is nothing to wait for, and with a journal some fsyncs."""

_WORTH_FOLDING_NBYTES: Final = 256 * 1024
"""A log of some fifty commits. To fold it takes two fsyncs."""

_SPARE_PAGES: Final = 1000
"""Pages that rows have left, before they are given back to the disk."""


class BlockIndex:
    """One connection. Raises sqlite3.Error wherever SQLite does."""

    def __init__(self, path: Path, *, patient: bool) -> None:
        """``patient``: a writer's, which waits for others' commits."""
        self._path = path
        # A loss of power costs rows, and rows whose blocks did not reach the disk fail their checksums.
        self._db = open_database(path, _FORMAT, _SCHEMA, _WAIT_SECONDS)
        try:
            if not patient:
                self._db.execute(f"PRAGMA busy_timeout={_READER_WAIT_MS}")
            self.nbytes()
            self.inode: Final = path.stat().st_ino
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is done inside."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def find(self, name: str, object_id: ObjectId) -> bytes | None:
        """The packed checksums of a file's blocks; None for a file that is not there, or is not this object's."""
        row = self._db.execute(
            "SELECT key, etag, size, checksums FROM file WHERE name = ?", (bytes.fromhex(name),)
        ).fetchone()
        if row is None or row[:3] != (_blob(object_id.key), _blob(object_id.etag), object_id.size):
            return None
        return _bytes(row[3])

    def find_all(self, names: Sequence[str], object_id: ObjectId) -> list[bytes]:
        """As ``find``, for those of the files that are there."""
        rows = self._db.execute(
            "SELECT checksums FROM file WHERE key = ? AND etag = ? AND size = ?"
            f" AND name IN ({','.join('?' * len(names))})",
            (_blob(object_id.key), _blob(object_id.etag), object_id.size, *map(bytes.fromhex, names)),
        )
        return [_bytes(packed) for (packed,) in rows]

    def keys(self, after: bytes, limit: int) -> tuple[bytes, bytes]:
        """Of at most ``limit`` names of files beyond ``after``, in order: the last one, and the first 8 bytes of each.

        They are put together by SQLite, which lets other threads of Python run meanwhile: 0.2 s for a million.
        """
        last, packed = self._db.execute(
            "SELECT max(name), group_concat(hex(substr(name, 1, 8)), '') FROM"
            " (SELECT name FROM file WHERE name > ? AND length(name) = 16 ORDER BY name LIMIT ?)",
            (after, limit),
        ).fetchone()
        return (after, b"") if last is None else (_bytes(last), bytes.fromhex(packed))

    def nbytes(self) -> int:
        """The room on disk of all files and of the index, for every process that shares the folder."""
        return self._total("nbytes") + self._own_nbytes()

    @property
    def swept(self) -> bool:
        """Whether the folder was searched for files that this index does not know, since it was made."""
        return self._total("swept") != 0

    @property
    def limit_nbytes(self) -> int:
        """What the last mount allowed."""
        return self._total("limit_nbytes")

    def spaces(self) -> dict[str, int]:
        """All stores and buckets, each with its number."""
        return dict(self._db.execute("SELECT name, id FROM space ORDER BY name"))

    def pins(self) -> list[tuple[int, bytes]]:
        """Spaces and prefixes that are pinned."""
        found = self._db.execute("SELECT space, prefix FROM pin ORDER BY space, prefix")
        return [(_integer(space), _bytes(prefix)) for space, prefix in found]

    def last_row(self) -> int:
        """No file that is there now has a row beyond this one."""
        return _integer(self._db.execute("SELECT coalesce(max(id), 0) FROM file").fetchone()[0])

    def rows_after(self, after: int, limit: int) -> range:
        """The rows from beyond ``after`` in which so many files lie, or fewer where there are no more."""
        found = self._db.execute(
            "SELECT coalesce(max(id), 0) FROM (SELECT id FROM file WHERE id > ? ORDER BY id LIMIT ?)", (after, limit)
        )
        return range(after + 1, _integer(found.fetchone()[0]) + 1)

    def rows(self, selection: Selection, after: int, last: int, limit: int) -> list[Row]:
        """At most ``limit`` files, in the order of their rows, from beyond row ``after`` up to row ``last``."""
        found = self._db.execute(
            "SELECT id, name, key, size, start, checksums, nbytes FROM file"
            f" WHERE {selection.where} AND id > ? AND id <= ? ORDER BY id LIMIT ?",
            (selection.prefix, after, last, limit),
        )
        rows = [
            Row(row, _bytes(name).hex(), _bytes(key), _integer(size), _integer(start), _bytes(packed), _integer(nbytes))
            for row, name, key, size, start, packed, nbytes in found
        ]
        if not all(0 <= row.start < row.size for row in rows):
            raise sqlite3.DatabaseError("a file that begins beyond its object")
        return rows

    def count(self, selection: Selection) -> tuple[int, int]:
        """How many files, and their bytes on disk."""
        return self._pair(
            f"SELECT count(*), coalesce(sum(nbytes), 0) FROM file WHERE {selection.where}", selection.prefix
        )

    def count_pinned(self) -> tuple[int, int]:
        """How many files are pinned, and their bytes on disk."""
        return self._pair("SELECT count(*), coalesce(sum(nbytes), 0) FROM file WHERE used = ?", PINNED)

    def objects(self, selection: Selection) -> Iterator[CachedObject]:
        """By store, bucket and key, as they are at the start."""
        self._db.create_function("nblocks", 1, lambda packed: len(Checksums.of(packed)), deterministic=True)
        # A copy: while somebody reads page by page, the log of those who write could not be taken up into the index.
        self._db.execute("DROP TABLE IF EXISTS temp.found")
        self._db.execute(
            "CREATE TEMP TABLE found AS SELECT space.name AS name, key, etag, size, sum(nblocks(checksums)) AS nblocks,"
            " sum(nbytes) AS nbytes, max(used) AS used"
            f" FROM file JOIN space ON space.id = file.space WHERE {selection.where}"
            " GROUP BY file.space, key, etag, size ORDER BY space.name, key",
            (selection.prefix,),
        )
        for space, key, etag, *numbers in self._db.execute("SELECT * FROM temp.found ORDER BY rowid"):
            yield CachedObject(space, _bytes(key), _bytes(etag).decode("utf-8", "replace"), *numbers)

    # What follows belongs inside ``transaction``.

    def space(self, name: str) -> int:
        """The number of a store and bucket."""
        self._db.execute("INSERT OR IGNORE INTO space (name) VALUES (?)", (name,))
        return _integer(self._db.execute("SELECT id FROM space WHERE name = ?", (name,)).fetchone()[0])

    def add(self, space: int, written: Iterable[Written], used_ms: int) -> None:
        """Blocks that are now in their files."""
        grown = 0
        pins = tuple(prefix for pinned, prefix in self.pins() if pinned == space)
        by_file: dict[str, list[Written]] = {}
        for one in written:
            by_file.setdefault(one.name, []).append(one)
        for parts in by_file.values():
            # A row of a GiB has half a MiB of checksums: it is written once for all parts that came together.
            one = parts[-1]
            name = bytes.fromhex(one.name)
            row = self._db.execute("SELECT id, checksums, nbytes FROM file WHERE name = ?", (name,)).fetchone()
            known = b"" if row is None or any(part.fresh for part in parts) else _bytes(row[1])
            blocks = one.byte_range.blocks()
            checksums = bytearray(known[: len(blocks) * CHECKSUM_NBYTES])
            for part in parts:
                add_run(checksums, blocks.start, part.found)
            if row is None:
                key, etag, size = one.object_id
                pinned = bool(pins) and _blob(key).startswith(pins)
                self._db.execute(
                    "INSERT INTO file (name, space, key, etag, size, start, checksums, nbytes, used)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        name,
                        space,
                        _blob(key),
                        _blob(etag),
                        size,
                        one.byte_range.start,
                        bytes(checksums),
                        one.nbytes,
                        PINNED if pinned else used_ms,
                    ),
                )
                grown += one.nbytes
            else:
                self._db.execute(
                    "UPDATE file SET checksums = ?, nbytes = ?, used = max(used, ?) WHERE id = ?",
                    (bytes(checksums), one.nbytes, used_ms, row[0]),
                )
                grown += one.nbytes - _integer(row[2])
        self._grow(grown)

    def resize(self, name: str, nbytes: int) -> bool:
        """What a file takes on disk by its own account. False where it is not known."""
        row = self._db.execute("SELECT id, nbytes FROM file WHERE name = ?", (bytes.fromhex(name),)).fetchone()
        if row is None:
            return False
        if row[1] != nbytes:
            self._db.execute("UPDATE file SET nbytes = ? WHERE id = ?", (nbytes, row[0]))
            self._grow(nbytes - _integer(row[1]))
        return True

    def touch(self, used: Iterable[tuple[int, str]]) -> None:
        """Note (time, name) of files that were read."""
        self._db.executemany(
            "UPDATE file SET used = ? WHERE name = ? AND used < ?",
            ((used_ms, bytes.fromhex(name), used_ms) for used_ms, name in used),
        )

    def bring_back(self, now_ms: int) -> None:
        """No use lies in the future, whatever the clock said when it was noted."""
        self._db.execute("UPDATE file SET used = ? WHERE used > ? AND used < ?", (now_ms, now_ms, PINNED))

    def remove(self, victims: Iterable[Victim]) -> list[Victim]:
        """Forget files and all their blocks. Returns those that were still there, with the bytes that they take now."""
        removed = []
        for row, name in ((victim.row, victim.name) for victim in victims):
            found = self._db.execute(
                "SELECT nbytes FROM file WHERE id = ? AND name = ?", (row, bytes.fromhex(name))
            ).fetchone()
            if found is not None:
                self._db.execute("DELETE FROM file WHERE id = ?", (row,))
                removed.append(Victim(row, name, _integer(found[0])))
        self._grow(-sum(victim.nbytes for victim in removed))
        return removed

    def forget(self, names: Iterable[str]) -> int:
        """As ``remove``, for files that were removed by somebody else. Returns how many were known."""
        count = 0
        for name in names:
            row = self._db.execute("SELECT id, nbytes FROM file WHERE name = ?", (bytes.fromhex(name),)).fetchone()
            if row is not None:
                count += len(self.remove([Victim(row[0], name, _integer(row[1]))]))
        return count

    def replace(self, row: Row, checksums: bytes) -> None:
        """Other blocks of a file count, unless it has changed meanwhile."""
        self._db.execute(
            "UPDATE file SET checksums = ? WHERE id = ? AND checksums = ?", (checksums, row.row, row.checksums)
        )

    def add_pin(self, selection: Selection) -> None:
        """What comes from now on is pinned; what is there has to be told by ``pin``."""
        for space in selection.spaces or ():
            self._db.execute("INSERT OR IGNORE INTO pin VALUES (?, ?)", (space, selection.prefix))

    def remove_pins(self, selection: Selection) -> int:
        """Take back all pins of prefixes that begin with this one. Returns how many there were."""
        count = 0
        for space, prefix in self.pins():
            if space in (selection.spaces or ()) and prefix.startswith(selection.prefix):
                self._db.execute("DELETE FROM pin WHERE space = ? AND prefix = ?", (space, prefix))
                count += 1
        return count

    def pin(self, selection: Selection, rows: range) -> None:
        """Pin those files of a selection whose rows are among these."""
        self._db.execute(
            f"UPDATE file SET used = ? WHERE id >= ? AND id < ? AND {selection.where}",
            (PINNED, rows.start, rows.stop, selection.prefix),
        )

    def unpin(self, selection: Selection, rows: range, now_ms: int) -> None:
        """Unpin those files of a selection whose rows are among these, but none that another pin holds."""
        held = {space for space, prefix in self.pins() if selection.prefix.startswith(prefix)}
        free = Selection(tuple(space for space in selection.spaces or () if space not in held), selection.prefix)
        self._db.execute(
            f"UPDATE file SET used = ? WHERE id >= ? AND id < ? AND used = ? AND {free.where}",
            (now_ms, rows.start, rows.stop, PINNED, free.prefix),
        )

    def start(self, limit_nbytes: int) -> None:
        """A mount begins: all files are known, and so many bytes are allowed."""
        self._db.execute("UPDATE total SET swept = 1, limit_nbytes = ?", (limit_nbytes,))

    def oldest(self, limit: int, before_ms: int) -> list[Victim]:
        """At most ``limit`` files whose last use was before a time, the least recently used first."""
        rows = self._db.execute(
            "SELECT id, name, nbytes FROM file WHERE used < ? ORDER BY used LIMIT ?", (min(before_ms, PINNED), limit)
        )
        return [Victim(row, _bytes(name).hex(), _integer(nbytes)) for row, name, nbytes in rows]

    def recount(self) -> None:
        """Set the total right, should it not be what the files come to. Outside of transactions: it looks at every row,
        and others may write meanwhile."""
        counted, total = self._db.execute(
            "SELECT (SELECT coalesce(sum(nbytes), 0) FROM file), nbytes FROM total"
        ).fetchone()
        wrong = _integer(total) - _integer(counted)
        if wrong:
            with self.transaction():
                self._grow(-wrong)

    def shrink(self) -> None:
        """Give back pages that rows have left, a few at a time. Outside of transactions."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if free > _SPARE_PAGES:
            self._db.execute(f"PRAGMA incremental_vacuum({_SPARE_PAGES})").fetchall()

    def _pair(self, sql: str, value: object) -> tuple[int, int]:
        first, second = self._db.execute(sql, (value,)).fetchone()
        return _integer(first), _integer(second)

    def _total(self, column: str) -> int:
        row = self._db.execute(f"SELECT {column} FROM total").fetchone()
        return _integer(None if row is None else row[0])

    def _grow(self, nbytes: int) -> None:
        self._db.execute("UPDATE total SET nbytes = max(0, nbytes + ?)", (nbytes,))

    def fold(self) -> None:
        """Copy a log that has grown back into the index, and give its room back, if nobody is reading just now."""
        if log_nbytes(self._path) < _WORTH_FOLDING_NBYTES:
            return
        self._db.execute("PRAGMA busy_timeout=0")
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._db.execute(f"PRAGMA busy_timeout={int(_WAIT_SECONDS * 1000)}")

    def _own_nbytes(self) -> int:
        return database_nbytes(self._path) + database_nbytes(self._path.with_name(NAMES))


def oldest_of(path: Path) -> Iterator[Victim]:
    """The files of an index that cannot be opened, the least recently used first, as far as it can be read without its
    log. Writes nothing. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as db:
        for row, name, nbytes in db.execute(
            "SELECT id, name, nbytes FROM file WHERE used < ? ORDER BY used", (PINNED,)
        ):
            yield Victim(row, _bytes(name).hex(), _integer(nbytes))


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise sqlite3.DatabaseError("bytes are not bytes")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise sqlite3.DatabaseError("a number is no number")
    return value


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
