"""The rigs are what they claim to be: boto3, ssl and urllib, which nobody here wrote, take them for the real thing."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ProxyConnectionError

from amazon import Amazon, Place, place_of
from authority import Authority
from forwardproxy import ForwardProxy
from s3server import S3Server
from smalls3 import SmallS3, error
from sources import RECIPES, RENEWED, Sources, Trouble
from strict import StrictServer
from wallclock import WallClock

OBJECTS = {"a/one": b"1", "a/two words+": b"22", "b": b"333" * 100}


def client(url: str | None, verify: Path | None = None, **kwargs: Any) -> Any:
    config = {"retries": {"total_max_attempts": 1}, **kwargs}
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="KEY",
        aws_secret_access_key="secret",
        verify=None if verify is None else str(verify),
        config=Config(**config),
    )


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_the_small_s3_lists_and_reads_as_s3_does() -> None:
    with SmallS3({"bucket": OBJECTS}) as store:
        s3 = client(store.url)
        page = s3.list_objects_v2(Bucket="bucket", Delimiter="/")
        assert [one["Key"] for one in page["Contents"]] == ["b"]
        assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["a/"]
        found: list[str] = []
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", PaginationConfig={"PageSize": 1}):
            found += [one["Key"] for one in page["Contents"]]
        assert found == sorted(OBJECTS)
        answer = s3.get_object(Bucket="bucket", Key="a/two words+", Range="bytes=1-1")
        assert answer["Body"].read() == b"2"
        assert answer["ContentRange"] == "bytes 1-1/2"
        assert s3.head_object(Bucket="bucket", Key="b")["ContentLength"] == 300
        with pytest.raises(ClientError, match="NoSuchKey"):
            s3.get_object(Bucket="bucket", Key="c")
        with pytest.raises(ClientError, match="PreconditionFailed"):
            s3.get_object(Bucket="bucket", Key="b", IfMatch='"x"')
        got = store.of_kind("GET")[0]
        assert (got.bucket, got.key, got.status) == ("bucket", "a/two words+", 206)
        assert (got.request.access_key, got.request.region, got.request.service) == ("KEY", "us-east-1", "s3")
        assert not got.request.is_absolute


@pytest.mark.parametrize(
    ("kind", "trusted"), [("signed", True), ("self-signed", True), ("expired", False), ("other", False)]
)
def test_identities(tmp_path: Path, kind: str, trusted: bool) -> None:
    authority = Authority(tmp_path)
    identity = {
        "signed": lambda: authority.server("127.0.0.1"),
        "self-signed": lambda: authority.self_signed("127.0.0.1"),
        "expired": lambda: authority.server("127.0.0.1", expired=True),
        "other": lambda: authority.server("elsewhere.example"),
    }[kind]()
    with SmallS3({"bucket": OBJECTS}, tls=identity.context()) as store:
        context = ssl.create_default_context(cafile=identity.trust)

        def read() -> bytes:
            with urllib.request.urlopen(f"{store.url}/bucket/b", context=context) as answer:
                return bytes(answer.read())

        if trusted:
            assert read() == OBJECTS["b"]
        else:
            with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
                read()
        (purpose,) = subprocess.run(
            ["openssl", "x509", "-in", identity.certificate, "-noout", "-ext", "basicConstraints"],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout.splitlines()[1:]
        assert purpose.strip() == ("CA:TRUE" if kind == "self-signed" else "CA:FALSE")


def test_moto_over_tls(tmp_path: Path) -> None:
    with S3Server(tls=Authority(tmp_path).server("127.0.0.1")) as server:
        server.create_bucket("bucket")
        server.put("bucket", "key", b"data", ContentType="text/plain")
        assert server.url.startswith("https:")
        assert server.client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"data"


@pytest.fixture
def amazon(tmp_path: Path) -> Iterator[Amazon]:
    buckets = {
        "far": OBJECTS,
        "dotted.far": OBJECTS,
        "point-123456789012": OBJECTS,
        "data--usw2-az1--x-s3": OBJECTS,
    }
    regions = {
        "far": "eu-west-1",
        "dotted.far": "eu-west-1",
        "point-123456789012": "eu-west-1",
        "data--usw2-az1--x-s3": "us-west-2",
    }
    with Amazon(tmp_path, buckets, regions) as started:
        yield started


def through(amazon: Amazon, region: str, **kwargs: Any) -> Any:
    return boto3.client(
        "s3",
        region_name=region,
        aws_access_key_id="KEY",
        aws_secret_access_key="secret",
        verify=str(amazon.authority.certificate),
        config=Config(
            proxies={"https": amazon.proxy.url, "http": amazon.proxy.url},
            retries={"total_max_attempts": 2},
            **kwargs,
        ),
    )


def test_a_bucket_in_another_region_is_told_and_followed(amazon: Amazon) -> None:
    assert through(amazon, "us-west-2").get_object(Bucket="far", Key="b")["Body"].read() == OBJECTS["b"]
    seen = [(one.request.host, one.request.region, one.status) for one in amazon.seen]
    assert seen[0] == ("far.s3.us-west-2.amazonaws.com", "us-west-2", 301)
    assert seen[-1] == ("far.s3.eu-west-1.amazonaws.com", "eu-west-1", 200)
    assert all(one.request.sni == one.request.host for one in amazon.seen)
    assert amazon.proxy.passed[0].method == "CONNECT"


def test_a_signature_for_another_region_is_refused(amazon: Amazon) -> None:
    s3 = through(amazon, "us-east-1", s3={"us_east_1_regional_endpoint": "legacy"})
    assert s3.get_object(Bucket="far", Key="b")["Body"].read() == OBJECTS["b"]
    first = amazon.seen[0]
    assert (first.request.host, first.status) == ("far.s3.amazonaws.com", 400)


def test_access_points_fips_dual_stack_and_directory_buckets(amazon: Amazon) -> None:
    point = "arn:aws:s3:eu-west-1:123456789012:accesspoint/point"
    plain = through(amazon, "eu-west-1")
    assert plain.get_object(Bucket=point, Key="b")["Body"].read() == OBJECTS["b"]
    both = through(amazon, "eu-west-1", use_fips_endpoint=True, use_dualstack_endpoint=True)
    assert both.get_object(Bucket="far", Key="b")["Body"].read() == OBJECTS["b"]
    express = through(amazon, "us-west-2")
    assert express.get_object(Bucket="data--usw2-az1--x-s3", Key="b")["Body"].read() == OBJECTS["b"]
    assert [(one.request.host, one.request.service) for one in amazon.seen] == [
        ("point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", "s3"),
        ("far.s3-fips.dualstack.eu-west-1.amazonaws.com", "s3"),
        *[("data--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com", "s3express")] * 2,
    ]


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("s3.amazonaws.com", Place(None, None)),
        ("a.b.s3.amazonaws.com", Place("a.b", None)),
        ("s3.dualstack.eu-west-1.amazonaws.com", Place(None, "eu-west-1", dual_stack=True)),
        ("b.s3.cn-north-1.amazonaws.com.cn", Place("b", "cn-north-1")),
        ("alias.mrap.accesspoint.s3-global.amazonaws.com", Place("alias.mrap", None, multi_region=True)),
        ("sts.eu-west-1.amazonaws.com", None),
        ("bucket.127.0.0.1", None),
    ],
)
def test_hosts(host: str, place: Place | None) -> None:
    assert place_of(host) == place


def test_the_strict_server_refuses_the_absolute_form() -> None:
    with SmallS3({"bucket": OBJECTS}) as store, StrictServer(store.url) as strict:
        assert client(strict.url).get_object(Bucket="bucket", Key="b")["Body"].read() == OBJECTS["b"]
        # As a client does that takes the server for a proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": strict.url}))
        with pytest.raises(urllib.error.HTTPError, match="400"):
            opener.open(f"{store.url}/bucket/b")
        assert [one.is_absolute for one in strict.seen] == [False, True]


def test_the_proxy_passes_both_forms_and_asks_for_its_password(tmp_path: Path) -> None:
    identity = Authority(tmp_path).server("127.0.0.1")
    with (
        SmallS3({"bucket": OBJECTS}) as plain,
        SmallS3({"bucket": OBJECTS}, tls=identity.context()) as secure,
        ForwardProxy(password="user:password") as proxy,
    ):
        for store in (plain, secure):
            for url, allowed in ((proxy.url, False), (proxy.url_with("user:password"), True)):
                s3 = client(store.url, identity.trust, proxies={"http": url, "https": url})
                if allowed:
                    assert s3.get_object(Bucket="bucket", Key="b")["Body"].read() == OBJECTS["b"]
                else:
                    with pytest.raises((ClientError, ProxyConnectionError)):
                        s3.get_object(Bucket="bucket", Key="b")
        assert [(one.method, one.port, one.passed) for one in proxy.passed] == [
            ("GET", plain.port, False),
            ("GET", plain.port, True),
            ("CONNECT", secure.port, False),
            ("CONNECT", secure.port, True),
        ]
        assert not plain.seen[0].request.is_absolute


def test_a_judge_decides_before_the_store_does() -> None:
    with SmallS3({"bucket": OBJECTS}, judge=lambda request, bucket: error(400, "ExpiredToken")) as store:
        with pytest.raises(ClientError, match="ExpiredToken"):
            client(store.url).get_object(Bucket="bucket", Key="b")
        assert store.seen[0].status == 400


def test_the_wall_clock_is_set_while_a_process_runs(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import time\nfor _ in range(2): print(-float(input()) + time.time(), flush=True)"],
        env=clock.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        for off in (0, -7200):
            clock.set(timedelta(seconds=off))
            print(time.time(), file=child.stdin, flush=True)
            assert float(child.stdout.readline()) == pytest.approx(off, abs=60)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "sso"])
def test_sources_of_credentials(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sources() as sources, SmallS3({"bucket": OBJECTS}, judge=sources.keys.judge) as store:
        recipe = RECIPES[name](sources, tmp_path)
        for variable in [one for one in os.environ if one.startswith("AWS_")]:
            monkeypatch.delenv(variable)
        for variable, value in recipe.environment.items():
            if value is not None:
                monkeypatch.setenv(variable, value)
        profile = recipe.options.get("profile")
        session = boto3.Session(profile_name=str(profile) if profile else None, region_name="us-east-1")
        s3 = session.client("s3", endpoint_url=store.url, config=Config(retries={"total_max_attempts": 1}))
        assert s3.get_object(Bucket="bucket", Key="b")["Body"].read() == OBJECTS["b"]
        (seen,) = store.seen
        assert seen.request.access_key
        if name in RENEWED:
            assert len(sources.asked(name)) == 1
            sources.keys.revoke()
            with pytest.raises(ClientError, match="ExpiredToken"):
                s3.get_object(Bucket="bucket", Key="b")
            # The same keys are there until they are renewed, whatever is said of them.
            assert sources.keys.nrefused("bucket") == 1
        sources.keys.forget()
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            s3.get_object(Bucket="bucket", Key="b")


def test_sso(tmp_path: Path) -> None:
    # In a process of its own: botocore finds the home folder when it is imported.
    with Sources() as sources:
        script = "import boto3; print(boto3.Session().get_credentials().access_key)"
        environment = {"PATH": os.defpath} | {
            name: value for name, value in RECIPES["sso"](sources, tmp_path).environment.items() if value is not None
        }
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("SSO")
        assert [one.status for one in sources.asked("sso-oidc")] == [200]


def test_what_is_wrong_with_a_source_ends_when_it_is_mended() -> None:
    def ask(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"{sources.url}/{path}") as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    with Sources() as sources, ThreadPoolExecutor() as threads:
        troubles: dict[Trouble, int] = {"500": 500, "throttled": 429, "nothing": 200}
        for trouble, seen in troubles.items():
            sources.trouble("process", trouble)
            assert ask("process")[0] == seen
        assert ask("process") == (200, b"")
        sources.trouble("process", "hangs")
        hanging = threads.submit(ask, "process")
        assert not wait([hanging], timeout=0.2).done
        sources.mend()
        assert hanging.result()[0] == 200
        assert [one.status for one in sources.asked("process")] == [500, 429, 200, 200, 200]
