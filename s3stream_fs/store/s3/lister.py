"""Lists one bucket: by which version of ListObjects the store can, and with its names spelled as they are meant.

Owns what is found out about the store on the way, and asks it only where a page leaves something open. Sends nothing
itself; ``ask`` does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

from s3stream_fs.errors import StoreError, StoreUnavailable, Transient
from s3stream_fs.store.s3.page import Written, checked_page, untrue, written
from s3stream_fs.store.s3.spelling import Spelling, is_plain, not_refuted, read
from s3stream_fs.types import ListPage

log = logging.getLogger(__name__)

Ask = Callable[[str, dict[str, Any]], Awaitable[bytes]]
"""Sends one request, an operation of botocore's with its arguments, and gives the body. Raises StoreError."""

_Kind = Literal["keys", "prefixes"]

_LAST: Final = "\U0010ffff"
"""The greatest character."""

_ENOUGH: Final = 100
"""Names among which one is found again that is asked for by itself. A directory comes behind what goes on with a
character below '/'."""


_IN_TWO_WAYS: Final = "the store answers ListObjectsV2 now in one way and now in another"


class Lister:
    """``spelling`` is how the store is known to write names, None where it has to be found out.

    A ``directory_bucket`` knows neither the first version of ListObjects nor where a listing may begin.
    """

    def __init__(self, ask: Ask, *, spelling: Spelling | None = None, directory_bucket: bool = False) -> None:
        self._ask = ask
        self._directory_bucket = directory_bucket
        spellings = frozenset(Spelling if spelling is None else [spelling])
        self._spellings: dict[_Kind, frozenset[Spelling]] = {"keys": spellings, "prefixes": spellings}
        """Those that are not refuted for good."""
        self._first_version = False
        """The store answers ListObjects only. Once set it stays; it has given no token of the second version before."""
        self._second_version = directory_bucket
        """The store has given a token of the second version, so the first is never tried."""
        self._skips_prefixes = True
        """A marker that is a common prefix stands for all that is rolled up in it, as in Amazon S3."""

    async def list_page(
        self, prefix: str, token: str | None, after: str, limit: int, *, flat: bool = False
    ) -> ListPage:
        """See ObjectStore.list_page. A token of the first version is its marker."""
        if self._first_version:
            return await self._by_marker(prefix, token or after, limit, flat)
        arguments = _arguments(prefix, limit, flat)
        if token is not None:
            arguments["ContinuationToken"] = token
        elif after and self._directory_bucket:
            raise StoreError("a directory bucket is listed from its beginning only")
        elif after:
            arguments["StartAfter"] = after
        try:
            page = written(await self._ask("list_objects_v2", arguments))
        except StoreError as error:
            # Of the kinds that ask for something else nothing more is to be learnt: 403, 404, 503 and the like.
            if self._second_version or token is not None or type(error) is not StoreError:
                raise
            try:
                listed = await self._by_marker(prefix, after, limit, flat)
            except StoreError:
                raise error from None
            self._settle_on_first(f"it answers ListObjectsV2 with {error}")
            return listed
        return await self._second(page, prefix, token, after, limit, flat)

    async def _second(
        self, page: Written, prefix: str, token: str | None, after: str, limit: int, flat: bool
    ) -> ListPage:
        """What an answer to a request of the second version says, which may be an answer of the first."""
        if page.truncated and page.next_token and token is None:
            if self._first_version:
                raise StoreUnavailable(_IN_TWO_WAYS)
            self._second_version = True
        keys, prefixes = await self._names(page, prefix, "list_objects_v2", flat)
        if not self._second_version:
            if after and _begins(keys, prefixes) <= after:
                # A store of the first version ignores start-after, as some of the second do; a marker may help.
                listed = await self._by_marker(prefix, after, limit, flat)
                if _begins([info.id.key for info in listed.objects], listed.prefixes) > after:
                    self._settle_on_first("it answers ListObjectsV2 from the beginning, whatever start-after says")
                    return listed
            elif page.truncated and not page.next_token:
                listed = self._marked(page, keys, prefixes, prefix, after)
                self._settle_on_first("it gives no NextContinuationToken")
                return listed
        return checked_page(page, keys, prefixes, page.next_token, prefix, token)

    def _settle_on_first(self, reason: str) -> None:
        """From now on a token is a marker. Raises StoreUnavailable where one was given meanwhile that is none."""
        if self._second_version:
            raise StoreUnavailable(_IN_TWO_WAYS)
        if not self._first_version:
            self._first_version = True
            log.info("the store is listed by the first version of ListObjects: %s", reason)

    # ---- the first version: each page begins beyond a marker, the last name of the page before

    async def _by_marker(self, prefix: str, marker: str, limit: int, flat: bool) -> ListPage:
        arguments = _arguments(prefix, limit, flat)
        if marker:
            rolled_up = marker.endswith("/") and marker != prefix and not flat
            arguments["Marker"] = marker + _LAST if rolled_up and not self._skips_prefixes else marker
        page = written(await self._ask("list_objects", arguments))
        keys, prefixes = await self._names(page, prefix, "list_objects", flat)
        if marker and page.truncated and self._skips_prefixes and prefixes == [marker] and not keys:
            self._skips_prefixes = False
            return await self._by_marker(prefix, marker, limit, flat)
        return self._marked(page, keys, prefixes, prefix, marker)

    def _marked(self, page: Written, keys: list[str], prefixes: list[str], prefix: str, marker: str) -> ListPage:
        """A page of the first version, without what the page before it has said already."""
        next_marker = self._next_marker(page, keys, prefixes) if page.truncated else None
        listed = checked_page(page, keys, prefixes, next_marker, prefix, marker or None)
        if not marker:
            return listed
        # A marker is left out by itself; not so, in every store, what is rolled up in it, or what it is rolled up in.
        return ListPage(
            tuple([info for info in listed.objects if info.id.key != marker]),
            tuple([common for common in listed.prefixes if not marker.startswith(common)]),
            listed.next_token,
        )

    def _next_marker(self, page: Written, keys: list[str], prefixes: list[str]) -> str | None:
        """As the store gives it, but as it is meant; without one, the last name of the page."""
        given = page.next_marker
        if given is None:
            if keys != sorted(keys) or prefixes != sorted(prefixes):
                raise StoreError("the store lists in no order, and does not say how to go on")
            return max(keys[-1:] + prefixes[-1:], default=None)
        # Some stores spell it like the names, some do not.
        for as_written, meant in ((page.keys, keys), (page.prefixes, prefixes)):
            if as_written and given in (as_written[-1], meant[-1]):
                return meant[-1]
        return given

    # ---- names

    async def _names(self, page: Written, prefix: str, operation: str, flat: bool) -> tuple[list[str], list[str]]:
        """The keys and common prefixes that are meant. Some stores encode one and not the other."""
        return (
            await self._read(page, "keys", prefix, operation, flat),
            await self._read(page, "prefixes", prefix, operation, flat),
        )

    async def _read(self, page: Written, kind: _Kind, prefix: str, operation: str, flat: bool) -> list[str]:
        names = page.keys if kind == "keys" else page.prefixes
        if is_plain(names):
            return names
        known = self._spellings[kind]
        meant: dict[Spelling, list[str]] = {}
        for spelling in not_refuted(names, announced=page.announced):
            # Where no name has a +, the two encodings are one.
            if spelling in known or (spelling is Spelling.PERCENT and Spelling.FORM in known and not _any_plus(names)):
                read_as = read(names, spelling)
                if all(name.startswith(prefix) for name in read_as):
                    meant[spelling] = read_as
        if not meant:
            raise untrue(names[0], prefix)
        if not _all_same(meant):
            proven = await self._proven(kind, names, meant, operation, flat)
            self._spellings[kind] = known - (meant.keys() - proven.keys() if proven else set())
            # Its word counts where nothing else does.
            meant = proven or {spelling: meant[spelling] for spelling in meant if spelling is not Spelling.RAW}
            if not _all_same(meant) or not (proven or page.announced):
                # What was listed may just have been deleted, so it is worth another try.
                raise StoreUnavailable(f"how the store encodes {names[0]!r} cannot be told")
        return next(iter(meant.values()))

    async def _proven(
        self, kind: _Kind, names: Sequence[str], meant: dict[Spelling, list[str]], operation: str, flat: bool
    ) -> dict[Spelling, list[str]]:
        """Ask the store for one of the names as each spelling reads it: the one that it lists again was meant.

        It has to be written as before, for what is asked for may be there as well as what was meant. Empty where the
        store lists none of them.
        """
        left = meant
        while not _all_same(left):
            differing = [at for at in range(len(names)) if len({read_as[at] for read_as in left.values()}) > 1]
            # Of names with odd characters some stores do not like to be asked.
            liked = (at for at in differing if all(read_as[at].isprintable() for read_as in left.values()))
            at = next(liked, differing[0])
            for text in filter(_is_text, dict.fromkeys(read_as[at] for read_as in left.values())):
                asked = text if flat else text.removesuffix("/")
                try:
                    again = written(await self._ask(operation, _arguments(asked, _ENOUGH, flat)))
                except Transient:
                    raise
                except StoreError:
                    continue
                if names[at] in (again.keys if kind == "keys" else again.prefixes):
                    left = {spelling: read_as for spelling, read_as in left.items() if read_as[at] == text}
                    break
            else:
                return {}
        return left


def _all_same(meant: dict[Spelling, list[str]]) -> bool:
    first, *others = meant.values()
    return all(other == first for other in others)


def _begins(keys: Sequence[str], prefixes: Sequence[str]) -> str:
    """The first name of a page; for an empty one what is behind all names."""
    return min((*keys[:1], *prefixes[:1]), default=_LAST)


def _is_text(name: str) -> bool:
    """Whether a request can hold it: not, if a page held what is no UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _any_plus(names: Sequence[str]) -> bool:
    return any("+" in name for name in names)


def _arguments(prefix: str, limit: int, flat: bool) -> dict[str, Any]:
    arguments = {"Prefix": prefix, "MaxKeys": limit, "EncodingType": "url"}
    return arguments if flat else arguments | {"Delimiter": "/"}
