"""What binds a GET to one version of an object."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from s3stream_fs.store.s3.conditions import conditions, is_version


def test_an_etag_is_matched_and_a_time_is_not_to_be_passed() -> None:
    assert conditions("abc-2") == ('"abc-2"', None)
    assert conditions("@1700000000") == (None, datetime.fromtimestamp(1_700_000_001, UTC))
    assert conditions("") == (None, None)


@pytest.mark.parametrize(
    ("version", "etag", "modified", "right"),
    [
        ("abc", '"abc"', None, True),
        ("abc", "abc", 5, True),
        ("abc", 'W/"abc"', None, True),
        ("abc", '"abd"', None, False),
        ("abc", "", None, False),
        ("@5", '"whatever"', 5, True),
        ("@5", "", 5, True),
        ("@5", "", None, True),
        ("@5", "", 6, False),
        ("", '"abc"', 6, True),
    ],
)
def test_an_answer_is_about_the_version_or_not(version: str, etag: str, modified: int | None, right: bool) -> None:
    assert is_version(version, etag, modified) is right
