"""Private files of SQLite: made, opened, told from damaged ones, measured and removed. Knows no table."""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOG: Final = "-wal"

_SUFFIXES: Final = ("", _LOG, "-shm", "-journal")

_COPY_ON_WRITE: Final = frozenset({0x9123683E, 0xCA451A4E})
"""statfs's f_type of btrfs and bcachefs."""

_SECTOR_NBYTES: Final = 512
"""The unit of st_blocks."""


def open_database(path: Path, format_number: int, schema: str, wait_seconds: float) -> sqlite3.Connection:
    """The database at ``path``, made with ``schema`` where there is none. Any thread's, one at a time.

    Waits so long for the commits of others. Raises OSError or sqlite3.Error, of which ``is_damage`` tells whether the
    file has to be made anew; one of another format is damaged, too.
    """
    # Made by us first, so that nobody else can read it, not even for a moment. One that is there is not opened: to
    # close it again would take the locks from every connection of this process, and another one's would then take
    # itself for the last and remove the log that is being written here.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.ELOOP, f"{path.name} is not a regular file")
    db = sqlite3.connect(path, isolation_level=None, timeout=wait_seconds, check_same_thread=False)
    mapped_is_safe = _file_system(path) not in _COPY_ON_WRITE
    try:
        if not mapped_is_safe:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # one that has a log is opened without mapping its index
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found not in (0, format_number):
            raise sqlite3.DatabaseError(f"format {found}")
        if not found:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        if mapped_is_safe:
            # No fsync per commit, only before the log is copied back: a loss of power costs the newest rows.
            db.execute("PRAGMA journal_mode=WAL")
        else:
            # The log's index is a mapped file. A page of it that is written to needs new room there each time, and
            # where there is none the process dies of SIGBUS. A journal is only written: that fails, and says so.
            db.execute("PRAGMA journal_mode=TRUNCATE")
            db.execute("PRAGMA locking_mode=NORMAL")
            db.execute("PRAGMA user_version").fetchone()  # lets go of the lock
        db.executescript("PRAGMA synchronous=NORMAL; PRAGMA trusted_schema=OFF;")
        db.executescript("PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=4194304;")
        if not found:  # else another process may be writing for as long as it likes: this one opens
            db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version={format_number}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def _file_system(path: Path) -> int:
    """Which kind the file lies on, as the kernel numbers them; 0 where it does not say."""
    status = (ctypes.c_long * 64)()  # struct statfs begins with f_type
    return int(status[0]) if ctypes.CDLL(None).statfs(os.fsencode(path), status) == 0 else 0


def remove_database(path: Path) -> None:
    """Raises OSError."""
    for suffix in reversed(_SUFFIXES):  # a new database must not take up an old log
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def database_nbytes(path: Path) -> int:
    """What it takes on disk, with its log or journal."""
    nbytes = 0
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            nbytes += path.with_name(path.name + suffix).stat().st_blocks * _SECTOR_NBYTES
    return nbytes


def log_nbytes(path: Path) -> int:
    """How long the log is that has not been copied back into the database."""
    try:
        return path.with_name(path.name + _LOG).stat().st_size
    except FileNotFoundError:
        return 0


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is at fault, and not its disk or another process: then it has to be made anew."""
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.ProgrammingError):
        return False
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_ERROR,  # another table than ours
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    }


def is_busy(error: Exception) -> bool:
    """Whether somebody else has locked it: it is right, and can be had later."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def may_be_full(error: Exception) -> bool:
    """Whether it may be the disk's lack of room: SQLite says so of some files, and of others only that it failed."""
    return _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
