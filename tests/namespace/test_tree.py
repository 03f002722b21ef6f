"""The tree over the in-memory store: what is shown, and what it costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from s3stream_fs.errors import Denied, KeysRefused, StoreUnavailable
from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.shelf import Shelf
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import ListPage, ObjectId


def run(
    case: Callable[[MemoryStore, Tree], Awaitable[None]],
    *,
    ttl: float = 60.0,
    page_limit: int = 1000,
    store: MemoryStore | None = None,
) -> MemoryStore:
    store = store or MemoryStore(page_limit)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await case(store, Tree(store, Shelf(None, 1 << 30), ttl_seconds=ttl, nursery=nursery))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return store


async def entry_at(listing: Listing, position: int) -> Entry | None:
    await listing.wait_settled(position)
    return listing.entry_nowait(position)


async def entries(listing: Listing) -> list[Entry]:
    found: list[Entry] = []
    while (entry := await entry_at(listing, len(found))) is not None:
        found.append(entry)
    return found


async def shown(tree: Tree, prefix: str = "") -> dict[str, str | None]:
    """Every path below, with its key; None for a directory."""
    found: dict[str, str | None] = {}
    for entry in await entries(tree.open_listing(prefix)):
        name = entry.name.decode()
        if isinstance(entry, FileEntry):
            found[name] = entry.info.id.key
        else:
            found[name] = None
            found |= {f"{name}/{path}": key for path, key in (await shown(tree, entry.prefix)).items()}
    return found


def expected(keys: set[str]) -> dict[str, str | None]:
    """The rules, in the simplest words."""
    found: dict[str, str | None] = {}
    for key in sorted(keys):
        *parents, last = key.split("/")
        path = ""
        for part in parents:
            if part in ("", ".", ".."):
                break
            path = f"{path}/{part}" if path else part
            found[path] = None
        else:
            if last not in ("", ".", ".."):
                found.setdefault(f"{path}/{last}" if path else last, key)
    return found


@settings(max_examples=150, deadline=None)
@given(
    keys=st.sets(st.text(alphabet="ab-/. 0", min_size=1, max_size=7), max_size=12),
    page_limit=st.sampled_from([1, 2, 3, 1000]),
)
def test_shows_what_the_rules_say(keys: set[str], page_limit: int) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for key in keys:
            store.put(key, b"x")
        found = await shown(tree)
        assert found == expected(keys)
        for prefix in ("", "a/"):
            names = [entry.name for entry in await entries(tree.open_listing(prefix))]
            assert names == sorted(set(names))

    run(case, page_limit=page_limit)


@settings(max_examples=150, deadline=None)
@given(
    keys=st.sets(st.text(alphabet="ab-/. 0", min_size=1, max_size=5), max_size=10),
    page_limit=st.sampled_from([1, 2, 1000]),
    asked=st.lists(st.text(alphabet="ab-. 0", min_size=1, max_size=3), min_size=1, max_size=6),
)
def test_lookup_says_what_a_listing_shows(keys: set[str], page_limit: int, asked: list[str]) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for key in keys:
            store.put(key, b"x")
        wanted = expected(keys)
        for name in asked:
            entry = (await tree.lookup("", name.encode())).entry
            if name not in wanted:
                assert entry is None
            elif wanted[name] is None:
                assert entry == DirectoryEntry(name.encode(), f"{name}/")
            else:
                assert isinstance(entry, FileEntry)
                assert entry.info.id.key == wanted[name]

    run(case, page_limit=page_limit)


def test_first_entries_are_served_while_later_pages_load() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(10):
            store.put(f"k{number}", b"x")
        listing = tree.open_listing("")
        assert (await entry_at(listing, 0)) is not None
        store.gate = trio.Event()  # the pages after those that are already on their way
        await wait_all_tasks_blocked()
        assert listing.loading
        assert listing.settled(0)
        assert not listing.settled(9)
        store.gate.set()
        assert len(await entries(listing)) == 10

    run(case, page_limit=2)


def test_requests_of_lookups() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(20):
            store.put(f"d/{number}", b"x")
        for name in (b"1", b"2", b"missing", b"1", b"missing"):
            await tree.lookup("d/", name)
        assert store.requests == [("LIST", "d/1"), ("LIST", "d/2"), ("LIST", "d/missing")]
        for number in range(20):  # the next new name lists the directory, and that answers all
            assert (await tree.lookup("d/", b"%d" % number)).entry is not None
        assert (await tree.lookup("d/", b"no")).entry is None
        assert store.requests[3:] == [("LIST", "d/")]
        assert (await tree.lookup("d/", b"\xff")).entry is None
        assert store.count("HEAD") == store.count("GET") == 0

    run(case)


def test_directory_behind_many_siblings_costs_one_more_list() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(300):
            store.put(f"a-{number}", b"x")
        store.put("a/b", b"x")
        assert (await tree.lookup("", b"a")).entry == DirectoryEntry(b"a", "a/")
        assert store.requests == [("LIST", "a"), ("LIST", "a/")]

    run(case)


def test_lookups_of_one_name_share_one_request() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("a", b"x")
        store.gate = trio.Event()
        found: list[Entry | None] = []

        async def look() -> None:
            found.append((await tree.lookup("", b"a")).entry)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(look)
            await wait_all_tasks_blocked()
            store.gate.set()
        assert len(set(found)) == 1
        assert store.count("LIST") == 1

    run(case)
    run(case, ttl=0)


def test_cancelled_lookup_does_not_take_the_others_along() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("a", b"x")
        store.gate = trio.Event()
        scope = trio.CancelScope()
        found: list[Entry | None] = []

        async def first() -> None:
            with scope:
                await tree.lookup("", b"a")

        async def second() -> None:
            found.append((await tree.lookup("", b"a")).entry)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await wait_all_tasks_blocked()
            nursery.start_soon(second)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            store.gate.set()
        assert isinstance(found[0], FileEntry)

    run(case)


def test_a_listing_is_shared_and_survives_who_asked_first() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("a", b"x")
        store.gate = trio.Event()
        with trio.move_on_after(1):
            await entry_at(tree.open_listing(""), 0)
        listing = tree.open_listing("")
        store.gate.set()
        assert len(await entries(listing)) == 1
        assert store.count("LIST") == 1

    run(case)


@pytest.mark.parametrize(("ttl", "nlists"), [(0.0, 3), (60.0, 2), (math.inf, 1)])
def test_time_to_live(ttl: float, nlists: int) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("a", b"x")
        await entries(tree.open_listing(""))
        await trio.sleep(59)
        await entries(tree.open_listing(""))
        store.delete("a")
        await trio.sleep(2)
        found = await entries(tree.open_listing(""))
        assert (found == []) is (ttl != math.inf)
        assert store.count("LIST") == nlists

    run(case, ttl=ttl)


def test_answers_say_until_when_they_are_fresh() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        started = trio.current_time()
        assert (await tree.lookup("", b"missing")).fresh_until == started + 60
        await entries(tree.open_listing(""))
        await trio.sleep(30)
        assert (await tree.lookup("", b"other")).fresh_until == started + 60

    run(case)


def test_a_listing_announces_what_was_answered_otherwise() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for name in ("gone", "replaced", "same"):
            store.put(f"d/{name}", b"1")
        for asked in (b"gone", b"replaced", b"new"):
            await tree.lookup("d/", asked)
        store.delete("d/gone")
        store.put("d/replaced", b"22")
        store.put("d/new", b"3")
        store.put("d/unasked", b"4")
        assert len(await entries(tree.open_listing("d/"))) == 4
        assert len(tree.changes) == 3
        changes = [await tree.changes.next() for _ in range(3)]
        assert sorted(changes) == [("d/", b"gone"), ("d/", b"new"), ("d/", b"replaced")]

    run(case)


def test_what_is_as_it_was_or_as_old_as_may_be_is_not_announced() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("d/same", b"1")
        store.put("d/gone", b"1")
        await tree.lookup("d/", b"gone")
        await trio.sleep(61)
        await tree.lookup("d/", b"same")
        store.delete("d/gone")
        assert len(await entries(tree.open_listing("d/"))) == 1
        assert len(tree.changes) == 0

    run(case)


def test_changes_that_nobody_hears_of_are_not_kept_for_ever() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(1_001):
            await tree.lookup(f"{number}/", b"x")
            store.put(f"{number}/x", b"1")
            await entries(tree.open_listing(f"{number}/"))
        assert len(tree.changes) == 1_000

    run(case)


def test_failed_listing_is_told_to_all_and_asked_again() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("a", b"x")
        store.fail_next("LIST", StoreUnavailable("500"))
        listing = tree.open_listing("")
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await entry_at(listing, 0)
        assert len(await entries(tree.open_listing(""))) == 1

    run(case)


def test_archived_objects_are_asked_about_once_per_time_to_live() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("cold", b"x", storage_class="GLACIER")
        for _ in range(3):
            entry = (await tree.lookup("", b"cold")).entry
            assert isinstance(entry, FileEntry)
            assert entry.info.archived
        assert store.count("HEAD") == 1
        store.restore("cold")
        await trio.sleep(61)
        entry = (await tree.lookup("", b"cold")).entry
        assert isinstance(entry, FileEntry)
        assert not entry.info.archived

    run(case)


def test_hidden_keys_are_logged_once_per_directory(caplog: pytest.LogCaptureFixture) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for key in ("//x", "./a", "../a", "d/", "d/ok"):
            store.put(key, b"bytes")
        for _ in range(3):
            await shown(tree)
            await trio.sleep(61)
        assert tree.statistics().hidden_keys == 3
        assert tree.statistics().unreachable_markers == 1

    with caplog.at_level(logging.WARNING):
        run(case)
    assert len(caplog.records) == 3


def test_a_path_through_lone_directories_costs_one_list() -> None:
    path = [f"{depth}" for depth in range(100)]

    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(200):
            store.put("/".join([*path, f"{number:03}"]), b"x")
        prefix = ""
        for name in path:
            entry = (await tree.lookup(prefix, name.encode())).entry
            assert entry == DirectoryEntry(name.encode(), f"{prefix}{name}/")
            prefix = entry.prefix
        assert isinstance((await tree.lookup(prefix, b"007")).entry, FileEntry)
        assert store.count("LIST") == 1
        assert isinstance((await tree.lookup(prefix, b"190")).entry, FileEntry)
        assert (await tree.lookup(prefix, b"nothing")).entry is None
        assert store.count("LIST") == 3

    run(case)


def test_what_is_proven_is_not_believed_for_longer_than_the_rest() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("a/b/c", b"x")
        first = await tree.lookup("", b"a")
        below = await tree.lookup("a/", b"b")
        assert below.fresh_until == first.fresh_until
        await trio.sleep(60)
        store.delete("a/b/c")
        assert (await tree.lookup("a/", b"b")).entry is None

    run(case)


async def looked_up(tree: Tree, prefix: str, name: bytes) -> Entry | None:
    return (await tree.lookup(prefix, name)).entry


class PolicyStore(MemoryStore):
    """Denies LIST but where ``allowed`` says so of a prefix, and of whether it is flat."""

    allowed: Callable[[str, bool], bool] = staticmethod(lambda _prefix, flat: not flat)

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        page = await super().list_page(prefix, token=token, after=after, limit=limit, flat=flat)
        if not self.allowed(prefix, flat):
            raise Denied("403 AccessDenied")
        return page


@pytest.mark.parametrize("ttl", [0.0, 60.0])
def test_where_single_names_are_not_told_the_listing_is(ttl: float, caplog: pytest.LogCaptureFixture) -> None:
    store = PolicyStore(page_limit=10)
    for number in range(95):
        store.put(f"home/david/{number:02}")
    store.put("home/david/sub/x")

    async def case(_: MemoryStore, tree: Tree) -> None:
        assert isinstance(await looked_up(tree, "", b"home"), DirectoryEntry)
        assert isinstance(await looked_up(tree, "home/", b"david"), DirectoryEntry)
        assert await looked_up(tree, "home/", b"absent") is None
        # On whatever page it stands.
        for name in (b"94", b"00", b"sub"):
            assert await looked_up(tree, "home/david/", name) is not None
        assert await looked_up(tree, "home/david/", b"95") is None
        await trio.sleep(100)  # what is known grows old
        ndenied = len(store.requests)
        assert await looked_up(tree, "home/david/", b"50") is not None
        assert ("LIST", "home/david/50") not in store.requests[ndenied:]

    with caplog.at_level(logging.INFO):
        run(case, ttl=ttl, store=store)
    assert sum("no single names" in record.message for record in caplog.records) == 1
    assert sum(request == ("LIST", "home/david/94") for request in store.requests) == 1


def test_what_cannot_be_listed_either_is_denied_and_not_remembered() -> None:
    store = PolicyStore()
    store.allowed = lambda _prefix, _flat: False
    store.put("a")

    async def case(_: MemoryStore, tree: Tree) -> None:
        for _again in range(2):
            with pytest.raises(Denied):
                await tree.lookup("", b"a")
        store.allowed = lambda _prefix, _flat: True
        store.requests.clear()
        assert isinstance(await looked_up(tree, "", b"a"), FileEntry)
        assert store.requests == [("LIST", "a")]

    run(case, store=store)


def test_a_moment_of_refused_keys_says_nothing_of_single_names(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.put("d/a")

    async def case(_: MemoryStore, tree: Tree) -> None:
        store.fail_next("LIST", KeysRefused("400 ExpiredToken"))
        with pytest.raises(KeysRefused):
            await tree.lookup("d/", b"a")
        store.requests.clear()
        assert await looked_up(tree, "d/", b"a") is not None
        assert store.requests == [("LIST", "d/a")]

    with caplog.at_level(logging.INFO):
        run(case, store=store)
    assert not any("no single names" in record.message for record in caplog.records)


def test_many_who_ask_for_names_that_are_not_told_wait_for_one_listing() -> None:
    store = PolicyStore(page_limit=10)
    for number in range(50):
        store.put(f"d/{number:02}")

    async def case(_: MemoryStore, tree: Tree) -> None:
        assert await looked_up(tree, "d/", b"00") is not None
        await trio.sleep(100)
        store.requests.clear()
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(looked_up, tree, "d/", b"%02d" % number)
        assert all(prefix == "d/" for _kind, prefix in store.requests)
        assert len(store.requests) <= 7

    run(case, store=store)


def version_of(entry: Entry | None) -> ObjectId:
    assert isinstance(entry, FileEntry)
    return entry.info.id


@pytest.mark.parametrize("listed", [False, True])
def test_a_version_that_is_no_more_is_asked_for_once(listed: bool) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(2500):
            store.put(f"d/{number:04}", b"old")
        if listed:
            await entries(tree.open_listing("d/"))
        old = version_of((await tree.lookup("d/", b"0007")).entry)
        new = store.put("d/0007", b"new")
        store.requests.clear()
        for _ in range(100):
            tree.outdated_nowait(old)
        assert len(tree.changes) == 1
        assert await tree.changes.next() == ("d/", b"0007")
        assert tree.is_outdated(old)
        for _ in range(3):
            assert version_of((await tree.lookup("d/", b"0007")).entry) == new
        assert store.requests == [("LIST", "d/0007")]
        assert (tree.lookup_nowait("d/", b"0008") is not None) == listed
        assert not tree.is_outdated(new)

    run(case)


@pytest.mark.parametrize("listed", [False, True])
def test_a_deleted_object_and_one_that_became_a_directory(listed: bool) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        known = {name: store.put(f"d/{name}", b"x") for name in ("gone", "turned", "same")}
        if listed:
            await entries(tree.open_listing("d/"))
        for name in known:
            await tree.lookup("d/", name.encode())
        store.delete("d/gone")
        store.delete("d/turned")
        store.put("d/turned/inside", b"x")
        for name in ("gone", "turned"):
            tree.outdated_nowait(known[name])
        assert (await tree.lookup("d/", b"gone")).entry is None
        assert (await tree.lookup("d/", b"turned")).entry == DirectoryEntry(b"turned", "d/turned/")
        assert [entry.name for entry in await entries(tree.open_listing("d/"))] == [b"same", b"turned"]

    run(case)


def test_what_was_asked_for_before_is_not_believed() -> None:
    """The store's answers are under way when a reader finds out that they are not right any more."""

    async def case(store: MemoryStore, tree: Tree) -> None:
        old = store.put("d/a", b"old")
        for number in range(10):
            store.put(f"d/{number}", b"x")
        store.answer_late = trio.Event()
        found: list[ObjectId] = []

        async def look() -> None:
            found.append(version_of((await tree.lookup("d/", b"a")).entry))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            listing = tree.open_listing("d/")
            await wait_all_tasks_blocked()
            new = store.put("d/a", b"new")
            tree.outdated_nowait(old)
            store.answer_late.set()
            await entries(listing)
        store.answer_late = None
        assert found == [new]
        assert version_of((await tree.lookup("d/", b"a")).entry) == new
        assert await entries(tree.open_listing("d/")) != await entries(listing)

    run(case)


def test_a_store_that_insists_is_believed_and_not_asked_all_the_time() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        there = store.put("d/a", b"x")
        assert version_of((await tree.lookup("d/", b"a")).entry) == there
        for _ in range(100):
            tree.outdated_nowait(there)
            assert version_of((await tree.lookup("d/", b"a")).entry) == there
            assert not tree.is_outdated(there)
        assert store.count("LIST") == 2
        await trio.sleep(2)
        tree.outdated_nowait(there)
        assert tree.is_outdated(there)

    run(case)


def test_a_directory_that_was_replaced_is_listed_again_and_the_rest_announced() -> None:
    count = 20_000

    async def case(store: MemoryStore, tree: Tree) -> None:
        old = [store.put(f"d/{number:05}", b"old") for number in range(count)]
        await entries(tree.open_listing("d/"))
        for number in range(count):
            store.put(f"d/{number:05}", b"newer")
        store.requests.clear()
        told: set[bytes] = set()

        async def tell() -> None:
            while True:
                told.add((await tree.changes.next()).name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            for number, version in enumerate(old):
                if b"%05d" % number not in told:
                    tree.outdated_nowait(version)
                    assert version_of((await tree.lookup("d/", b"%05d" % number)).entry).size == 5
                await wait_all_tasks_blocked()
                if len(told) == count + 1:
                    break
            nursery.cancel_scope.cancel()
        assert b"" in told  # the directory's pages
        assert len([name for name in told if name]) == count
        # 20 names by themselves; then the 20 pages of the directory, in ranges, of which some may be in vain.
        assert store.count("LIST") <= 20 + 30
        assert number < 100

    run(case)


def test_names_are_answered_from_the_old_listing_while_a_new_one_is_loaded() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        old = [store.put(f"d/{number:04}", b"x") for number in range(3000)]
        await entries(tree.open_listing("d/"))
        store.put("d/0000", b"new")
        store.requests.clear()
        tree.outdated_nowait(old[0])
        store.gate = trio.Event()
        one, other = tree.open_listing("d/"), tree.open_listing("d/")  # who lists it sees what there is now
        assert one is other
        assert one.loading
        await wait_all_tasks_blocked()
        for number in range(1, 3000):
            answer = tree.lookup_nowait("d/", b"%04d" % number)
            assert answer is not None
        store.gate.set()
        assert version_of((await entries(one))[0]).size == 3
        assert tree.open_listing("d/") is one
        assert ("LIST", "d/0000") not in store.requests

    run(case)


def test_where_names_are_frozen_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        old = store.put("d/a", b"old")
        assert version_of((await tree.lookup("d/", b"a")).entry) == old
        store.put("d/a", b"newer")
        for _ in range(3):
            tree.outdated_nowait(old)
            assert version_of((await tree.lookup("d/", b"a")).entry) == old
        assert len(tree.changes) == 0
        assert not tree.is_outdated(old)
        assert store.count("LIST") == 1
        assert tree.statistics().outdated == 3

    run(case, ttl=math.inf)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_others_get_their_turn_while_a_page_of_deep_keys_is_taken_note_of() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        for number in range(90):
            store.put(f"d/{number:02}/{'a/' * 490}x")
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await tree.lookup("", b"d")
            nursery.cancel_scope.cancel()
        kept = tree.statistics().listings.kept
        assert 1000 < kept <= 2001
        assert turns >= kept // 100

    run(case)


def test_a_key_without_an_end_is_not_told_whole(caplog: pytest.LogCaptureFixture) -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("d/" + "x" * 1_000_000)
        await tree.open_listing("d/").wait_complete()

    run(case)
    (line,) = caplog.messages
    assert "1 keys under 'd/' are hidden" in line
    assert len(line) < 2000


def test_of_many_who_wait_for_a_listing_that_fails_few_ask_by_themselves() -> None:
    async def case(store: MemoryStore, tree: Tree) -> None:
        store.put("d/x150", b"x")
        store.gate = trio.Event()
        found: list[bool | None] = []

        async def look(number: int) -> None:
            try:
                found.append((await tree.lookup("d/", b"x%d" % number)).row is not None)
            except StoreUnavailable:
                found.append(None)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(look, number)
            await trio.testing.wait_all_tasks_blocked()
            nasked = store.count("LIST")
            store.fail_next("LIST", StoreUnavailable("out of order"), times=nasked)
            store.gate.set()
        assert nasked == 4  # three names, and then the directory
        assert (found.count(None), found.count(True)) == (3, 1)
        assert store.count("LIST") <= 2 * nasked

    run(case)
