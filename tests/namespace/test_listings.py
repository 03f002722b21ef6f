"""Which listings are kept, for how long, and what of it is found again."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from s3stream_fs.errors import ObjectChanged, StoreUnavailable
from s3stream_fs.namespace import listings as listings_module
from s3stream_fs.namespace.archive import Archive
from s3stream_fs.namespace.inodes import FileInode, InodeTable
from s3stream_fs.namespace.listing import Listing, Unknown
from s3stream_fs.namespace.listings import Listings
from s3stream_fs.namespace.outdated import Outdated
from s3stream_fs.namespace.rows import Row
from s3stream_fs.namespace.scratch import Scratch
from s3stream_fs.namespace.shelf import Elsewhere, Shelf, having, open_shelf
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

TTL_SECONDS = 60.0


def run(
    case: Callable[[MemoryStore, Listings, Shelf], Awaitable[None]],
    scratch: Scratch | None = None,
    limit_nbytes: int = 1 << 30,
    page_limit: int = 1000,
    archive: Archive | None = None,
) -> MemoryStore:
    """With a scratch file time is real: it is threads that use it."""
    store = MemoryStore(page_limit)

    async def listed(prefix: str, token: str | None, after: str) -> ListPage:
        return await store.list_page(prefix, token=token, after=after)

    async def main() -> None:
        async with open_shelf(scratch, limit_nbytes) as shelf, trio.open_nursery() as nursery:
            listings = Listings(
                listed,
                shelf,
                archive,
                Outdated(),
                lambda _: None,
                ordered=True,
                ttl_seconds=TTL_SECONDS,
                nursery=nursery,
            )
            await case(store, listings, shelf)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0) if scratch is None else None)
    return store


async def complete(listing: Listing) -> Listing:
    await listing.wait_complete()
    return listing


async def rows_of(listing: Listing) -> list[Row]:
    """All of them, wherever they lie."""
    found: list[Row] = []
    while len(found) < len(listing):
        await listing.wait_settled(len(found))
        with suppress(Elsewhere):
            found += listing.rows_nowait(len(found))
    return found


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.lowlevel.checkpoint()


def test_an_unchanged_directory_keeps_its_listing() -> None:
    async def case(store: MemoryStore, listings: Listings, _: Shelf) -> None:
        for name in ("a", "b/c", "d"):
            store.put(name, b"x")
        first = await complete(listings.open(""))
        assert listings.open("") is first
        await trio.sleep(TTL_SECONDS)
        again = await complete(listings.open(""))
        assert again is not first
        assert again.shows_the_same(first)
        assert listings.open("") is first
        assert store.count("LIST") == 2
        assert listings.statistics().unchanged == 1
        for change in (lambda: store.put("a", b"y"), lambda: store.put("aa", b""), lambda: store.delete("d")):
            await trio.sleep(TTL_SECONDS)
            before = listings.get("")
            change()
            after = await complete(listings.open(""))
            assert before is not None
            assert not after.shows_the_same(before)
            assert listings.open("") is after

    run(case)


def test_how_it_was_paged_does_not_count() -> None:
    """A long listing is loaded in ranges that are cut where the names of the first pages suggest, and when."""
    digests = set()
    for page_limit in (1000, 50, 7):

        async def case(store: MemoryStore, listings: Listings, _: Shelf) -> None:
            for number in range(2000):
                store.put(f"{number:05}" + "/x" * (number % 3 == 0), b"x")
            listing = await complete(listings.open(""))
            assert len(listing) == 2000
            digests.add(listing.digest)

        run(case, page_limit=page_limit)
    assert len(digests) == 1


def test_names_beyond_the_limit_lie_on_the_disk(tmp_path: Path) -> None:
    limit = 100_000

    async def case(store: MemoryStore, listings: Listings, shelf: Shelf) -> None:
        for number in range(10_000):
            store.put(f"{number % 20}/{number:05}", b"x")
        for _ in range(2):
            for folder in range(20):
                listing = await complete(listings.open(f"{folder}/"))
                assert [row.name for row in await rows_of(listing)] == [
                    b"%05d" % number for number in range(folder, 10_000, 20)
                ]
                await until(lambda: shelf.statistics().nbytes_in_memory <= limit)
        assert store.count("LIST") == 20
        assert shelf.statistics().reads > 10

    run(case, Scratch(tmp_path), limit)


def test_without_a_disk_the_least_recently_used_go() -> None:
    limit = 100_000

    async def case(store: MemoryStore, listings: Listings, shelf: Shelf) -> None:
        for number in range(10_000):
            store.put(f"{number % 20}/{number:05}", b"x")
        for folder in range(20):
            await complete(listings.open(f"{folder}/"))
            assert shelf.statistics().nbytes_in_memory <= limit + 30_000
        assert listings.get("19/") is not None
        assert listings.get("0/") is None

    run(case, None, limit)


def test_what_the_kernel_knows_outlives_its_listing() -> None:
    table = InodeTable("")

    async def case(store: MemoryStore, listings: Listings, shelf: Shelf) -> None:
        for number in range(1000):
            store.put(f"{number:03}", b"x")
        listing = await complete(listings.open(""))
        numbers = [table.remember(row) for row in listing.rows_nowait(0)]
        inode = table.get(numbers[500])
        for number in range(0, 1000, 2):
            store.put(f"{number:03}", b"changed")
        del listing
        await trio.sleep(TTL_SECONDS)
        changed = await complete(listings.open(""))
        assert table.get(numbers[500]) == inode
        gc.collect()
        both = shelf.statistics().nbytes_in_memory
        for row in changed.rows_nowait(0):
            table.remember(row)
        assert table.statistics().remembered == 1 + 1000 + 500
        for number in numbers[::2]:
            table.forget(number, 1)
        gc.collect()
        assert shelf.statistics().nbytes_in_memory < 0.6 * both
        for row in changed.rows_nowait(0):
            table.forget(table.number_of(row), 9)
        assert table.statistics().remembered == 1

    run(case)


def test_what_the_disk_has_lost_is_listed_again(tmp_path: Path) -> None:
    table = InodeTable("")
    scratch = Scratch(tmp_path)
    limit = 200_000

    async def case(store: MemoryStore, listings: Listings, shelf: Shelf) -> None:
        for number in range(8_000):
            store.put(f"{number % 4}/{number:05}", b"x")
        known = [await complete(listings.open(f"{folder}/")) for folder in range(4)]
        numbers = [[table.remember(row) for row in await rows_of(listing)] for listing in known]
        await until(lambda: shelf.statistics().nbytes_in_memory <= limit)
        scratch.close()  # all reads of its file fail from now on
        lost = next(folder for folder, listing in enumerate(known) if listing.find(b"%05d" % folder) is Unknown.UNKNOWN)
        assert listings.fresh(f"{lost}/") is known[lost]  # it might be brought
        await known[lost].bring(b"%05d" % lost)
        with pytest.raises(ObjectChanged):
            table.get(numbers[lost][0])
        assert listings.fresh(f"{lost}/") is None
        again = await complete(listings.open(f"{lost}/"))
        rows = await rows_of(again)
        assert [row.name for row in rows] == [b"%05d" % number for number in range(lost, 8_000, 4)]
        # Looked up once more, the kernel's inodes are what they were.
        assert [await having(partial(table.remember, row)) for row in rows] == numbers[lost]
        assert isinstance(table.get(numbers[lost][0]), FileInode)
        assert store.count("LIST") > 8

    run(case, scratch, limit)


def test_listings_are_bounded_in_bytes_however_they_come() -> None:
    async def case(store: MemoryStore, listings: Listings, _: Shelf) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(listings_module, "_MOST_NBYTES", 100_000)
            for number in range(500):
                prefix = f"{'deep/' * 100}{number}/"
                store.put(f"{prefix}file")
                page = await store.list_page(prefix)
                listings.take(prefix, page, fresh_until=TTL_SECONDS, asked_at=0)
            statistics = listings.statistics()
            assert 50 < statistics.kept < 100
            assert statistics.nbytes <= 100_000
            assert listings.get(prefix) is not None
            assert listings.get(f"{'deep/' * 100}0/") is None
            for number in range(500):
                await complete(listings.open(f"{'deep/' * 100}{number}/"))
            assert listings.statistics().nbytes <= 100_000

    run(case)


def test_a_store_whose_pages_come_in_no_order_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """What was shown of the first page can not be put right, so that one listing fails, and all later ones wait."""
    names = [f"d/{number}" for number in range(10)]

    async def listed(prefix: str, token: str | None, after: str) -> ListPage:
        objects = [ObjectInfo(ObjectId(name, "e", 1), 0) for name in (names[:5] if token else names[5:])]
        return ListPage(tuple(objects), (), None if token else "more")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listings = Listings(
                listed,
                Shelf(None, 1 << 30),
                None,
                Outdated(),
                lambda _: None,
                ordered=True,
                ttl_seconds=TTL_SECONDS,
                nursery=nursery,
            )
            assert isinstance((await complete(listings.open("d/"))).error, StoreUnavailable)
            for _ in range(2):
                listing = await complete(listings.open("d/"))
                assert [row.name.decode() for row in listing.rows_nowait(0)] == [name[2:] for name in names]
                assert not isinstance(listing.find(b"3"), Unknown | None)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    (line,) = caplog.messages
    assert "in no order" in line
