"""What can be mounted."""

from __future__ import annotations

import pytest

from s3stream_daemon.exits import ExitError
from s3stream_daemon.source import Source, parse_source

ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/training"
MULTI_REGION = "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap"
OUTPOST = "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/training"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("s3://bucket", Source("bucket")),
        ("s3://bucket/", Source("bucket")),
        ("S3://my.bucket-1/a/b", Source("my.bucket-1", "a/b/")),
        ("s3://bucket/a/b/", Source("bucket", "a/b/")),
        ("s3://bucket/a//", Source("bucket", "a//")),
        ("s3://bucket//a", Source("bucket", "/a/")),
        ("s3://bucket/ü ?#%", Source("bucket", "ü ?#%/")),
        ("s3://data--use1-az4--x-s3/p", Source("data--use1-az4--x-s3", "p/")),
        (f"s3://{ACCESS_POINT}", Source(ACCESS_POINT)),
        (f"s3://{ACCESS_POINT}/a/b", Source(ACCESS_POINT, "a/b/")),
        (f"s3://{MULTI_REGION}/a", Source(MULTI_REGION, "a/")),
        (f"s3://{OUTPOST}/a", Source(OUTPOST, "a/")),
    ],
)
def test_sources(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "", "bucket", "s3:", "s3://", "s3:///a", "https://host/bucket", "s3://b ucket/a", "s3://-x", "s3://bucket\n/a/",
        "s3://arn:aws:sns:eu-west-1:1:topic", "s3://user:password@bucket/a", "s3://bucket/\udcff",
        "s3://bucket/" + "x" * 1025,
    ],
)  # fmt: skip
def test_no_sources(text: str) -> None:
    with pytest.raises(ExitError) as raised:
        parse_source(text)
    assert "\n" not in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_source_is_shown_as_it_is_written() -> None:
    assert str(Source("bucket", "a/b/")) == "s3://bucket/a/b"
    assert str(Source("bucket")) == "s3://bucket"
