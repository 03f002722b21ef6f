"""Medians and percentiles, the same ones everywhere. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median as _median


def median(values: Sequence[float]) -> float:
    """The median; NaN for no values."""
    return _median(values) if values else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of the values do not exceed (nearest rank); NaN for no values."""
    if not values:
        return math.nan
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]
