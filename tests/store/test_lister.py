"""Listing by whichever version the store knows, however it spells names, against a store within this process."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream_fs.errors import Denied, NotFound, StoreError, StoreUnavailable, Throttled
from s3stream_fs.store.s3.lister import Lister
from s3stream_fs.store.s3.spelling import Spelling

Spell = Callable[[str], str]


def lower_case(name: str) -> str:
    """Percent-encoded with lower-case digits, as some stores do it."""
    return "".join(char if char.isalnum() and char.isascii() else quote(char, safe="/").lower() for char in name)


def plus_as_it_is(name: str) -> str:
    """As encodeURI and Go's PathEscape do it."""
    return quote(name, safe="/+")


def slash_too(name: str) -> str:
    return quote(name, safe="")


def last_part_as_in_a_form(name: str) -> str:
    """As SeaweedFS does it."""
    front, slash, last = name.rpartition("/")
    return quote(front + slash) + quote_plus(last)


def front_as_in_a_form(name: str) -> str:
    front, slash, last = name.rpartition("/")
    return quote_plus(front, safe="/") + slash + quote(last)


SPELLS: dict[str, Spell] = {
    "raw": str,
    "percent": quote,
    "form": lambda name: quote_plus(name, safe="/"),
    "form, slash too": quote_plus,
    "lower case": lower_case,
    "plus as it is": plus_as_it_is,
    "slash too": slash_too,
    "last part as in a form": last_part_as_in_a_form,
    "front as in a form": front_as_in_a_form,
}


class Store:
    """Answers LIST requests as a store of these habits does. ``requests`` are its operations with their prefixes.

    ``on_request``: names are encoded only where that is asked for. ``refused`` are arguments that it does not know.
    """

    def __init__(
        self,
        keys: list[str],
        *,
        key: Spell = str,
        prefix: Spell = str,
        announces: bool = True,
        on_request: bool = False,
        refused: Collection[str] = (),
        first_version: bool = False,
        refuses_second: StoreError | None = None,
        next_marker: Spell | None = None,
        skips: bool = True,
    ) -> None:
        self.keys = sorted(keys, key=str.encode)
        self.requests: list[tuple[str, str]] = []
        self._key = key
        self._prefix = prefix
        self._announces = announces
        self._on_request = on_request
        self._refused = refused
        self.arguments: list[Collection[str]] = []
        self._first_version = first_version
        self._refuses_second = refuses_second
        self._next_marker = next_marker
        self._skips = skips

    def count(self, prefix: str) -> int:
        return sum(asked == prefix for _, asked in self.requests)

    async def ask(self, operation: str, arguments: dict[str, Any]) -> bytes:
        prefix, limit = arguments["Prefix"], arguments["MaxKeys"]
        self.requests.append((operation, prefix))
        self.arguments.append(arguments.keys())
        await trio.lowlevel.checkpoint()
        if not arguments.keys().isdisjoint(self._refused):
            raise StoreError("501 NotImplemented")
        plain = self._on_request and "EncodingType" not in arguments
        second = operation == "list_objects_v2"
        if second and self._refuses_second is not None:
            raise self._refuses_second
        first = self._first_version or not second
        if first:
            begin = arguments.get("Marker", "")
        else:
            begin = arguments.get("ContinuationToken", "token:").removeprefix("token:") or arguments.get(
                "StartAfter", ""
            )
        names: dict[str, None] = {}
        for key in self.keys[bisect_right([key.encode() for key in self.keys], begin.encode()) :]:
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition("/") if "Delimiter" in arguments else (key, "", "")
                rolled_up = prefix + head + slash if slash else key
                if not (slash and begin.startswith(rolled_up) and (self._skips or begin != rolled_up)):
                    names[rolled_up] = None
        page = list(names)[:limit]
        more = len(names) > len(page)
        inside = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        if self._announces and not plain:
            inside += "<EncodingType>url</EncodingType>"
        if more and not first:
            inside += f"<NextContinuationToken>token:{escape(page[-1])}</NextContinuationToken>"
        elif more and self._next_marker is not None:
            inside += f"<NextMarker>{escape(self._next_marker(page[-1]))}</NextMarker>"
        for name in page:
            if name in self.keys and not ("Delimiter" in arguments and name.endswith("/") and name != prefix):
                inside += f"<Contents><Key>{escape(name if plain else self._key(name))}</Key><Size>1</Size></Contents>"
            else:
                inside += (
                    f"<CommonPrefixes><Prefix>{escape(name if plain else self._prefix(name))}</Prefix></CommonPrefixes>"
                )
        return f"<ListBucketResult>{inside}</ListBucketResult>".encode()


async def walked(lister: Lister, prefix: str = "", limit: int = 1000, flat: bool = False) -> list[str]:
    """All keys and common prefixes, page by page, as they come."""
    found: list[str] = []
    token = None
    while True:
        page = await lister.list_page(prefix, token, "", limit, flat=flat)
        found += [*(info.id.key for info in page.objects), *page.prefixes]
        token = page.next_token
        if token is None:
            return found


def shown(keys: set[str], prefix: str = "", flat: bool = False) -> list[str]:
    if flat:
        return sorted(key for key in keys if key.startswith(prefix))
    parts = [key[len(prefix) :].partition("/") for key in keys if key.startswith(prefix)]
    return sorted({prefix + head + slash for head, slash, _ in parts})


KEYS = st.sets(st.text(alphabet="ab/ +%4125é&", min_size=1, max_size=6), max_size=10)


@settings(max_examples=400, deadline=None)
@given(
    keys=KEYS,
    key=st.sampled_from(list(SPELLS)),
    prefix=st.sampled_from(list(SPELLS)),
    announces=st.booleans(),
    limit=st.sampled_from([1, 2, 3, 1000]),
    below=st.sampled_from(["", "a/", "a b/", "a+", "%41", "+/"]),
    flat=st.booleans(),
)
def test_names_are_never_wrong_however_they_are_spelled(
    keys: set[str], key: str, prefix: str, announces: bool, limit: int, below: str, flat: bool
) -> None:
    store = Store(list(keys), key=SPELLS[key], prefix=SPELLS[prefix], announces=announces)

    async def main() -> None:
        lister = Lister(store.ask)
        assert sorted(await walked(lister, below, limit, flat)) == shown(keys, below, flat)

    trio.run(main)


@settings(max_examples=300, deadline=None)
@given(
    keys=KEYS,
    spell=st.sampled_from(list(SPELLS)),
    next_marker=st.sampled_from([None, "raw", "the same"]),
    refuses=st.booleans(),
    skips=st.booleans(),
    limit=st.sampled_from([1, 2, 3, 1000]),
    below=st.sampled_from(["", "a/", "a b/"]),
    flat=st.booleans(),
)
def test_no_key_is_missed_or_repeated_by_the_first_version(
    keys: set[str], spell: str, next_marker: str | None, refuses: bool, skips: bool, limit: int, below: str, flat: bool
) -> None:
    marker = {None: None, "raw": str, "the same": SPELLS[spell]}[next_marker]
    store = Store(
        list(keys),
        key=SPELLS[spell],
        prefix=SPELLS[spell],
        announces=spell != "raw",
        first_version=True,
        refuses_second=StoreError("400 InvalidArgument") if refuses else None,
        next_marker=marker,
        skips=skips,
    )

    async def main() -> None:
        found = await walked(Lister(store.ask), below, limit, flat)
        assert sorted(found) == shown(keys, below, flat)

    trio.run(main)


def test_amazon_is_not_asked_how_it_spells() -> None:
    spell = SPELLS["form"]
    store = Store(["a b", "a+b", "%41", "é", "x y/z"], key=spell, prefix=spell)

    async def main() -> None:
        lister = Lister(store.ask, spelling=Spelling.FORM)
        assert sorted(await walked(lister)) == ["%41", "a b", "a+b", "x y/", "é"]
        assert store.requests == [("list_objects_v2", "")]

    trio.run(main)


def test_another_store_is_asked_once_and_only_where_it_matters() -> None:
    store = Store(["plain", "d/a b", "e/c+d"], key=SPELLS["form"], prefix=SPELLS["form"])

    async def main() -> None:
        lister = Lister(store.ask)
        assert await walked(lister) == ["plain", "d/", "e/"]
        assert store.requests == [("list_objects_v2", "")]
        for _ in range(2):
            assert await walked(lister, "d/") == ["d/a b"]
            assert await walked(lister, "e/") == ["e/c+d"]
        assert store.requests[1:3] == [("list_objects_v2", "d/"), ("list_objects_v2", "d/a b")]
        assert store.count("d/") == store.count("e/") == 2
        assert len(store.requests) <= 1 + 4 + 2

    trio.run(main)


def test_a_name_that_nothing_tells_is_no_answer() -> None:
    """Deleted since it was listed: then it cannot be said what it was, and another try may show another page."""
    store = Store(["a b"], key=SPELLS["form"])

    async def deleted(operation: str, arguments: dict[str, Any]) -> bytes:
        body = await store.ask(operation, arguments)
        store.keys = []
        return body

    async def main() -> None:
        with pytest.raises(StoreUnavailable, match="encodes"):
            await Lister(deleted).list_page("", None, "", 1000)

    trio.run(main)


def test_the_first_version_is_settled_on_once(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(list("abcdef"), first_version=True, next_marker=str)

    async def main() -> None:
        lister = Lister(store.ask)
        assert await walked(lister, limit=2) == list("abcdef")
        assert await walked(lister, limit=2) == list("abcdef")
        assert [operation for operation, _ in store.requests] == ["list_objects_v2"] + ["list_objects"] * 5

    with caplog.at_level(logging.INFO):
        trio.run(main)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [Denied("403"), Throttled("503"), StoreUnavailable("500")])
def test_other_refusals_are_not_answered_with_the_first_version(error: StoreError) -> None:
    store = Store(["a"], refuses_second=error)

    async def main() -> None:
        with pytest.raises(type(error)):
            await Lister(store.ask).list_page("", None, "", 1000)
        assert len(store.requests) == 1

    trio.run(main)


def test_a_store_of_the_second_version_is_not_asked_by_the_first() -> None:
    store = Store(list("abc"))

    async def main() -> None:
        lister = Lister(store.ask)
        token = (await lister.list_page("", None, "", 1)).next_token
        store._refuses_second = StoreError("400 InvalidArgument")
        for asked in (token, None):
            with pytest.raises(StoreError, match="InvalidArgument"):
                await lister.list_page("", asked, "", 1)
        assert {operation for operation, _ in store.requests} == {"list_objects_v2"}

    trio.run(main)


def test_the_first_refusal_is_told_where_the_first_version_is_refused_too() -> None:
    async def refusing(operation: str, _: dict[str, Any]) -> bytes:
        raise StoreError(operation)

    async def main() -> None:
        with pytest.raises(StoreError, match="list_objects_v2"):
            await Lister(refusing).list_page("", None, "", 1000)

    trio.run(main)


def test_a_directory_bucket_is_listed_from_its_beginning_by_the_second_version() -> None:
    store = Store(list("abc"))

    async def main() -> None:
        lister = Lister(store.ask, directory_bucket=True)
        with pytest.raises(StoreError):
            await lister.list_page("", None, "a", 1000)
        assert store.requests == []
        assert await walked(lister, limit=1) == list("abc")

    trio.run(main)


def test_what_is_no_text_is_not_asked_for() -> None:
    store = Store(["bad", "good"], key=lambda name: "%ED%A0%80" if name == "bad" else name)

    async def main() -> None:
        assert await walked(Lister(store.ask)) == ["\udced\udca0\udc80", "good"]
        # Asked for as it is written only: perhaps that is its name. And then for all names as they are.
        assert store.requests == [("list_objects_v2", prefix) for prefix in ("", "%ED%A0%80", "")]

    trio.run(main)


def test_the_marker_object_of_a_directory_is_not_what_is_rolled_up_in_it() -> None:
    store = Store(["a/", "a/x", "a/y", "b/z"], first_version=True, next_marker=str, skips=False)

    async def main() -> None:
        lister = Lister(store.ask)
        assert await walked(lister, limit=1) == ["a/", "b/"]  # by now it is known that it lists a marker again
        assert await walked(lister, "a/", limit=1) == ["a/", "a/x", "a/y"]

    trio.run(main)


def test_names_of_two_spellings_are_told_apart_once() -> None:
    """SeaweedFS: the last part of a key is written as in a form, all else otherwise."""
    keys = ["a b/c d", "a b/c+d", "a+b/c d", "a+b/c+d", "f", "f ", "f+", "f%20"]
    store = Store(keys, key=last_part_as_in_a_form)

    async def main() -> None:
        lister = Lister(store.ask)
        for flat in (True, False) * 3:
            assert sorted(await walked(lister, flat=flat)) == shown(set(keys), flat=flat)
        settled = len(store.requests)
        assert settled <= 6 + 6
        assert sorted(await walked(lister, flat=True)) == sorted(keys)
        assert len(store.requests) == settled + 1

    trio.run(main)


@pytest.mark.parametrize("first", [["a b"], ["c d"], ["+"], []], ids=str)
def test_the_one_way_that_looks_possible_is_not_believed(first: list[str]) -> None:
    """Who writes %20 for a space writes + for a plus, one should think. Whatever was found out before."""
    names = {"a b": "a%20b", "c d": "c+d", "+": "%2B"}
    store = Store(first, key=lambda name: names.get(name, name))

    async def main() -> None:
        lister = Lister(store.ask)
        assert await walked(lister) == first
        store.keys = ["a b", "c d", "x"]
        assert await walked(lister) == ["a b", "c d", "x"]

    trio.run(main)


@pytest.mark.parametrize("first", [["a b"], ["c d"], ["a b", "c d"], []], ids=str)
@pytest.mark.parametrize("flat", [False, True])
def test_names_that_no_spelling_reads_are_an_error_and_never_wrong(first: list[str], flat: bool) -> None:
    names = {"a b": "a%20b", "c d": "c+d", "e+f": "e+f"}
    store = Store(first, key=lambda name: names.get(name, name))

    async def main() -> None:
        lister = Lister(store.ask)
        assert await walked(lister) == first
        store.keys = [*names, "x"]
        with pytest.raises(StoreError, match="encode"):
            await walked(lister, flat=flat)

    trio.run(main)


def test_of_names_that_contradict_each_other_not_all_are_asked_for() -> None:
    keys = [f"{number:03} {number}" for number in range(500)]
    store = Store(keys, key=lambda name: name.replace(" ", "+" if name < "2" else "%20"))

    async def main() -> None:
        with pytest.raises(StoreError, match="more than one way"):
            await walked(Lister(store.ask))
        assert len(store.requests) < 110

    trio.run(main)


@pytest.mark.parametrize("announces", [True, False])
def test_a_name_that_another_reading_begins_with(announces: bool) -> None:
    """A store that encodes nothing lists %25 when it is asked for what begins with %."""
    store = Store(["%25", "%2525"], announces=announces)

    async def main() -> None:
        assert await walked(Lister(store.ask)) == ["%25", "%2525"]

    trio.run(main)


def test_where_names_may_not_be_asked_for_the_same_page_is_as_it_is() -> None:
    keys = ["a b/c+d", "a b/e f"]
    store = Store(keys, key=SPELLS["form"], prefix=SPELLS["form"], on_request=True)

    async def ask(operation: str, arguments: dict[str, Any]) -> bytes:
        if arguments["Prefix"] not in ("", "a b/"):
            raise Denied("403")
        return await store.ask(operation, arguments)

    async def main() -> None:
        lister = Lister(ask)
        assert await walked(lister) == ["a b/"]
        assert await walked(lister, "a b/") == keys
        nrequests = len(store.requests)
        assert await walked(lister, "a b/") == keys
        assert len(store.requests) == nrequests + 1

    trio.run(main)


# ---- pages without names


def empty_pages(count: int) -> tuple[list[str], Callable[[str, dict[str, Any]], Any]]:
    """A store whose key stands behind so many pages without any. With it, the tokens that it was asked with."""
    tokens: list[str] = []

    async def ask(operation: str, arguments: dict[str, Any]) -> bytes:
        await trio.lowlevel.checkpoint()
        token = arguments.get("Marker" if operation == "list_objects" else "ContinuationToken", "0")
        tokens.append(token)
        if int(token) < count:
            following = f"<NextContinuationToken>{int(token) + 1}</NextContinuationToken>"
            return f"<ListBucketResult><IsTruncated>true</IsTruncated>{following}</ListBucketResult>".encode()
        return b"<ListBucketResult><Contents><Key>key</Key><Size>1</Size></Contents></ListBucketResult>"

    return tokens, ask


def test_a_page_without_names_is_not_the_last_one() -> None:
    tokens, ask = empty_pages(3)

    async def main() -> None:
        page = await Lister(ask).list_page("", None, "", 1000)
        assert [info.id.key for info in page.objects] == ["key"]
        assert tokens == ["0", "1", "2", "3"]

    trio.run(main)


def test_pages_without_names_come_to_an_end() -> None:
    tokens, ask = empty_pages(1_000_000)

    async def main() -> None:
        with pytest.raises(StoreError, match="1000 pages in a row") as failed:
            await Lister(ask).list_page("", None, "", 1000)
        assert type(failed.value) is StoreError  # to ask again would not help
        assert len(tokens) == 1000

    trio.run(main)


def test_a_page_without_names_that_leads_to_itself() -> None:
    async def ask(_: str, arguments: dict[str, Any]) -> bytes:
        await trio.lowlevel.checkpoint()
        more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        return f"<ListBucketResult>{more}</ListBucketResult>".encode()

    async def main() -> None:
        with pytest.raises(StoreError, match="come to an end"):
            await Lister(ask).list_page("", None, "", 1000)

    trio.run(main)


# ---- what is asked for beside what is needed

OPTIONAL = {"EncodingType", "OptionalObjectAttributes"}


@pytest.mark.parametrize("first_version", [False, True])
@pytest.mark.parametrize("refused", [OPTIONAL, {"OptionalObjectAttributes"}, {"EncodingType"}], ids=str)
def test_what_a_store_refuses_is_left_out(
    refused: set[str], first_version: bool, caplog: pytest.LogCaptureFixture
) -> None:
    refuses_second = StoreError("501 NotImplemented") if first_version else None
    store = Store(list("abc"), refused=refused, refuses_second=refuses_second)

    async def main() -> None:
        lister = Lister(store.ask)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(walked, lister)
        nrequests = len(store.requests)
        assert await walked(lister, limit=1) == list("abc")
        assert len(store.requests) == nrequests + 3
        left = OPTIONAL - refused if refused != {"EncodingType"} else set()
        assert all(OPTIONAL & set(sent) == left for sent in store.arguments[-3:])

    with caplog.at_level(logging.INFO):
        trio.run(main)
    assert sum("listed without" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("error", [Denied("403"), NotFound("404"), Throttled("503"), StoreUnavailable("500")])
def test_for_other_reasons_nothing_is_left_out(error: StoreError) -> None:
    store = Store(["a"], refuses_second=error)

    async def main() -> None:
        with pytest.raises(type(error)):
            await Lister(store.ask).list_page("", None, "", 1000)
        assert [OPTIONAL & set(sent) for sent in store.arguments] == [OPTIONAL]

    trio.run(main)


def test_once_it_was_taken_nothing_is_left_out() -> None:
    store = Store(["a"])

    async def main() -> None:
        lister = Lister(store.ask)
        await walked(lister)
        store._refused = OPTIONAL
        store._refuses_second = StoreError("400 InvalidArgument")
        with pytest.raises(StoreError):
            await walked(lister)
        assert all(OPTIONAL & set(sent) == OPTIONAL for sent in store.arguments)

    trio.run(main)


def test_a_directory_bucket_is_not_asked_for_what_it_says_anyway() -> None:
    store = Store(["a"])

    async def main() -> None:
        await walked(Lister(store.ask, directory_bucket=True))
        assert OPTIONAL & set(store.arguments[0]) == {"EncodingType"}

    trio.run(main)
