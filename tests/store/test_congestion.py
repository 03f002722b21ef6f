from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.fetch.scheduler import FetchConfig
from s3stream_fs.store.congestion import Congestion, CongestionStatistics
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import BLOCK_BYTES, ByteRange


def full(ceiling: int) -> Congestion:
    """With every slot taken."""
    congestion = Congestion(ceiling)
    congestion.in_flight = ceiling
    return congestion


def saturated(congestion: Congestion, now: float, until: int) -> float:
    """Keep every slot taken and let all end well. Returns after how many seconds the limit is what it shall be."""
    started = now
    while congestion.limit < until:
        now += 0.01
        congestion.in_flight = congestion.limit
        congestion.on_landed(now, 0.03)
    return now - started


def test_every_slot_may_be_used_until_the_store_says_otherwise() -> None:
    congestion = full(128)
    congestion.on_landed(1.0, 0.03)
    assert congestion.statistics() == CongestionStatistics(ceiling=128, limit=128, in_flight=128, cuts=0)


def test_slow_down_takes_a_tenth() -> None:
    congestion = full(100)
    congestion.on_throttled(1.0)
    assert congestion.limit == 90
    congestion.on_throttled(2.0)
    assert congestion.limit == 81
    assert congestion.statistics().cuts == 2


def test_a_burst_of_slow_downs_is_one_cut() -> None:
    congestion = full(100)
    for now in (1.0, 1.0, 1.03, 1.09):
        congestion.on_throttled(now)
    assert congestion.limit == 90
    assert congestion.statistics().cuts == 1


def test_one_slow_down_costs_a_tenth_however_little_is_in_flight() -> None:
    congestion = Congestion(256)
    congestion.in_flight = 2
    congestion.on_throttled(0.0)
    assert congestion.limit == 230
    assert saturated(congestion, 0.0, until=256) < 4


def test_in_a_spell_of_them_what_was_under_way_is_cut_and_not_a_limit_that_nobody_had_reached() -> None:
    congestion = Congestion(128)
    congestion.in_flight = 20
    congestion.on_throttled(1.0)
    assert congestion.limit == 115
    congestion.on_throttled(1.5)
    assert congestion.limit == 18


@pytest.mark.parametrize("in_flight", [2, 30])
def test_the_limit_never_falls_below_what_went_well_lately(in_flight: int) -> None:
    congestion = Congestion(256)
    congestion.in_flight = 100
    for landing in range(5_000):  # a hundred in flight that take 30 ms each
        congestion.on_landed(landing * 0.0003, 0.03)
    congestion.in_flight = in_flight
    for tenth in range(5):
        congestion.on_throttled(1.5 + tenth / 10)
    assert 95 <= congestion.limit <= 105
    for tenth in range(50):  # and nothing goes well any more
        congestion.on_throttled(3.5 + tenth / 10)
    assert congestion.limit == 8


@pytest.mark.parametrize("in_flight", [0, 1, 128])
@pytest.mark.parametrize(("ceiling", "least"), [(128, 8), (8, 8), (3, 3), (1, 1)])
def test_a_few_gets_may_always_be_under_way(in_flight: int, ceiling: int, least: int) -> None:
    congestion = Congestion(ceiling)
    congestion.in_flight = in_flight
    for tenth in range(1, 200):
        congestion.on_throttled(tenth / 10)
        congestion.in_flight = min(in_flight, congestion.limit)
    assert congestion.limit == least


def test_the_limit_rises_by_one_at_a_time_and_by_tenths_when_no_slow_down_has_come_for_a_while() -> None:
    congestion = full(100)
    congestion.on_throttled(1.0)
    limits = []
    for now in (1.5, 2.0, 2.5, 4.0, 4.05, 5.0):
        congestion.in_flight = congestion.limit
        congestion.on_landed(now, 0.03)
        limits.append(congestion.limit)
    assert limits == [91, 92, 93, 100, 100, 100]


def test_a_limit_that_fell_to_its_least_is_back_within_seconds() -> None:
    congestion = full(256)
    now = 0.0
    while congestion.limit > 8:
        congestion.on_throttled(now)
        congestion.in_flight, now = congestion.limit, now + 0.1
    assert saturated(congestion, now, until=256) < 7.5


def test_the_limit_does_not_rise_right_after_a_cut() -> None:
    congestion = full(100)
    congestion.on_throttled(1.0)
    congestion.on_landed(1.09, 0.03)
    assert congestion.limit == 90


def test_the_limit_does_not_rise_while_it_is_not_reached() -> None:
    congestion = full(100)
    congestion.on_throttled(1.0)
    congestion.in_flight = 89
    congestion.on_landed(2.0, 0.03)
    assert congestion.limit == 90


def test_whatever_comes_the_limit_stays_between_its_least_and_the_ceiling() -> None:
    rng = random.Random(1)
    congestion = Congestion(16)
    seen = set()
    now = 0.0
    for _ in range(5_000):
        now += rng.expovariate(10.0)
        congestion.in_flight = rng.randint(0, 16)
        if rng.random() < 0.1:
            congestion.on_throttled(now)
        else:
            congestion.on_landed(now, rng.expovariate(10.0))
        seen.add(congestion.limit)
    assert min(seen) == 8
    assert max(seen) == 16


def test_a_fetcher_that_is_always_busy_gets_its_slots_back(tmp_path: Path) -> None:
    congestion = Congestion(16)

    async def main() -> None:
        store = MemoryStore()
        object_id = store.put("key", bytes(16 * BLOCK_BYTES))
        async with open_disk_tier(DiskTierConfig(tmp_path, 0), "x") as disk, trio.open_nursery() as nursery:
            fetcher = Fetcher(store, MemoryTier(64 * BLOCK_BYTES), disk, FetchConfig(), congestion, nursery)
            whole = ByteRange(0, object_id.size)
            store.gate = trio.Event()
            nursery.start_soon(fetcher.get, object_id, whole, whole, (), BLOCK_BYTES)
            await wait_all_tasks_blocked()
            assert congestion.in_flight == 16
            congestion.on_throttled(trio.current_time())
            assert congestion.limit == 14
            store.gate.set()
            for version in range(20):  # of the object: each is fetched anew
                await trio.sleep(0.2)
                changed = store.put("key", version.to_bytes(4, "big") + bytes(16 * BLOCK_BYTES - 4))
                await fetcher.get(changed, whole, whole, (), BLOCK_BYTES)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert congestion.in_flight == 0
    assert congestion.limit == 16
