"""GETs that fail, are cut or are slow: who waits how long, what they hold meanwhile, and what is kept of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import Denied, StoreError, StoreUnavailable, Throttled, TooSlow
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.fetch.scheduler import FetchConfig
from s3stream_fs.reading.reader import Reader
from s3stream_fs.reading.stream import ReadAheadConfig
from s3stream_fs.store import Deliver
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.store.retry import Retries, RetryPolicy
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

MIB = 1024 * 1024
DATA = random.Random(6).randbytes(40 * MIB + 11)


class Link(MemoryStore):
    """A store 10 ms away, behind a link of ``rate`` bytes a second that its GETs share; ``carried`` counts them.

    While ``broken`` answers an error for a key and a start, GETs of it fail with that.
    """

    def __init__(self, rate: float = 1e9) -> None:
        super().__init__()
        self._rate = rate
        self.active = 0
        self.carried = 0
        self.broken: Callable[[str, int], StoreError | None] = lambda _key, _start: None

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        found: list[memoryview] = []
        failure: StoreError | None = None
        try:
            await super().get_range(object_id, byte_range, found.append)
        except StoreError as error:
            failure = error
        body = memoryview(b"".join(found))
        self.active += 1
        try:
            await trio.sleep(0.01)
            broken = self.broken(object_id.key, byte_range.start)
            if broken is not None:
                raise broken
            for start in range(0, len(body), 65_536):
                piece = body[start : start + 65_536]
                await trio.sleep(len(piece) * self.active / self._rate)
                self.carried += len(piece)
                deliver(piece)
        finally:
            self.active -= 1
        if failure is not None:
            raise failure


@dataclass
class Rig:
    store: Link
    memory: MemoryTier
    congestion: Congestion
    retries: Retries
    fetcher: Fetcher
    reader: Reader

    def gets(self) -> list[tuple[int, int]]:
        return [(int(request[2]), int(request[3])) for request in self.store.requests if request[0] == "GET"]

    async def read(self, object_id: ObjectId, offset: int, size: int, seconds: float = 120.0) -> memoryview:
        """As the file system does it, with a deadline of its own."""
        view = self.reader.read_nowait(object_id, offset, size)
        if view is None:
            view = await self.reader.fetch(object_id, offset, size, trio.current_time() + seconds)
        return view


def run(
    folder: Path,
    case: Callable[[Rig], Awaitable[None]],
    *,
    rate: float = 1e9,
    memory: int = 256 * MIB,
    slots: int = 256,
    deadline_seconds: float = 120.0,
) -> None:
    async def main() -> None:
        store, tier, congestion = Link(rate), MemoryTier(memory), Congestion(slots)
        retries = Retries(RetryPolicy(deadline_seconds), random.Random(3))
        async with open_disk_tier(DiskTierConfig(folder, 0), "x") as disk, trio.open_nursery() as nursery:
            fetcher = Fetcher(store, tier, disk, FetchConfig(), congestion, nursery, retries=retries)
            await case(Rig(store, tier, congestion, retries, fetcher, Reader(fetcher, ReadAheadConfig(), memory)))
            nursery.cancel_scope.cancel()
        assert congestion.in_flight == 0
        assert tier.statistics().nbytes_reserved == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_whoever_comes_late_to_a_get_that_fails_has_its_full_time(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[: 2 * MIB])
        back_at = trio.current_time() + 125
        rig.store.broken = lambda _key, _start: StoreUnavailable("500") if trio.current_time() < back_at else None
        ended: dict[str, float] = {}

        async def early() -> None:
            with pytest.raises(TooSlow):
                await rig.read(object_id, 0, 1000)
            ended["early"] = trio.current_time()

        async def late() -> None:
            await trio.sleep(112)
            assert await rig.read(object_id, MIB, 1000) == DATA[MIB : MIB + 1000]
            ended["late"] = trio.current_time()

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(early)
            nursery.start_soon(late)
        assert ended["early"] - started == pytest.approx(120)
        assert 125 <= ended["late"] - started < 131

    run(tmp_path, case)


def test_a_reader_waits_until_its_deadline_and_hears_why(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:1000])
        rig.store.broken = lambda _key, _start: StoreUnavailable("500 InternalError", request_id="R1")
        started = trio.current_time()
        with pytest.raises(TooSlow) as caught:
            await rig.read(object_id, 0, 1000, seconds=8)
        assert trio.current_time() - started == pytest.approx(8)
        said = str(caught.value)
        assert "GET of 'key' bytes 0-999" in said
        assert "500 InternalError [request id R1]" in said
        assert "tries in 8 s" in said
        assert rig.retries.statistics().given_up == 1
        statistics = rig.fetcher.statistics()
        assert (statistics.paused, statistics.queued) == (0, 0)

    run(tmp_path, case)


def test_a_reader_that_waited_for_a_slow_answer_hears_how_far_it_came(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:MIB])
        with pytest.raises(TooSlow, match="was sent 8 s ago, and 786,432 bytes have come"):
            await rig.read(object_id, MIB - 1000, 1000, seconds=8)
        rig.store.gate = trio.Event()
        other = rig.store.put("other", DATA[:1000])
        with pytest.raises(TooSlow, match="'other' bytes 0-999 was sent 2 s ago, and 0 bytes have come"):
            await rig.read(other, 0, 1000, seconds=2)

    run(tmp_path, case, rate=100_000)


def test_keys_that_fail_hold_up_nobody(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.broken = lambda key, _start: StoreUnavailable("500") if key.startswith("bad") else None

        async def read_bad(number: int) -> None:
            object_id = rig.store.put(f"bad{number}", b"%d" % number)
            while True:
                with pytest.raises(TooSlow):
                    await rig.read(object_id, 0, 10)

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(read_bad, number)
            await trio.sleep(20)
            for number in range(20):
                object_id = rig.store.put(f"good{number}", b"good")
                started = trio.current_time()
                assert bytes(await rig.read(object_id, 0, 4)) == b"good"
                assert trio.current_time() - started < 0.1
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

    run(tmp_path, case, slots=32)


def test_a_pause_takes_neither_a_slot_nor_memory(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[: 4 * MIB])
        rig.store.broken = lambda _key, _start: StoreUnavailable("500")
        paused = 0
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.read, object_id, 0, 1000)
                while True:
                    await trio.sleep(0.1)
                    statistics = rig.fetcher.statistics()
                    assert statistics.in_flight + statistics.queued + statistics.paused == 1
                    if statistics.paused:
                        paused += 1
                        assert (statistics.in_flight, rig.memory.statistics().nbytes_reserved) == (0, 0)
        assert paused > 500
        assert 10 < len(rig.gets()) < 60
        assert rig.retries.statistics().retries == len(rig.gets()) - 1

    run(tmp_path, case)


def test_throttled_gets_lower_the_limit_and_reach_no_reader(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        ids = [rig.store.put(f"key{number}", DATA[number : number + 1000]) for number in range(20)]
        rig.store.broken = lambda _key, _start: Throttled("503") if len(rig.gets()) < 60 else None

        async def read(number: int) -> None:
            assert await rig.read(ids[number], 0, 1000) == DATA[number : number + 1000]

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(read, number)
        assert rig.congestion.statistics().cuts > 0
        assert rig.retries.statistics().throttled >= 39

    run(tmp_path, case)


def test_read_ahead_that_fails_is_given_up_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        rig.store.broken = lambda _key, _start: StoreUnavailable("500")
        rig.fetcher.want_nowait(object_id, (ByteRange(0, 8 * MIB), ByteRange(8 * MIB, 16 * MIB)), 8 * MIB)
        await trio.sleep(60)
        assert len(rig.gets()) == 12
        statistics = rig.fetcher.statistics()
        assert (statistics.in_flight, statistics.queued, statistics.paused, statistics.failed) == (0, 0, 0, 2)
        rig.store.broken = lambda _key, _start: None
        assert await rig.read(object_id, 9 * MIB, 1000) == DATA[9 * MIB : 9 * MIB + 1000]

    with caplog.at_level(logging.INFO):
        run(tmp_path, case)
    assert caplog.records == []


def test_a_demand_does_not_sit_out_the_pause_of_read_ahead(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA)
        rig.store.broken = lambda _key, _start: StoreUnavailable("500")
        rig.fetcher.want_nowait(object_id, (ByteRange(0, 8 * MIB),), 8 * MIB)
        for _ in range(1000):
            await trio.sleep(0.01)
            if len(rig.gets()) == 5 and rig.fetcher.statistics().paused:
                break
        rig.store.broken = lambda _key, _start: None
        started = trio.current_time()
        assert await rig.read(object_id, 5, 1000) == DATA[5:1005]
        assert trio.current_time() - started < 0.03
        assert len(rig.gets()) == 6

    run(tmp_path, case)


def test_warming_gives_up_after_the_policys_deadline_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:1000])
        rig.store.broken = lambda _key, _start: StoreUnavailable("500")
        started = trio.current_time()
        with pytest.raises(StoreUnavailable, match="tries in"):
            await rig.fetcher.bring(object_id, object_id.whole, MIB)
        assert 20 <= trio.current_time() - started < 26

    with caplog.at_level(logging.INFO):
        run(tmp_path, case, deadline_seconds=20)
    (record,) = caplog.records
    assert "GET of 'key' bytes 0-999 failed" in record.getMessage()


def test_what_asking_again_cannot_mend_ends_it_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[:1000])
        rig.store.broken = lambda _key, _start: Denied("403")
        failed = 0

        async def read() -> None:
            nonlocal failed
            with pytest.raises(Denied):
                await rig.read(object_id, 0, 1000)
            failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
        assert (failed, len(rig.gets())) == (5, 1)

    with caplog.at_level(logging.WARNING):
        run(tmp_path, case)
    assert [record.getMessage() for record in caplog.records] == ["GET of 'key' bytes 0-999 was refused: 403"]


def test_a_body_that_is_cut_goes_on_at_once_where_it_ended(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[: 3 * MIB])
        rig.store.fail_next("GET", StoreUnavailable("cut"), times=2, after_nbytes=1_200_000)
        started = trio.current_time()
        assert await rig.read(object_id, 3 * MIB - 10, 10) == DATA[3 * MIB - 10 : 3 * MIB]
        assert trio.current_time() - started < 0.1
        assert rig.gets() == [(start, 3 * MIB) for start in (0, 1_200_000, 2_400_000)]

    run(tmp_path, case)


def test_a_body_that_is_cut_again_and_again_pauses_and_goes_on_behind_its_whole_blocks(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[: 4 * MIB])
        rig.store.fail_next("GET", StoreUnavailable("cut"), times=4, after_nbytes=300_000)
        assert await rig.read(object_id, 0, 4 * MIB) == DATA[: 4 * MIB]
        # Three times at once. Then it pauses, for which 1,200,000 bytes are 73 whole blocks.
        assert [start for start, _ in rig.gets()] == [0, 300_000, 600_000, 900_000, 73 * BLOCK_BYTES]
        assert rig.memory.statistics().parts_held == 2

    run(tmp_path, case)


def test_a_reader_wakes_when_its_bytes_are_there_and_not_when_all_are(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[: 4 * MIB])
        started = trio.current_time()
        assert await rig.read(object_id, 0, 100_000) == DATA[:100_000]
        assert trio.current_time() - started < 0.2
        assert await rig.read(object_id, 4 * MIB - 100, 100) == DATA[4 * MIB - 100 : 4 * MIB]
        assert trio.current_time() - started > 4
        assert len(rig.gets()) == 1

    run(tmp_path, case, rate=1e6)


def test_what_has_come_of_a_get_that_nobody_waits_for_any_more_is_kept(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("key", DATA[: 4 * MIB])
        with pytest.raises(TooSlow):
            await rig.read(object_id, 4 * MIB - 100, 100, seconds=3)
        await wait_all_tasks_blocked()
        assert await rig.read(object_id, 4 * MIB - 100, 100, seconds=3) == DATA[4 * MIB - 100 : 4 * MIB]
        assert rig.gets() == [(0, 4 * MIB), (180 * BLOCK_BYTES, 4 * MIB)]
        assert await rig.read(object_id, 0, 4 * MIB) == DATA[: 4 * MIB]
        assert rig.fetcher.statistics().abandoned == 1

    run(tmp_path, case, rate=1e6)


def test_a_link_that_is_slow_for_its_readers_brings_each_byte_about_once(tmp_path: Path) -> None:
    """64 readers want the end of 4 MiB each over 20 MB/s: 13 s for all, and each gives up after 8 s."""

    async def case(rig: Rig) -> None:
        given_up = 0

        async def read(number: int) -> None:
            nonlocal given_up
            object_id = rig.store.put(f"key{number}", DATA[number : number + 4 * MIB])
            while True:
                try:
                    found = await rig.read(object_id, 4 * MIB - 100, 100, seconds=8)
                except TooSlow:
                    given_up += 1
                    continue
                assert found == DATA[number + 4 * MIB - 100 : number + 4 * MIB]
                return

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(read, number)
        assert trio.current_time() - started < 16
        assert given_up == 64
        assert rig.store.carried < 1.1 * 64 * 4 * MIB

    run(tmp_path, case, rate=20e6, memory=512 * MIB)
