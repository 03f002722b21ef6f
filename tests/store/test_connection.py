"""How a bucket is spoken to: what the environment, AWS's files and options come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s3stream_fs.errors import UsageError
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import Connection, resolve
from s3stream_fs.store.s3.data import suits


@pytest.fixture(autouse=True)
def _nothing_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def connected(bucket: str = "bucket", environ: dict[str, str] | None = None, **options: Any) -> Connection:
    return resolve(S3Config(bucket, **options), environ or {})


@pytest.mark.parametrize(
    ("bucket", "options", "url"),
    [
        ("bucket", {}, "https://bucket.s3.us-east-1.amazonaws.com"),
        ("bucket", {"region": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com"),
        ("bucket", {"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn"),
        ("bucket", {"addressing": "path"}, "https://s3.us-east-1.amazonaws.com/bucket"),
        ("my.bucket", {"region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/my.bucket"),
        ("bucket", {"dual_stack": True}, "https://bucket.s3.dualstack.us-east-1.amazonaws.com"),
        ("bucket", {"fips": True}, "https://bucket.s3-fips.us-east-1.amazonaws.com"),
        ("bucket", {"endpoint_url": "http://minio:9000"}, "http://minio:9000/bucket"),
        ("bucket", {"endpoint_url": "http://minio:9000/"}, "http://minio:9000/bucket"),
        ("bucket", {"endpoint_url": "http://minio:9000", "addressing": "virtual"}, "http://bucket.minio:9000"),
        ("bucket", {"endpoint_url": "http://127.0.0.1:9", "addressing": "virtual"}, "http://127.0.0.1:9/bucket"),
        ("bucket", {"endpoint_url": "http://[::1]:9", "addressing": "virtual"}, "http://[::1]:9/bucket"),
        (
            "b--usw2-az1--x-s3",
            {"region": "us-west-2"},
            "https://b--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com",
        ),
        (
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/ap",
            {},
            "https://ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com",
        ),
    ],
)
def test_addresses(bucket: str, options: dict[str, Any], url: str) -> None:
    assert connected(bucket, **options).address.url == url


def test_an_access_point_behind_an_endpoint_of_ones_own_has_a_host() -> None:
    endpoint = "https://bucket.vpce-1a2b3c4d-5e6f.s3.eu-west-1.vpce.amazonaws.com"
    connection = connected("arn:aws:s3:eu-west-1:123456789012:accesspoint/ap", endpoint_url=endpoint)
    assert connection.address.url == endpoint.replace("//", "//ap-123456789012.")
    assert suits(connection)


EXPRESS = "b--usw2-az1--x-s3"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"region": "us-west-2"}, True),
        ({"region": "us-west-2", "dual_stack": True}, False),
        ({"region": "us-west-2", "fips": True}, False),
        ({"region": "cn-north-1"}, False),
        ({"region": "us-west-2", "endpoint_url": "https://store.example"}, False),
        ({"region": "us-west-2", "endpoint_url": "https://s3express-usw2-az1.us-west-2.amazonaws.com"}, True),
    ],
)
def test_directory_buckets_have_a_data_plane_where_it_finds_their_sessions(
    options: dict[str, Any], expected: bool
) -> None:
    assert suits(connected(EXPRESS, **options)) is expected


def test_a_customers_key_goes_through_no_proxy_by_the_plane_that_follows_redirects() -> None:
    environ = {"https_proxy": "http://proxy:1"}
    assert suits(connected(environ=environ))
    assert suits(connected(sse_c_key=bytes(32)))
    assert not suits(connected(environ=environ, sse_c_key=bytes(32)))
    assert suits(connected(environ=environ | {"no_proxy": "amazonaws.com"}, sse_c_key=bytes(32)))


def test_an_access_point_is_signed_for_its_own_region() -> None:
    address = connected("arn:aws:s3:eu-west-1:123456789012:accesspoint/ap", region="us-east-2").address
    assert (address.scheme, address.service, address.region) == ("sigv4", "s3", "eu-west-1")


@pytest.mark.parametrize(
    ("options", "environ", "region"),
    [
        ({"region": "a"}, {"AWS_REGION": "b", "AWS_DEFAULT_REGION": "c"}, "a"),
        ({}, {"AWS_REGION": "b", "AWS_DEFAULT_REGION": "c"}, "b"),
        ({}, {"AWS_DEFAULT_REGION": "c"}, "c"),
        ({}, {}, "d"),
    ],
)
def test_regions(tmp_path: Path, options: dict[str, Any], environ: dict[str, str], region: str) -> None:
    (tmp_path / "AWS_CONFIG_FILE").write_text("[default]\nregion = d\n")
    assert connected(environ=environ, **options).region == region


def test_endpoints_of_the_environment_and_of_files(tmp_path: Path) -> None:
    (tmp_path / "AWS_CONFIG_FILE").write_text(
        "[default]\nendpoint_url = http://file:1\nservices = mine\n"
        "[services mine]\ns3 =\n  endpoint_url = http://service:1\n"
        "[profile plain]\nendpoint_url = http://plain:1\ns3 =\n  addressing_style = virtual\n"
    )
    assert connected().endpoint_url == "http://service:1"
    plain = connected(profile="plain")
    assert (plain.endpoint_url, plain.address.url) == ("http://plain:1", "http://bucket.plain:1")
    environ = {"AWS_ENDPOINT_URL": "http://all:1"}
    assert connected(environ=environ).endpoint_url == "http://all:1"
    assert connected(environ=environ | {"AWS_ENDPOINT_URL_S3": "http://s3:1"}).endpoint_url == "http://s3:1"
    assert connected(environ=environ, endpoint_url="http://option:1").endpoint_url == "http://option:1"


def test_the_caches_name_of_a_store_is_that_of_its_address() -> None:
    assert connected().space == "aws/bucket"
    assert connected(region="eu-west-1").space == "aws/bucket"
    assert connected(region="cn-north-1").space == "aws-cn/bucket"
    assert connected(region="us-gov-west-1").space == "aws-us-gov/bucket"
    one = connected(endpoint_url="https://Store.example:443/")
    assert one.space == connected(environ={"AWS_ENDPOINT_URL": "https://store.example"}).space
    assert one.space == "https://store.example/bucket"
    assert connected(endpoint_url="http://store.example").space != one.space
    assert connected(endpoint_url="http://[::1]:9000").space == "http://[::1]:9000/bucket"


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        ({"profile": "nobody"}, {}, "there is no AWS profile 'nobody'"),
        ({}, {"AWS_ENDPOINT_URL": "minio:9000"}, "AWS's endpoint_url"),
        *(
            ({}, {"AWS_ENDPOINT_URL": url}, "AWS's endpoint_url")
            for url in (
                "http://user:secret@minio",
                "http:/user:secret@minio",
                "http//user:secret@minio",
                "user:secret@minio:9000",
                "ftp://user:secret@minio",
                "http://user:secret@minio:port",
                "http://user:sec/secret@minio",
                "http://minio/?user:secret@",
                "http://minio/#user:secret@",
            )
        ),
        ({"endpoint_url": "http://minio", "fips": True}, {}, "leave the endpoint URL out"),
        ({"ca_bundle": Path("/nonexistent")}, {}, "--ca-bundle"),
        ({}, {"AWS_CA_BUNDLE": "/nonexistent"}, "AWS_CA_BUNDLE"),
        ({}, {"AWS_CA_BUNDLE": "/etc/passwd"}, "holds no certificates"),
        ({}, {"https_proxy": "socks5://h:1"}, "https_proxy names a proxy"),
        ({"region": "no such region"}, {}, "cannot be addressed"),
    ],
)
def test_what_cannot_be_used_is_named(options: dict[str, Any], environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        connected(environ=environ, **options)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_secret_is_not_shown() -> None:
    connection = connected(environ={"https_proxy": "http://user:hidden@proxy:1"}, sse_c_key=b"hidden" + bytes(26))
    assert connection.proxy == "http://user:hidden@proxy:1"
    assert "hidden" not in repr(connection)


def test_another_bucket_of_the_same_store() -> None:
    mine = connected(endpoint_url="http://minio:9000", region="r", sse_c_key=bytes(32))
    connection = mine.to_bucket("other")
    assert mine.config.sse_c_key is not None
    assert connection.config.sse_c_key is None
    assert (connection.address.url, connection.space) == ("http://minio:9000/other", "http://minio:9000/other")
