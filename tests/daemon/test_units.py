"""Sizes, durations and modes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_daemon.units import format_size, parse_duration, parse_mode, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("123", 123),
        ("512M", 512 * 1024**2),
        ("20GiB", 20 * 1024**3),
        ("20gib", 20 * 1024**3),
        ("10GB", 10**10),
        ("1.5 TiB", 3 * 1024**4 // 2),
        ("1kB", 1000),
        ("7b", 7),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1e3", "5 apples", "0x10", "1,5G", "nan", "inf", "9EiB", "9999PiB", "٣G"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_a_formatted_size_reads_back(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == nbytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h", 3600), ("2d", 172800), ("500ms", 0.5), ("60", 60), ("0", 0), ("inf", math.inf)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "nan", "1w", "1h30"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "mode"), [("444", 0o444), ("0444", 0o444), ("0o555", 0o555), ("0", 0)])
def test_modes(text: str, mode: int) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "888", "1777", "u+r", "-1", "0x1ff"])
def test_no_modes(text: str) -> None:
    with pytest.raises(ValueError, match="octal"):
        parse_mode(text)
