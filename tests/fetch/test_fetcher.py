"""The fetcher and the reader over the in-memory store: what is asked, in which order, for whom."""

from __future__ import annotations

import fcntl
import gc
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.policy import Reserve
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import Denied, NotFound, ObjectChanged
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.fetch.flight import Flight
from s3stream_fs.fetch.scheduler import FetchConfig
from s3stream_fs.reading.reader import Reader
from s3stream_fs.reading.stream import ReadAheadConfig
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

MIB = 1024 * 1024
DATA = random.Random(5).randbytes(40 * MIB + 11)

RECORD_NBYTES = 1500
"""More than a part costs beside its body."""


@dataclass
class Rig:
    store: MemoryStore
    memory: MemoryTier
    disk: DiskTier
    fetcher: Fetcher
    reader: Reader
    outdated: list[ObjectId]
    """What was said to be no more."""

    def gets(self) -> list[tuple[int, int]]:
        return [(int(request[2]), int(request[3])) for request in self.store.requests if request[0] == "GET"]


def run(
    folder: Path,
    case: Callable[[Rig], Awaitable[None]],
    *,
    memory: int = 256 * MIB,
    disk: int = 0,
    slots: int = 128,
    queue: int = 64 * MIB,
) -> None:
    async def main() -> None:
        store = MemoryStore()
        tier = MemoryTier(memory)
        config = DiskTierConfig(folder, disk, Reserve(0.0), queue)
        async with open_disk_tier(config, "x") as disk_tier, trio.open_nursery() as nursery:
            outdated: list[ObjectId] = []
            fetcher = Fetcher(store, tier, disk_tier, FetchConfig(), Congestion(slots), nursery, outdated.append)
            with trio.fail_after(60):
                await case(Rig(store, tier, disk_tier, fetcher, Reader(fetcher, ReadAheadConfig(), memory), outdated))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=None if disk else MockClock(autojump_threshold=0))


def test_small_object_is_one_get_however_it_is_read(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:300_000])
        for offset in (200_000, 0, 299_999):
            assert await rig.reader.read(object_id, offset, 1000) == DATA[offset : min(offset + 1000, 300_000)]
        assert len(await rig.reader.read(object_id, 300_000, 10)) == 0
        assert rig.gets() == [(0, 300_000)]

    run(tmp_path, case)


def test_readers_of_the_same_bytes_share_one_get(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:300_000])
        rig.store.gate = trio.Event()
        found: list[bytes] = []

        async def read() -> None:
            found.append(bytes(await rig.reader.read(object_id, 5, 100_000)))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            rig.store.gate.set()
        assert found == [DATA[5:100_005]] * 10
        assert len(rig.gets()) == 1

    run(tmp_path, case)


def test_sequential_reading_fetches_every_byte_once_and_ahead(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        for offset in range(0, len(DATA), 128 * 1024):
            assert await rig.reader.read(object_id, offset, 128 * 1024) == DATA[offset : offset + 128 * 1024]
            await wait_all_tasks_blocked()  # a reader that is slower than the store
        assert sum(stop - start for start, stop in rig.gets()) == len(DATA)
        assert rig.reader.statistics().reads_that_waited == 1
        assert rig.fetcher.statistics().ahead_gets > rig.fetcher.statistics().demand_gets

    run(tmp_path, case)


def test_random_reads_fetch_the_blocks_they_touch(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        for offset in (30 * MIB + 5, 11 * MIB, 27 * MIB, 21 * MIB - 2):
            assert await rig.reader.read(object_id, offset, 4096) == DATA[offset : offset + 4096]
        assert rig.gets() == [
            (30 * MIB, 30 * MIB + 64 * 1024),  # the first ones are rounded up
            (11 * MIB, 11 * MIB + 64 * 1024),
            (27 * MIB, 27 * MIB + BLOCK_BYTES),
            (21 * MIB - BLOCK_BYTES, 21 * MIB + BLOCK_BYTES),
        ]

    run(tmp_path, case)


def test_memory_limit_holds_whatever_is_read(tmp_path: Path) -> None:
    limit = 16 * MIB

    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)

        async def read(seed: int) -> None:
            rng = random.Random(seed)
            offset = 0
            for _ in range(60):
                offset = rng.choice([offset, rng.randrange(len(DATA))])
                got = await rig.reader.read(object_id, offset, 300_000)
                assert got == DATA[offset : offset + 300_000]
                offset = (offset + 300_000) % len(DATA)
                statistics = rig.memory.statistics()
                assert statistics.nbytes_held + statistics.nbytes_reserved <= limit

        async with trio.open_nursery() as nursery:
            for seed in range(8):
                nursery.start_soon(read, seed)

    run(tmp_path, case, memory=limit)


def test_demand_goes_before_read_ahead_and_has_slots_of_its_own(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        small = rig.store.put("small", b"s" * 1000)
        rig.store.gate = trio.Event()
        rig.fetcher.want_nowait(object_id, (ByteRange(0, 32 * MIB),), MIB)
        await wait_all_tasks_blocked()
        assert len(rig.gets()) == 3  # three quarters of four slots
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reader.read, small, 0, 1000)
            await wait_all_tasks_blocked()
            assert rig.store.requests[-1][1] == "small"
            nursery.start_soon(rig.reader.read, object_id, 20 * MIB, 1000)  # is queued as read-ahead: promoted
            await wait_all_tasks_blocked()
            rig.store.gate.set()
        # Among the next four that start, though 17 were queued before it.
        assert 20 * MIB in [start for start, _ in rig.gets()[4:8]]

    run(tmp_path, case, slots=4)


def test_read_ahead_that_a_reader_came_to_wait_for_is_not_dropped(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        block = BLOCK_BYTES
        object_id = rig.store.put("key", DATA)
        others = [rig.store.put(f"other{number}", DATA) for number in range(3)]
        found: list[bytes] = []

        async def get(of: ObjectId, start: int, stop: int) -> None:
            wanted = ByteRange(start * block, stop * block)
            found.append(bytes(await rig.fetcher.get(of, wanted, wanted, (), MIB)))

        await get(object_id, 5, 6)
        rig.store.seconds = iter((1.0, 3.0, 10.0, 10.0, 1.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, object_id, 4, 6)  # needs block 4 alone, as 5 is in memory ...
            await wait_all_tasks_blocked()
            nursery.start_soon(get, others[0], 0, 1)
            await wait_all_tasks_blocked()
            nursery.start_soon(get, others[1], 0, 2)  # ... and is evicted here.
            await wait_all_tasks_blocked()
            rig.fetcher.want_nowait(object_id, (ByteRange(5 * block, 6 * block),), MIB)  # no slot is free
            # Takes, after 3 s, what memory is left, when the reader of block 4 has come to wait for block 5.
            nursery.start_soon(get, others[2], 0, 2)
        assert DATA[4 * block : 6 * block] in found
        assert len(found) == 5

    run(tmp_path, case, memory=4 * BLOCK_BYTES + 4 * RECORD_NBYTES, slots=3)


def test_what_the_disk_had_no_time_for_is_saved_later(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        ids = [rig.store.put(key, DATA[:700_000]) for key in ("a", "b")]
        await rig.disk.flush()
        with (tmp_path / "blocks" / "writing.lock").open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as another process that writes does
            for object_id in ids:
                await rig.reader.read(object_id, 0, object_id.size)
            await wait_all_tasks_blocked()  # a reader may have its bytes before their GET has ended
            assert rig.memory.statistics().parts_unsaved == 1  # the queue has room for one of them
        while rig.memory.statistics().parts_unsaved:
            await trio.lowlevel.checkpoint()
        await rig.disk.flush()
        assert [await rig.disk.cached_nbytes(object_id) for object_id in ids] == [700_000, 700_000]
        assert rig.memory.statistics().parts_evicted_unsaved == 0

    run(tmp_path, case, disk=64 * MIB, queue=MIB)


def test_without_a_disk_nothing_waits_for_it(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        assert await rig.reader.read(object_id, 0, 700_000) == DATA[:700_000]
        assert rig.memory.statistics().parts_unsaved == 0

    run(tmp_path, case, queue=1)


def test_what_is_larger_than_the_disks_queue_is_saved_too(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:MIB])
        assert len(await rig.reader.read(object_id, 0, MIB)) == MIB
        await wait_all_tasks_blocked()
        await rig.disk.flush()
        assert await rig.disk.cached_nbytes(object_id) == MIB

    run(tmp_path, case, disk=64 * MIB, queue=1)


def test_dropped_read_ahead_is_read_all_the_same(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        rig.store.gate = trio.Event()
        rig.fetcher.want_nowait(object_id, (ByteRange(0, 32 * MIB),), MIB)
        await wait_all_tasks_blocked()
        rig.reader.close_nowait(object_id)
        assert rig.fetcher.statistics().queued == 0
        assert rig.fetcher.statistics().ahead_dropped == 29
        rig.store.gate.set()
        assert await rig.reader.read(object_id, 20 * MIB, 1000) == DATA[20 * MIB : 20 * MIB + 1000]

    run(tmp_path, case, slots=4)


def test_closing_gives_up_read_ahead_that_has_started(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        rig.store.gate = trio.Event()
        rig.fetcher.want_nowait(object_id, (ByteRange(0, 32 * MIB),), 8 * MIB)
        await wait_all_tasks_blocked()
        assert rig.fetcher.statistics().in_flight == 3
        rig.reader.close_nowait(object_id)
        await wait_all_tasks_blocked()
        assert rig.fetcher.statistics().in_flight == 0
        assert rig.memory.statistics().nbytes_reserved == 0

    run(tmp_path, case, slots=4)


def slow_after(nquick: int, *seconds: float) -> Iterator[float]:
    """Requests that take 10 ms each, and after so many of them these, and 10 ms again."""
    return chain(repeat(0.01, nquick), seconds, repeat(0.01))


def test_a_late_get_is_sent_again_and_the_first_answer_wins(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        ids = [rig.store.put(f"key{number}", DATA[number : number + 1000]) for number in range(100)]
        rig.store.seconds = slow_after(99, 5.0, 0.01)
        took = []
        for object_id in ids:
            started = trio.current_time()
            assert await rig.reader.read(object_id, 0, 1000) == DATA[int(object_id.key[3:]) :][:1000]
            took.append(trio.current_time() - started)
        assert max(took) < 0.05
        await wait_all_tasks_blocked()
        statistics = rig.fetcher.statistics()
        assert (statistics.hedged, statistics.hedges_won) == (1, 1)
        assert (statistics.in_flight, statistics.failed) == (0, 0)
        assert len(rig.gets()) == 101
        assert rig.memory.statistics().parts_held == 100

    run(tmp_path, case)


def test_a_get_that_answers_before_its_hedge_is_not_disturbed_by_it(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        # The first answer comes while the second is under way, or in the same moment.
        for start, late, hedge in ((0, 0.04, 1.0), (100, 0.03, 0.01), (200, 0.02, 0.01)):
            rig.store.seconds = slow_after(99, late, hedge)
            for number in range(start, start + 100):
                object_id = rig.store.put(f"key{number}", DATA[number : number + 1000])
                assert await rig.reader.read(object_id, 0, 1000) == DATA[number : number + 1000]
            await wait_all_tasks_blocked()
            statistics = rig.fetcher.statistics()
            assert (statistics.in_flight, statistics.failed) == (0, 0)
            assert rig.memory.statistics().nbytes_reserved == 0

    run(tmp_path, case)


def test_no_more_hedges_than_the_budget_allows(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        # All requests become slow: asking again for each of them would be twice the load.
        rig.store.seconds = chain(repeat(0.01, 200), repeat(0.2))
        for number in range(400):
            object_id = rig.store.put(f"key{number}", DATA[number : number + 1000])
            await rig.reader.read(object_id, 0, 1000)
        assert rig.fetcher.statistics().hedged > 0
        assert len(rig.gets()) <= 420

    run(tmp_path, case)


def test_read_ahead_that_nobody_waits_for_is_not_hedged(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        rig.store.seconds = slow_after(0)
        for offset in range(0, 32 * MIB, MIB):
            rig.fetcher.want_nowait(object_id, (ByteRange(offset, offset + MIB),), MIB)
            await trio.sleep(0.02)
        rig.store.seconds = repeat(5.0)
        rig.fetcher.want_nowait(object_id, (ByteRange(32 * MIB, 33 * MIB),), MIB)
        await trio.sleep(10)
        assert rig.fetcher.statistics().hedged == 0
        assert len(rig.gets()) == 33

    run(tmp_path, case)


def test_bytes_that_were_evicted_do_not_wait_for_the_collector(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.seconds = slow_after(60, 1.0, 0.01)  # one of them is hedged
        gc.collect()
        gc.disable()
        try:
            for number in range(100):
                object_id = rig.store.put(f"key{number}", DATA[number : number + 1000])
                await rig.reader.read(object_id, 0, 1000)
            await wait_all_tasks_blocked()
            held = rig.memory.statistics().parts_held
            alive = sum(isinstance(one, Flight) for one in gc.get_objects())
        finally:
            gc.enable()
        assert held == 100
        assert alive == 0

    run(tmp_path, case)


def test_a_strided_reader_waits_only_until_its_pattern_is_known(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        for offset in range(0, 40 * MIB, 2 * MIB):
            assert await rig.reader.read(object_id, offset, 4096) == DATA[offset : offset + 4096]
            await wait_all_tasks_blocked()
        assert rig.reader.statistics().reads_that_waited == 3
        assert sum(stop - start for start, stop in rig.gets()) <= 21 * BLOCK_BYTES + 128 * 1024

    run(tmp_path, case)


def test_streams_share_the_memory_for_read_ahead(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        ids = [rig.store.put(f"key{number}", DATA) for number in range(8)]
        rig.store.seconds = repeat(0.01)
        for offset in range(0, 24 * MIB, MIB):
            for object_id in ids:
                assert await rig.reader.read(object_id, offset, MIB) == DATA[offset : offset + MIB]
            await wait_all_tasks_blocked()
        assert rig.memory.statistics().parts_evicted_unread == 0
        assert sum(stop - start for start, stop in rig.gets()) <= 8 * (24 + 8 + 2) * MIB

    run(tmp_path, case, memory=128 * MIB)


def test_errors_reach_all_who_wait_and_the_next_read_asks_again(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:1000])
        rig.store.fail_next("GET", Denied("403"))
        rig.store.gate = trio.Event()
        failed = 0

        async def read() -> None:
            nonlocal failed
            try:
                await rig.reader.read(object_id, 0, 1000)
            except Denied:
                failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            rig.store.gate.set()
        assert failed == 5
        assert await rig.reader.read(object_id, 0, 1000) == DATA[:1000]
        await wait_all_tasks_blocked()
        statistics = rig.memory.statistics()
        assert (statistics.nbytes_reserved, statistics.parts_held) == (0, 1)

    run(tmp_path, case)


def test_replaced_object(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        old = rig.store.put("key", DATA)
        assert await rig.reader.read(old, 0, 100) == DATA[:100]
        rig.store.put("key", DATA[::-1])
        assert await rig.reader.read(old, 0, 100) == DATA[:100]
        with pytest.raises(ObjectChanged):
            await rig.reader.read(old, 20 * MIB, 100)

    run(tmp_path, case)


def test_a_reader_that_leaves_takes_its_get_along_unless_others_wait(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:1000])
        rig.store.gate = trio.Event()
        with trio.move_on_after(1):
            await rig.reader.read(object_id, 0, 1000)
        await wait_all_tasks_blocked()
        assert rig.fetcher.statistics().in_flight == 0
        assert rig.memory.statistics().nbytes_reserved == 0

        scope = trio.CancelScope()
        found: list[bytes] = []

        async def impatient() -> None:
            with scope:
                await rig.reader.read(object_id, 0, 1000)

        async def patient() -> None:
            found.append(bytes(await rig.reader.read(object_id, 0, 1000)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await wait_all_tasks_blocked()
            nursery.start_soon(patient)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            rig.store.gate.set()
        assert found == [DATA[:1000]]
        assert len(rig.gets()) == 2

    run(tmp_path, case)


def test_half_cached_range_fetches_only_the_other_half(tmp_path: Path) -> None:
    async def fill(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        await rig.reader.read(object_id, 10 * MIB, 4 * BLOCK_BYTES)
        await wait_all_tasks_blocked()
        await rig.disk.flush()

    async def again(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        start, stop = 10 * MIB - 1000, 10 * MIB + 4 * BLOCK_BYTES + 1000
        assert await rig.reader.read(object_id, start, stop - start) == DATA[start:stop]
        assert sorted(rig.gets()) == [
            (10 * MIB - BLOCK_BYTES, 10 * MIB),
            (10 * MIB + 4 * BLOCK_BYTES, 10 * MIB + 5 * BLOCK_BYTES),
        ]

    run(tmp_path, fill, disk=1 << 30)
    run(tmp_path, again, disk=1 << 30)


def test_everything_comes_from_the_disk_after_a_restart(tmp_path: Path) -> None:
    async def read_all(rig: Rig) -> None:
        for size in (1000, 300_000, 4 * MIB, len(DATA)):
            object_id = rig.store.put(str(size), DATA[:size])
            for offset in range(0, size, MIB):
                assert await rig.reader.read(object_id, offset, MIB) == DATA[offset : min(offset + MIB, size)]
        await wait_all_tasks_blocked()
        await rig.disk.flush()

    async def again(rig: Rig) -> None:
        await read_all(rig)
        assert rig.gets() == []

    run(tmp_path, read_all, disk=1 << 30)
    run(tmp_path, again, disk=1 << 30)


def test_object_id_is_all_that_names_bytes(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        one = rig.store.put("key", b"one")
        assert bytes(await rig.reader.read(one, 0, 3)) == b"one"
        two = rig.store.put("key", b"two")
        assert bytes(await rig.reader.read(two, 0, 3)) == b"two"
        assert bytes(await rig.reader.read(ObjectId("key", one.etag, 3), 0, 3)) == b"one"

    run(tmp_path, case)


@pytest.mark.parametrize("deleted", [False, True])
def test_read_ahead_and_warming_find_out_too_that_an_object_is_no_more(tmp_path: Path, deleted: bool) -> None:
    async def case(rig: Rig) -> None:
        old = rig.store.put("key", DATA)
        assert await rig.reader.read(old, 0, 4096) == DATA[:4096]
        assert rig.outdated == []
        rig.store.delete("key")
        if not deleted:
            rig.store.put("key", DATA[::-1])
        ngets = len(rig.gets())
        parts = tuple(ByteRange(start * MIB, (start + 1) * MIB) for start in range(10, 30))
        rig.fetcher.want_nowait(old, parts, MIB)
        await wait_all_tasks_blocked()
        assert set(rig.outdated) == {old}
        assert len(rig.gets()) - ngets < len(parts)  # what is still queued is not asked for in vain
        rig.outdated.clear()
        with pytest.raises(NotFound if deleted else ObjectChanged):
            await rig.fetcher.bring(old, ByteRange(32 * MIB, 33 * MIB), MIB)
        assert rig.outdated == [old]
        assert await rig.reader.read(old, 0, 4096) == DATA[:4096]

    run(tmp_path, case, slots=4)
