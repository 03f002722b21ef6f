from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.ranges import absent_ranges
from s3stream_fs.types import BLOCK_BYTES, ByteRange


@given(nblocks=st.integers(1, 40), short=st.integers(0, BLOCK_BYTES - 1), present=st.sets(st.integers(0, 40)))
def test_absent_ranges_are_exactly_the_absent_blocks(nblocks: int, short: int, present: set[int]) -> None:
    wanted = ByteRange(0, nblocks * BLOCK_BYTES - short)
    absent = list(absent_ranges(wanted, present.__contains__))
    assert {index for part in absent for index in part.blocks()} == set(range(nblocks)) - present
    for before, after in pairwise(absent):
        assert before.stop < after.start  # neighbours are merged
    assert all(part.stop <= wanted.stop for part in absent)
