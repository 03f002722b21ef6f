"""Loads one directory's listing: page after page, or, where it is long, several ranges of its keys at the same time.

Owns the requests of a listing that is being loaded. A range is cut at a guess, and the guess counts only once the store
has listed from there: a directory of one page costs one request, and a wrong guess one more.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from s3stream_fs.errors import StoreError
from s3stream_fs.namespace.keys import Hidden
from s3stream_fs.namespace.listing import Lane, Listing
from s3stream_fs.namespace.scale import Scale
from s3stream_fs.types import ListPage

ListFrom = Callable[[str, str | None, str], Awaitable[ListPage]]
"""Lists a page of a prefix: from a token on, or beyond a key."""

_MAX_LANES: Final = 16
"""Ranges of one directory at once. With 60 ms for a page, parsing keeps one core busy from there on."""

_GUESSES_PER_PAGE: Final = 0.25
"""Requests that come to nothing, at the most. So a directory of up to four pages costs no more than those."""

_FURTHER: Final = 3
"""How many times as far as it has come an open range is cut."""

_LEAST_PAGES: Final = 4
"""A range that is shorter is not cut: half a page is listed twice at each cut."""

_LOOKED_AT: Final = 50
"""Names of a page from which is learned how names look."""


class Loader:
    def __init__(self, listing: Listing, list_from: ListFrom) -> None:
        self._listing = listing
        self._list_from = list_from
        self._scale = Scale()
        self._first = ""
        """The first name."""
        self._under_way = 0
        self._guesses_left = 0.0
        self._guessed: set[Lane] = set()
        """Lanes of which a part is being guessed at."""
        self._listed = 0
        self._width_listed = 0.0
        """How much of all that there may be so many pages were."""
        self._error: StoreError | None = None

    async def load(self) -> None:
        """Load all of it. Raises StoreError."""
        await self._load_pages()
        await self._listing.settle()

    async def _load_pages(self) -> None:
        listing = self._listing
        first = listing.lanes[0]
        page = await self._list_from(listing.prefix, None, "")
        self._guesses_left += _GUESSES_PER_PAGE
        listing.add_page(page)
        if page.next_token is None:
            return
        self._learn(page)
        self._first = _name(_first(page, len(listing.prefix)) or b"")
        async with trio.open_nursery() as nursery:
            self._begin(nursery, first, page.next_token)
        if self._error is not None:
            raise self._error

    def _begin(self, nursery: trio.Nursery, lane: Lane, token: str | None) -> None:
        self._under_way += 1
        nursery.start_soon(self._follow, nursery, lane, token)

    async def _follow(self, nursery: trio.Nursery, lane: Lane, token: str | None) -> None:
        """Load a lane to its end."""
        try:
            while not lane.complete:
                self._guess(nursery)
                page = await self._list_from(self._listing.prefix, token, "")
                before = _name(lane.last)
                self._listing.add_page(page, lane)
                await self._listing.advance()
                self._listed += 1
                self._width_listed += self._scale.width(before, _name(lane.last))
                self._guesses_left += _GUESSES_PER_PAGE
                self._learn(page)
                token = page.next_token
        except StoreError as error:
            self._error = error
            nursery.cancel_scope.cancel()
        self._under_way -= 1
        self._guess(nursery)

    def _guess(self, nursery: trio.Nursery) -> None:
        """Have further ranges loaded, as many as the length of the listing so far is worth."""
        listing = self._listing
        while listing.ordered and self._guesses_left >= 1 and self._under_way < min(listing.npages, _MAX_LANES):
            worth_it = _LEAST_PAGES * self._width_listed / max(self._listed, 1)
            widths = {
                lane: self._scale.width(*_ends(lane))
                for lane in listing.lanes
                if not lane.complete and lane not in self._guessed
            }
            widest = max(widths, key=widths.__getitem__, default=None)
            if widest is None or (widest.until is not None and widths[widest] < worth_it):
                return
            at = self._cut(widest)
            if at is None:
                return
            self._under_way += 1
            self._guesses_left -= 1
            self._guessed.add(widest)
            nursery.start_soon(self._try, nursery, widest, at)

    async def _try(self, nursery: trio.Nursery, lane: Lane, at: str) -> None:
        """See what lies beyond ``at`` in a lane, and if there is anything, load it beside what lies before."""
        listing = self._listing
        beyond = at.encode()
        try:
            page = await self._list_from(listing.prefix, None, listing.prefix + at)
            first = _first(page, len(listing.prefix))
            known_to_list_in_order = first is None or first > beyond
        except StoreError:
            known_to_list_in_order = False
        self._guessed.discard(lane)
        self._under_way -= 1
        if not known_to_list_in_order:
            self._guesses_left = -math.inf  # this store knows no start-after: page by page, then
        elif not lane.complete and lane.last < beyond and (lane.until is None or beyond < lane.until):
            if first is None or (lane.until is not None and first > lane.until):
                lane.until = beyond
                if first is None:
                    listing.hide(Hidden.UNTRUE, page.unusable)
            else:
                self._guesses_left += 1  # it was right, and cost nothing
                upper = listing.split(lane, beyond)
                listing.add_page(page, upper)
                self._learn(page)
                self._begin(nursery, upper, page.next_token)
        self._guess(nursery)

    def _learn(self, page: ListPage) -> None:
        """Look at some of a page's names."""
        skip = len(self._listing.prefix)
        for info in page.objects[:: max(len(page.objects) // _LOOKED_AT, 1)]:
            self._scale.learn(info.id.key[skip:])
        for prefix in page.prefixes[:: max(len(page.prefixes) // _LOOKED_AT, 1)]:
            self._scale.learn(prefix[skip:-1])

    def _cut(self, lane: Lane) -> str | None:
        low, high = _ends(lane)
        at = None
        if high is None:
            # Where the names end nobody knows, but they do not end here: go further, and further from there.
            at = self._scale.further(self._first, low, _FURTHER)
        return at or self._scale.middle(low, high)


def _first(page: ListPage, skip: int) -> bytes | None:
    """The first key or prefix of a page, relative to its directory."""
    firsts = [info.id.key for info in page.objects[:1]] + list(page.prefixes[:1])
    return min((key[skip:].encode("utf-8", "surrogatepass") for key in firsts), default=None)


def _ends(lane: Lane) -> tuple[str, str | None]:
    return _name(lane.last), None if lane.until is None else _name(lane.until)


def _name(key: bytes) -> str:
    """A key relative to its directory, with what ends a directory's name taken for what comes behind all of it."""
    return key.decode("utf-8", "replace").replace("/", "0")
