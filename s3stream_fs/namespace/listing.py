"""One directory's listing, readable while its later pages are still coming.

Owns the order and the meaning of what a listing says: names in the order of their bytes, each once, a directory in
front of a file of the same name. Never asks a store for anything; the tree feeds it.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum, auto
from typing import Final

import trio

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.namespace.keys import Hidden, component, settled_before
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

_Row = tuple[str, int, int, str, bool, str | None]
"""What is kept of a file: ETag, size, mtime_ns, storage class, restored, version id. The key is prefix + name."""


_NEAR: Final = 100
"""Entries among which further directories are looked for."""


class Unknown(Enum):
    """The listing has not come far enough to tell."""

    UNKNOWN = auto()


class Lane:
    """A range of a listing's keys, relative to its prefix, that is loaded page by page.

    It goes from beyond ``last`` up to ``until`` (None: to the end).
    """

    __slots__ = ("complete", "last", "names", "until")

    def __init__(self, last: bytes, until: bytes | None) -> None:
        self.last = last
        """How far it has come."""
        self.until = until
        self.names: list[bytes] = []
        """New names of it, while an earlier lane is not complete."""
        self.complete = False


class Listing:
    """What lies under ``prefix``.

    Invariant: ``_order`` holds final names only, sorted, and only grows; so a position means the same entry for as long
    as somebody holds the listing.
    """

    def __init__(self, prefix: str, fresh_until: float) -> None:
        self.prefix = prefix
        self.fresh_until = fresh_until
        """Until when its answers may be given; in the tree's clock."""
        self.complete = False
        self.npages = 0
        self.error: StoreError | None = None
        self.hidden: dict[Hidden, tuple[int, str]] = {}
        """How many keys are hidden and why, with one of them as an example."""
        self.marker_nbytes = 0
        """Bytes in the directory's own marker object, which no path can reach."""
        self._rows: dict[bytes, _Row | None] = {}
        """By name; None for a directory."""
        self._order: list[bytes] = []
        self._pending: list[bytes] = []
        """Names that a later page may still change or precede."""
        self.lanes = [Lane(b"", None)]
        """What is being loaded, in the order of keys: one range, or several at the same time."""
        self.ordered = True
        """The store lists in the order of keys, as far as was seen."""
        self._storage_classes: dict[str, str] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def loading(self) -> bool:
        return not self.complete and self.error is None

    def add_page(self, page: ListPage, lane: Lane | None = None) -> None:
        """Take the next page of a lane, by default of the only one. What lies beyond the lane is left out."""
        lane = lane or self.lanes[0]
        self.npages += 1
        skip = len(self.prefix)
        until = lane.until
        # The last page may be empty: what was to be on it has been deleted meanwhile.
        last = _bytes(page.last[skip:]) if page.objects or page.prefixes else lane.last
        # A store that does not list in order (S3 directory buckets) is sorted once all is known.
        self.ordered = self.ordered and _is_ordered(page) and last >= lane.last
        if not self.ordered and (until is not None or len(self.lanes) > 1):
            raise StoreUnavailable(f"the listing of {self.prefix!r} is in order only at its start")
        lane.complete = page.next_token is None
        for info in page.objects:
            key = info.id.key[skip:]
            if not key:
                self.marker_nbytes = info.id.size
            elif until is not None and _bytes(key) > until:
                lane.complete = True
                break
            else:
                text, slash, _ = key.partition("/")
                self._add(lane, text, info.id.key, None if slash else self._row(info))
        for prefix in page.prefixes:
            key = prefix[skip:]
            if until is not None and _bytes(key) > until:
                lane.complete = True
                break
            self._add(lane, key.partition("/")[0], prefix, None)
        lane.last = last if until is None else min(last, until)
        self._settle()
        self._changed.unpark_all()

    def split(self, lane: Lane, at: bytes) -> Lane:
        """A lane for what of this one lies beyond ``at``, which it has not come to."""
        upper = Lane(at, lane.until)
        lane.until = at
        self.lanes.insert(self.lanes.index(lane) + 1, upper)
        return upper

    def _settle(self) -> None:
        """What the first lanes have found is known as a whole up to where the first one that goes on has come."""
        while True:
            first = self.lanes[0]
            self._pending += first.names
            first.names = []
            if not first.complete or len(self.lanes) == 1:
                break
            del self.lanes[0]
        if self.ordered:
            before = settled_before(first.last)
            self._pending.sort()
            final = bisect_left(self._pending, before)
            self._order += self._pending[:final]
            del self._pending[:final]

    def finish(self) -> None:
        """There are no more pages."""
        self._pending.sort()
        self._order += self._pending
        self._pending = []
        self.complete = True
        self._changed.unpark_all()

    def fail(self, error: StoreError) -> None:
        """There will be no more pages."""
        self.error = error
        self._changed.unpark_all()

    def settled(self, position: int) -> bool:
        """Whether it is known what stands at ``position``: an entry, the end, or what the listing failed with."""
        return position < len(self._order) or not self.loading

    def entry_nowait(self, position: int) -> Entry | None:
        """The entry at ``position``, which is settled; None past the end. Raises what the listing failed with."""
        if position < len(self._order):
            return self._entry(self._order[position])
        if self.error is not None:
            raise self.error.again()
        return None

    async def wait_settled(self, position: int) -> None:
        """Return as soon as it is known what stands at ``position``."""
        while not self.settled(position):
            await self._changed.park()

    async def wait_first_page(self) -> None:
        """Return once something is known, or the listing has failed."""
        while self.npages == 0 and self.loading:
            await self._changed.park()

    def directories_after(self, name: bytes, count: int) -> tuple[int, list[str]]:
        """Where ``name`` stands among the entries, and the prefixes of the next directories, not very far behind it."""
        position = bisect_left(self._order, name)
        near = self._order[position + 1 : position + 1 + count + _NEAR]
        found = [self.prefix + other.decode() + "/" for other in near if self._rows[other] is None]
        return position, found[:count]

    def find(self, name: bytes) -> Entry | Unknown | None:
        """The entry with this name, None where there is none, UNKNOWN where a later page may tell."""
        if not self.complete:
            at = bisect_left(self._order, name)
            if at == len(self._order) or self._order[at] != name:
                final = self.ordered and self.npages > 0 and name < settled_before(self.lanes[0].last)
                return None if final else Unknown.UNKNOWN
        return self._entry(name) if name in self._rows else None

    def _add(self, lane: Lane, text: str, key: str, row: _Row | None) -> None:
        name = component(text)
        if isinstance(name, Hidden):
            count, example = self.hidden.get(name, (0, key))
            self.hidden[name] = (count + 1, example)
        elif name not in self._rows:
            lane.names.append(name)
            self._rows[name] = row
        elif row is None:
            self._rows[name] = None  # the directory shadows the file

    def _row(self, info: ObjectInfo) -> _Row:
        storage_class = self._storage_classes.setdefault(info.storage_class, info.storage_class)
        return (info.id.etag, info.id.size, info.mtime_ns, storage_class, info.restored, info.version_id)

    def _entry(self, name: bytes) -> Entry:
        row = self._rows[name]
        key = self.prefix + name.decode()
        if row is None:
            return DirectoryEntry(name, key + "/")
        etag, size, mtime_ns, storage_class, restored, version_id = row
        return FileEntry(name, ObjectInfo(ObjectId(key, etag, size), mtime_ns, storage_class, restored, version_id))


def _is_ordered(page: ListPage) -> bool:
    # Text compares as its UTF-8 does.
    keys = [info.id.key for info in page.objects]
    return keys == sorted(keys) and list(page.prefixes) == sorted(page.prefixes)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
