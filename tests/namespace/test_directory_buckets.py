"""Directory buckets (S3 Express One Zone): listed in no order, from the beginning, below whole directories only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from s3stream_fs.errors import Denied, StoreError, StoreUnavailable
from s3stream_fs.namespace import listing
from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.namespace.scratch import Scratch
from s3stream_fs.namespace.shelf import Shelf, open_shelf
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.store.memory import MemoryStore

NAMES = ["a", "a-b", "b", "c0", "d"]


def run(case: Callable[[MemoryStore, Tree], Awaitable[None]], page_limit: int = 1000) -> MemoryStore:
    store = MemoryStore(page_limit, directory_bucket=True)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await case(store, Tree(store, Shelf(None, 1 << 30), ttl_seconds=60.0, nursery=nursery))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return store


async def entries(tree: Tree, prefix: str = "") -> list[Entry]:
    opened = tree.open_listing(prefix)
    found: list[Entry] = []
    while True:
        await opened.wait_settled(len(found))
        entry = opened.entry_nowait(len(found))
        if entry is None:
            return found
        found.append(entry)


@settings(max_examples=200, deadline=None)
@given(
    files=st.sets(st.sampled_from(NAMES)),
    directories=st.sets(st.sampled_from(NAMES)),
    page_limit=st.sampled_from([1, 2, 3, 1000]),
    looks_first=st.booleans(),
    loose=st.sampled_from([1, 2, 100]),
)
def test_listings_and_lookups_say_the_same(
    files: set[str], directories: set[str], page_limit: int, looks_first: bool, loose: int
) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for name in files:
            store.put(name, b"x")
        for name in directories:
            store.put(f"{name}/inside", b"x")

        async def look() -> None:
            for name in NAMES[:3]:
                entry = (await tree.lookup("", name.encode())).entry
                if name in directories:
                    assert entry == DirectoryEntry(name.encode(), f"{name}/")
                else:
                    assert isinstance(entry, FileEntry) is (name in files)

        if looks_first:
            await look()
        listed = await entries(tree)
        assert [entry.name.decode() for entry in listed] == sorted(files | directories)
        assert {entry.name.decode() for entry in listed if isinstance(entry, DirectoryEntry)} == directories
        await look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_MOST_LOOSE", loose)  # whether names are put aside changes nothing of them
        run(case, page_limit)


def test_many_names_come_in_order_and_each_once() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(500):
            store.put(f"d/{number:03}", b"x")
            store.put(f"d/{number:03}x/y", b"x")
        listed = [entry.name.decode() for entry in await entries(tree, "d/")]
        assert listed == sorted(f"{number:03}{end}" for number in range(500) for end in ("", "x"))
        assert store.requests == [("LIST", "d/")] * 100

    run(case, page_limit=10)


def test_names_in_no_order_are_put_aside_and_brought_into_one(tmp_path: Path) -> None:
    """A directory of more names than may be loose takes no more memory while it is loaded than afterwards."""
    count = 2500

    async def main() -> None:
        store = MemoryStore(500, directory_bucket=True)
        for number in range(count):
            store.put(f"d/{number:05}", b"x")
        async with open_shelf(Scratch(tmp_path), 4096) as shelf, trio.open_nursery() as nursery:
            tree = Tree(store, shelf, ttl_seconds=60.0, nursery=nursery)
            loading = tree.open_listing("d/")
            await loading.wait_complete()
            await loading.wait_settled(0)
            assert [row.name for row in loading.rows_nowait(0)] == [b"%05d" % number for number in range(count)]
            assert len(loading.pieces) == 1
            assert shelf.statistics().reads > 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_MOST_LOOSE", 1000)
        trio.run(main)


def test_a_lookup_is_a_head_and_a_list_at_the_same_time() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("d/file", b"x")
        store.put("d/both", b"x")
        store.put("d/both/inside", b"x")
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.lookup, "d/", b"file")
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(store.requests) == [("HEAD", "d/file"), ("LIST", "d/file/")]
            store.gate.set()
        assert (await tree.lookup("d/", b"both")).entry == DirectoryEntry(b"both", "d/both/")
        assert (await tree.lookup("d/", b"absent")).entry is None
        assert len(store.requests) == 6
        assert (await tree.lookup("d/", b"absent")).entry is None  # known by now
        assert len(store.requests) == 6

    run(case)


@pytest.mark.parametrize("kind", ["HEAD", "LIST"])
@pytest.mark.parametrize("error", [Denied("403"), StoreUnavailable("500")])
def test_a_lookup_that_fails_says_nothing(kind: str, error: StoreError) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("file", b"x")
        store.fail_next(kind, error)
        with pytest.raises(type(error)):
            await tree.lookup("", b"file")
        assert isinstance((await tree.lookup("", b"file")).entry, FileEntry)

    run(case)


def test_a_directory_is_one_whatever_a_head_says() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("d/inside", b"x")
        store.fail_next("HEAD", Denied("403"))
        assert (await tree.lookup("", b"d")).entry == DirectoryEntry(b"d", "d/")

    run(case)
