"""One directory's listing, readable while its later pages are still coming.

Owns the order and the meaning of what a listing says: names in the order of their bytes, each once, a directory in
front of a file of the same name. Never asks a store for anything; the tree feeds it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from hashlib import blake2b
from heapq import heapify, heappop, heapreplace
from itertools import accumulate, islice
from typing import Final

import trio

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.namespace.entries import Entry, FileEntry
from s3stream_fs.namespace.keys import NAME_MAX, Hidden, component, settled_before
from s3stream_fs.namespace.rows import Row, Rows
from s3stream_fs.namespace.shelf import UNREADABLE, Elsewhere, Shelf
from s3stream_fs.types import ListPage, ObjectInfo

_NEAR: Final = 100
"""Entries among which further directories are looked for."""

_FEW_ROWS: Final = 100
"""Pieces with fewer rows on average are put together once all is known: each is an object of its own."""

_AT_ONCE: Final = 50
"""Pieces that become readable before others get their turn: some 5 ms."""

_MOST_ROWS: Final = 4000
"""Rows in a piece: to find a name takes 12 steps in it."""

_RUN_ROWS: Final = 1000
"""Rows in a piece of names that were put aside: while these are merged, a piece of each 16,000 names is in memory."""

_MOST_LOOSE: Final = 16_000
"""Names that come in no order and are kept as objects, at some 500 bytes each; then they are put aside, in order."""


Names = dict[bytes, ObjectInfo | None]
"""What names stand for; None for a directory."""

Named = tuple[bytes, ObjectInfo | None]


class Unknown(Enum):
    """The listing has not come far enough to tell, or what it has is not in memory."""

    UNKNOWN = auto()


class Lane:
    """A range of a listing's keys, relative to its prefix, that is loaded page by page.

    It goes from beyond ``start`` up to ``until`` (None: to the end).
    """

    __slots__ = ("complete", "early", "last", "pending", "rows", "runs", "start", "until")

    def __init__(self, start: bytes, until: bytes | None) -> None:
        self.start = start
        self.last = start
        """How far it has come."""
        self.until = until
        self.complete = False
        self.early: Names = {}
        """Names that stand before the lane's keys do: the directory ``m`` of the keys ``m/``, behind a cut ``m-5``."""
        self.rows: deque[Rows] = deque()
        """Names behind ``start`` that no later page can change, and that cannot be read yet."""
        self.runs: list[list[Rows]] = []
        """Of a lane in no order: names that were put aside, each run in order."""
        self.pending: Names = {}
        """Names that a later page may still change or precede."""


class Listing:
    """What lies under ``prefix``.

    Invariant: ``_rows`` holds final names only, in order, and only grows; so a position means the same entry for as
    long as somebody holds the listing.
    """

    __slots__ = (
        "_changed",
        "_firsts",
        "_hashes",
        "_rows",
        "_shelf",
        "_starts",
        "asked_at",
        "complete",
        "digest",
        "error",
        "fresh_until",
        "hidden",
        "lanes",
        "marker_nbytes",
        "nchanged",
        "npages",
        "ordered",
        "prefix",
    )

    def __init__(self, prefix: str, fresh_until: float, shelf: Shelf, *, ordered: bool = True) -> None:
        self.prefix = prefix
        self._shelf = shelf
        self.fresh_until = fresh_until
        """Until when its answers may be given; in the tree's clock."""
        self.asked_at = 0
        """When it was begun, in moments of ``Outdated``; 0 for what an earlier process has left."""
        self.nchanged = 0
        """Names that it shows, or may come to show, as what they are not any more."""
        self.complete = False
        self.npages = 0
        self.error: StoreError | None = None
        self.hidden: dict[Hidden, tuple[int, str]] | None = None
        """How many keys are hidden and why, with one of them as an example; None where there are none."""
        self.marker_nbytes = 0
        """Bytes in the directory's own marker object, which no path can reach."""
        self.digest = b""
        """Of all that it shows, once it is complete."""
        self._hashes = _hashes()
        self._rows: list[Rows] = []
        self._starts: list[int] = [0]
        """The position of each piece's first row; then, of the next one to come."""
        self._firsts: list[bytes] = []
        """The first name of each piece."""
        self.lanes = [Lane(b"", None)]
        """What is being loaded, in the order of keys: one range, or several at the same time. None of it is left when
        it is complete."""
        self.ordered = ordered
        """The store lists in the order of keys, as far as was seen."""
        self._changed: trio.lowlevel.ParkingLot | None = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """Entries that are settled."""
        return self._starts[-1]

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
        if not self.ordered and (until is not None or len(self.lanes) > 1 or len(self) > 0):
            raise StoreUnavailable(f"the listing of {self.prefix!r} is in order only at its start")
        lane.complete = page.next_token is None
        self.hide(Hidden.UNTRUE, page.unusable)
        for info in page.objects:
            key = info.id.key[skip:]
            if not key:
                self.marker_nbytes = info.id.size
            elif until is not None and _bytes(key) > until:
                lane.complete = True
                break
            else:
                text, slash, _ = key.partition("/")
                self._add(lane, text, info.id.key, None if slash else info)
        for prefix in page.prefixes:
            key = prefix[skip:]
            if until is not None and _bytes(key) > until:
                lane.complete = True
                break
            self._add(lane, key.partition("/")[0], prefix, None)
        lane.last = last if until is None else min(last, until)
        if self.ordered:
            self._settle_lane(lane)
            self._settle(_AT_ONCE)
        elif len(lane.pending) >= _MOST_LOOSE and not lane.complete:
            self._put_aside(lane)
        self._unpark()

    def split(self, lane: Lane, at: bytes) -> Lane:
        """A lane for what of this one lies beyond ``at``, which it has not come to."""
        upper = Lane(at, lane.until)
        lane.until = at
        self.lanes.insert(self.lanes.index(lane) + 1, upper)
        return upper

    def take(self, pieces: Iterable[Rows], digest: bytes) -> None:
        """Take rows that were a listing's before, all of them, with its digest: it is complete."""
        self._hashes = ()
        for rows in pieces:
            self._shelf.put(rows)
            self._append(rows)
        self._end(digest)

    async def advance(self) -> None:
        """Have more of what is known be readable, what lies on the disk too, and let the disk keep up: after each of
        many pages. Raises StoreUnavailable where the disk does not give what was there."""
        await self._shelf.wait_written()
        for _ in range(_AT_ONCE):
            if (elsewhere := self._settle(_AT_ONCE)) is None:
                break
            await elsewhere.bring()
        self._unpark()

    async def settle(self) -> None:
        """Have all that is known be readable, with turns for others between: a long listing may be far behind. After
        the last page, and before ``finish``. Raises StoreUnavailable where the disk does not give what was there."""
        while len(self.lanes) > 1 or self.lanes[0].rows:
            await self.advance()
            await trio.lowlevel.checkpoint()
        await self._merge(self.lanes[0])
        if len(self) < _FEW_ROWS * len(self._rows):
            await self._gather()

    def hide(self, reason: Hidden, keys: Sequence[str]) -> None:
        """Take note of keys that it cannot show."""
        if keys:
            self.hidden = self.hidden or {}
            count, example = self.hidden.get(reason, (0, keys[0]))
            self.hidden[reason] = (count + len(keys), example)

    def finish(self) -> None:
        """There are no more pages. Those of more than a few have to ``settle`` first."""
        (lane,) = self.lanes
        self._publish(sorted(lane.pending.items(), key=_name_of))
        self._end(b"".join(part.digest() for part in self._hashes))

    def _end(self, digest: bytes) -> None:
        self.lanes = []
        self.digest = digest
        self._hashes = ()
        self.complete = True
        self._unpark()
        self._changed = None

    def fail(self, error: StoreError) -> None:
        """There will be no more pages."""
        self.error = error
        self._unpark()
        self._changed = None

    def _lose(self, error: StoreError) -> None:
        """What was known is not any more."""
        self.complete = False
        self.fail(error)

    def settled(self, position: int) -> bool:
        """Whether it is known what stands at ``position``: an entry, the end, or what the listing failed with."""
        return position < self._starts[-1] or not self.loading

    def rows_nowait(self, position: int) -> Iterator[Row]:
        """The entries from ``position`` on, as far as they are settled. Raises Elsewhere at one that is not in memory,
        StoreUnavailable where the disk does not give it: then the listing has failed, and the directory is listed anew
        for whoever opens it next."""
        while position < self._starts[-1]:
            piece = bisect_right(self._starts, position) - 1
            try:
                yield from self._rows[piece].rows(position - self._starts[piece])
            except StoreUnavailable as error:
                self._lose(error)
                raise
            position = self._starts[piece + 1]

    def entry_nowait(self, position: int) -> Entry | None:
        """The entry at ``position``, which is settled; None past the end. Raises what the listing failed with, and
        Elsewhere."""
        for row in self.rows_nowait(position):
            return row.entry
        self.check(position)
        return None

    def check(self, position: int) -> None:
        """Raise what the listing failed with, if there is nothing at ``position``."""
        if self.error is not None and position >= self._starts[-1]:
            raise self.error.again()

    async def wait_settled(self, position: int) -> None:
        """Return as soon as it is known what stands at ``position``, and it is in memory for whoever goes on from here
        without waiting. Where the disk does not give it, the listing has failed."""
        while not self.settled(position):
            assert self._changed is not None
            await self._changed.park()
        position = max(position, 0)
        while position < self._starts[-1]:
            rows = self._rows[bisect_right(self._starts, position) - 1]
            if rows.in_memory:
                break
            await self._bring(rows)
            if self.error is not None:
                break

    async def wait_first_page(self) -> None:
        """Return once something is known, or the listing has failed."""
        while self.npages == 0 and self.loading:
            assert self._changed is not None
            await self._changed.park()

    async def wait_complete(self) -> None:
        """Return once all is known, or the listing has failed."""
        while self.loading:
            assert self._changed is not None
            await self._changed.park()

    @property
    def pieces(self) -> tuple[Rows, ...]:
        """All of its rows."""
        return tuple(self._rows)

    def shows_the_same(self, other: Listing) -> bool:
        """Whether it is known that both show the same."""
        return self is other or (self.complete and other.complete and self.digest == other.digest)

    def directories_after(self, name: bytes, count: int) -> tuple[int, list[str]]:
        """Where ``name`` stands among the entries, and the prefixes of the next directories, not very far behind it.
        Raises Elsewhere."""
        found: list[str] = []
        try:
            position = self._position(name)
            for row in islice(self.rows_nowait(position + 1), count + _NEAR):
                if not row.is_file:
                    found.append(f"{self.prefix}{row.name.decode()}/")
                    if len(found) == count:
                        break
        except StoreUnavailable as error:
            self._lose(error)
            return 0, []
        return position, found

    def find(self, name: bytes) -> Row | Unknown | None:
        """The entry with this name, None where there is none, UNKNOWN where a later page or the disk may tell."""
        piece = bisect_right(self._firsts, name) - 1
        if piece >= 0:
            try:
                index = self._rows[piece].find(name)
                if index >= 0:
                    return self._rows[piece].row(index)
            except StoreUnavailable as error:  # the disk has lost it, and the store is asked instead
                self._lose(error)
                return Unknown.UNKNOWN
            except Elsewhere:
                return Unknown.UNKNOWN
        if self.complete:
            return None
        if self.error is not None:
            return Unknown.UNKNOWN
        final = self.ordered and self.npages > 0 and name < settled_before(self.lanes[0].last)
        return None if final else Unknown.UNKNOWN

    async def bring(self, name: bytes) -> bool:
        """Have in memory what ``find`` lacked for a name, for whoever goes on from here without waiting. False where it
        lacked nothing, or the disk does not give it: then the listing has failed."""
        piece = bisect_right(self._firsts, name) - 1
        if piece < 0 or self._rows[piece].in_memory:
            return False
        await self._bring(self._rows[piece])
        return self.error is None

    async def _bring(self, rows: Rows) -> None:
        try:
            await rows.bring()
        except StoreUnavailable as error:
            self._lose(error)

    def lose_unreadable(self) -> None:
        """Have it fail where the disk does not give its first entries at present: somebody is about to read it."""
        if self._rows and self._rows[0].is_lost:
            self._lose(StoreUnavailable(UNREADABLE))

    def _position(self, name: bytes) -> int:
        piece = bisect_right(self._firsts, name) - 1
        if piece < 0:
            return 0
        index = self._rows[piece].find(name)
        return self._starts[piece] + (index if index >= 0 else ~index)

    def _add(self, lane: Lane, text: str, key: str, info: ObjectInfo | None) -> None:
        name = component(text)
        if isinstance(name, Hidden):
            self.hide(name, (key,))
        elif info is None or name not in lane.pending:
            lane.pending[name] = info  # a directory shadows a file

    def _settle(self, most: int) -> Rows | None:
        """The listing is known as a whole up to where its first lane has come: let ``most`` pieces more be readable.
        Gives the one that has to be in memory before that can go on."""
        while True:
            lane = self.lanes[0]
            while lane.rows and most > 0:
                if not lane.rows[0].in_memory:
                    return lane.rows[0]
                self._append(lane.rows.popleft())
                most -= 1
            if lane.rows or not lane.complete or len(self.lanes) == 1:
                return None
            done = self.lanes.pop(0)
            lane = self.lanes[0]
            # All of these stand before what has settled in the next lane, but a later page of it may change the last.
            left = sorted(_merged(done.pending, lane.early).items(), key=_name_of)
            final = bisect_left(left, self._final_before(lane), key=_name_of)
            lane.rows.extendleft(reversed(self._pieces(left[:final])))
            lane.start, lane.early = b"", {}
            lane.pending = _merged(dict(left[final:]), lane.pending)

    def _settle_lane(self, lane: Lane) -> None:
        """What a lane has found is known as a whole up to where it has come."""
        names = sorted(lane.pending.items(), key=_name_of)
        early = bisect_right(names, lane.start, key=_name_of) if lane.start else 0
        final = max(bisect_left(names, self._final_before(lane), key=_name_of), early)
        lane.early = _merged(lane.early, dict(names[:early]))
        lane.pending = dict(names[final:])
        lane.rows += self._pieces(names[early:final])

    def _final_before(self, lane: Lane) -> bytes:
        """Up to which name (not included) no later page of a lane, or of those behind it, says anything."""
        if lane.complete and lane is self.lanes[-1]:
            return b"\xff" * (NAME_MAX + 1)
        return settled_before(lane.last)

    def _put_aside(self, lane: Lane) -> None:
        """Names that come in no order take no more memory than others do."""
        lane.runs.append(self._pieces(sorted(lane.pending.items(), key=_name_of), _RUN_ROWS))
        lane.pending = {}

    async def _merge(self, lane: Lane) -> None:
        """Bring what was put aside into one order."""
        if not lane.runs:
            return
        self._put_aside(lane)
        runs = [iter(run) for run in lane.runs]
        heads: list[Iterator[Named]] = [iter(()) for _ in runs]
        """What is left of each run's piece that has been reached."""
        firsts: list[tuple[bytes, int, ObjectInfo | None]] = []
        """A heap of each run's next name."""
        for number, run in enumerate(runs):
            rows = next(run, None)
            if rows is not None:
                await rows.bring()
                heads[number] = _names_in(rows)
                name, info = next(heads[number])
                firsts.append((name, number, info))
        heapify(firsts)
        names: list[Named] = []
        while firsts:
            name, number, info = firsts[0]
            if names and names[-1][0] == name:
                if info is None:
                    names[-1] = (name, None)  # a directory shadows a file
            else:
                if len(names) == _MOST_ROWS:
                    self._publish(names)
                    names = []
                    await self._shelf.wait_written()
                    await trio.lowlevel.checkpoint()
                names.append((name, info))
            following = next(heads[number], None)
            if following is None and (rows := next(runs[number], None)) is not None:
                await rows.bring()
                heads[number] = _names_in(rows)
                following = next(heads[number])
            if following is None:
                heappop(firsts)
            else:
                heapreplace(firsts, (following[0], number, following[1]))
        self._publish(names)
        lane.runs = []

    def _publish(self, names: list[Named]) -> None:
        for rows in self._pieces(names):
            self._append(rows)

    def _append(self, rows: Rows) -> None:
        """Let rows, which are in memory, be readable."""
        self._rows.append(rows)
        self._starts.append(self._starts[-1] + len(rows))
        self._firsts.append(rows.name(0))
        for part, content in zip(self._hashes, rows.content if self._hashes else (), strict=True):
            part.update(content)

    def _pieces(self, names: list[Named], most: int = _MOST_ROWS) -> list[Rows]:
        """Names in order, packed, and on the shelf."""
        try:
            pieces = [Rows.packed(self.prefix, names[start : start + most]) for start in range(0, len(names), most)]
        except ValueError as error:
            raise StoreError(f"the listing of {self.prefix!r} cannot be true: {error}") from None
        for rows in pieces:
            self._shelf.put(rows)
        return pieces

    async def _gather(self) -> None:
        """Put small pieces together. Whoever has a place in one keeps it."""
        pieces: list[Rows] = []
        counts: list[int] = []
        firsts: list[bytes] = []
        names: list[Named] = []

        def gather() -> None:
            gathered = self._pieces(names)
            pieces.extend(gathered)
            counts.extend(map(len, gathered))
            firsts.extend(rows.name(0) for rows in gathered)
            names.clear()

        for rows in self._rows:
            await rows.bring()
            names += _names_in(rows)
            if len(names) >= _MOST_ROWS:
                gather()
                await trio.lowlevel.checkpoint()
        gather()
        self._rows = pieces
        self._starts = [0, *accumulate(counts)]
        self._firsts = firsts

    def _unpark(self) -> None:
        if self._changed is not None:
            self._changed.unpark_all()


def _hashes() -> tuple[blake2b, ...]:
    """One for each part of what rows say."""
    return blake2b(digest_size=16), blake2b(digest_size=16)


def _name_of(item: Named) -> bytes:
    return item[0]


def _names_in(rows: Rows) -> Iterator[Named]:
    """Of rows that are in memory when the first one is asked for; they may leave it then."""
    rows = Rows(rows.prefix, rows.data)
    for index in range(len(rows)):
        entry = rows.entry(index)
        yield entry.name, entry.info if isinstance(entry, FileEntry) else None


def _merged(one: Names, other: Names) -> Names:
    """What both say together: a directory shadows a file."""
    merged = one | other
    for name in one.keys() & other.keys():
        if one[name] is None:
            merged[name] = None
    return merged


def _is_ordered(page: ListPage) -> bool:
    # Text compares as its UTF-8 does.
    keys = [info.id.key for info in page.objects]
    return keys == sorted(keys) and list(page.prefixes) == sorted(page.prefixes)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
