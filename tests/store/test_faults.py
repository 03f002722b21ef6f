"""What foreign errors become. Pins the one place that reads obstore's texts, against obstore itself."""

from __future__ import annotations

from collections.abc import Iterator

import botocore.exceptions
import pytest
import trio

from s3server import S3Server
from s3stream_fs.errors import (
    Archived,
    Denied,
    KeysRefused,
    NoBucket,
    NoKeys,
    NotFound,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
    Throttled,
)
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.faults import error_of, from_source
from s3stream_fs.store.s3.store import S3Store, open_s3
from s3stream_fs.types import ByteRange, ObjectId

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"

CASES: list[tuple[int, str, type[StoreError]]] = [
    (503, "SlowDown", Throttled),
    (503, "ServiceUnavailable", Throttled),
    (429, "TooManyRequests", Throttled),
    (500, "InternalError", StoreUnavailable),
    (501, "NotImplemented", StoreError),
    (502, "BadGateway", StoreUnavailable),
    (400, "RequestTimeout", StoreUnavailable),
    (403, "AccessDenied", Denied),
    (403, "InvalidObjectState", Archived),
    (400, "ExpiredToken", KeysRefused),
    (403, "InvalidAccessKeyId", KeysRefused),
    (401, "Unauthorized", Denied),
    (404, "NoSuchKey", NotFound),
    (404, "XAdminUserNotFound", KeysRefused),
    (404, "NoSuchBucket", NoBucket),
    (412, "PreconditionFailed", ObjectChanged),
    (416, "InvalidRange", ObjectChanged),
    (400, "InvalidArgument", StoreError),
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with S3Server() as started:
        started.create_bucket("bucket")
        yield started


def error_from(server: S3Server, key: str, object_id: ObjectId) -> StoreError:
    """What a GET of ``key`` raises."""
    found: list[StoreError] = []

    async def main() -> None:
        async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region="us-east-1"), {})) as store:
            await get(store, object_id, found)

    trio.run(main)
    (error,) = found
    assert SECRET not in str(error)
    assert "AKIA" not in str(error)
    assert "http" not in str(error)
    assert "\n" not in str(error)
    return error


async def get(store: S3Store, object_id: ObjectId, found: list[StoreError]) -> None:
    try:
        await store.get_range(object_id, ByteRange(0, object_id.size), lambda _: None)
    except StoreError as error:
        found.append(error)


@pytest.mark.parametrize("key", ["plain", "control\x01"], ids=["data plane", "control plane"])
@pytest.mark.parametrize(("status", "code", "kind"), CASES, ids=[f"{status} {code}" for status, code, _ in CASES])
def test_answers(server: S3Server, key: str, status: int, code: str, kind: type[StoreError]) -> None:
    object_id = ObjectId(key, server.put("bucket", key, b"x" * 100), 100)
    server.fail_next("GET", status, code)
    assert type(error_from(server, key, object_id)) is kind
    assert type(error_of(status, code)) is kind


@pytest.mark.parametrize("key", ["plain", "control\x01"], ids=["data plane", "control plane"])
def test_a_cut_body_is_transient(server: S3Server, key: str) -> None:
    object_id = ObjectId(key, server.put("bucket", key, b"x" * 100_000), 100_000)
    server.cut_next("GET", 1000)
    assert type(error_from(server, key, object_id)) is StoreUnavailable


def test_a_refused_connection_is_transient(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[StoreError] = []

    async def main() -> None:
        config = resolve(S3Config("bucket", endpoint_url="http://127.0.0.1:9", region="us-east-1"), {})
        async with open_s3(config) as store:
            for key in ("plain", "control\x01"):
                await get(store, ObjectId(key, "e", 10), found)
            with pytest.raises(StoreUnavailable):
                await store.list_page("")

    trio.run(main)
    assert [type(error) for error in found] == [StoreUnavailable, StoreUnavailable]


@pytest.mark.parametrize("key", ["plain", "control\x01"], ids=["data plane", "control plane"])
@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"00000000000000000000000000000000"'}, {"Content-Range": "bytes 1-100/101"}, {"Content-Range": "x"}],
    ids=["etag", "range", "nonsense"],
)
def test_untrue_answers_deliver_nothing(server: S3Server, key: str, headers: dict[str, str]) -> None:
    object_id = ObjectId(key, server.put("bucket", key, b"x" * 100), 100)
    delivered: list[memoryview] = []

    async def main() -> None:
        async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region="us-east-1"), {})) as store:
            server.alter_next("GET", headers, times=2)  # what one plane cannot take, the other one may
            with pytest.raises((ObjectChanged, StoreUnavailable)):
                await store.get_range(object_id, ByteRange(1, 90), delivered.append)

    trio.run(main)
    assert delivered == []


def test_no_credentials_is_denied(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    found: list[StoreError] = []

    async def main() -> None:
        async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region="us-east-1"), {})) as store:
            await get(store, ObjectId("plain", "e", 10), found)
            with pytest.raises(Denied, match="no usable credentials"):
                await store.list_page("")

    trio.run(main)
    assert [type(error) for error in found] == [NoKeys]


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer secret.secret.secret",
        "authorization = Basic secret",
        "'password': 'secret secret'",
        "SecretAccessKey=secret",
        "no answer from https://user:secret@host/path",
        "no answer from https://secret@host",
        "AKIAIOSFODNN7EXAMPLE is unknown",
        f"{SECRET} is unknown",
        "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0c2VjcmV0c2VjcmV0.c2VjcmV0LXNlY3JldF9z is unknown",
    ],
)
def test_what_a_source_says_is_told_without_what_is_secret_in_it(text: str) -> None:
    error = botocore.exceptions.CredentialRetrievalError(provider="custom-process", error_msg=f"It failed: {text}")
    told = str(from_source(error))
    assert "It failed: " in told
    for secret in ("secret", "AKIA", SECRET, "eyJ", "c2Vj"):
        assert secret not in told.replace("SecretAccessKey", "")


@pytest.mark.parametrize(
    "text",
    ["usage: tool --secret-key LEAK --token LEAK", "token for the vault is LEAK, rejected", "pw=LEAK", "auth LEAK"],
)
def test_what_a_program_says_behind_a_word_for_a_secret_is_not_told(text: str) -> None:
    error = botocore.exceptions.CredentialRetrievalError(provider="custom-process", error_msg=f"It failed: {text}")
    assert "It failed: " in str(from_source(error))
    assert "LEAK" not in str(from_source(error))


def test_what_has_no_end_is_cut_before_it_is_looked_at() -> None:
    error = botocore.exceptions.CredentialRetrievalError(provider="custom-process", error_msg="x:/" * 1_000_000)
    assert len(str(from_source(error))) < 500
    assert len(str(error_of(400, "C" * 400_000))) < 100
