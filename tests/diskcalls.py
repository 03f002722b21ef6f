"""What a thread asks of the disk."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

MAY_NOT_BLOCK = frozenset({"preadv", "cpu_count", "getpid", "urandom", "eventfd_write", "write", "read", "fspath"})
"""What of ``os`` trio's thread may call: preadv with RWF_NOWAIT, and what wakes other threads."""


@contextmanager
def disk_calls_of_this_thread() -> Iterator[Counter[str]]:
    """Counts what this thread asks of the disk: calls of ``os`` and of SQLite."""
    found: Counter[str] = Counter()

    def look(_: FrameType, event: str, called: object) -> None:
        if event != "c_call":
            return
        name = getattr(called, "__name__", "")
        owner = getattr(called, "__self__", None)
        if isinstance(owner, sqlite3.Connection | sqlite3.Cursor) or called is sqlite3.connect:
            found[f"sqlite3 {name}"] += 1
        elif getattr(called, "__module__", "") == "posix" and name not in MAY_NOT_BLOCK:
            found[f"os.{name}"] += 1

    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)
