"""The records of data files that this process has at hand, and what trio's thread and the writer's tell each other of
files.

Owns which thread may touch what. There are no locks: what crosses is either put into a deque by one thread and taken
out by the other, or a dict of which each single step is atomic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from cachetools import LRUCache

from s3stream_fs.cache.disk.record import Record
from s3stream_fs.types import ObjectId


class Records:
    """At most ``limit`` records, the least recently used go first; those with blocks to be written stay in any case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._at_hand: LRUCache[tuple[ObjectId, int], Record] = LRUCache(maxsize=limit)
        """Trio's alone."""
        self._live: dict[str, Record] = {}
        """The same by name. Trio's thread changes it, the writer's copies it."""
        self._dirty: dict[str, Record] = {}
        """Records with blocks that are not committed yet, so that nobody takes an older state of them for the newest.
        Trio's thread adds, the writer's drops: both while they hold the writer's lock."""
        self._touched: dict[str, int] = {}
        """Last uses by name. Trio's thread adds, the writer's takes all of them away."""
        self._lost: deque[str] = deque()
        """Names of files that are not there though the index says so. Trio's thread adds, the writer's takes."""
        self._changes: deque[tuple[str, bool]] = deque()
        """Files that were committed (True) or evicted, in that order. The writer's thread adds, trio's takes."""

    # Trio's thread:

    def __len__(self) -> int:
        return len(self._at_hand)

    def get(self, object_id: ObjectId, start: int) -> Record | None:
        """That of the file which begins at ``start`` in the object, if it is at hand."""
        return self._at_hand.get((object_id, start))

    def of(self, object_id: ObjectId) -> list[Record]:
        """All those of an object that are at hand. Looks at each record."""
        return [record for record in self._live.values() if record.object_id == object_id]

    def bring_back(self, name: str) -> Record | None:
        """One that is not at hand any more, though it has blocks that are still to be written."""
        record = self._dirty.get(name)
        if record is not None:
            self.add(record)
        return record

    def add(self, record: Record) -> None:
        if len(self._at_hand) >= self.limit:
            _, dropped = self._at_hand.popitem()
            self._live.pop(dropped.name, None)
        self._at_hand[record.object_id, record.byte_range.start] = record
        self._live[record.name] = record

    def drop(self, name: str) -> None:
        """Its file is gone: nothing is known of it, and it is closed, whoever else remembers the record."""
        record = self._live.pop(name, None)
        if record is not None:
            self._at_hand.pop((record.object_id, record.byte_range.start), None)
            record.reset()

    def clear(self) -> None:
        """Nothing is known of any file."""
        self._at_hand.clear()
        self._live.clear()

    def doubt(self) -> None:
        """Of no file it is known any more that the index has nothing else of it."""
        for record in (*self._live.values(), *list(self._dirty.values())):
            record.known = False

    def changes(self) -> Iterator[tuple[str, bool]]:
        """Names of files that were committed (True) or evicted since this was asked for."""
        while self._changes:
            yield self._changes.popleft()

    @property
    def any_changes(self) -> bool:
        return bool(self._changes)

    def use(self, record: Record, now_ms: int) -> None:
        record.used_ms = self._touched[record.name] = now_ms

    def lose(self, record: Record) -> None:
        """Its file is not there though the index says so."""
        self._lost.append(record.name)

    def queued(self, record: Record) -> None:
        """It has blocks that are to be written. Under the writer's lock."""
        self._dirty[record.name] = record

    # The writer's thread:

    def saved(self, name: str) -> None:
        """All that was queued of it has been dealt with. Under the writer's lock."""
        self._dirty.pop(name, None)

    def unsaved_names(self) -> set[str]:
        """Names of files with blocks that are to be written."""
        return set(self._dirty)

    def committed(self, names: Iterable[str]) -> None:
        """These files are in the index."""
        self._changes.extend((name, True) for name in names)

    def evict(self, name: str) -> None:
        """This file is in the index no more: trio's thread shall forget its record, and thereby let go of it."""
        self._changes.append((name, False))

    def open_ones(self) -> list[Record]:
        """Those whose file is open."""
        return [record for record in list(self._live.values()) if record.file is not None]

    def take_uses(self) -> dict[str, int]:
        """Last uses by name, in ms, since they were taken the last time."""
        taken = {}
        while self._touched:
            name, used_ms = self._touched.popitem()
            taken[name] = used_ms
        return taken

    def take_lost(self) -> set[str]:
        return {self._lost.popleft() for _ in range(len(self._lost))}
