"""What both planes send to a store, where a setting asks for it: the same, and signed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from amazon import Amazon
from forwardproxy import ForwardProxy
from s3stream_fs.errors import UsageError
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.store import open_s3
from smalls3 import Seen, SmallS3

PATIENCE_SECONDS: Final = 30

DATA: Final = "plain"
CONTROL: Final = "control\x01"
"""Keys by which the plane is chosen: obstore does not take the second one."""

OBJECTS: Final = {key: key.encode() * 100 for key in (DATA, CONTROL)}

KEY: Final = bytes(range(32))
SSE_C: Final = "x-amz-server-side-encryption-customer-"
SSE_C_HEADERS: Final = {
    f"{SSE_C}algorithm": "AES256",
    f"{SSE_C}key": base64.b64encode(KEY).decode(),
    f"{SSE_C}key-md5": base64.b64encode(hashlib.md5(KEY).digest()).decode(),
}


@pytest.fixture(autouse=True)
def _keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def use(environ: Mapping[str, str], bucket: str = "bucket", **options: Any) -> str:
    """LIST, HEAD, and a GET by each plane, in that order; and by what GETs are made in the end."""

    async def main() -> str:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_s3(resolve(S3Config(bucket, **options), environ)) as store:
                for info in (await store.list_page("")).objects:
                    assert await store.head(info.id.key) == info
                    got = bytearray()
                    await store.get_range(info.id, info.id.whole, got.extend)
                    assert got == OBJECTS[info.id.key]
                    assert await store.get_start(info.id.key, 5) == (info.id, bytes(got[:5]))
                return store.statistics().gets_by

    return trio.run(main)


def agents(seen: list[Seen], key: str) -> set[str]:
    return {one.request.headers["user-agent"].partition("/")[0] for one in seen if one.kind == "GET" and one.key == key}


def signed(one: Seen) -> list[str]:
    """The names of the headers that the signature covers."""
    return one.request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")


@pytest.mark.parametrize("half", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_pair_of_keys_in_the_environment_disturbs_nobody_who_needs_none(
    half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(half)
    with SmallS3({"bucket": OBJECTS}) as store:
        assert use({}, endpoint_url=store.url, anonymous=True) == "obstore"
        assert not any("authorization" in one.request.headers for one in store.seen)


def test_a_customers_key_goes_with_all_that_asks_for_an_object_and_with_nothing_else() -> None:
    with SmallS3({"bucket": OBJECTS}) as store:
        assert use({}, endpoint_url=store.url, sse_c_key=KEY) == "obstore"
        assert "s3stream-fs" in agents(store.seen, DATA)
        assert {one.kind for one in store.seen} == {"LIST", "HEAD", "GET"}
        for one in store.seen:
            sent = {name: value for name, value in one.request.headers.items() if SSE_C in name}
            assert sent == ({} if one.kind == "LIST" else SSE_C_HEADERS), one.kind
            assert set(sent) <= set(signed(one))


def test_through_a_proxy_a_customers_key_goes_by_the_control_plane_only() -> None:
    with SmallS3({"bucket": OBJECTS}) as store, ForwardProxy() as proxy:
        environ = {"HTTP_PROXY": proxy.url}
        assert use(environ, endpoint_url=store.url, sse_c_key=KEY) == "botocore"
        assert "s3stream-fs" not in agents(store.seen, DATA)
        assert len(proxy.passed) == len(store.seen)


def test_who_pays_and_whose_the_bucket_is_goes_with_every_request() -> None:
    expected = {"x-amz-expected-bucket-owner": "123456789012", "x-amz-request-payer": "requester"}
    with SmallS3({"bucket": OBJECTS}) as store:
        use({}, endpoint_url=store.url, requester_pays=True, expected_bucket_owner="123456789012")
        assert "s3stream-fs" in agents(store.seen, DATA)
        for one in store.seen:
            assert {name: one.request.headers.get(name) for name in expected} == expected, one.kind
            assert set(expected) <= set(signed(one)), one.kind


@pytest.mark.parametrize("at", ["s3 =\n  use_dualstack_endpoint = true", "use_dualstack_endpoint = true"])
def test_dual_stack_of_a_profile_holds_for_both_planes(tmp_path: Path, at: str) -> None:
    (tmp_path / "AWS_CONFIG_FILE").write_text(f"[default]\nregion = eu-west-1\n{at}\n")
    with Amazon(tmp_path / "amazon", {"bucket": OBJECTS}, {"bucket": "eu-west-1"}) as amazon:
        use(amazon.environment)
        assert "s3stream-fs" in agents(amazon.seen, DATA)
        assert {one.request.host for one in amazon.seen} == {"bucket.s3.dualstack.eu-west-1.amazonaws.com"}


def test_a_variable_that_obstore_reads_and_cannot_use_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "nonsense")
    with pytest.raises(UsageError, match="AWS_") as caught:
        use({}, endpoint_url="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
