"""Every key once, in about as few requests as there are pages, whatever the tree looks like."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream_fs.errors import Denied, StoreError
from s3stream_fs.namespace.survey import Survey
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

PAGE = 1000


class Fast:
    """As MemoryStore lists, but in time for many keys. Each request takes a second."""

    def __init__(self, keys: list[str]) -> None:
        self._infos = {key: ObjectInfo(ObjectId(key, "e", 1), 0) for key in sorted(keys, key=str.encode)}
        self.keys = list(self._infos)
        self.requests = 0

    async def list_page(self, prefix: str, *, token: str | None, after: str, flat: bool) -> ListPage:
        self.requests += 1
        await trio.sleep(1)
        start = max(token or after, prefix)
        found: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        for key in self.keys[self._index(start) :]:
            if not key.startswith(prefix) or (key == (token or after)):
                continue
            head, slash, _ = key[len(prefix) :].partition("/")
            if slash and not flat:
                if prefixes[-1:] == [prefix + head + slash]:
                    continue
                if len(found) + len(prefixes) == PAGE:
                    return ListPage(tuple(found), tuple(prefixes), last)
                prefixes.append(prefix + head + slash)
                last = prefixes[-1]
            else:
                if len(found) + len(prefixes) == PAGE:
                    return ListPage(tuple(found), tuple(prefixes), last)
                found.append(self._infos[key])
                last = key
        return ListPage(tuple(found), tuple(prefixes), None)

    def _index(self, start: str) -> int:
        low, high = 0, len(self.keys)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.keys[middle] < start else (low, middle)
        return low


def surveyed(store: Fast, prefix: str = "") -> tuple[list[str], float]:
    """The keys, and after how many seconds."""
    found: list[str] = []
    survey = Survey(prefix, store.list_page, lambda infos: found.extend(info.id.key for info in infos))

    async def main() -> float:
        began = trio.current_time()
        await survey.run()
        return trio.current_time() - began

    return found, trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


R = random.Random(1)
TREES = {
    "folders": [f"data/{number // 1000:04}/{number % 1000:06}.jpg" for number in range(60_000)],
    "one long directory": [f"data/{number:08}.jpg" for number in range(60_000)],
    "hashes": [f"{R.getrandbits(128):032x}" for _ in range(60_000)],
    "classes": [f"train/n{number // 1300:08}/n{number // 1300:08}_{number % 1300}.JPEG" for number in range(60_000)]
    + [f"val/{number:08}" for number in range(10_000)],
    "small directories": [f"a/b/c/{number // 10_000}/{number // 100 % 100}/{number % 100}" for number in range(60_000)],
    "dates": [
        f"logs/2024/{month:02}/{day:02}/{R.getrandbits(64):016x}.gz"
        for month in range(1, 13) for day in range(1, 29) for _ in range(150)
    ],
}  # fmt: skip


@pytest.mark.parametrize("tree", TREES)
def test_long_trees_are_listed_in_several_ranges_at_once(tree: str) -> None:
    store = Fast(TREES[tree])
    keys, seconds = surveyed(store)
    assert sorted(keys) == sorted(store.keys)
    npages = -(-len(store.keys) // PAGE)
    assert store.requests <= 1.5 * npages + 10
    # With fifty pages there is little time to learn how the names of deep trees look.
    assert seconds <= npages * (0.8 if tree in ("small directories", "dates") else 0.5)


def test_short_ones_cost_their_pages() -> None:
    for count, most in ((0, 1), (1, 1), (1000, 1), (1001, 3), (2500, 4)):
        store = Fast([f"a/{number:05}" for number in range(count)])
        assert surveyed(store)[0] == store.keys
        assert store.requests <= most


def test_only_what_lies_below_the_prefix() -> None:
    store = Fast([*TREES["folders"], "data", "data-x", "data0", "e/x"])
    assert sorted(surveyed(store, "data/")[0]) == sorted(TREES["folders"])


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.text("ab/-0", min_size=1, max_size=7), max_size=300),
    st.sampled_from(["", "a/", "b/a/"]),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_every_key_once_in_pages_of_any_size(keys: set[str], prefix: str, limit: int, seed: int) -> None:
    fake = MemoryStore(limit)
    for key in keys:
        fake.put(key)
    rng = random.Random(seed)

    async def list_page(prefix: str, *, token: str | None, after: str, flat: bool) -> ListPage:
        for _ in range(rng.randrange(4)):
            await trio.lowlevel.checkpoint()
        return await fake.list_page(prefix, token=token, after=after, flat=flat)

    found: list[str] = []
    trio.run(Survey(prefix, list_page, lambda infos: found.extend(info.id.key for info in infos)).run)
    assert sorted(found) == sorted(key for key in keys if key.startswith(prefix))


def test_a_listing_in_no_order_is_listed_page_by_page() -> None:
    keys = [f"{number * 7919 % 5000:05}" for number in range(5000)]
    infos = [ObjectInfo(ObjectId(key, "e", 1), 0) for key in keys]

    async def list_page(prefix: str, *, token: str | None, after: str, flat: bool) -> ListPage:
        assert flat
        assert not after
        start = int(token or 0)
        page = tuple(infos[start : start + PAGE])
        return ListPage(page, (), str(start + PAGE) if start + PAGE < len(infos) else None)

    found: list[str] = []
    trio.run(Survey("", list_page, lambda infos: found.extend(info.id.key for info in infos)).run)
    assert found == keys


@pytest.mark.parametrize("denied", [None, "b/"])
def test_where_a_flat_listing_is_denied_directories_are_listed(denied: str | None) -> None:
    fake = MemoryStore(3)
    keys = [f"{name}/{number}" for name in ("a", "b", "b/c/d", "e") for number in range(5)] + ["f", "g", "a/"]
    for key in keys:
        fake.put(key, b"12")

    async def list_page(prefix: str, *, token: str | None, after: str, flat: bool) -> ListPage:
        if flat or prefix == denied:
            raise Denied("403")
        return await fake.list_page(prefix, token=token, after=after)

    found: list[str] = []
    survey = Survey("", list_page, lambda infos: found.extend(info.id.key for info in infos))
    if denied is not None:
        with pytest.raises(Denied):  # never part of it only
            trio.run(survey.run)
        return
    trio.run(survey.run)
    assert sorted(found) == sorted(keys)
    assert (survey.progress.nobjects, survey.progress.nbytes) == (len(keys), 2 * len(keys))


def test_an_error_ends_it() -> None:
    store = Fast(TREES["folders"])

    async def list_page(prefix: str, *, token: str | None, after: str, flat: bool) -> ListPage:
        if store.requests == 20:
            raise Denied("403")
        return await store.list_page(prefix, token=token, after=after, flat=flat)

    with pytest.raises(StoreError, match="403"):
        trio.run(Survey("", list_page, lambda infos: None).run, clock=trio.testing.MockClock(autojump_threshold=0))
