from __future__ import annotations

import random
import sys
import tracemalloc
from threading import Thread
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.cache.memory.part import Part
from s3stream_fs.cache.memory.tier import MemoryTier, cost_nbytes
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

OBJECT = ObjectId("key", "etag", 100 * BLOCK_BYTES)


def cost(nblocks: int, nparts: int = 1) -> int:
    """What so many blocks cost in so many parts of OBJECT."""
    one, two = (cost_nbytes(Part(OBJECT, ByteRange(0, count * BLOCK_BYTES))) for count in (1, 2))
    return nblocks * (two - one) + nparts * (2 * one - two)


def filled(tier: MemoryTier, first_block: int, nblocks: int = 1, object_id: ObjectId = OBJECT) -> Part:
    part = Part(object_id, ByteRange(first_block * BLOCK_BYTES, (first_block + nblocks) * BLOCK_BYTES))
    assert tier.reserve_nowait(cost_nbytes(part))
    part.append(memoryview(bytes([first_block]) * len(part.byte_range)))
    tier.release(cost_nbytes(part))
    tier.hold(part)
    return part


@given(pieces=st.lists(st.binary(min_size=0, max_size=50), min_size=1, max_size=8), data=st.data())
def test_view_is_the_bytes_wherever_the_pieces_meet(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    start = data.draw(st.integers(0, 7)) * BLOCK_BYTES
    part = Part(OBJECT, ByteRange(start, start + len(whole) + 1))
    for piece in pieces:
        part.append(memoryview(piece))
    assert part.filled_to == start + len(whole)
    assert not part.complete
    if whole:
        first = data.draw(st.integers(0, len(whole) - 1))
        last = data.draw(st.integers(first + 1, len(whole)))
        assert bytes(part.view(start + first, start + last)) == whole[first:last]


def test_part_refuses_more_bytes_than_it_has_room_for() -> None:
    part = Part(OBJECT, ByteRange(0, 3))
    part.append(memoryview(b"ab"))
    with pytest.raises(ValueError, match="more bytes"):
        part.append(memoryview(b"cd"))
    assert part.filled_to == 2


@pytest.mark.parametrize(
    ("first_block", "pieces", "kept_nblocks"),
    [
        (0, [], 0),
        (0, [BLOCK_BYTES - 1], 0),
        (3, [BLOCK_BYTES - 1], 0),
        (3, [BLOCK_BYTES], 1),
        (3, [BLOCK_BYTES - 5, 7], 1),
        (0, [10, 2 * BLOCK_BYTES, 3, BLOCK_BYTES - 14], 2),
        (3, [3 * BLOCK_BYTES + 9], 3),
        (96, [4 * BLOCK_BYTES], 4),
    ],
)
def test_of_a_body_that_ends_early_the_whole_blocks_are_kept(
    first_block: int, pieces: list[int], kept_nblocks: int
) -> None:
    start = first_block * BLOCK_BYTES
    part = Part(OBJECT, ByteRange(start, start + 4 * BLOCK_BYTES))
    came = b""
    for nbytes in pieces:
        piece = random.Random(nbytes).randbytes(nbytes)
        came += piece
        part.append(memoryview(piece))
    kept = part.kept()
    assert (kept is None) == (kept_nblocks == 0)
    if kept is not None:
        nbytes = kept_nblocks * BLOCK_BYTES
        assert kept.complete
        assert (kept.object_id, kept.byte_range) == (OBJECT, ByteRange(start, start + nbytes))
        assert bytes(kept.view(start, start + nbytes)) == b"".join(kept.pieces) == came[:nbytes]


def test_the_end_of_an_object_is_a_whole_block() -> None:
    object_id = ObjectId("key", "etag", BLOCK_BYTES + 10)
    part = Part(object_id, object_id.whole)
    part.append(memoryview(bytes(BLOCK_BYTES + 9)))
    kept = part.kept()
    assert kept is not None
    assert kept.byte_range == ByteRange(0, BLOCK_BYTES)
    part.append(memoryview(b"x"))
    kept = part.kept()
    assert kept is not None
    assert kept.byte_range == object_id.whole


def test_view_within_one_piece_is_no_copy() -> None:
    buffer = bytearray(b"abcdef")
    part = Part(OBJECT, ByteRange(0, 6))
    part.append(memoryview(buffer))
    view = part.view(1, 3)
    buffer[1:3] = b"XY"
    assert bytes(view) == b"XY"


def test_reservations_and_held_parts_share_one_limit() -> None:
    tier = MemoryTier(cost(4, 4))
    assert tier.reserve_nowait(cost(3, 3))
    assert not tier.reserve_nowait(cost(2, 2))
    assert tier.reserve_nowait(cost(1))
    tier.release(cost(4, 4))
    filled(tier, 0, 4)
    assert tier.statistics().nbytes_held == cost(4)
    assert tier.reserve_nowait(cost(1))  # evicts
    statistics = tier.statistics()
    assert statistics.nbytes_held + statistics.nbytes_reserved <= statistics.limit_nbytes
    assert tier.find(OBJECT, 0) is None


def test_part_read_to_its_end_is_evicted_first() -> None:
    tier = MemoryTier(cost(3, 3))
    old = filled(tier, 0)
    spent = filled(tier, 1)
    new = filled(tier, 2)
    assert bytes(tier.read(spent, BLOCK_BYTES, 2 * BLOCK_BYTES)) == b"\x01" * BLOCK_BYTES
    assert tier.reserve_nowait(cost(1))
    assert tier.find(OBJECT, BLOCK_BYTES) is None
    assert tier.find(OBJECT, 0) is old
    assert tier.find(OBJECT, 2 * BLOCK_BYTES) is new
    assert tier.statistics().parts_evicted_unread == 0


def test_of_blocks_that_came_twice_either_part_may_go_first() -> None:
    tier = MemoryTier(cost(3, 3))
    filled(tier, 0)
    second = filled(tier, 0)
    assert tier.find(OBJECT, 0) is second
    assert bytes(tier.read(second, 0, BLOCK_BYTES))  # spent, so that it goes first
    assert tier.reserve_nowait(cost(2, 2))
    assert tier.find(OBJECT, 0) is None
    tier.release(cost(2, 2))
    assert tier.reserve_nowait(cost(3, 3))
    assert tier.statistics().nbytes_held == 0


def test_most_of_an_object_is_more_than_half_of_its_blocks() -> None:
    tier = MemoryTier(cost(100, 100))
    assert not tier.holds_most(OBJECT)
    nblocks = len(OBJECT.whole.blocks())
    for index in range(nblocks // 2 + 1):
        assert not tier.holds_most(OBJECT)
        filled(tier, index)
    assert tier.holds_most(OBJECT)


def test_what_waits_for_the_disk_is_forgotten_with_its_part() -> None:
    tier = MemoryTier(cost(3, 3))
    parts = [filled(tier, index) for index in range(3)]
    for part in parts:
        tier.remember_unsaved(part)
    tier.forget_unsaved(parts[1])
    assert tier.first_unsaved() is parts[0]
    assert tier.reserve_nowait(cost(1))
    assert tier.first_unsaved() is parts[2]
    assert tier.reserve_nowait(cost(1))
    statistics = tier.statistics()
    assert (statistics.parts_unsaved, statistics.parts_evicted_unsaved) == (1, 1)
    assert tier.reserve_nowait(cost(1))
    assert tier.first_unsaved() is None


def test_least_recently_read_goes_next() -> None:
    tier = MemoryTier(cost(2, 2))
    first, _second = filled(tier, 0), filled(tier, 1)
    tier.read(first, 0, 10)
    assert tier.reserve_nowait(cost(1))
    assert tier.find(OBJECT, 0) is first
    assert tier.find(OBJECT, BLOCK_BYTES) is None


def test_block_held_twice_belongs_to_the_later_part() -> None:
    tier = MemoryTier(cost(4, 4))
    filled(tier, 0, 2)
    later = filled(tier, 1, 1)
    assert tier.find(OBJECT, BLOCK_BYTES) is later
    assert tier.reserve_nowait(cost(3, 3))  # evicts the first part only
    assert tier.find(OBJECT, 0) is None
    assert tier.find(OBJECT, BLOCK_BYTES) is later


def test_part_in_use_stays_and_counts() -> None:
    tier = MemoryTier(cost(3, 3))
    part = filled(tier, 0, 2)
    one, two = tier.read(part, 0, 10), tier.read(part, 0, 2 * BLOCK_BYTES)
    assert tier.statistics().nbytes_lent == cost(2)
    assert tier.reserve_nowait(cost(1))
    assert not tier.reserve_nowait(cost(1))
    del one
    assert not tier.reserve_nowait(cost(1))
    assert tier.find(OBJECT, 0) is part
    kept = two[5:]
    del two
    assert tier.reserve_nowait(cost(1))
    assert tier.find(OBJECT, 0) is None
    assert bytes(kept[:1]) == b"\x00"
    assert tier.statistics().nbytes_lent == 0


def test_what_is_in_use_never_stops_the_only_get() -> None:
    tier = MemoryTier(cost(2, 2))
    views = [tier.read(filled(tier, 0, 2), 0, 2 * BLOCK_BYTES)]
    assert tier.reserve_nowait(cost(1))
    assert not tier.reserve_nowait(cost(1))
    assert views[0][0] == 0


def test_part_that_was_in_use_goes_after_what_has_rested_longer() -> None:
    tier = MemoryTier(cost(3, 3))
    used, rested = filled(tier, 0), filled(tier, 1)
    view = tier.read(used, 0, BLOCK_BYTES)
    tier.read(rested, BLOCK_BYTES, 2 * BLOCK_BYTES)
    del view
    filled(tier, 2)
    assert tier.reserve_nowait(cost(1))
    assert tier.find(OBJECT, BLOCK_BYTES) is None
    assert tier.find(OBJECT, 0) is used


def test_small_parts_cost_what_python_makes_of_them() -> None:
    limit_nbytes = 4 * 1024 * 1024
    tier = MemoryTier(limit_nbytes)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10_000):
            object_id = ObjectId(f"train/{number:08}.txt", f"{number:032x}", 60)
            part = Part(object_id, object_id.whole)
            assert tier.reserve_nowait(cost_nbytes(part))
            part.append(memoryview(bytes(60)))
            tier.release(cost_nbytes(part))
            tier.hold(part)
            tier.read(part, 0, 60)
        nbytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    statistics = tier.statistics()
    assert 0.7 * limit_nbytes < nbytes < limit_nbytes
    assert 2_500 < statistics.parts_held < 3_500
    assert statistics.nbytes_held <= limit_nbytes


def test_the_only_part_of_an_object_is_found_and_so_are_several() -> None:
    tier = MemoryTier(100 * BLOCK_BYTES)
    first = filled(tier, 3, 2)
    offsets = (2 * BLOCK_BYTES, 3 * BLOCK_BYTES, 5 * BLOCK_BYTES - 1, 5 * BLOCK_BYTES)
    assert [tier.find(OBJECT, offset) for offset in offsets] == [None, first, first, None]
    second = filled(tier, 8)
    assert [tier.find(OBJECT, index * BLOCK_BYTES) for index in (2, 3, 4, 5, 8)] == [None, first, first, None, second]
    wanted = (ByteRange(0, 4 * BLOCK_BYTES), ByteRange(4 * BLOCK_BYTES, 9 * BLOCK_BYTES))
    assert tier.held(OBJECT, wanted) == [first, second]


def test_a_view_that_a_thread_lets_go_of_changes_no_account_there() -> None:
    """What copies into the kernel may be the last to hold it, while the main thread changes the same accounts."""
    tier = MemoryTier(cost(4, 4))
    views = [tier.read(filled(tier, 0), 0, BLOCK_BYTES)]
    called: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals["__name__"] == MemoryTier.__module__:
            called.append(frame.f_code.co_name)

    def let_go() -> None:
        sys.setprofile(profile)
        views.clear()
        sys.setprofile(None)

    thread = Thread(target=let_go)
    thread.start()
    thread.join()
    assert called == ["_on_returned"]
    assert tier.statistics().nbytes_lent == 0
    assert tier.reserve_nowait(cost(4, 4))
