"""All that lies below a prefix, however deep, in about as few LISTs as it has pages, several of them at a time.

Owns the requests of one such walk. The keys are listed flat, in ranges. A range is cut where a directory is known to
stand, from a look at what lies ahead, or at a guess where a directory is longer than a page. Where the store refuses to
list flat, each directory is listed by itself.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import trio

from s3stream_fs.errors import Denied, StoreError
from s3stream_fs.namespace.scale import Scale
from s3stream_fs.types import ListPage, ObjectInfo

log = logging.getLogger(__name__)

_MAX_RANGES: Final = 16
"""Ranges at once. With 60 ms for a page, parsing keeps one core busy from there on."""

_LOOKS_PER_PAGE: Final = 0.25
"""Requests that bring no keys, at the most: looks into directories, and guesses where nothing stands."""

_LEAST_PAGES: Final = 4
"""A range that has less before it is not cut: half a page is listed twice at each cut."""

_FURTHER: Final = 3
"""How many times as far as it has come a range without a known end is cut."""


class List(Protocol):
    """Lists a page of all keys that begin with a prefix, or of what stands in a directory."""

    def __call__(self, prefix: str, *, token: str | None, after: str, flat: bool) -> Awaitable[ListPage]: ...


Take = Callable[[tuple[ObjectInfo, ...]], None]
"""Takes the objects of a page. Each object comes once; pages come in no order."""


class _Range:
    """The keys beyond ``last``, up to and with ``until``. Of ``cuts`` it is known that keys stand between them.

    ``page`` are the keys that came last: they tell how many there are to a directory.
    """

    __slots__ = ("cuts", "last", "looking", "npages", "page", "until")

    def __init__(self, last: str, until: str | None, cuts: list[str]) -> None:
        self.last = last
        self.until = until
        self.cuts = cuts
        self.page: tuple[ObjectInfo, ...] = ()
        self.npages = 0
        self.looking = False


class _Long:
    """A directory that is longer than a page: how its names look, and how far the pages of it have reached."""

    __slots__ = ("first", "npages", "scale", "width")

    def __init__(self, first: str) -> None:
        self.first = first
        """An early name of it."""
        self.scale = Scale()
        self.npages = 0
        self.width = 0.0


@dataclass(slots=True)
class SurveyProgress:
    """``pages`` brought objects, ``looks`` showed where to cut. Requests are both together."""

    pages: int = 0
    looks: int = 0
    nobjects: int = 0
    nbytes: int = 0


class Survey:
    def __init__(self, prefix: str, list_page: List, take: Take) -> None:
        self._prefix = prefix
        self._list = list_page
        self._take = take
        self._ranges: list[_Range] = []
        self._under_way = 0
        self._looks_left = 0.0
        self._keys_per_cut = 1000.0
        """How many keys lie between two cuts, as far as was seen."""
        self._looked_at: set[str] = set()
        self._long: dict[str, _Long] = {}
        self._left_out = False
        """It was said that something is."""
        self.progress = SurveyProgress()

    async def run(self) -> None:
        """Raises StoreError."""
        try:
            page = await self._list(self._prefix, token=None, after="", flat=True)
        except Denied:
            # A policy may allow LIST with a delimiter only. If it is not that, this fails in the same way.
            await self._by_directories()
            return
        whole = _Range("", None, [])
        self._looks_left = 1.0
        if not _is_ordered(page):
            self._looks_left = float("-inf")  # a store that lists in no order is listed page by page
        self._add(whole, page)
        if page.next_token is None:
            return
        try:
            async with trio.open_nursery() as nursery:
                self._start(nursery, whole, page.next_token)
        except* StoreError as errors:
            raise _first(errors) from None

    async def _by_directories(self) -> None:
        left = [self._prefix]
        while left:
            some = left[-_MAX_RANGES:]
            del left[-_MAX_RANGES:]
            try:
                async with trio.open_nursery() as nursery:
                    for directory in some:
                        nursery.start_soon(self._list_directory, directory, left)
            except* StoreError as errors:
                raise _first(errors) from None

    async def _list_directory(self, directory: str, left: list[str]) -> None:
        """List a directory. Those in it are ``left`` to be listed."""
        token = None
        while True:
            page = await self._list(directory, token=token, after="", flat=False)
            self._leave_out(page)
            self.progress.pages += 1
            self._count(page.objects)
            self._take(page.objects)
            left += page.prefixes
            token = page.next_token
            if token is None:
                return

    def _leave_out(self, page: ListPage) -> None:
        if page.unusable and not self._left_out:
            self._left_out = True
            log.warning(
                "%r and perhaps others are left out: the store says what cannot be true of them", page.unusable[0]
            )

    def _start(self, nursery: trio.Nursery, part: _Range, token: str | None) -> None:
        self._ranges.append(part)
        self._under_way += 1
        nursery.start_soon(self._follow, nursery, part, token)

    async def _follow(self, nursery: trio.Nursery, part: _Range, token: str | None) -> None:
        """List a range to its end."""
        more = True
        while more:
            self._spread(nursery)
            after = "" if token is not None else part.last
            page = await self._list(self._prefix, token=token, after=after, flat=True)
            more = self._add(part, page)
            token = page.next_token
        self._ranges.remove(part)
        self._under_way -= 1
        self._spread(nursery)

    def _add(self, part: _Range, page: ListPage) -> bool:
        """Take a page of a range. Returns whether the range goes on behind it."""
        self._leave_out(page)
        self.progress.pages += 1
        self._looks_left += _LOOKS_PER_PAGE
        objects = page.objects
        alone = not self._ranges or self._ranges == [part]
        if not (_is_ordered(page) and (not objects or objects[0].id.key > part.last)):
            self._looks_left = float("-inf")
            if not alone or part.until is not None:
                raise StoreError(f"the listing of {self._prefix!r} is in order only at its start")
        beyond = part.until is not None and bool(objects) and objects[-1].id.key > part.until
        if beyond:
            objects = tuple(info for info in objects if info.id.key <= str(part.until))
        part.npages += 1
        if objects:
            self._measure(part.last, objects[-1].id.key)
            part.page = objects
            part.last = objects[-1].id.key
            passed = bisect_right(part.cuts, part.last)
            if passed:
                del part.cuts[:passed]
                self._keys_per_cut += (len(objects) / passed - self._keys_per_cut) / 4
        self._count(objects)
        self._take(objects)
        return page.next_token is not None and not beyond

    def _count(self, objects: tuple[ObjectInfo, ...]) -> None:
        self.progress.nobjects += len(objects)
        self.progress.nbytes += sum(info.id.size for info in objects)

    def _spread(self, nursery: trio.Nursery) -> None:
        """Have idle places list what others have before them, as far as that is worth it."""
        while self._under_way < _MAX_RANGES and self._looks_left > float("-inf"):
            longest = max(self._ranges, key=lambda part: len(part.cuts), default=None)
            if longest is not None and len(longest.cuts) * self._keys_per_cut >= 1000 * _LEAST_PAGES:
                middle = len(longest.cuts) // 2
                at = longest.cuts[middle]
                upper = _Range(at, longest.until, longest.cuts[middle + 1 :])
                longest.until = at
                del longest.cuts[middle:]
                self._start(nursery, upper, None)
                continue
            if self._looks_left < 1 or not self._look_ahead(nursery):
                return

    def _look_ahead(self, nursery: trio.Nursery) -> bool:
        """Where it is not known what lies ahead, find out: in the range that is the longest so far."""
        for part in sorted(self._ranges, key=lambda part: (part.until is not None, -part.npages)):
            if part.looking:
                continue
            find: Callable[[trio.Nursery, _Range, str], Awaitable[None]] = self._look
            at = self._next_to_look_at(part)
            if at is None:
                find, at = self._try, self._guess(part)
            if at is not None:
                part.looking = True
                self._looks_left -= 1
                self._under_way += 1
                nursery.start_soon(find, nursery, part, at)
                return True
        return False

    def _measure(self, before: str, last: str) -> None:
        """How far a page has reached in a directory that is long."""
        for directory in self._directories(last):
            long = self._long.get(directory)
            if long is not None and before.startswith(directory):
                long.npages += 1
                long.width += long.scale.width(_name(before, directory), _name(last, directory))

    def _next_to_look_at(self, part: _Range) -> str | None:
        """The highest directory in which the range is now, and of which it is not known what else is in it."""
        for directory in self._directories(part.last):
            if directory not in self._looked_at and (part.until is None or directory < part.until):
                return directory
        return None

    def _directories(self, key: str) -> list[str]:
        """Those in which a key lies, the highest first."""
        below = key[len(self._prefix) :].split("/")[:-1]
        found = [self._prefix]
        for name in below:
            found.append(f"{found[-1]}{name}/")
        return found

    async def _look(self, nursery: trio.Nursery, part: _Range, directory: str) -> None:
        """See what stands in a directory behind where a range has come to: there it can be cut."""
        self._looked_at.add(directory)
        self.progress.looks += 1
        after = directory + _name(part.last, directory)
        page = await self._list(directory, token=None, after=after, flat=False)
        if page.next_token is not None:
            early = next((info.id.key for info in part.page if info.id.key.startswith(directory)), part.last)
            long = self._long[directory] = _Long(_name(early, directory))
            for key in [part.last, *page.prefixes, *(info.id.key for info in page.objects)]:
                long.scale.learn(_name(key, directory))
        # Not at objects: a thousand of them are one page.
        known = [prefix for prefix in page.prefixes if prefix > part.last]
        if known:
            names = {_name(info.id.key, directory) for info in part.page if info.id.key.startswith(directory)}
            self._keys_per_cut = len(part.page) / max(len(names), 1)
        if directory > self._prefix and page.next_token is None:
            known.append(_behind(directory))
        for other in self._ranges:  # it may have been cut meanwhile
            mine = [at for at in known if at > other.last and (other.until is None or at < other.until)]
            other.cuts = sorted({*other.cuts, *mine})
        if len(known) * self._keys_per_cut >= 1000 * _LEAST_PAGES:
            self._looks_left += 1  # it was worth it
        self._end_look(nursery, part)

    def _guess(self, part: _Range) -> str | None:
        """A text in a range, about half-way, where something may stand."""
        for directory in self._directories(part.last):
            long = self._long.get(directory)
            if long is None:
                continue
            low = _name(part.last, directory)
            high = None
            if part.until is not None and part.until < _behind(directory):
                high = _name(part.until, directory)
                if not long.npages or long.scale.width(low, high) < _LEAST_PAGES * long.width / long.npages:
                    continue
            long.scale.learn(low)
            at = None if high is not None else long.scale.further(long.first, low, _FURTHER)
            at = at or long.scale.middle(low, high)
            if at is not None and directory + at > part.last and (part.until is None or directory + at < part.until):
                return directory + at
        return None

    async def _try(self, nursery: trio.Nursery, part: _Range, at: str) -> None:
        """See what lies beyond ``at`` in a range, and if there is anything, list it beside what lies before."""
        page = await self._list(self._prefix, token=None, after=at, flat=True)
        goes_on = part in self._ranges and part.last < at and (part.until is None or at < part.until)
        first = page.objects[0].id.key if page.objects else None
        if goes_on and first is not None and first <= at:
            self._looks_left = float("-inf")  # this store knows no start-after: page by page, then
        elif goes_on and (first is None or (part.until is not None and first > part.until)):
            part.until = at
            del part.cuts[bisect_right(part.cuts, at) :]
            self.progress.looks += 1
        elif goes_on:
            self._looks_left += 1  # it was right, and cost nothing
            cut = bisect_right(part.cuts, at)
            upper = _Range(at, part.until, part.cuts[cut:])
            part.until = at
            del part.cuts[cut:]
            part.looking = False
            part = upper
            self._ranges.append(upper)
            if self._add(upper, page):
                self._ranges.remove(upper)
                self._start(nursery, upper, page.next_token)
            else:
                self._ranges.remove(upper)
        else:
            self.progress.looks += 1
        self._end_look(nursery, part)

    def _end_look(self, nursery: trio.Nursery, part: _Range) -> None:
        part.looking = False
        self._under_way -= 1
        self._spread(nursery)


def _name(key: str, directory: str) -> str:
    """What a key is called in a directory."""
    return key[len(directory) :].partition("/")[0]


def _behind(directory: str) -> str:
    """What comes behind all that lies in a directory."""
    return directory[:-1] + "0" if directory else "\U0010ffff"


def _is_ordered(page: ListPage) -> bool:
    keys = [info.id.key for info in page.objects]
    return all(first < second for first, second in pairwise(keys))


def _first(errors: BaseExceptionGroup[StoreError]) -> StoreError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first.again()
