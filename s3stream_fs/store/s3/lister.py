"""Lists one bucket: by which version of ListObjects the store can, and with its names spelled as they are meant.

Owns what is found out about the store on the way, and asks it only where a page leaves something open. Sends nothing
itself; ``ask`` does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from s3stream_fs.errors import StoreError, StoreUnavailable, Transient
from s3stream_fs.store.s3.page import Written, checked_page, untrue, written
from s3stream_fs.store.s3.spelling import Spelling, Spellings, Way, contradict, encodes, is_plain
from s3stream_fs.types import ListPage

log = logging.getLogger(__name__)

Arguments = dict[str, Any]

Ask = Callable[[str, Arguments], Awaitable[bytes]]
"""Sends one request, an operation of botocore's with its arguments, and gives the body. Raises StoreError."""

_Kind = Literal["keys", "prefixes"]
_Meant = dict[Way, list[str]]
"""What names mean, by how they may be spelled; the likeliest first."""

_LAST: Final = "\U0010ffff"
"""The greatest character."""

_ENOUGH: Final = 100
"""Names among which one is found again that is asked for by itself. A directory comes behind what goes on with a
character below '/'."""

_MOST_EMPTY: Final = 1000
"""Pages in a row without a name. Some stores give them for keys that were deleted, and a page is of 1,000 keys; at 50
ms each that many stay within what a listing may take."""

_MOST_CONFIRMED: Final = 100
"""Names of a page that are asked for one by one. No store is known that needs it; it has an end where one does."""

_ENCODING: Final[Arguments] = {"EncodingType": "url"}
_RESTORED: Final[Arguments] = {"OptionalObjectAttributes": ["RestoreStatus"]}

_IN_TWO_WAYS: Final = "the store answers ListObjectsV2 now in one way and now in another"


class Lister:
    """``spelling`` is how the store is known to write names, None where it has to be found out.

    A ``directory_bucket`` knows neither the first version of ListObjects nor where a listing may begin.
    """

    def __init__(self, ask: Ask, *, spelling: Spelling | None = None, directory_bucket: bool = False) -> None:
        self._ask = ask
        self._directory_bucket = directory_bucket
        # What directory buckets have is said by all of their listings, and they know no such parameter.
        self._optional = _ENCODING if directory_bucket else _ENCODING | _RESTORED
        """What is asked for beside what is needed, as far as the store does not refuse it."""
        self._optional_taken = False
        """The store has answered a request that had all of it."""
        self._spellings: dict[_Kind, Spellings] = {"keys": Spellings(spelling), "prefixes": Spellings(spelling)}
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
        unusable: tuple[str, ...] = ()
        for _ in range(_MOST_EMPTY):
            listed = await self._page(prefix, token, after, limit, flat)
            unusable += listed.unusable
            if listed.objects or listed.prefixes or listed.next_token is None:
                return replace(listed, unusable=unusable) if unusable else listed
            token = listed.next_token
        raise StoreError(f"the listing of {prefix!r} does not come to an end: {_MOST_EMPTY} pages in a row are empty")

    async def _page(self, prefix: str, token: str | None, after: str, limit: int, flat: bool) -> ListPage:
        """A page as the store gives it: some have no names, and others behind them."""
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
            page = written(await self._send("list_objects_v2", arguments))
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
        return await self._second(page, arguments, token, after)

    async def _send(self, operation: str, arguments: Arguments) -> bytes:
        """Send a request with all that the store takes: what it does not take is found out by the first one."""
        while True:
            optional = self._optional
            try:
                body = await self._ask(operation, arguments | optional)
            except StoreError as error:
                if type(error) is not StoreError:  # of other kinds are 403, 404, 503 and the like
                    raise
                if optional is not self._optional:
                    continue  # somebody else has found it out meanwhile
                if self._optional_taken:
                    raise
                return await self._send_less(operation, arguments, error)
            else:
                self._optional_taken = True
                return body

    async def _send_less(self, operation: str, arguments: Arguments, refusal: StoreError) -> bytes:
        """Send a request again that was refused with all of it. Raises the refusal where that is not why."""
        before = self._optional
        for optional in (_ENCODING, {}):
            if len(optional) < len(before):
                try:
                    body = await self._ask(operation, arguments | optional)
                except StoreError as error:
                    if type(error) is not StoreError:
                        raise
                    continue
                if self._optional is before:
                    self._optional, self._optional_taken = optional, True
                    left_out = ", ".join(name for name in before if name not in optional)
                    log.info("the store is listed without %s: it answers them with %s", left_out, refusal)
                return body
        raise refusal

    async def _second(self, page: Written, arguments: Arguments, token: str | None, after: str) -> ListPage:
        """What an answer to a request of the second version says, which may be an answer of the first."""
        prefix, limit, flat = arguments["Prefix"], arguments["MaxKeys"], "Delimiter" not in arguments
        if page.truncated and page.next_token and token is None:
            if self._first_version:
                raise StoreUnavailable(_IN_TWO_WAYS)
            self._second_version = True
        keys, prefixes = await self._names(page, "list_objects_v2", arguments)
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
        page = written(await self._send("list_objects", arguments))
        keys, prefixes = await self._names(page, "list_objects", arguments)
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
            listed.unusable,
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

    async def _names(self, page: Written, operation: str, arguments: Arguments) -> tuple[list[str], list[str]]:
        """The keys and common prefixes that are meant. Some stores encode one and not the other."""
        return (
            await self._read(page, "keys", operation, arguments),
            await self._read(page, "prefixes", operation, arguments),
        )

    async def _read(self, page: Written, kind: _Kind, operation: str, arguments: Arguments) -> list[str]:
        names = _of(page, kind)
        if is_plain(names):
            return names
        prefix = arguments["Prefix"]
        known = self._spellings[kind]
        settled = known.settled(names)
        if settled is not None and all(name.startswith(prefix) for name in settled):
            return settled
        readings = known.readings(names, announced=page.announced)
        meant = {way: texts for way, texts in readings.items() if all(text.startswith(prefix) for text in texts)}
        if not meant:
            raise untrue(names[0], prefix)
        if not _all_same(meant):
            # What was listed may just have been deleted, or nobody may ask for it by its name.
            meant = (
                await self._proven(kind, names, meant, operation, arguments)
                or await self._shown(kind, names, meant, operation, arguments)
                or _announced(page, names, meant)
            )
            if not meant:
                # It may be another page that comes the next time.
                raise StoreUnavailable(f"how the store encodes {names[0]!r} cannot be told")
        else:
            known.refute(names, set(readings), set(meant))
        way, texts = next(iter(meant.items()))
        if contradict(names, way):
            await self._confirm_each(kind, names, texts, operation, arguments)
        return texts

    async def _confirm_each(
        self, kind: _Kind, names: Sequence[str], texts: Sequence[str], operation: str, arguments: Arguments
    ) -> None:
        """Ask for every name of a page in which one contradicts what others have told. Raises StoreError."""
        odd = [pair for pair in zip(names, texts, strict=True) if not is_plain(pair[:1])]
        for name, text in odd[:_MOST_CONFIRMED]:
            if not await self._confirms(kind, name, text, operation, arguments):
                raise StoreError(f"the store encodes names in more than one way, such as {name!r}")
        if len(odd) > _MOST_CONFIRMED:
            raise StoreError(f"the store encodes names in more than one way, such as {odd[-1][0]!r}")

    async def _proven(
        self, kind: _Kind, names: Sequence[str], meant: _Meant, operation: str, arguments: Arguments
    ) -> _Meant:
        """Ask the store for some of the names as each spelling reads them: what it lists again as before was meant.

        Empty where the store lists none of them.
        """
        left = meant
        while not _all_same(left):
            at = _telling(left)
            texts = list(dict.fromkeys(texts[at] for texts in left.values()))
            if _any_begins_another(texts):
                # All that begins with what is asked for is listed, so the one that is meant is asked for before those
                # that it begins with.
                texts.sort(key=len, reverse=True)
            unheard: list[str] = []
            for text in texts:
                confirmed = await self._confirms(kind, names[at], text, operation, arguments)
                if confirmed and not any(other.startswith(text) for other in unheard):
                    left = {way: texts for way, texts in left.items() if texts[at] == text}
                    break
                if confirmed is None:
                    unheard.append(text)
            else:
                return {}
        self._spellings[kind].refute(names, set(meant), set(left))
        return left

    async def _confirms(self, kind: _Kind, name: str, text: str, operation: str, arguments: Arguments) -> bool | None:
        """Whether the store writes ``name`` when it is asked for ``text``. None where it cannot be asked.

        It has to be written as before, for what is asked for may be there as well as what was meant.
        """
        if not _is_text(text):
            return None
        asked = text if "Delimiter" not in arguments else text.removesuffix("/")
        try:
            again = written(await self._send(operation, _arguments(asked, _ENOUGH, "Delimiter" not in arguments)))
        except Transient:
            raise
        except StoreError:
            return None
        return name in _of(again, kind)

    async def _shown(
        self, kind: _Kind, names: Sequence[str], meant: _Meant, operation: str, arguments: Arguments
    ) -> _Meant:
        """Ask for the same page without an encoding: what was meant is what then is there.

        Empty where that page cannot be read, shows other names, or is as it was: some stores always encode.
        """
        try:
            again = written(await self._ask(operation, arguments | _without_encoding(self._optional)))
        except StoreError:
            return {}
        plain = _of(again, kind)
        left = {way: texts for way, texts in meant.items() if texts == plain != names}
        if left:
            self._spellings[kind].refute(names, set(meant), set(left))
        return left


def _of(page: Written, kind: _Kind) -> list[str]:
    return page.keys if kind == "keys" else page.prefixes


def _announced(page: Written, names: Sequence[str], meant: _Meant) -> _Meant:
    """What is left where the store's word counts that it encodes. Empty where that does not tell, or cannot be true."""
    left = {way: texts for way, texts in meant.items() if encodes(names, way) and not contradict(names, way)}
    return left if page.announced and left and _all_same(left) else {}


def _telling(meant: _Meant) -> int:
    """Where the name stands of which most readings differ."""

    def worth(at: int) -> tuple[bool, bool, int]:
        texts = {texts[at] for texts in meant.values()}
        # Of names with odd characters some stores do not like to be asked.
        return all(map(str.isprintable, texts)), not _any_begins_another(texts), len(texts)

    nnames = len(next(iter(meant.values())))
    return max((at for at in range(nnames) if len({texts[at] for texts in meant.values()}) > 1), key=worth)


def _any_begins_another(texts: Collection[str]) -> bool:
    return any(one != other and other.startswith(one) for one in texts for other in texts)


def _all_same(meant: _Meant) -> bool:
    first, *others = meant.values()
    return all(other == first for other in others)


def _begins(keys: Sequence[str], prefixes: Sequence[str]) -> str:
    """The first name of a page; for an empty one what is behind all names."""
    return min((*keys[:1], *prefixes[:1]), default=_LAST)


def _without_encoding(optional: Arguments) -> Arguments:
    return {name: value for name, value in optional.items() if name not in _ENCODING}


def _is_text(name: str) -> bool:
    """Whether a request can hold it: not, if a page held what is no UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _arguments(prefix: str, limit: int, flat: bool) -> Arguments:
    arguments = {"Prefix": prefix, "MaxKeys": limit}
    return arguments if flat else arguments | {"Delimiter": "/"}
