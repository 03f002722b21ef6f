"""The tree: what a name in a directory is, answered with as few requests as the time to live allows.

Owns the single answers that are still fresh. A listing answers for every name of its directory; where there is none,
one LIST that begins with the name answers for the name alone (in directory buckets, which have no such LIST, a HEAD and
a LIST). Where the store refuses that, and lists the directory all the same, the listing is waited for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import trio
from cachetools import LRUCache, TTLCache
from outcome import Outcome, acapture

from s3stream_fs.errors import Denied, NotFound, StoreUnavailable, Transient
from s3stream_fs.namespace.archive import Archive
from s3stream_fs.namespace.changes import Change, Changes
from s3stream_fs.namespace.entries import Entry, FileEntry
from s3stream_fs.namespace.keys import Hidden, text_of
from s3stream_fs.namespace.listing import Listing, Unknown
from s3stream_fs.namespace.listings import Listings, ListingsStatistics
from s3stream_fs.namespace.outdated import Outdated
from s3stream_fs.namespace.proofs import listed, proven
from s3stream_fs.namespace.refresh import Refresh, RefreshProgress
from s3stream_fs.namespace.rows import Row, row_of
from s3stream_fs.namespace.shelf import Elsewhere, Shelf, having
from s3stream_fs.namespace.walks import Walks
from s3stream_fs.store import ObjectStore
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

log = logging.getLogger(__name__)

_ANSWERS_NBYTES: Final = 64 * 1024**2
"""Of single answers that are kept, present or absent: some 60,000."""

_MOST_TOLD_CHARS: Final = 1024
"""Of a key, in the log: as many as Amazon S3 takes. Where a store lists longer ones, a line may have megabytes."""

_AT_ONCE: Final = 50
"""Names or directories told of by one page that are taken note of before others get their turn: some 3 ms."""

_LEAST_KEPT_SECONDS: Final = 1.0
"""Also with a shorter time to live, for those who asked while the answer was under way."""

_LOOKUPS_BEFORE_LISTING: Final = 4
"""How many different names may be asked for one by one before the directory is listed. A guess: a script that opens a
few known files pays for those; one that probes or walks pays one LIST per 1,000 entries."""

_CHANGES_BEFORE_LISTING: Final = 4
"""In how many names a directory is found to have changed before it is listed again, and at least as many as that takes
requests: one for each name cost as much by then, and the next ones shall be found out before somebody reads them."""

_PAGE: Final = 1000
"""Entries of a listing that one request brings."""

_WALK_TTL_SECONDS: Final = 5.0
"""With a shorter time to live what is listed ahead of a walk would be too old when the walk comes to it."""

_TOLD_SECONDS: Final = 5.0
"""How long a refresh waits for the kernel to be told what has changed: some 60 us for a name."""

_LOOKUP_LIMIT: Final = 100
"""Keys in the page that answers one lookup. The file comes first; the directory comes after names that go on with a
character below '/', which are rarely many."""


class Answer(NamedTuple):
    """``row`` is None for a name that does not exist. It may be given to others until ``fresh_until``."""

    row: Row | None
    fresh_until: float

    @property
    def entry(self) -> Entry | None:
        """What stands there. For whoever goes on from the lookup without waiting: it may be a listing's."""
        return None if self.row is None else self.row.entry


@dataclass(frozen=True, slots=True)
class TreeStatistics:
    """``answered_from_*`` count lookups that cost no request of their own; ``hidden_keys`` those no path can name;
    ``outdated`` how often a GET has found that an object was replaced or deleted."""

    lookups: int
    answered_from_listings: int
    answered_from_answers: int
    listings: ListingsStatistics
    hidden_keys: int
    unreachable_markers: int
    outdated: int


class Tree:
    def __init__(
        self,
        store: ObjectStore,
        shelf: Shelf,
        archive: Archive | None = None,
        *,
        ttl_seconds: float,
        frozen: str = "names are frozen",
        nursery: trio.Nursery,
    ) -> None:
        """``frozen``: why names stay what they are where the time to live has no end, and what to do; for the log."""
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._frozen = frozen
        self._said_frozen = False
        self._nursery = nursery
        self._outdated = Outdated()
        self._noutdated = 0
        self._listings = Listings(
            self._list,
            shelf,
            archive,
            self._outdated,
            self._on_end,
            ordered=store.lists_any_prefix,
            ttl_seconds=ttl_seconds,
            nursery=nursery,
        )
        self._walks = Walks(enabled=ttl_seconds >= _WALK_TTL_SECONDS)
        self._answers: TTLCache[tuple[str, bytes], Answer] = TTLCache(
            _ANSWERS_NBYTES, max(ttl_seconds, _LEAST_KEPT_SECONDS), timer=trio.current_time, getsizeof=_nbytes_of
        )
        self._asking: dict[tuple[str, bytes], trio.Event] = {}
        """Lookups under way; whoever asks for the same name waits for them (single flight)."""
        self._asked: LRUCache[str, tuple[float, set[bytes]]] = LRUCache(maxsize=1000)
        """Names asked for one by one, by directory, and until when they count."""
        self._told_by_listings_only: LRUCache[str, None] = LRUCache(maxsize=10_000)
        """Directories of which the store refuses to tell single names, and gives listings."""
        self._refusal_reported = False
        self.changes = Changes()
        self._thawed: LRUCache[ObjectId, tuple[bool, float]] = LRUCache(maxsize=10_000)
        """Archived objects that were asked whether they have been restored."""
        self._reported: LRUCache[tuple[str, object], None] = LRUCache(maxsize=10_000)
        self._lookups = 0
        self._answered_from_listings = 0
        self._answered_from_answers = 0
        self._hidden_keys = 0
        self._unreachable_markers = 0

    def lookup_nowait(self, prefix: str, name: bytes) -> Answer | None:
        """What ``lookup`` says, where a fresh listing tells; None where it takes a request, or more to find out."""
        listing = self._listings.fresh(prefix)
        if listing is None:
            return None
        row = listing.find(name)
        if isinstance(row, Unknown):
            return None
        if row is not None and (row.archived or not self._outdated.believes(row.identity, listing.asked_at)):
            return None
        self._lookups += 1
        self._answered_from_listings += 1
        return Answer(row, listing.fresh_until)

    async def lookup(self, prefix: str, name: bytes) -> Answer:
        """What ``name`` is in the directory ``prefix``. Raises StoreError where the store does not tell."""
        self._lookups += 1
        text = text_of(name)
        if text is None:
            return Answer(None, trio.current_time() + self._ttl_seconds)
        answer = await self._answer(prefix, name, text)
        if answer.row is not None and answer.row.archived:
            entry = answer.entry
            assert isinstance(entry, FileEntry)
            return Answer(row_of(prefix, name, await self._thaw(entry.info)), answer.fresh_until)
        return answer

    def open_listing(self, prefix: str) -> Listing:
        """The listing of a directory: a fresh one, one that is being loaded, or a new one that is now being loaded."""
        listing = self._listings.open(prefix)
        listing.lose_unreadable()
        if listing.error is not None:
            listing = self._listings.open(prefix)
        if listing.complete and listing.nchanged > 0:
            listing = self._renew(listing)
        try:
            self._open_ahead(prefix)
        except Elsewhere:
            self._nursery.start_soon(having, partial(self._open_ahead, prefix))
        return listing

    def _open_ahead(self, prefix: str) -> None:
        for ahead in self._walks.on_open(prefix, self._listings.get):
            self._listings.open(ahead)

    def outdated_nowait(self, object_id: ObjectId) -> None:
        """The store has just said that it does not have this version any more.

        Whoever looks the name up next asks the store for it, and the kernel is told that it shall. A directory in which
        several names have changed is listed again. Where names are frozen nothing follows but a line in the log.
        """
        self._noutdated += 1
        if math.isinf(self._ttl_seconds):
            self._say_frozen(object_id)
            return
        prefix, name, identity = _place_of(object_id)
        if not self._outdated.report(identity, trio.current_time()):
            return
        answer = self._answers.get((prefix, name))
        if answer is not None and answer.row is not None and answer.row.identity == identity:
            del self._answers[prefix, name]
        self.changes.announce_nowait(Change(prefix, name))
        listing = self._listings.get(prefix)
        if listing is None or listing.nchanged == 0:
            self._listings.changed(prefix)
        for known in (listing, self._listings.renewal(prefix)):
            if known is not None and known.error is None:
                row = known.find(name)
                known.nchanged += isinstance(row, Unknown) or (row is not None and row.identity == identity)
        if (
            listing is not None
            and listing.complete
            and listing.nchanged >= max(_CHANGES_BEFORE_LISTING, len(listing) // _PAGE)
        ):
            self._renew(listing)

    def is_outdated(self, object_id: ObjectId) -> bool:
        """Whether the store has said that it does not have this version any more, and not otherwise since."""
        return self._outdated.holds(_place_of(object_id)[2])

    def believes(self, listing: Listing, row: Row) -> bool:
        """Whether an entry of a listing is, as far as is known, what its name stands for."""
        return self._outdated.believes(row.identity, listing.asked_at)

    def _renew(self, before: Listing) -> Listing:
        """The listing that is being loaded to take the place of this one; what is different in it is announced."""
        after = self._listings.renewal(before.prefix)
        if after is None:
            after = self._listings.load(before.prefix)
            self._nursery.start_soon(Refresh(self._listings, self.changes.announce).announce_changes, before, after)
        return after

    def _say_frozen(self, object_id: ObjectId) -> None:
        if not self._said_frozen:
            self._said_frozen = True
            log.warning(
                "%r was replaced or deleted in the bucket, and what is not cached of it cannot be read: %s (said once)",
                object_id.key,
                self._frozen,
            )

    async def refresh(self, root: str, path: list[bytes], progress: Callable[[RefreshProgress], None]) -> None:
        """Ask again for all that is known of a path below the prefix ``root``, on the way to it, and below it.

        What has changed is announced. ``progress`` is told once, and then kept up to date.
        """
        self._said_frozen = False  # it is said once more of what changes from here on
        refresh = Refresh(self._listings, self.changes.announce)
        progress(refresh.progress)
        prefix = root
        above: list[tuple[str, bytes]] = []
        for name in path:
            text = text_of(name)
            if text is None:
                return  # no key can have it
            above.append((prefix, name))
            prefix = f"{prefix}{text}/"
        for known in list(self._answers):
            if known[0].startswith(prefix) or known in above:
                self._answers.pop(known, None)
                await self.changes.announce(Change(*known))
        prefixes = [known for known, _ in above if self._listings.get(known) is not None]
        await refresh.run([*prefixes, *(listing.prefix for listing in self._listings.below(prefix))])
        with trio.move_on_after(_TOLD_SECONDS):
            await self.changes.wait_told()

    def statistics(self) -> TreeStatistics:
        return TreeStatistics(
            lookups=self._lookups,
            answered_from_listings=self._answered_from_listings,
            answered_from_answers=self._answered_from_answers,
            listings=self._listings.statistics(),
            hidden_keys=self._hidden_keys,
            unreachable_markers=self._unreachable_markers,
            outdated=self._noutdated,
        )

    async def _answer(self, prefix: str, name: bytes, text: str) -> Answer:
        waited_in_vain = False
        while True:
            if prefix in self._told_by_listings_only:
                return await self._answer_by_listing(prefix, name)
            listing = self._listings.fresh(prefix)
            if listing is None and self._listing_is_due(prefix, name):
                listing = self.open_listing(prefix)
            if listing is not None:
                # The first page takes as long as a question of our own. Later pages are not waited for: a directory
                # of a million keys has a thousand of them.
                await listing.wait_first_page()
                row = listing.find(name)
                if isinstance(row, Unknown) and await listing.bring(name):
                    row = listing.find(name)
                if row is None or (
                    not isinstance(row, Unknown) and self._outdated.believes(row.identity, listing.asked_at)
                ):
                    self._answered_from_listings += 1
                    return Answer(row, listing.fresh_until)
                if isinstance(listing.error, Transient):
                    # Thousands may have waited for it. Some ask by themselves, and the others wait for another listing.
                    if waited_in_vain:
                        raise listing.error.again()
                    waited_in_vain = True
                    continue
            kept = self._answers.get((prefix, name))
            if kept is not None and kept.fresh_until > trio.current_time():
                self._answered_from_answers += 1
                self._asked_lately(prefix).add(name)  # also one that was told beside another, by a flat listing
                return kept
            under_way = self._asking.get((prefix, name))
            if under_way is None:
                return await self._ask(prefix, name, text)
            before = kept
            await under_way.wait()
            kept = self._answers.get((prefix, name))
            if self._ttl_seconds == 0 and kept is not None and kept is not before:
                return kept  # what was under way while it was asked for is as fresh as can be

    async def _ask(self, prefix: str, name: bytes, text: str) -> Answer:
        """Ask the store for one name, and keep the answer."""
        done = self._asking[prefix, name] = trio.Event()
        try:
            self._asked_lately(prefix).add(name)
            while True:
                fresh_until = trio.current_time() + self._ttl_seconds
                moment = self._outdated.moment
                try:
                    row = await self._ask_for(prefix, name, text, moment)
                except Denied as refusal:
                    if not self._store.lists_any_prefix or type(refusal) is not Denied:
                        raise  # whole directories are all that it was asked for; or it refuses the keys, and all else
                    answer = _own(prefix, name, await self._answer_by_listing(prefix, name))
                    self._report_refusal(prefix, refusal)
                    break
                answer = Answer(row, fresh_until)
                if row is None or self._outdated.believes(row.identity, moment):
                    break  # else a reader has found out otherwise meanwhile
            self._answers[prefix, name] = answer
            return answer
        finally:
            del self._asking[prefix, name]
            done.set()

    async def _answer_by_listing(self, prefix: str, name: bytes) -> Answer:
        """What a listing says, however long it takes to come to the name. Raises what the listing fails with."""
        listing = self._listings.open(prefix)
        while True:
            row = listing.find(name)
            if isinstance(row, Unknown) and await listing.bring(name):
                row = listing.find(name)
            if not isinstance(row, Unknown):
                return Answer(row, listing.fresh_until)
            nsettled = len(listing)
            listing.check(nsettled)
            await listing.wait_settled(nsettled)

    def _report_refusal(self, prefix: str, refusal: Denied) -> None:
        """Policies may allow LIST with a delimiter only, or only of some prefixes."""
        self._told_by_listings_only[prefix] = None
        if not self._refusal_reported:
            self._refusal_reported = True
            log.info("the store tells of no single names, but lists their directories: %s", refusal)

    async def _ask_for(self, prefix: str, name: bytes, text: str, moment: int) -> Row | None:
        """One LIST that begins with the name tells whether it is a file, a directory, or nothing.

        It is flat, so that it also tells of names further down, which are probably asked for next: a path through
        directories that hold one directory each costs one LIST in all, and so does a small tree. A second one is needed
        only where so many keys go on with a character below '/' that the directory, which comes after them, does not
        fit the page.
        """
        key = prefix + text
        if not self._store.lists_any_prefix:
            return await self._ask_by_head(prefix, name, key)
        fresh_until = trio.current_time() + self._ttl_seconds
        page = await self._list(key, limit=_LOOKUP_LIMIT, flat=True)
        info = next((info for info in page.objects if info.id.key == key), None)
        if key in page.unusable:
            self._say_hidden(prefix, Hidden.UNTRUE, 1, key)
        if page.next_token is not None and page.last.encode() < key.encode() + b"/":
            page = await self._list(key + "/", limit=_LOOKUP_LIMIT, flat=True)
        if any(below.startswith(key + "/") for below in (*(info.id.key for info in page.objects), *page.unusable)):
            if self._ttl_seconds > 0 and page.next_token is None:
                for count, (directory, entries) in enumerate(listed(key + "/", page), 1):
                    self._listings.take(directory, entries, fresh_until, moment)
                    if count % _AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
            elif self._ttl_seconds > 0:
                for count, (above, inside, row) in enumerate(proven(key + "/", page), 1):
                    if self._outdated.believes(row.identity, moment):
                        self._answers[above, inside] = Answer(row, fresh_until)
                    if count % _AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
            return row_of(prefix, name, None)
        return None if info is None else row_of(prefix, name, info)

    async def _ask_by_head(self, prefix: str, name: bytes, key: str) -> Row | None:
        """For stores that list below whole directories only: a HEAD and a LIST at the same time."""
        listed: list[Outcome[ListPage]] = []

        async def below() -> None:
            listed.append(await acapture(self._list, key + "/", limit=1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(below)
            headed = await acapture(self._store.head, key)
        page = listed[0].unwrap()
        if page.objects or page.prefixes:
            return row_of(prefix, name, None)
        try:
            return row_of(prefix, name, headed.unwrap())
        except NotFound:
            return None

    async def _list(
        self, prefix: str, token: str | None = None, after: str = "", limit: int = 1000, *, flat: bool = False
    ) -> ListPage:
        try:
            return await self._store.list_page(prefix, token=token, after=after, limit=limit, flat=flat)
        except NotFound:
            # A prefix with no keys is an empty page, so this is the bucket; no name in it may count as absent.
            raise StoreUnavailable("the bucket is gone") from None

    async def _thaw(self, info: ObjectInfo) -> ObjectInfo:
        """Ask whether an archived object has been restored; listings of many stores do not say."""
        known = self._thawed.get(info.id)
        if known is None or known[1] <= trio.current_time():
            fresh_until = trio.current_time() + self._ttl_seconds
            try:
                head = await self._store.head(info.id.key)
            except NotFound:
                return info
            known = self._thawed[info.id] = (head.id == info.id and not head.archived, fresh_until)
        return info._replace(restored=known[0])

    def _listing_is_due(self, prefix: str, name: bytes) -> bool:
        """Whether this would be so many names asked for one by one that a listing is cheaper."""
        if self._ttl_seconds == 0:
            return False  # every name is asked for every time, so a listing would serve one question
        names = self._asked_lately(prefix)
        return len(names) + (name not in names) >= _LOOKUPS_BEFORE_LISTING

    def _asked_lately(self, prefix: str) -> set[bytes]:
        """The names asked for one by one since the directory was last listed, or for one time to live."""
        now = trio.current_time()
        until, names = self._asked.get(prefix, (0.0, set()))
        if until <= now:
            until, names = now + self._ttl_seconds, set()
            self._asked[prefix] = (until, names)
        return names

    def _on_end(self, listing: Listing) -> None:
        """A listing is complete, and what it says goes before single answers; or it has failed."""
        _, names = self._asked.pop(listing.prefix, (0.0, set()))
        if listing.complete:
            self._supersede_answers(listing, names)
            self._report(listing)

    def _supersede_answers(self, listing: Listing, names: set[bytes]) -> None:
        """The listing now speaks for these names. Where it says something else than was answered, announce it."""
        for name in names:
            found = listing.find(name)
            if isinstance(found, Row) and not self.believes(listing, found):
                continue
            answer = self._answers.pop((listing.prefix, name), None)
            if answer is None or answer.fresh_until <= trio.current_time():
                continue
            if (found.entry if isinstance(found, Row) else found) != answer.entry:  # also where it is UNKNOWN
                self.changes.announce_nowait(Change(listing.prefix, name))

    def _report(self, listing: Listing) -> None:
        """Count what the listing cannot show, and say so once per directory and reason."""
        for reason, (count, example) in (listing.hidden or {}).items():
            self._say_hidden(listing.prefix, reason, count, example)
        if listing.marker_nbytes and (listing.prefix, "marker") not in self._reported:
            self._reported[listing.prefix, "marker"] = None
            self._unreachable_markers += 1
            log.warning(
                "%r is shown as a directory; its %d bytes cannot be read", listing.prefix, listing.marker_nbytes
            )

    def _say_hidden(self, prefix: str, reason: Hidden, count: int, example: str) -> None:
        if (prefix, reason) not in self._reported:
            self._reported[prefix, reason] = None
            self._hidden_keys += count
            example = example[:_MOST_TOLD_CHARS]
            log.warning("%d keys under %r are hidden, such as %r: %s", count, prefix, example, reason.value)


def _own(prefix: str, name: bytes, answer: Answer) -> Answer:
    """The same answer with a row of its own, for which no listing's rows have to stay."""
    entry = answer.entry
    if entry is None:
        return answer
    return answer._replace(row=row_of(prefix, name, entry.info if isinstance(entry, FileEntry) else None))


def _nbytes_of(answer: Answer) -> int:
    """What a single answer takes, with the place under which it is kept; guessed, within a fifth of what is seen."""
    row = answer.row
    return 800 if row is None else 900 + row.rows.nbytes + 2 * len(row.identity)


def _place_of(object_id: ObjectId) -> tuple[str, bytes, bytes]:
    """The directory and the name under which an object is shown, and the identity of the version."""
    key = object_id.key
    cut = key.rfind("/") + 1
    prefix, name = key[:cut], key[cut:].encode("utf-8", "surrogatepass")
    return prefix, name, row_of(prefix, name, ObjectInfo(object_id, 0)).identity
