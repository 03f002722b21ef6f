"""Pages of listings as stores write them, and as they must not be believed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.store.page import parse_page
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(inside: str, namespace: str = NAMESPACE, name: str = "ListBucketResult") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{namespace}>{inside}</{name}>'.encode()


def listed(key: str, rest: str = "<Size>3</Size>") -> str:
    return f"<Contents><Key>{key}</Key>{rest}</Contents>"


@pytest.mark.parametrize("namespace", [NAMESPACE, ""])
def test_all_that_a_page_says(namespace: str) -> None:
    rest = (
        "<LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;abc-2&quot;</ETag><Size>3</Size>"
        "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
        "<RestoreExpiryDate>2026-02-02T03:04:05Z</RestoreExpiryDate></RestoreStatus>"
    )
    body = page(
        "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>next</NextContinuationToken>"
        + listed("a/%C3%A9+%25", rest)
        + "<CommonPrefixes><Prefix>a/b%20c/</Prefix></CommonPrefixes>"
        "<CommonPrefixes><Prefix>a/d/</Prefix></CommonPrefixes>",
        namespace,
    )
    mtime_ns = int(datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC).timestamp() * 1e9)
    assert parse_page(body, "a/", None) == ListPage(
        (ObjectInfo(ObjectId("a/é+%", "abc-2", 3), mtime_ns, "GLACIER", restored=True),), ("a/b c/", "a/d/"), "next"
    )


def test_what_may_be_left_out() -> None:
    assert parse_page(page(""), "", None) == ListPage((), (), None)
    assert parse_page(page(listed("100%41")), "", None).objects == (ObjectInfo(ObjectId("100%41", "", 3), 0),)
    running = "<Size>3</Size><RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>"
    assert not parse_page(page(listed("key", running)), "", None).objects[0].restored


MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>token</NextContinuationToken>"
WRONG = {
    "another prefix": page(listed("b/c")),
    "no key": page("<Contents><Size>3</Size></Contents>"),
    "no size": page(listed("a/b", "")),
    "a negative size": page(listed("a/b", "<Size>-3</Size>")),
    "a size in other digits": page(listed("a/b", "<Size>٣</Size>")),
    "a huge size": page(listed("a/b", "<Size>9999999999999999999</Size>")),
    "a prefix that is not below": page("<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>"),
    "no next token": page(listed("a/b") + "<IsTruncated>true</IsTruncated>"),
    "the same token again": page(listed("a/b") + MORE),
    "nothing, and more of it": page(MORE.replace("token", "other")),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_true(body: bytes) -> None:
    with pytest.raises(StoreError) as failed:
        parse_page(body, "a/", "token")
    assert not isinstance(failed.value, StoreUnavailable)  # to ask again would not help


@pytest.mark.parametrize(
    "body", [b"", b"<html>", page("")[:-5], page("", name="html"), page("", name="Error")], ids=repr
)
def test_what_is_no_listing_is_asked_for_again(body: bytes) -> None:
    with pytest.raises(StoreUnavailable):
        parse_page(body, "", None)


@given(st.binary())
def test_noise(noise: bytes) -> None:
    for body in (noise, page(listed("a/b"))[:-40] + noise):
        try:
            parse_page(body, "a/", None)
        except StoreError:
            continue
