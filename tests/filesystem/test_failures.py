"""What came to nothing a moment ago is told again, and for no longer than a moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from filesystems import Rig, run_filesystem
from s3stream_fs.errors import ObjectChanged, StoreUnavailable, WrongRegion
from s3stream_fs.filesystem.failures import _MOST, MOMENT_SECONDS, Failures
from s3stream_fs.namespace.inodes import ROOT

SHORTLY = MOMENT_SECONDS / 10

Ask = Callable[[Rig, int], Awaitable[object]]


def test_the_same_is_told_again_for_a_moment() -> None:
    failures = Failures()
    assert failures.find(7, 0, 10, 0) is None
    failures.note(7, 100, 200, WrongRegion("there", region="eu"), 10, 20)
    again = failures.find(7, 199, 300, 20 + SHORTLY)
    assert isinstance(again, WrongRegion)
    assert again.region == "eu"
    assert failures.find(7, 0, 101, 20) is not None
    assert failures.find(7, 200, 300, 20) is None
    assert failures.find(7, 0, 100, 20) is None
    assert failures.find(8, 100, 200, 20) is None
    assert failures.find(7, 100, 200, 20 + MOMENT_SECONDS) is None


def test_what_failed_at_once_is_asked_again() -> None:
    failures = Failures()
    failures.note(7, 0, 1, ObjectChanged("another"), 20 - SHORTLY, 20)
    assert failures.find(7, 0, 1, 20) is None


def test_failures_are_bounded_in_number() -> None:
    failures = Failures()
    for number in range(_MOST + 10):
        failures.note(number % 100, number, number + 1, StoreUnavailable("x"), 0, 1)
    assert failures.find(0, 0, 1, 1) is None
    assert failures.find(9, 9, 10, 1) is None
    assert failures.find(10, 10, 11, 1) is not None
    assert failures.find(9, _MOST + 9, _MOST + 10, 1) is not None


@pytest.mark.parametrize(
    ("first", "again"),
    [
        # As the kernel asks: for the page that its read-ahead did not get, and for a name that was not told.
        (lambda rig, file: rig.filesystem.read(file, 0, 100), lambda rig, file: rig.filesystem.read(file, 40, 4)),
        (lambda rig, file: rig.filesystem.lookup(ROOT, b"b"), lambda rig, file: rig.filesystem.lookup(ROOT, b"b")),
    ],
    ids=["read", "lookup"],
)
def test_what_is_asked_twice_is_waited_for_once(tmp_path: Path, first: Ask, again: Ask) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("a", bytes(100))
        rig.store.put("b")
        file = (await rig.walk("a")).inode
        await trio.sleep(100)  # its name is not fresh any more
        rig.store.gate = trio.Event()
        began = trio.current_time()
        for ask in (first, again, again):
            with pytest.raises(StoreUnavailable):
                await ask(rig, file)
        statistics = rig.filesystem.statistics()
        assert trio.current_time() - began == pytest.approx(30)
        assert (statistics.deadlines_missed, statistics.repeated) == (1, 2)
        # What has come meanwhile is told, and a moment later the store is asked.
        await trio.sleep(MOMENT_SECONDS)
        rig.store.gate.set()
        assert await again(rig, file)

    run_filesystem(tmp_path, case)


def test_a_loop_of_slow_questions_is_not_cut_short(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("a", bytes(100))
        file = (await rig.walk("a")).inode
        rig.store.seconds = iter([20.0] * 100)
        for number in range(5):
            rig.store.put(f"n{number}")
            assert (await rig.filesystem.lookup(ROOT, b"n%d" % number)).attributes is not None
        assert len(await rig.filesystem.read(file, 0, 100)) == 100
        assert rig.filesystem.statistics().deadlines_missed == 0

    run_filesystem(tmp_path, case, ttl=0)


def test_whoever_joins_a_listing_late_has_its_own_time(tmp_path: Path) -> None:
    """The listing fails at the end of the time of the first who asked, and that of the second is not over."""

    async def case(rig: Rig) -> None:
        rig.store.put("a", b"x")
        rig.store.fail_next("LIST", StoreUnavailable("out of order"))
        rig.store.seconds = iter([29.0, 5.0])
        began = rig.filesystem.open_directory(ROOT)
        await trio.sleep(20)
        joined = rig.filesystem.open_directory(ROOT)
        assert joined is began
        listing = await rig.filesystem.wait_listed(ROOT, joined, 1)
        assert [row.name for row in listing.rows_nowait(0)] == [b"a"]
        assert rig.store.count("LIST") == 2

    run_filesystem(tmp_path, case)


def test_a_listing_that_fails_at_the_end_of_the_time_is_not_begun_again(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.fail_next("LIST", StoreUnavailable("out of order"), times=10)
        rig.store.seconds = iter([29.0] * 10)
        listing = rig.filesystem.open_directory(ROOT)
        assert await rig.filesystem.wait_listed(ROOT, listing, 0) is listing
        with pytest.raises(StoreUnavailable):
            listing.check(0)
        assert rig.store.count("LIST") == 1

    run_filesystem(tmp_path, case)
