"""Trio's thread never touches a disk, and a disk that hangs holds threads and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from diskcalls import disk_calls_of_this_thread
from disks import HangingDisk, can_hang, hanging_disk_at
from disktiers import MIB, NO_RESERVE, check, missing, named, put, run, until
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.policy import WHOLE_NBYTES
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.types import ByteRange, ObjectId


def test_trios_thread_asks_no_disk(tmp_path: Path) -> None:
    small = [named(f"small {number}", 5000) for number in range(40)]
    large = named("large", 3 * MIB)
    absent = named("absent", 3 * MIB)

    async def use(tier: DiskTier) -> None:
        with disk_calls_of_this_thread() as calls:
            for object_id in (*small, large):
                assert await check(tier, object_id)
                assert await check(tier, object_id)
            assert await check(tier, large, ByteRange(MIB, 2 * MIB))
            assert tier.whole_file_nowait(large) is not None
            assert await tier.cached_nbytes(large) == large.size
            assert await missing(tier, absent, absent.whole) == (absent.whole,)
            put(tier, absent)
            await until(lambda: tier.statistics().blocks_written > 0)
            assert await check(tier, absent)
            for number in range(8):  # evicts the others, which are open
                put(tier, named(f"new {number}", MIB))
            await until(lambda: tier.statistics().files_evicted > 0)
            assert await missing(tier, small[0], small[0].whole) != ()
        assert calls == {}

    async def fill(tier: DiskTier) -> None:
        for object_id in (*small, large):
            put(tier, object_id)

    run(tmp_path, fill)
    run(tmp_path, use, limit=8 * MIB)


def test_what_is_not_there_costs_no_thread_and_no_index(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        await until(lambda: tier.known_nowait(named("absent"), named("absent").whole))
        with disk_calls_of_this_thread() as calls:
            for number in range(1000):
                object_id = named(f"absent {number}")
                assert tier.known_nowait(object_id, object_id.whole)
                assert not tier.has_nowait(object_id, object_id.whole)
                await tier.learn(object_id, object_id.whole)
        assert calls == {}
        assert not tier.known_nowait(named("there"), named("there").whole)
        assert await check(tier, named("there"))

    async def fill(tier: DiskTier) -> None:
        put(tier, named("there"))

    run(tmp_path, fill, case)


def test_absent_blocks_are_asked_for_again_only_where_others_write(tmp_path: Path) -> None:
    object_id = named("half", 2 * MIB)
    half, rest = ByteRange(0, MIB), ByteRange(MIB, 2 * MIB)

    async def alone() -> None:
        async with open_disk_tier(config, "s3/bucket") as tier:
            assert await missing(tier, object_id, object_id.whole) == (rest,)
            clock.jump(3600)
            assert tier.known_nowait(object_id, object_id.whole)

    async def together() -> None:
        async with open_disk_tier(config, "s3/bucket") as tier, open_disk_tier(config, "s3/bucket") as other:
            while not (tier.shared and other.shared):
                await trio.lowlevel.checkpoint()
            assert await missing(tier, object_id, object_id.whole) == (rest,)
            put(other, object_id, rest)
            await other.flush()
            clock.jump(0.3)
            assert not tier.known_nowait(object_id, object_id.whole)
            assert await missing(tier, object_id, object_id.whole) == ()

    async def fill(tier: DiskTier) -> None:
        put(tier, object_id, half)

    config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
    clock = trio.testing.MockClock()
    run(tmp_path, fill)
    trio.run(alone, clock=clock)
    clock = trio.testing.MockClock()
    trio.run(together, clock=clock)


@pytest.fixture
def hanging_disk(tmp_path: Path) -> Iterator[HangingDisk]:
    if not can_hang():
        pytest.skip("no disk can be made to hang here")
    with hanging_disk_at(tmp_path / "disk") as disk:
        yield disk


def test_a_disk_that_hangs_is_given_up_and_found_again(
    hanging_disk: HangingDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = [named(f"there {number}") for number in range(30)]
    folder = tmp_path / "disk" / "cache"

    async def fill(tier: DiskTier) -> None:
        for object_id in there:
            put(tier, object_id)

    async def pulse(gaps: list[float]) -> None:
        before = trio.current_time()
        while True:
            await trio.sleep(0.01)
            gaps.append(trio.current_time() - before)
            before = trio.current_time()

    async def case(tier: DiskTier) -> None:
        gaps: list[float] = []
        assert await check(tier, there[0])  # so that the index has been looked into
        hanging_disk.hang(os.getpid())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pulse, gaps)
            began = trio.current_time()
            async with trio.open_nursery() as readers:
                for object_id in there[1:20]:
                    readers.start_soon(check, tier, object_id)
            assert trio.current_time() < began + 20
            began = trio.current_time()
            for object_id in there[20:]:
                assert not await check(tier, object_id)  # nobody waits again for a disk that hangs
                assert not tier.has_nowait(object_id, object_id.whole)
            assert trio.current_time() < began + 10
            nursery.cancel_scope.cancel()
        assert max(gaps) < 2.5  # less than one wait for the disk
        hanging_disk.answer()
        while not await check(tier, there[25]):  # noqa: ASYNC110 a disk tells nobody that it is back
            await trio.sleep(0.1)

    run(folder, fill)
    hanging_disk.remount()
    try:
        run(folder, case)
    finally:
        hanging_disk.answer()
    assert [record.levelname for record in caplog.records] == ["WARNING"], caplog.text


def test_the_attribute_of_a_huge_object_holds_nobody_and_costs_no_record(tmp_path: Path) -> None:
    huge = ObjectId("huge", "etag", 5 << 40)
    known = [named(f"known {number}", 1000) for number in range(100)]
    last = ByteRange(huge.size - MIB, huge.size)

    async def case(tier: DiskTier) -> None:
        for object_id in known:
            put(tier, object_id)
        assert tier.put_nowait(huge, ByteRange(WHOLE_NBYTES, WHOLE_NBYTES + MIB), [memoryview(bytes(MIB))])
        assert tier.put_nowait(huge, last, [memoryview(bytes(MIB))])
        await tier.flush()
        turns = 0

        async def pulse() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pulse)
            assert await tier.cached_nbytes(huge) == 2 * MIB
            nursery.cancel_scope.cancel()
        assert turns > 300  # one for each 256 of its 81,920 data files, at least
        assert all(tier.has_nowait(object_id, object_id.whole) for object_id in known)

    run(tmp_path, case)
