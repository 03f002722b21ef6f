"""Listings that are loaded in several ranges at once show what one loaded page by page shows, in less time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from namings import NAMES
from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.namespace import listing
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.loader import Loader
from s3stream_fs.namespace.rows import Row
from s3stream_fs.namespace.scratch import Scratch
from s3stream_fs.namespace.shelf import Elsewhere, Shelf, open_shelf
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import ListPage

PAGE = 50


def loaded(
    names: list[str], list_from: Callable[[MemoryStore, str, str | None, str], object] | None = None, page: int = PAGE
) -> tuple[list[bytes], float, int]:
    """The names that are shown of the directory ``d/``, seconds at one per request, and requests."""
    store = MemoryStore(page)
    for name in names:
        store.put(f"d/{name}", b"x")
    store.put("c", b"before")
    store.put("d0", b"behind")
    store.seconds = itertools.repeat(1.0)
    seen: list[bytes] = []

    async def listed(prefix: str, token: str | None, after: str) -> ListPage:
        if list_from is not None:
            return await list_from(store, prefix, token, after)  # type: ignore[misc, no-any-return]
        return await store.list_page(prefix, token=token, after=after)

    async def read(loading: Listing) -> None:
        """As a reader of a directory does, while it grows."""
        while True:
            await loading.wait_settled(len(seen))
            entry = loading.entry_nowait(len(seen))
            if entry is None:
                return
            seen.append(entry.name)
            found = loading.find(entry.name)
            assert isinstance(found, Row)
            assert found.entry == entry

    async def main() -> float:
        loading = Listing("d/", 0.0, Shelf(None, 1 << 30))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, loading)
            began = trio.current_time()
            try:
                await Loader(loading, listed).load()
            except StoreError as error:
                loading.fail(error)
                raise
            took = trio.current_time() - began
            loading.finish()
        return took

    seconds = trio.run(main, clock=MockClock(autojump_threshold=0))
    return seen, seconds, store.count("LIST")


def shown(names: list[str]) -> list[bytes]:
    return sorted({name.partition("/")[0].encode() for name in names if name})


KINDS = NAMES | {"directories": lambda number: f"{number:08}/file"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_long_listing_takes_a_fifth_of_the_time_and_few_more_requests(kind: Callable[[int], str]) -> None:
    names = [kind(number) for number in range(10_000)]
    seen, seconds, requests = loaded(names)
    assert seen == shown(names)
    assert seconds <= len(names) / PAGE / 5
    assert requests <= len(names) / PAGE * 1.2 + 16


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (PAGE, 1), (PAGE + 1, 2), (4 * PAGE, 4)])
def test_a_short_one_costs_what_it_did(count: int, requests: int) -> None:
    names = [f"{number:05}" for number in range(count)]
    assert loaded(names) == (shown(names), requests, requests)


ODD = st.text(st.sampled_from("0a-.z/é😀"), min_size=1, max_size=6).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ODD, max_size=60), st.integers(1, 4), st.sampled_from([1, 50]))
def test_whatever_the_names(names: list[str], page: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_AT_ONCE", at_once)
        assert loaded(names, page=page)[0] == shown(names)


def test_what_waits_for_the_first_range_is_within_the_budget_of_names(tmp_path: Path) -> None:
    """Fifteen ranges of a long folder are known before the first one is: they lie on the shelf, as all names do."""
    store = MemoryStore(PAGE)
    for name in NUMBERS:
        store.put(f"d/{name}", b"x")
    limit_nbytes = 4096
    waiting: list[int] = []

    async def main() -> None:
        async def first_is_slow(prefix: str, token: str | None, after: str) -> ListPage:
            page = await store.list_page(prefix, token=token, after=after)
            until = loading.lanes[0].until
            if until is not None and page.objects and page.objects[0].id.key.encode() < b"d/" + until:
                while not all(lane.complete for lane in loading.lanes[1:]):
                    await trio.lowlevel.checkpoint()
                waiting.append(shelf.statistics().nbytes_on_disk)
                assert shelf.statistics().nbytes_in_memory <= 2 * limit_nbytes
            return page

        async with open_shelf(Scratch(tmp_path), limit_nbytes) as shelf:
            loading = Listing("d/", 0.0, shelf)
            await Loader(loading, first_is_slow).load()
            loading.finish()
            found: list[bytes] = []
            while len(found) < len(loading):
                await loading.wait_settled(len(found))
                with suppress(Elsewhere):
                    found += (row.name for row in loading.rows_nowait(len(found)))
            assert found == shown(NUMBERS)

    trio.run(main)
    assert max(waiting) > 4 * PAGE * 40


NUMBERS = [f"{number:05}" for number in range(20 * PAGE)]


async def without_start_after(store: MemoryStore, prefix: str, token: str | None, after: str) -> ListPage:
    return await store.list_page(prefix, token=token)


async def refusing_start_after(store: MemoryStore, prefix: str, token: str | None, after: str) -> ListPage:
    if after:
        raise StoreError("400 NotImplemented")
    return await store.list_page(prefix, token=token)


async def without_order(store: MemoryStore, prefix: str, token: str | None, after: str) -> ListPage:
    assert not after, "it does not make sense to begin anywhere"
    page = await store.list_page(prefix, token=token)
    return ListPage(page.objects[::-1], page.prefixes[::-1], page.next_token)


@pytest.mark.parametrize("store", [without_start_after, refusing_start_after, without_order])
def test_stores_that_can_do_less(store: Callable[[MemoryStore, str, str | None, str], object]) -> None:
    seen, seconds, requests = loaded(NUMBERS, store)
    assert seen == shown(NUMBERS)
    assert seconds == 20
    assert requests <= 22


async def ending_with_nothing(store: MemoryStore, prefix: str, token: str | None, after: str) -> ListPage:
    """As where what the last page was to hold has been deleted."""
    page = await store.list_page(prefix, token=token, after=after)
    if page.next_token is None and token is not None and token != "nothing":
        return replace(page, next_token="nothing")
    return ListPage((), (), None) if token == "nothing" else page


@pytest.mark.parametrize("count", [3 * PAGE - 7, 60 * PAGE - 7])
def test_the_last_page_may_be_empty(count: int) -> None:
    names = [f"{number:05}" for number in range(count)]
    assert loaded(names, ending_with_nothing)[0] == shown(names)


def test_a_fault_ends_it() -> None:
    async def failing(store: MemoryStore, prefix: str, token: str | None, after: str) -> ListPage:
        if store.count("LIST") > 10:
            raise StoreUnavailable("503")
        return await store.list_page(prefix, token=token, after=after)

    with pytest.raises(ExceptionGroup) as failed:
        loaded(NUMBERS, failing)
    assert failed.group_contains(StoreUnavailable)
