"""One directory's listing, readable while its later pages are still coming.

Owns the order and the meaning of what a listing says: names in the order of their bytes, each once, a directory in
front of a file of the same name. Never asks a store for anything; the tree feeds it.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum, auto

import trio

from s3stream_fs.errors import StoreError
from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.namespace.keys import Hidden, component, settled_before
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

_Row = tuple[str, int, int, str, bool, str | None]
"""What is kept of a file: ETag, size, mtime_ns, storage class, restored, version id. The key is prefix + name."""


class Unknown(Enum):
    """The listing has not come far enough to tell."""

    UNKNOWN = auto()


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
        self._last = b""
        self._ordered = True
        self._storage_classes: dict[str, str] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def loading(self) -> bool:
        return not self.complete and self.error is None

    def add_page(self, page: ListPage) -> None:
        """Take the next page."""
        self.npages += 1
        skip = len(self.prefix)
        for info in page.objects:
            key = info.id.key[skip:]
            if not key:
                self.marker_nbytes = info.id.size
                continue
            text, slash, _ = key.partition("/")
            self._add(text, info.id.key, None if slash else self._row(info))
        for prefix in page.prefixes:
            self._add(prefix[skip:].partition("/")[0], prefix, None)
        last = page.last[skip:].encode("utf-8", "surrogatepass")
        # A store that does not list in order (S3 directory buckets) is sorted once all is known.
        self._ordered = self._ordered and last >= self._last
        self._last = last
        self._pending.sort()
        if self._ordered:
            final = bisect_left(self._pending, settled_before(last))
            self._order += self._pending[:final]
            del self._pending[:final]
        self._changed.unpark_all()

    def finish(self) -> None:
        """There are no more pages."""
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

    def find(self, name: bytes) -> Entry | Unknown | None:
        """The entry with this name, None where there is none, UNKNOWN where a later page may tell."""
        if not self.complete:
            at = bisect_left(self._order, name)
            if at == len(self._order) or self._order[at] != name:
                final = self._ordered and self.npages > 0 and name < settled_before(self._last)
                return None if final else Unknown.UNKNOWN
        return self._entry(name) if name in self._rows else None

    def _add(self, text: str, key: str, row: _Row | None) -> None:
        name = component(text)
        if isinstance(name, Hidden):
            count, example = self.hidden.get(name, (0, key))
            self.hidden[name] = (count + 1, example)
        elif name not in self._rows:
            self._pending.append(name)
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
