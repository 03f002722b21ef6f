"""Medians and percentiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.summary import median, percentile


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert percentile(values, percent) == expected


def test_nothing_measured_is_not_a_number() -> None:
    assert math.isnan(percentile([], 50))
    assert math.isnan(median([]))


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0, 100))
def test_a_percentile_is_one_of_the_values_and_enough_are_not_above_it(values: list[float], percent: float) -> None:
    found = percentile(values, percent)

    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
