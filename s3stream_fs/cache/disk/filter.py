"""Which data files there may be, in memory: 8 bytes for each, so that what is not cached costs no look into the index.

Exact but for the 64 bits of a name that are kept. Pure apart from ``load``, which reads the names from the index bit by
bit, in a thread, while those that have not come yet count as perhaps there.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Protocol

SHARDS: Final = 4096
"""So that a name comes and goes within a few KB of memory: of ten million files a shard has 2,441, or 20 KB."""

_SHIFT: Final = 64 - 12

_BATCH: Final = 20_000
"""Names that are read at once: some 10 ms, nearly all of it in SQLite, which lets other threads of Python run."""

_AGAIN_SECONDS: Final = 1.0
"""After how long an index that could not be read is tried again."""


def key_of(name: str) -> int:
    """The first 64 bits of a file's name, which are as random as all of it."""
    return int(name[:16], 16)


class Filter:
    """One thread's. Files are told by ``key_of`` their names."""

    def __init__(self) -> None:
        self._shards: list[array[int] | None] = [None] * SHARDS
        """Sorted; None until it has been loaded."""
        self._early: dict[int, bool] = {}
        """What came (True) and went in shards that are not loaded: the index may have been read before or after it."""

    def __len__(self) -> int:
        """How many files are known to be there."""
        return sum(len(shard) for shard in self._shards if shard is not None)

    def may_have(self, key: int) -> bool:
        """False where there is no such file for sure."""
        shard = self._shards[key >> _SHIFT]
        if shard is None:
            return True
        at = bisect_left(shard, key)
        return at < len(shard) and shard[at] == key

    def add(self, key: int) -> None:
        shard = self._shards[key >> _SHIFT]
        if shard is None:
            self._early[key] = True
            return
        at = bisect_left(shard, key)
        if at == len(shard) or shard[at] != key:
            shard.insert(at, key)

    def discard(self, key: int) -> None:
        shard = self._shards[key >> _SHIFT]
        if shard is None:
            self._early[key] = False
            return
        at = bisect_left(shard, key)
        if at < len(shard) and shard[at] == key:
            del shard[at]

    def loaded(self, first: int, shards: list[array[int]]) -> None:
        """What the index has in the shards from ``first`` on. What came or went meanwhile still holds."""
        self._shards[first : first + len(shards)] = shards
        here = [key for key in self._early if first <= key >> _SHIFT < first + len(shards)]
        for key in here:
            if self._early.pop(key):
                self.add(key)
            else:
                self.discard(key)


class Names(Protocol):
    def keys(self, after: bytes, limit: int) -> tuple[bytes, bytes]:
        """Of at most ``limit`` names beyond ``after``, in order: the last one, and 8 bytes of each."""


def load(names: Names, deliver: Callable[[int, list[array[int]]], None], stopping: threading.Event) -> None:
    """Read all names, and ``deliver`` shards as they are complete. Blocks; for a thread of its own."""
    after = b""
    first = 0
    found = array("Q")
    while not stopping.is_set():
        try:
            last, packed = names.keys(after, _BATCH)
        except (OSError, sqlite3.Error):
            stopping.wait(_AGAIN_SECONDS)
            continue
        batch = array("Q")
        batch.frombytes(packed)
        if sys.byteorder == "little":
            batch.byteswap()
        found += batch
        complete = found[-1] >> _SHIFT if batch else SHARDS
        shards = []
        at = 0
        for shard in range(first, complete):
            end = bisect_left(found, (shard + 1) << _SHIFT, at) if shard + 1 < SHARDS else len(found)
            shards.append(found[at:end])
            at = end
        del found[:at]
        if shards:
            deliver(first, shards)
            first = complete
        if complete == SHARDS:
            return
        after = last
