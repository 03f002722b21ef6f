"""A refresh: directories that are known are listed again, however fresh, and what has changed is announced.

Costs a listing for each, and nothing for others, which are asked for when somebody comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from s3stream_fs.errors import StoreError
from s3stream_fs.namespace.changes import Change
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.listings import Listings
from s3stream_fs.namespace.rows import Row
from s3stream_fs.namespace.shelf import having

_LISTINGS_AT_ONCE: Final = 32

_ROWS_AT_A_TIME: Final = 500
"""Rows that are compared (some 2 us each) before others get their turn."""

Announce = Callable[[Change], Awaitable[None]]
"""Says that something has changed."""


@dataclass(slots=True)
class RefreshProgress:
    """Directories that are listed again, and names in them by what has become of them since the last time."""

    ndirectories_found: int = 0
    ndirectories_done: int = 0
    ndirectories_failed: int = 0
    nadded: int = 0
    nremoved: int = 0
    nreplaced: int = 0


class Refresh:
    def __init__(self, listings: Listings, announce: Announce) -> None:
        self._listings = listings
        self._announce = announce
        self.progress = RefreshProgress()

    async def run(self, prefixes: list[str]) -> None:
        """List these directories again."""
        self.progress.ndirectories_found += len(prefixes)
        limiter = trio.CapacityLimiter(_LISTINGS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for prefix in prefixes:
                await limiter.acquire_on_behalf_of(prefix)
                nursery.start_soon(self._renew, prefix, limiter)

    async def _renew(self, prefix: str, limiter: trio.CapacityLimiter) -> None:
        try:
            before = self._listings.get(prefix)
            if before is not None:
                await before.wait_complete()  # it began before we were asked, and may have missed what there is now
            after = self._listings.load(prefix)
            await self.announce_changes(before, after)
            self.progress.ndirectories_done += 1
        finally:
            limiter.release_on_behalf_of(prefix)

    async def announce_changes(self, before: Listing | None, after: Listing) -> None:
        """Announce in what a listing, once it is complete, differs from the one before it."""
        await after.wait_complete()
        if after.error is not None:
            self.progress.ndirectories_failed += 1
        elif before is not None and before.complete:
            try:
                await self._compare(before, after)
            except StoreError:  # the disk has lost what was known
                self.progress.ndirectories_failed += 1

    async def _compare(self, before: Listing, after: Listing) -> None:
        if before.digest == after.digest:
            return
        comparison = _Comparison(before, after)
        while await having(comparison.step):
            for old, new in comparison.different:
                if old is None:
                    self.progress.nadded += 1
                elif new is None:
                    self.progress.nremoved += 1
                else:
                    self.progress.nreplaced += 1
                name = (old or new).name  # type: ignore[union-attr]
                await self._announce(Change(after.prefix, name))
            comparison.different.clear()
            await trio.lowlevel.checkpoint()
        await self._announce(Change(after.prefix, b""))


class _Comparison:
    """Two listings, row by row, and what was found ``different`` so far."""

    def __init__(self, before: Listing, after: Listing) -> None:
        self._before = before
        self._after = after
        self._nbefore = 0
        self._nafter = 0
        self.different: list[tuple[Row | None, Row | None]] = []

    def step(self) -> bool:
        """Compare some rows. False where there are none left. Raises Elsewhere, after which it goes on where it was."""
        olds, news = self._before.rows_nowait(self._nbefore), self._after.rows_nowait(self._nafter)
        compared = False
        for old, new in islice(_pairs(olds, news), _ROWS_AT_A_TIME):
            compared = True
            self._nbefore += old is not None
            self._nafter += new is not None
            if old is None or new is None or old.identity != new.identity:
                self.different.append((old, new))
        return compared


def _pairs(olds: Iterator[Row], news: Iterator[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Rows of the same name, out of two listings in order."""
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.name < new.name):
            yield old, None
            old = next(olds, None)
        elif old is None or new.name < old.name:
            yield None, new
            new = next(news, None)
        else:
            yield old, new
            old, new = next(olds, None), next(news, None)
