"""Traces: a list of reads in, what is fetched ahead out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.reading.planner import Planner, ReadAheadConfig, ReadPlan
from s3stream_fs.types import BLOCK_BYTES, ByteRange

KIB = 1024
MIB = 1024 * KIB
CONFIG = ReadAheadConfig()
BIG = 1024 * MIB
WINDOW = 128 * MIB


def plan_all(reads: list[tuple[int, int]], size: int = BIG, window: int = WINDOW) -> list[ReadPlan]:
    planner = Planner(size, CONFIG)
    return [planner.on_read(offset, nbytes, window) for offset, nbytes in reads]


def sequential(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    return [(offset, min(step, stop - offset)) for offset in range(start, stop, step)]


def test_small_object_is_fetched_whole_by_its_first_read() -> None:
    (plan,) = plan_all([(3 * MIB, 10)], size=4 * MIB)
    assert plan == ReadPlan(ByteRange(0, 4 * MIB), None, CONFIG.part_nbytes)


def test_header_peek_fetches_one_block() -> None:
    (plan,) = plan_all([(0, 16 * KIB)])
    assert (plan.need, plan.ahead) == (ByteRange(0, BLOCK_BYTES), None)


def test_first_mib_is_asked_for_at_once_when_the_kernel_reads_ahead_fully() -> None:
    (plan,) = plan_all([(0, 128 * KIB)])
    assert plan.need == ByteRange(0, BLOCK_BYTES)
    assert plan.ahead is not None
    assert plan.ahead.stop >= MIB


def test_window_triples_per_round_trip_and_reaches_the_maximum() -> None:
    plans = plan_all(sequential(0, 256 * MIB, 128 * KIB))
    position = 0
    reach = 0
    widest = 0
    for plan, (offset, nbytes) in zip(plans, sequential(0, 256 * MIB, 128 * KIB), strict=True):
        position = offset + nbytes
        reach = max(reach, plan.need.stop, plan.ahead.stop if plan.ahead else 0)
        assert reach - position <= max(2 * position, MIB) + BLOCK_BYTES
        widest = max(widest, reach - position)
    assert widest >= WINDOW - CONFIG.part_nbytes


def test_sequential_reads_are_planned_without_gap_or_overlap() -> None:
    covered = 0
    for plan in plan_all(sequential(0, BIG, MIB)):
        if plan.need.start >= covered:
            assert plan.need.start == covered
            covered = plan.need.stop
        if plan.ahead is not None:
            assert plan.ahead.start == covered
            covered = plan.ahead.stop
    assert covered == BIG


def test_stopping_at_one_mib_wastes_at_most_three() -> None:
    plans = plan_all(sequential(0, MIB, 128 * KIB))
    reach = max(plan.ahead.stop if plan.ahead else plan.need.stop for plan in plans)
    assert reach <= 4 * MIB


def test_random_reads_fetch_one_block_each() -> None:
    offsets = [(index * 7919 * MIB + 13) % BIG for index in range(64)]
    plans = plan_all([(offset, 4 * KIB) for offset in offsets])
    assert all(plan.ahead is None for plan in plans)
    assert all(len(plan.need) <= 2 * BLOCK_BYTES for plan in plans)


def test_two_interleaved_streams_are_two_streams() -> None:
    one = sequential(0, 32 * MIB, MIB)
    two = sequential(512 * MIB, 544 * MIB, MIB)
    plans = plan_all([read for pair in zip(one, two, strict=True) for read in pair])
    for stream in (plans[0::2], plans[1::2]):
        reach = max(plan.ahead.stop for plan in stream if plan.ahead is not None)
        assert reach - stream[-1].need.stop >= 16 * MIB


def test_tail_read_does_not_end_the_stream_that_follows() -> None:
    plans = plan_all([(0, 128 * KIB), (BIG - 22, 22), *sequential(128 * KIB, 8 * MIB, 128 * KIB)])
    assert plans[1].ahead is None
    assert any(plan.ahead is not None for plan in plans[2:])


def test_reordered_kernel_reads_stay_one_stream() -> None:
    reads = sequential(0, 16 * MIB, 128 * KIB)
    swapped = [reads[index ^ 1] for index in range(len(reads))]
    reach = max(plan.ahead.stop for plan in plan_all(swapped) if plan.ahead is not None)
    assert reach >= 32 * MIB


def test_share_of_memory_bounds_the_window() -> None:
    plans = plan_all(sequential(0, 64 * MIB, MIB), window=8 * MIB)
    for plan, (offset, nbytes) in zip(plans, sequential(0, 64 * MIB, MIB), strict=True):
        if plan.ahead is not None:
            assert plan.ahead.stop - (offset + nbytes) <= 8 * MIB + BLOCK_BYTES


def test_lost_read_ahead_is_planned_again() -> None:
    planner = Planner(BIG, CONFIG)
    for offset, nbytes in sequential(0, 16 * MIB, MIB):
        planner.on_read(offset, nbytes, WINDOW)
    planner.lost(16 * MIB)
    plan = planner.on_read(16 * MIB, MIB, WINDOW)
    assert plan.need == ByteRange(16 * MIB, 17 * MIB)
    assert plan.ahead is not None
    assert plan.ahead.start == 17 * MIB


@pytest.mark.parametrize("size", [4 * MIB + 1, 5 * MIB, BIG])
@given(data=st.data())
def test_every_plan_holds_its_read_and_stays_inside_the_object(data: st.DataObject, size: int) -> None:
    planner = Planner(size, CONFIG)
    for _ in range(data.draw(st.integers(1, 20))):
        offset = data.draw(st.integers(0, size - 1))
        nbytes = data.draw(st.integers(1, min(MIB, size - offset)))
        plan = planner.on_read(offset, nbytes, data.draw(st.sampled_from([0, MIB, WINDOW])))
        assert plan.need.start <= offset
        assert offset + nbytes <= plan.need.stop <= size
        assert plan.need.start % BLOCK_BYTES == 0
        assert plan.need.stop % BLOCK_BYTES == 0 or plan.need.stop == size
        assert BLOCK_BYTES <= plan.part_nbytes <= CONFIG.part_nbytes
        assert plan.part_nbytes % BLOCK_BYTES == 0
        if plan.ahead is not None:
            assert plan.ahead.stop <= size
            assert plan.ahead.start % BLOCK_BYTES == 0
            assert plan.ahead.stop % BLOCK_BYTES == 0 or plan.ahead.stop == size
