"""The listings that are kept, by directory, and the tasks that load them: one in flight for each directory.

Owns how long a listing is answered from. One that has grown old is loaded anew when somebody asks, and if the directory
is what it was, the old one goes on: whoever has it, the kernel too, need not be told of it again. While a renewal is
being loaded, before its time, answers come from the old one.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.namespace.archive import Archive, Archived
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.loader import ListFrom, Loader
from s3stream_fs.namespace.outdated import Outdated
from s3stream_fs.namespace.shelf import Shelf
from s3stream_fs.types import ListPage

log = logging.getLogger(__name__)

_MOST_NBYTES: Final = 256 * 1024**2
"""Of listings that are kept, beside their rows, which are the shelf's: 250,000 directories."""

_LISTING_NBYTES: Final = 1050
"""What one takes beside its prefix."""


@dataclass(frozen=True, slots=True)
class ListingsStatistics:
    """``unchanged`` were loaded again, and the directory was what it had been. ``nbytes`` are those kept, without
    their rows."""

    started: int
    unchanged: int
    kept: int
    nbytes: int
    entries_kept: int


class Listings:
    def __init__(
        self,
        list_from: ListFrom,
        shelf: Shelf,
        archive: Archive | None,
        outdated: Outdated,
        ended: Callable[[Listing], None],
        *,
        ordered: bool,
        ttl_seconds: float,
        nursery: trio.Nursery,
    ) -> None:
        """``ended`` is called with each listing that is complete, or has failed. ``ordered``: the store's are."""
        self._list_from = list_from
        self._shelf = shelf
        self._archive = archive
        self._outdated = outdated
        self._ended = ended
        self._ordered = ordered
        self._ttl_seconds = ttl_seconds
        self._nursery = nursery
        self._kept: OrderedDict[str, Listing] = OrderedDict()
        """By prefix, least recently used first."""
        self._nbytes = 0
        self._renewals: dict[str, Listing] = {}
        """Being loaded, while the one that is kept is answered from."""
        self._started = 0
        self._unchanged = 0

    def get(self, prefix: str) -> Listing | None:
        """The listing of a directory, if one is kept, however old."""
        return self._kept.get(prefix)

    def fresh(self, prefix: str) -> Listing | None:
        """One whose answers may be given, or that is being loaded."""
        listing = self._kept.get(prefix)
        if listing is None or not _is_fresh(listing):
            listing = self._renewals.pop(prefix, None)
            if listing is None:
                return None
        self._keep(listing)
        return listing

    def open(self, prefix: str) -> Listing:
        """A fresh one, or a new one that is now being loaded."""
        listing = self.fresh(prefix)
        return self._begin(prefix, anew=False) if listing is None else listing

    def load(self, prefix: str) -> Listing:
        """A new one, that is now being loaded. It takes the place of the one that is kept, at once where that is not
        answered from, else when it is complete."""
        return self._begin(prefix, anew=True)

    def renewal(self, prefix: str) -> Listing | None:
        """The one that is being loaded to take the place of the one that is kept."""
        return self._renewals.get(prefix)

    def changed(self, prefix: str) -> None:
        """What is known of a directory is not all right any more: no later process shall be told of it."""
        if self._archive is not None:
            self._archive.drop_nowait(prefix)

    def _begin(self, prefix: str, *, anew: bool) -> Listing:
        fresh_until = trio.current_time() + self._ttl_seconds
        listing = Listing(prefix, fresh_until, self._shelf, ordered=self._ordered)
        before = self._kept.get(prefix)
        if before is not None and before.complete and _is_fresh(before):
            self._renewals[prefix] = listing
        else:
            self._keep(listing)
        self._started += 1
        self._nursery.start_soon(self._load, listing, before, anew)
        return listing

    def take(self, prefix: str, page: ListPage, fresh_until: float, asked_at: int) -> None:
        """Keep what is known of a directory otherwise: a page that is all of it."""
        if self.fresh(prefix) is None:
            listing = Listing(prefix, fresh_until, self._shelf, ordered=self._ordered)
            listing.asked_at = asked_at
            listing.add_page(page)
            listing.finish()
            self._keep(listing)
            self._ended(listing)
            self._shrink()

    def below(self, prefix: str) -> Iterator[Listing]:
        """Those that are kept of ``prefix`` and of all directories in it."""
        return iter([listing for kept, listing in self._kept.items() if kept.startswith(prefix)])

    def statistics(self) -> ListingsStatistics:
        return ListingsStatistics(
            started=self._started,
            unchanged=self._unchanged,
            kept=len(self._kept),
            nbytes=self._nbytes,
            entries_kept=sum(map(len, self._kept.values())),
        )

    async def _load(self, listing: Listing, before: Listing | None, anew: bool) -> None:
        try:
            if anew or before is not None or not await self._take_archived(listing):
                listed_ms = int(time.time() * 1000)
                listing.asked_at = self._outdated.moment
                await Loader(listing, self._list_from).load()
                listing.finish()
                if self._archive is not None and listing.hidden is None and listing.marker_nbytes == 0:
                    self._archive.save_nowait(Archived(listing.prefix, listed_ms, listing.digest, listing.pieces))
        except StoreError as error:
            if self._ordered and not listing.ordered:
                log.warning(
                    "the store lists %r in no order: from now on a listing is shown once it is complete", listing.prefix
                )
                self._ordered = False
            listing.fail(error)
        except Exception:
            log.exception("bug: listing %r", listing.prefix)
            listing.fail(StoreUnavailable("internal error, see the log"))
        self._ended(listing)
        prefix = listing.prefix
        if self._renewals.get(prefix) is listing:
            del self._renewals[prefix]
            if listing.complete and self._kept.get(prefix) in (before, None):
                self._keep(listing)
        if listing.error is not None:
            if self._kept.get(prefix) is listing:
                self._drop(prefix)
            return
        if before is not None and before.complete and before.digest == listing.digest:
            self._unchanged += 1
            before.fresh_until = listing.fresh_until
            before.asked_at = listing.asked_at
            before.nchanged = listing.nchanged
            if self._kept.get(prefix) is listing:
                self._keep(before)
        await self._shelf.wait_written()
        self._shrink()

    async def _take_archived(self, listing: Listing) -> bool:
        """Whether an earlier process has left a listing that is fresh."""
        archived = await self._archive.find(listing.prefix, self._ttl_seconds) if self._archive is not None else None
        if archived is None:
            return False
        listing.take(archived.pieces, archived.digest)
        listing.fresh_until -= time.time() - archived.listed_ms / 1000
        return True

    def _keep(self, listing: Listing) -> None:
        """It speaks for its directory from now on, and is the most recently used."""
        prefix = listing.prefix
        if prefix not in self._kept:
            self._nbytes += _LISTING_NBYTES + len(prefix)
        self._kept[prefix] = listing
        self._kept.move_to_end(prefix)

    def _drop(self, prefix: str) -> None:
        del self._kept[prefix]
        self._nbytes -= _LISTING_NBYTES + len(prefix)

    @property
    def _is_full(self) -> bool:
        return self._nbytes > _MOST_NBYTES or self._shelf.is_full

    def _shrink(self) -> None:
        """Let the least recently used ones go until the rest fits. Whoever holds one keeps it."""
        loading: set[str] = set()
        while self._is_full and len(self._kept) > len(loading) + 1:
            prefix = next(prefix for prefix in self._kept if prefix not in loading)
            if self._kept[prefix].complete:
                self._drop(prefix)
            else:
                loading.add(prefix)


def _is_fresh(listing: Listing) -> bool:
    """Whether its answers may be given, or it is being loaded."""
    return listing.error is None and (listing.loading or listing.fresh_until > trio.current_time())
