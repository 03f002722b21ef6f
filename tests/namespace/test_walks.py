"""A walk waits for few of its directories; who does not walk pays for nothing."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from s3stream_fs.namespace.entries import DirectoryEntry
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.rows import Rows
from s3stream_fs.namespace.shelf import Shelf, open_shelf
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.store.memory import MemoryStore
from scratches import HangingScratch

NFOLDERS = 100
FOLDERS = [f"{number:03}/" for number in range(NFOLDERS)]


async def directories(listing: Listing) -> list[str]:
    found: list[str] = []
    for position in itertools.count():
        await listing.wait_settled(position)
        entry = listing.entry_nowait(position)
        if entry is None:
            return found
        if isinstance(entry, DirectoryEntry):
            found.append(entry.prefix)
    return found


def opened(*folders: str, keys: list[str], ttl: float = 60.0) -> tuple[float, int]:
    """The time in which these directories are read, at a second per request, and the number of requests."""
    store = MemoryStore()
    for key in keys:
        store.put(key, b"x")
    store.seconds = itertools.repeat(1.0)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            tree = Tree(store, Shelf(None, 1 << 30), ttl_seconds=ttl, nursery=nursery)
            for folder in folders:
                await directories(tree.open_listing(folder))
            took = trio.current_time()
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        return took

    async def timed() -> float:
        began = trio.current_time()
        return await main() - began

    return trio.run(timed, clock=MockClock(autojump_threshold=0)), store.count("LIST")


def flat(nfiles: int = 2) -> list[str]:
    return [f"{folder}{number}" for folder in FOLDERS for number in range(nfiles)]


def test_a_walk_waits_for_few_and_lists_each_once() -> None:
    seconds, requests = opened("", *FOLDERS, keys=flat())
    assert requests == NFOLDERS + 1
    assert seconds < 15


def test_files_between_do_not_matter() -> None:
    between = [f"{number:03}-{other}" for number in range(NFOLDERS) for other in range(10)]
    seconds, requests = opened("", *FOLDERS, keys=flat() + between)
    assert requests == NFOLDERS + 2  # the root has two pages
    assert seconds < 15


def test_a_walk_of_a_tree() -> None:
    keys = [f"{one}/{two}/{three}/file" for one in "abcd" for two in "abcde" for three in "abcdef"]
    order = sorted({key[: at + 1] for key in keys for at, character in enumerate(key) if character == "/"} | {""})
    seconds, requests = opened(*order, keys=keys)
    assert requests == len(order)
    assert seconds < 0.6 * len(order)


@pytest.mark.parametrize("seed", range(5))
def test_who_jumps_pays_little_more(seed: int) -> None:
    some = random.Random(seed).sample(FOLDERS[20:], 10)
    _, requests = opened("", *some, keys=flat())
    assert requests <= len(some) + 1 + 2


def test_the_first_alone_costs_one_more() -> None:
    assert opened("", FOLDERS[0], keys=flat())[1] == 3
    assert opened("", FOLDERS[50], keys=flat())[1] == 2


@pytest.mark.parametrize("ttl", [0.0, 1.0])
def test_nothing_is_listed_that_would_be_too_old(ttl: float) -> None:
    assert opened("", *FOLDERS[:10], keys=flat(), ttl=ttl)[1] >= 11
    assert opened("", FOLDERS[0], keys=flat(), ttl=ttl)[1] == 2


def test_directories_are_listed_ahead_though_the_names_above_lie_on_the_disk(tmp_path: Path) -> None:
    store = MemoryStore()
    for key in flat():
        store.put(key, b"x")

    async def main() -> None:
        async with open_shelf(HangingScratch(tmp_path), 4000) as shelf, trio.open_nursery() as nursery:
            tree = Tree(store, shelf, ttl_seconds=60.0, nursery=nursery)
            above = tree.open_listing("")
            await above.wait_complete()
            for number, folder in enumerate(FOLDERS[:3]):
                while above.pieces[0].in_memory:
                    above.pieces[0].used = False
                    shelf.put(Rows.packed("", [(b"%0100d" % name, None) for name in range(100)]))
                    await trio.lowlevel.checkpoint()
                await tree.open_listing(folder).wait_complete()
                while store.count("LIST") < 1 + 2 * (number + 1):  # as many as are listed ahead, at the least
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async def timed() -> None:
        with trio.fail_after(60):
            await main()

    trio.run(timed)
