"""ETags in all the ways in which stores write them, and what names a version where there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.store.etags import bare, same, time_of, version_of
from s3stream_fs.types import MAX_MTIME_NS, NANOSECONDS

MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    "written",
    [
        *(MD5, f'"{MD5}"', f"'{MD5}'", f'W/"{MD5}"', f'w/"{MD5}"', f"W/{MD5}", f' "{MD5}"\n', f'""{MD5}""'),
        *(f"&quot;{MD5}&quot;", f"&#34;{MD5}&#34;", f"W/&quot;{MD5}&quot;", f"\"'{MD5}'\"", f'"{MD5}'),
    ],
)
def test_what_surrounds_an_etag_is_left_out(written: str) -> None:
    assert bare(written) == MD5


@pytest.mark.parametrize(
    "etag",
    [f"{MD5}-12", MD5.upper(), "*", "W/a", "W/ZEoDNLbRUd3a==", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "a@b", "x" * 1024],
)
def test_what_is_in_it_stays_as_it_is(etag: str) -> None:
    assert bare(f'"{etag}"') == etag


@pytest.mark.parametrize(
    "etag",
    [
        *("", '""', "''", "W/", 'W/""', "&quot;&quot;", "@1700000000", '"@1700000000"', "@"),
        *('a"b', "a&quot;b", 'a"\r\nHost: b', "a\r\nHost: b", "a\x00b", "a b", "a\x7f", "é", "\udc80", "x" * 1025),
    ],
)
def test_what_cannot_be_sent_back_is_none(etag: str) -> None:
    assert bare(etag) == ""
    assert version_of(etag, 0) == ""


@given(st.text(alphabet="\"'W/w@ \n&quot;#34aé", max_size=12))
def test_bare_is_bare(etag: str) -> None:
    found = bare(etag)
    assert bare(found) == found
    assert found.isascii()
    assert not set(found) & set('" \n')
    assert time_of(found) is None


def test_digits_are_the_same_in_large_and_small_letters() -> None:
    assert same(MD5, MD5.upper())
    assert same(f"{MD5}-3", f"{MD5.upper()}-3")
    assert not same(MD5, f"{MD5}-3")
    assert not same("abc", "ABC")  # it may be anything but a checksum
    assert same("abc", "abc")
    assert not same("", MD5)


def test_without_an_etag_the_second_of_the_last_change_names_the_version() -> None:
    assert version_of(f'"{MD5}"', 1_700_000_000 * NANOSECONDS) == MD5
    assert version_of("", 1_700_000_000_999_999_999) == "@1700000000"
    assert version_of("@5", 1_700_000_000 * NANOSECONDS) == "@1700000000"
    assert time_of("@1700000000") == 1_700_000_000
    assert time_of(version_of("", MAX_MTIME_NS - NANOSECONDS)) == MAX_MTIME_NS // NANOSECONDS - 1


@pytest.mark.parametrize("mtime_ns", [-(1 << 90), -1, 0, NANOSECONDS - 1, MAX_MTIME_NS, 1 << 90])
def test_a_time_that_stands_in_for_another_names_no_version(mtime_ns: int) -> None:
    assert version_of("", mtime_ns) == ""


@pytest.mark.parametrize("version", ["", MD5, "@", "@x", "@-1", "@1.5", "@12345678901", "1700000000", "@\u0661"])
def test_what_is_no_time_is_none(version: str) -> None:
    assert time_of(version) is None
