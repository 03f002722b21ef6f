"""Traces: a list of reads in, what is fetched out."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.reading.planner import Planner, ReadPlan
from s3stream_fs.reading.stream import Conditions, ReadAheadConfig
from s3stream_fs.types import BLOCK_BYTES, ByteRange

KIB = 1024
MIB = 1024 * KIB
CONFIG = ReadAheadConfig()
BIG = 1024 * MIB
SHARE = 128 * MIB

Read = tuple[int, int]


def plan_all(
    reads: Iterable[Read], size: int = BIG, share: int = SHARE, seconds: float = 0.001, get_seconds: float = 0.0
) -> list[ReadPlan]:
    """The plans of reads that come one every ``seconds``."""
    planner = Planner(size, CONFIG)
    return [
        planner.on_read(offset, nbytes, Conditions(number * seconds, share, get_seconds))
        for number, (offset, nbytes) in enumerate(reads)
    ]


def sequential(start: int, stop: int, step: int) -> list[Read]:
    return [(offset, min(step, stop - offset)) for offset in range(start, stop, step)]


def reach(plan: ReadPlan) -> int:
    """The end of what a plan fetches."""
    return max(plan.need.stop, *(ahead.stop for ahead in plan.ahead)) if plan.ahead else plan.need.stop


def fetched(plans: Iterable[ReadPlan], size: int = BIG) -> int:
    """Bytes of all blocks that the plans name, each counted once."""
    blocks = {index for plan in plans for wanted in (plan.need, *plan.ahead) for index in wanted.blocks()}
    return sum(min((index + 1) * BLOCK_BYTES, size) - index * BLOCK_BYTES for index in blocks)


def test_header_peek_fetches_the_header_and_nothing_ahead() -> None:
    (plan,) = plan_all([(0, 16 * KIB)])
    assert (plan.need, plan.ahead) == (ByteRange(0, 128 * KIB), ())


def test_first_mib_is_asked_for_at_once_when_the_kernel_reads_ahead_fully() -> None:
    (plan,) = plan_all([(0, 128 * KIB)])
    assert plan.need == ByteRange(0, 128 * KIB)
    assert reach(plan) >= MIB


def test_window_triples_per_round_trip_and_reaches_its_share() -> None:
    reads = sequential(0, 256 * MIB, 128 * KIB)
    farthest = widest = 0
    for plan, (offset, nbytes) in zip(plan_all(reads), reads, strict=True):
        position = offset + nbytes
        farthest = max(farthest, reach(plan))
        assert farthest - position <= max(2 * position, MIB) + BLOCK_BYTES
        widest = max(widest, farthest - position)
    assert SHARE - CONFIG.part_nbytes <= widest <= SHARE + BLOCK_BYTES


def test_window_settles_at_twice_what_is_read_in_the_time_of_a_get() -> None:
    # 1 MiB every 10 ms, and a GET takes 0.2 s: 20 MiB are read meanwhile.
    reads = sequential(0, 512 * MIB, MIB)
    plans = plan_all(reads, seconds=0.01, get_seconds=0.2)
    last = [reach(plan) - (offset + nbytes) for plan, (offset, nbytes) in zip(plans, reads, strict=True)][-100:]
    assert max(last) == pytest.approx(40 * MIB, rel=0.15)


def test_window_of_a_slow_reader_is_two_parts() -> None:
    reads = sequential(0, 128 * MIB, MIB)
    plans = plan_all(reads, seconds=1.0, get_seconds=0.05)
    assert max(reach(plan) - offset for plan, (offset, _) in list(zip(plans, reads, strict=True))[16:]) <= 17 * MIB


def test_sequential_reads_are_planned_without_gap_or_overlap() -> None:
    covered = 0
    for plan in plan_all(sequential(0, BIG, MIB)):
        if plan.need.start >= covered:
            assert plan.need.start == covered
            covered = plan.need.stop
        for ahead in plan.ahead:
            assert ahead.start == covered
            covered = ahead.stop
    assert covered == BIG


def test_parts_end_where_the_kernel_reads_do() -> None:
    reads = [(0, 256 * KIB), (256 * KIB, 768 * KIB), *sequential(MIB, 200 * MIB, MIB)]
    for share in (2 * MIB, 7 * MIB, SHARE):
        for plan in plan_all(reads, share=share):
            for ahead in plan.ahead:
                parts = list(ahead.parts(plan.part_nbytes))
                assert [part.stop % MIB for part in parts] == [0] * len(parts)


def test_stopping_at_one_mib_wastes_at_most_three() -> None:
    # What the kernel asks for when a program reads 1 MiB in pieces of 128 KiB and stops.
    asked = [(0, 256 * KIB), (256 * KIB, 512 * KIB), (768 * KIB, MIB), (1792 * KIB, MIB)]
    assert fetched(plan_all(asked)) <= 4 * MIB


def test_random_reads_fetch_one_block_each() -> None:
    rng = random.Random(7)
    offsets = [rng.randrange(BIG // BLOCK_BYTES) * BLOCK_BYTES + 13 for _ in range(200)]
    plans = plan_all([(offset, 4 * KIB) for offset in offsets])
    assert all(plan.ahead == () for plan in plans)
    assert fetched(plans) <= 200 * BLOCK_BYTES + 128 * KIB
    assert all(len(plan.need) == BLOCK_BYTES for plan in plans[4:])


def test_who_reads_records_all_over_an_object_again_and_again_gets_larger_pieces() -> None:
    rng = random.Random(7)
    size = 16 * MIB
    plans = plan_all([(rng.randrange(size // 4096) * 4096, 4 * KIB) for _ in range(200)], size)
    # As many GETs as bring the object twice; by then it pays to fetch what other reads will want.
    assert {len(plan.need) for plan in plans[4:100]} == {BLOCK_BYTES}
    assert sum(len(plan.need) == 256 * KIB for plan in plans[140:]) >= 55  # of 60; some continue one before


def test_runs_of_single_pages_double_what_is_fetched_with_each_miss() -> None:
    """A map that is read at random, by the advice that the kernel was given: it asks page by page, and reads nothing
    ahead. Without this each block was a GET of its own: 2,692 for a file of 48 MiB in reads of 4 to 256 KiB."""
    planner = Planner(BIG, CONFIG)
    here: set[int] = set()
    ngets = nasked = 0
    for start in (500 * MIB, 300 * MIB, 700 * MIB):
        for offset in range(start, start + 256 * KIB, 4 * KIB):
            nasked += 4 * KIB
            at_hand = offset // BLOCK_BYTES in here
            plan = planner.on_read(offset, 4 * KIB, Conditions(0.0, SHARE), at_hand=at_hand)
            assert not plan.ahead
            if not at_hand:
                ngets += 1
                here.update(plan.need.blocks())
    assert ngets <= 3 * 6  # of 16 blocks in each run
    assert len(here) * BLOCK_BYTES <= 2 * nasked


def test_two_interleaved_streams_are_two_streams() -> None:
    one = sequential(0, 32 * MIB, MIB)
    two = sequential(512 * MIB, 544 * MIB, MIB)
    plans = plan_all([read for pair in zip(one, two, strict=True) for read in pair])
    for stream in (plans[0::2], plans[1::2]):
        assert max(reach(plan) for plan in stream) - stream[-1].need.stop >= 16 * MIB


def test_tail_read_does_not_end_the_stream_that_follows() -> None:
    plans = plan_all([(0, 128 * KIB), (BIG - 22, 22), *sequential(128 * KIB, 8 * MIB, 128 * KIB)])
    assert plans[1].ahead == ()
    assert max(reach(plan) for plan in plans[2:]) > 8 * MIB


def test_reordered_kernel_reads_stay_one_stream() -> None:
    reads = sequential(0, 16 * MIB, 128 * KIB)
    swapped = [reads[index ^ 1] for index in range(len(reads))]
    assert max(reach(plan) for plan in plan_all(swapped)) >= 32 * MIB


def test_strided_reads_are_fetched_ahead_without_what_lies_between() -> None:
    reads = [(offset, MIB) for offset in range(0, BIG, 4 * MIB)]
    plans = plan_all(reads)
    assert fetched(plans) <= 1.05 * len(reads) * MIB
    known: set[int] = set()
    waits = 0
    for plan in plans:
        waits += not known.issuperset(plan.need.blocks())
        known |= {index for wanted in (plan.need, *plan.ahead) for index in wanted.blocks()}
    assert waits == 3  # the reads that show the pattern


def test_strided_runs_of_several_reads_are_fetched_no_further_than_they_go() -> None:
    reads = [read for start in range(0, BIG, 16 * MIB) for read in sequential(start, start + MIB, 128 * KIB)]
    # The kernel cannot know where a run ends either; the first runs show it.
    assert fetched(plan_all(reads)) <= 1.2 * sum(nbytes for _, nbytes in reads)


def test_a_young_stride_fetches_no_more_in_vain_than_was_read() -> None:
    for nreads in range(3, 6):
        reads = [(offset, 64 * KIB) for offset in range(8 * MIB, (8 + nreads * 4) * MIB, 4 * MIB)]
        assert fetched(plan_all(reads)) <= 2 * nreads * 64 * KIB + 256 * KIB


def test_a_long_stride_costs_no_more_than_a_short_one() -> None:
    planner = Planner(1 << 44, CONFIG)
    conditions = Conditions(0.0, SHARE)
    for offset in range(0, 100_000 * MIB, MIB):
        planner.on_read(offset, 4 * KIB, conditions)
    began = time.process_time()
    for offset in range(100_000 * MIB, 100_100 * MIB, MIB):
        planner.on_read(offset, 4 * KIB, conditions)
    assert time.process_time() - began < 0.1  # 2 ms here; with a power of the number of jumps 80


def test_backward_reads_are_fetched_ahead_in_large_parts() -> None:
    plans = plan_all([(offset, MIB) for offset in range(256 * MIB - MIB, -1, -MIB)])
    assert fetched(plans) == 256 * MIB
    requests = [wanted for plan in plans for wanted in plan.ahead]
    assert len(requests) < 40
    assert max(len(wanted) for wanted in requests) >= CONFIG.part_nbytes


def test_a_stride_that_changes_is_followed_no_longer() -> None:
    rng = random.Random(3)
    strided = [(offset, 4 * KIB) for offset in range(0, 32 * MIB, 4 * MIB)]
    plans = plan_all(strided + [(rng.randrange(BIG - 4 * KIB), 4 * KIB) for _ in range(50)])
    assert any(plan.ahead for plan in plans[: len(strided)])
    assert not any(plan.ahead for plan in plans[len(strided) :])


def test_a_strided_reader_leaves_a_sequential_one_alone() -> None:
    steady = sequential(0, 64 * MIB, MIB)
    strided = [(512 * MIB + number * 4 * MIB, MIB) for number in range(64)]
    plans = plan_all([read for pair in zip(steady, strided, strict=True) for read in pair])
    assert max(reach(plan) for plan in plans[0::2]) >= 96 * MIB
    # Whatever is fetched for the strided one lies in its runs.
    wanted = [byte_range for plan in plans[1::2] for byte_range in (plan.need, *plan.ahead)]
    assert all((byte_range.start - 512 * MIB) % (4 * MIB) == 0 and len(byte_range) == MIB for byte_range in wanted)


def test_share_of_memory_bounds_the_window() -> None:
    reads = sequential(0, 64 * MIB, MIB)
    for plan, (offset, nbytes) in zip(plan_all(reads, share=8 * MIB), reads, strict=True):
        assert reach(plan) - (offset + nbytes) <= 8 * MIB + BLOCK_BYTES


def test_lost_read_ahead_is_planned_again() -> None:
    planner = Planner(BIG, CONFIG)
    for offset, nbytes in sequential(0, 16 * MIB, MIB):
        planner.on_read(offset, nbytes, Conditions(0.0, SHARE))
    planner.lost(16 * MIB)
    plan = planner.on_read(16 * MIB, MIB, Conditions(0.0, SHARE))
    assert plan.need == ByteRange(16 * MIB, 17 * MIB)
    assert [ahead.start for ahead in plan.ahead] == [17 * MIB]


def test_streams_count_as_active_for_a_while() -> None:
    planner = Planner(BIG, CONFIG)
    planner.on_read(0, MIB, Conditions(0.0, SHARE))
    planner.on_read(512 * MIB, MIB, Conditions(1.5, SHARE))
    assert [planner.active_streams(now) for now in (1.5, 2.5, 10.0)] == [2, 1, 0]


@pytest.mark.parametrize("size", [4 * MIB + 1, 5 * MIB, BIG])
@given(data=st.data())
def test_every_plan_holds_its_read_and_stays_inside_the_object(data: st.DataObject, size: int) -> None:
    planner = Planner(size, CONFIG)
    stride = data.draw(st.integers(-MIB, MIB))
    offset = data.draw(st.integers(0, size - 1))
    for number in range(data.draw(st.integers(1, 20))):
        # Half of the reads are in step with the one before, so that patterns come up.
        offset = (offset + stride) % size if data.draw(st.booleans()) else data.draw(st.integers(0, size - 1))
        nbytes = data.draw(st.integers(1, min(MIB, size - offset)))
        share = data.draw(st.sampled_from([0, MIB, SHARE]))
        plan = planner.on_read(offset, nbytes, Conditions(number * 0.1, share, data.draw(st.sampled_from([0.0, 0.1]))))
        assert plan.need.start <= offset
        assert offset + nbytes <= plan.need.stop <= size
        assert BLOCK_BYTES <= plan.part_nbytes <= CONFIG.part_nbytes
        assert plan.part_nbytes % BLOCK_BYTES == 0
        for wanted in (plan.need, *plan.ahead):
            assert wanted.start % BLOCK_BYTES == 0
            assert wanted.stop <= size
            assert wanted.stop % BLOCK_BYTES == 0 or wanted.stop == size
