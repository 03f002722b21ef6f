"""Cuts lie between what they cut, and near the middle of names as people give them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namings import NAMES
from s3stream_fs.namespace.scale import Scale

TEXTS = st.text(st.sampled_from("059afzAZ-._/é😀 "), max_size=12)


@given(st.lists(TEXTS, max_size=20), TEXTS, st.none() | TEXTS)
def test_a_middle_is_between(names: list[str], low: str, high: str | None) -> None:
    scale = Scale()
    for name in names:
        scale.learn(name)
    middle = scale.middle(low, high)
    if middle is not None:
        assert low.encode() < middle.encode()
        assert high is None or middle.encode() < high.encode()
        assert "/" not in middle or "/" in low


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_the_end_is_come_to_in_few_steps_and_cuts_are_near_the_middle(name: Callable[[int], str]) -> None:
    names = sorted(name(number) for number in range(100_000))
    scale = Scale()
    for known in names[:1000]:
        scale.learn(known)
    low = names[999]
    for _ in range(6):
        further = scale.further(names[0], low, 3)
        if further is None or further > names[-1]:
            break
        assert further > low
        low = further
    else:
        pytest.fail("not there after 6 steps")
    low, high = names[999], names[-1]
    for _ in range(5):
        left, right = bisect_right(names, low), bisect_right(names, high)
        middle = scale.middle(names[left], names[right - 1])
        assert middle is not None
        scale.learn(middle)
        share = (bisect_right(names, middle) - left) / (right - left)
        assert 0.02 < share < 0.98
        low = middle
