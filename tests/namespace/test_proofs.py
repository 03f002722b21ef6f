"""What a page of keys proves is what the whole bucket shows."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from s3stream_fs.namespace import proofs
from s3stream_fs.namespace.proofs import listed, proven
from s3stream_fs.namespace.shelf import Shelf
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.store.memory import MemoryStore

MOST = st.sampled_from([0, 1, 3, 2000])

KEYS = st.lists(st.text("ab-/.\0", min_size=1, max_size=8), max_size=30)


@settings(max_examples=200, deadline=None)
@given(KEYS, st.integers(1, 10), st.sampled_from(["", "a/", "a/b/"]), MOST)
def test_nothing_is_proven_that_is_not_so(keys: list[str], limit: int, prefix: str, most: int) -> None:
    store = MemoryStore()
    for key in keys:
        store.put(key, b"x")

    async def main() -> None:
        page = await store.list_page(prefix, limit=limit, flat=True)
        async with trio.open_nursery() as nursery:
            tree = Tree(store, Shelf(None, 1 << 30), ttl_seconds=60, nursery=nursery)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(proofs, "_MOST_DIRECTORIES", most)
                told = list(proven(prefix, page))
            for above, _, row in told:
                listing = tree.open_listing(above)
                await listing.wait_complete()
                assert row.entry in [known.entry for known in listing.rows_nowait(0)]
            assert len({(above, name) for above, name, _ in told}) == len(told)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@settings(max_examples=200, deadline=None)
@given(KEYS, st.sampled_from(["", "a/", "a/b/"]), MOST)
def test_a_page_of_all_keys_is_the_listing_of_each_directory(keys: list[str], prefix: str, most: int) -> None:
    store = MemoryStore()
    for key in keys:
        store.put(key, b"x")

    async def main() -> None:
        page = await store.list_page(prefix, flat=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proofs, "_MOST_DIRECTORIES", most)
            told = dict(listed(prefix, page))
        for directory, entries in told.items():
            assert entries == await store.list_page(directory)
        below = {below for entries in told.values() for below in entries.prefixes}
        assert told.keys() - {prefix} <= below
        assert most < 2000 or told.keys() - {prefix} == below

    trio.run(main)


def test_a_page_of_deep_keys_is_bounded_work() -> None:
    """A hundred keys of 500 levels."""
    store = MemoryStore()
    for number in range(100):
        store.put(f"d/{number:02}/{'a/' * 490}x", b"x")
    store.put(f"e/{'a/' * 490}x", b"x")

    async def main() -> None:
        page = await store.list_page("d/", flat=True)
        told = list(listed("d/", page))
        assert len(told) <= 2001
        assert told[0][1].prefixes == tuple(f"d/{number:02}/" for number in range(100))
        assert len(list(proven("d/", page))) <= 2100
        # Of one path all is told, however deep it is.
        assert len(list(listed("e/", await store.list_page("e/", flat=True)))) == 491

    trio.run(main)
