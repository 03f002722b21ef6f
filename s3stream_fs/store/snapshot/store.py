"""A snapshot: a listing of a bucket that was taken once, in one SQLite file, and an ObjectStore that answers from it.

Owns the format (docs/SNAPSHOTS.md) and what is believed of a file: nothing unchecked. Listings and HEADs come from the
file, bytes from the store underneath, by the ETag that stands in the file: a changed object is an error and never other
bytes. Never writes a snapshot: that is ``draft``.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import trio

from s3stream_fs.errors import NotFound, StoreError, StoreUnavailable, UsageError
from s3stream_fs.store import Deliver, ObjectStore
from s3stream_fs.store.etags import version_of
from s3stream_fs.store.objects import checked_info
from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo, shown_mtime

APPLICATION_ID: Final = 0x53335346
"""``S3SF`` in the file's header (PRAGMA application_id): by this a snapshot is known."""

FORMAT: Final = 1
"""PRAGMA user_version. Another number is another format."""

OBJECTS_TABLE: Final = """\
CREATE TABLE objects (
    key TEXT NOT NULL PRIMARY KEY,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    mtime_ns INTEGER NOT NULL,
    storage_class TEXT NOT NULL,
    restored INTEGER NOT NULL
) STRICT, WITHOUT ROWID"""
"""Text in SQLite's own order is in the order of its UTF-8 bytes, which is the order in which S3 lists."""

SNAPSHOT_TABLE: Final = """\
CREATE TABLE snapshot (
    bucket TEXT NOT NULL,
    prefix TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    taken TEXT NOT NULL,
    objects INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT"""

_MAGIC: Final = b"SQLite format 3\0"
HEADER_NBYTES: Final = 100
_ROLLBACK: Final = b"\1\1"
"""Bytes 18 and 19 of the header. A file that was set to WAL may have half of its rows beside it."""

_PAGE_LIMIT: Final = 1000
"""Entries in a page, as S3 has it: 2 to 3 ms of trio's thread."""

_MAX_SEEKS: Final = 250
"""How many common prefixes are stepped over for one page: each is a search of its own, 10 us in memory and a read or
two where the file is not in memory. A page that is shorter has a token like any other."""

_MAX_VALUE_NBYTES: Final = 64 * 1024
"""No key (1,024 bytes) and no ETag comes near, and what a damaged row asks for is not given."""

_STEPS: Final = 100_000
"""Steps of SQLite's machine between two looks at whether a search goes on for too long."""
_MAX_LOOKS: Final = 10
"""A page of 1,000 rows takes 12,000 steps. Only a damaged file has a search take a million."""

_CACHE_KIB: Final = 4096
"""SQLite's own pages in memory: the upper levels of the tree. The kernel's page cache holds the rest."""

_COLUMNS: Final = "key, size, etag, mtime_ns, storage_class, restored"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshot is of. ``prefix`` is empty or ends with ``/``; ``taken`` is a time in ISO 8601, UTC."""

    bucket: str
    prefix: str
    endpoint: str
    taken: str
    nobjects: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SnapshotStatistics:
    """What was asked of the file. ``damaged`` counts answers that could not be believed."""

    taken: str
    nobjects: int
    nbytes: int
    pages: int
    heads: int
    damaged: int


class _Changed(Exception):
    """The file is not what it was when it was opened."""


class SnapshotFile:
    """One open snapshot, to be read only. Its name is not needed any more: the file may be removed meanwhile.

    Raises UsageError for what is not a whole snapshot, as far as can be seen without reading all of it.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        """``name`` is what messages call it, by default its path."""
        name = name or str(path)
        check_sqlite()
        try:
            # Not to hang on a pipe that somebody has put there.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"cannot read the snapshot {name}: {error.strerror}") from None
        self._db: sqlite3.Connection | None = None
        self._looks = 0
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise UsageError(f"{name} is not a regular file, as a snapshot has to be")
            self._state = self._state_now()
            _check_header(os.pread(self._descriptor, HEADER_NBYTES, 0), self._state[0], name)
            self._db = _opened(path)
            self._db.set_progress_handler(self._is_endless, _STEPS)
            if path.stat().st_ino != os.fstat(self._descriptor).st_ino:
                raise UsageError(f"{name} is being replaced; try again")
            self.info: Final = _described(self._db, name)
        except (sqlite3.Error, UnicodeError) as error:
            self.close()
            raise UsageError(f"{name} is damaged, or not a snapshot: {error}") from None
        except OSError as error:
            self.close()
            raise UsageError(f"cannot read the snapshot {name}: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, low: str, high: str | None, limit: int, *, exclusive: bool) -> Iterator[tuple[Any, ...]]:
        """Rows from ``low`` on (beyond it where ``exclusive``) that come before ``high``, in order.

        Raises sqlite3.Error and _Changed.
        """
        if self._state_now() != self._state:
            raise _Changed("the file was changed since it was opened")
        assert self._db is not None
        self._looks = 0
        where = f"key {'>' if exclusive else '>='} ?" + (" AND key < ?" if high is not None else "")
        values = (low, limit) if high is None else (low, high, limit)
        return iter(self._db.execute(f"SELECT {_COLUMNS} FROM objects WHERE {where} ORDER BY key LIMIT ?", values))

    def _is_endless(self) -> bool:
        self._looks += 1
        return self._looks > _MAX_LOOKS

    def _state_now(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


class SnapshotStore:
    """An ObjectStore whose names stand still. What ``inner`` is asked for is bytes, and nothing else."""

    def __init__(self, file: SnapshotFile, inner: ObjectStore) -> None:
        self._file = file
        self._inner = inner
        self._pages = 0
        self._heads = 0
        self._damaged = 0

    @property
    def lists_any_prefix(self) -> bool:
        return True

    async def head(self, key: str) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        self._heads += 1
        with self._believing(key):
            for row in self._file.rows(key, None, 1, exclusive=False):
                if row[0] == key:
                    return _object(row)
        raise NotFound(f"{key!r} is not in the snapshot")

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        await trio.lowlevel.checkpoint()
        self._pages += 1
        with self._believing(prefix):
            return self._page(prefix, token, after, min(limit, _PAGE_LIMIT), flat)

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        if not object_id.etag:
            raise StoreError(f"the snapshot has no version of {object_id.key!r}, without which no bytes are sure")
        await self._inner.get_range(object_id, byte_range, deliver)

    def statistics(self) -> SnapshotStatistics:
        info = self._file.info
        return SnapshotStatistics(info.taken, info.nobjects, info.nbytes, self._pages, self._heads, self._damaged)

    def _page(self, prefix: str, token: str | None, after: str, limit: int, flat: bool) -> ListPage:
        skip = len(prefix)
        high = _end_of(prefix)
        low, exclusive = prefix, False
        if token is not None:
            low, exclusive = token, True
            if not flat and "/" in token[skip:]:  # a common prefix: what lies below it is not listed again
                low, exclusive = _beyond(token), False
        elif after > prefix:
            low, exclusive = after, True
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        while True:
            # One more than fits tells whether this is the last page.
            left = limit - len(objects) - len(prefixes)
            seek = None
            for row in self._file.rows(low, high, left + 1, exclusive=exclusive):
                info = _object(row)
                key = info.id.key
                if not key.startswith(prefix) or (last and key <= last):
                    raise StoreError(f"{key!r} stands where it cannot")
                if not left or len(prefixes) == _MAX_SEEKS:
                    return ListPage(tuple(objects), tuple(prefixes), last)
                cut = -1 if flat else key.find("/", skip)
                if cut >= 0:
                    last = key[: cut + 1]
                    prefixes.append(last)
                    seek = _beyond(last)
                    break
                objects.append(info)
                last = key
                left -= 1
            if seek is None:
                return ListPage(tuple(objects), tuple(prefixes), None)
            low, exclusive = seek, False

    def _believing(self, what: str) -> _Believing:
        return _Believing(self, what)

    def count_damage(self) -> None:
        self._damaged += 1


class _Believing:
    """``with`` it around a search: what is wrong with the file becomes StoreUnavailable, which is EIO for that name."""

    __slots__ = ("_store", "_what")

    def __init__(self, store: SnapshotStore, what: str) -> None:
        self._store = store
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, sqlite3.Error | _Changed | UnicodeError | OSError | StoreError):
            self._store.count_damage()
            raise StoreUnavailable(f"the snapshot cannot be read at {self._what!r}: {error}") from None


def check_sqlite() -> None:
    """Raises UsageError where Python's SQLite is older than the format's tables."""
    if sqlite3.sqlite_version_info < (3, 37):
        raise UsageError(f"snapshots take SQLite 3.37 or later, and this Python has {sqlite3.sqlite_version}")


def is_snapshot(header: bytes) -> bool:
    """Whether a file that begins so is a snapshot, whole or not, of any format."""
    return len(header) >= HEADER_NBYTES and header[:16] == _MAGIC and int.from_bytes(header[68:72]) == APPLICATION_ID


def _check_header(header: bytes, nbytes: int, name: str) -> None:
    """Raises UsageError for a file of ``nbytes`` that does not begin like a snapshot."""
    if not is_snapshot(header):
        raise UsageError(f"{name} is not a snapshot; write one with: s3stream-fs index s3://BUCKET/PREFIX -o FILE")
    if (found := int.from_bytes(header[60:64])) != FORMAT:
        raise UsageError(f"the snapshot {name} has format {found}, and this version reads format {FORMAT}")
    if header[18:20] != _ROLLBACK:
        raise UsageError(f"{name} was made a WAL database; run: sqlite3 FILE 'PRAGMA journal_mode=DELETE'")
    page_nbytes = int.from_bytes(header[16:18])
    if int.from_bytes(header[28:32]) * (65536 if page_nbytes == 1 else page_nbytes) != nbytes:
        raise UsageError(f"the snapshot {name} is not whole; copy it again")


def _opened(path: Path) -> sqlite3.Connection:
    # Immutable: no lock and no journal beside the file is looked at, and that it does not change is seen to by us.
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=16)
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_NBYTES)
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "mmap_size=0", "temp_store=MEMORY"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        if db.execute("PRAGMA encoding").fetchone() != ("UTF-8",):
            raise sqlite3.DatabaseError("its text is not UTF-8")
        # Exactly our tables: no view, trigger, index or expression of somebody else is ever run.
        found = {" ".join(str(sql).split()) for (sql,) in db.execute("SELECT sql FROM sqlite_schema LIMIT 10")}
        if found != {" ".join(sql.split()) for sql in (OBJECTS_TABLE, SNAPSHOT_TABLE)}:
            raise sqlite3.DatabaseError("it holds other tables than a snapshot does")
        db.set_authorizer(_authorize)
    except BaseException:
        db.close()
        raise
    return db


def _authorize(action: int, table: str | None, *_: str | None) -> int:
    allowed = action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and table in ("objects", "snapshot"))
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _described(db: sqlite3.Connection, name: str) -> SnapshotInfo:
    rows = db.execute("SELECT bucket, prefix, endpoint, taken, objects, bytes FROM snapshot LIMIT 2").fetchall()
    if len(rows) != 1 or [type(value) for value in rows[0]] != [str, str, str, str, int, int]:
        raise UsageError(f"{name} does not say what it is a snapshot of")
    db.execute("SELECT 1 FROM objects LIMIT 1").fetchall()  # the tree's root is there
    return SnapshotInfo(*rows[0])


def _object(row: tuple[Any, ...]) -> ObjectInfo:
    """A row, checked. Raises StoreError."""
    key, size, etag, mtime_ns, storage_class, restored = row
    if not (isinstance(key, str) and key and isinstance(etag, str) and isinstance(storage_class, str)):
        raise StoreError(f"the row of {key!r} cannot be true")
    if not isinstance(mtime_ns, int) or mtime_ns < 0 or restored not in (0, 1):
        raise StoreError(f"the row of {key!r} cannot be true")
    info = checked_info(key, "", size, None, storage_class, bool(restored))
    if etag != version_of(etag, mtime_ns) and (size or etag):
        raise StoreError(f"{key!r} has the ETag {etag!r}, which none can be")
    return info._replace(id=info.id._replace(etag=etag), mtime_ns=shown_mtime(mtime_ns))


def _beyond(common_prefix: str) -> str:
    """The least text beyond everything below a common prefix: ``0`` comes after ``/``."""
    return common_prefix[:-1] + "0"


def _end_of(prefix: str) -> str | None:
    """The least text beyond everything that begins with ``prefix``; None where nothing is."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= code < 0xE000 else code)
