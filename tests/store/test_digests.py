"""Bodies that come without TLS are compared with their ETag where that is their MD5, by either plane."""

from __future__ import annotations

import hashlib
import logging
import random
import ssl
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from authority import Authority
from loopback import Answer, Request
from s3stream_fs.errors import StoreUnavailable
from s3stream_fs.store import Deliver
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.store.s3 import checker
from s3stream_fs.store.s3.checker import Checker
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.digests import Digests, Verdict
from s3stream_fs.store.s3.store import S3Store, open_s3
from s3stream_fs.types import ByteRange, ObjectId
from smalls3 import SmallS3

PATIENCE_SECONDS: Final = 30

MIB: Final = 1024 * 1024

_RANDOM: Final = random.Random(4)

OBJECTS: Final = {
    **{f"plain/{number}": _RANDOM.randbytes(100_000) for number in range(12)},
    **{f"control\x01/{number}": _RANDOM.randbytes(100_000) for number in range(12)},
    "plain/tiny": b"t",
    "plain/large": _RANDOM.randbytes(4 * MIB),
    "control\x01/large": _RANDOM.randbytes(4 * MIB),
}

both_planes = pytest.mark.parametrize("plane", ["plain", "control\x01"], ids=["data plane", "control plane"])
any_size = pytest.mark.parametrize("key", ["plain/tiny", "plain/0", "plain/large", "control\x01/0"])

Alter = Callable[[Request, Answer], Answer]


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


class Fragile(SmallS3):
    """A store whose answers to GETs of objects ``alter`` may change."""

    def __init__(self, alter: Alter, tls: ssl.SSLContext | None = None) -> None:
        super().__init__({"bucket": OBJECTS}, tls=tls)
        self._alter = alter

    def serve(self, request: Request, bucket: str, key: str) -> Answer:
        # The ETags that it is asked by may be those that ``alter`` gives.
        unconditional = {name: value for name, value in request.headers.items() if name != "if-match"}
        answer = super().serve(replace(request, headers=unconditional), bucket, key)
        return self._alter(request, answer) if request.method == "GET" and key and answer.status < 300 else answer

    @property
    def ngets(self) -> int:
        return len(self.of_kind("GET"))


def flipped(answer: Answer, at: int) -> Answer:
    body = bytearray(answer.body)
    body[at % len(body)] ^= 1
    return replace(answer, body=bytes(body))


def flips(*which: int) -> Alter:
    """Another bit of each of these GETs, by number, is flipped."""
    numbers = iter(range(1_000_000))

    def alter(_: Request, answer: Answer) -> Answer:
        number = next(numbers)
        return flipped(answer, 7919 * number) if number in which else answer

    return alter


def other_etags(_: Request, answer: Answer) -> Answer:
    """ETags of as many digits that say nothing of the bytes, as with SSE-KMS."""
    etag = hashlib.blake2b(answer.headers["ETag"].encode(), digest_size=16).hexdigest()
    return replace(answer, headers={**answer.headers, "ETag": f'"{etag}"'})


def known(key: str, etag: str = "") -> ObjectId:
    return ObjectId(key, etag or hashlib.md5(OBJECTS[key]).hexdigest(), len(OBJECTS[key]))


async def read(store: S3Store, object_id: ObjectId, span: ByteRange | None = None) -> bytes:
    got = bytearray()
    await store.get_range(object_id, span or object_id.whole, got.extend)
    return bytes(got)


def using(server: SmallS3, case: Callable[[S3Store], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            config = S3Config("bucket", endpoint_url=server.url, region="eu-west-1", **options)
            async with open_s3(resolve(config, {})) as store:
                await case(store)

    trio.run(main)


@any_size
def test_a_flipped_bit_is_seen_and_the_body_fetched_again(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with Fragile(flips(0, 2)) as server:

        async def case(store: S3Store) -> None:
            for _ in range(3):
                assert await read(store, known(key)) == OBJECTS[key]
            assert store.statistics().damaged == 2

        using(server, case)
        assert server.ngets == 5
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "damaged" in warning


@any_size
def test_what_comes_damaged_twice_reaches_nobody_and_may_be_tried_again(key: str) -> None:
    with Fragile(flips(0, 1, 2, 3)) as server:

        async def case(store: S3Store) -> None:
            if len(OBJECTS[key]) > 1:  # of one byte two flips may be alike
                got = bytearray()
                with pytest.raises(StoreUnavailable, match="damaged"):
                    await store.get_range(known(key), known(key).whole, got.extend)
                assert not got
                await RetryingStore(store, RetryPolicy(PATIENCE_SECONDS)).get_range(
                    known(key), known(key).whole, got.extend
                )
                assert got == OBJECTS[key]

        using(server, case)


@both_planes
def test_etags_that_are_no_digests_are_found_out(plane: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Fragile(other_etags) as server:

        async def case(store: S3Store) -> None:
            for number in range(12):
                key = f"{plane}/{number}"
                etag = hashlib.blake2b(f'"{known(key).etag}"'.encode(), digest_size=16).hexdigest()
                assert await read(store, known(key, etag)) == OBJECTS[key]
            assert store.statistics().damaged == 0

        using(server, case)
        assert server.ngets == 12 + 4
    told = [record.getMessage() for record in caplog.records if "MD5" in record.getMessage()]
    assert len(told) == 1


@both_planes
def test_of_many_at_once_few_are_fetched_again_for_a_store_without_digests(plane: str) -> None:
    with Fragile(other_etags) as server:

        async def case(store: S3Store) -> None:
            async def one(key: str) -> None:
                etag = hashlib.blake2b(f'"{known(key).etag}"'.encode(), digest_size=16).hexdigest()
                assert await read(store, known(key, etag)) == OBJECTS[key]

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(one, f"{plane}/{number}")

        using(server, case)
        assert server.ngets == 12 + 4


@both_planes
def test_parts_are_not_checked(plane: str) -> None:
    key = f"{plane}/0"
    with Fragile(lambda _, answer: answer) as server:

        async def case(store: S3Store) -> None:
            for span in (ByteRange(0, 99_999), ByteRange(1, 100_000)):
                assert await read(store, known(key), span) == OBJECTS[key][span.start : span.stop]

        using(server, case)
        assert server.ngets == 2


def test_over_tls_nothing_is_checked(tmp_path: Path) -> None:
    identity = Authority(tmp_path).server("127.0.0.1")
    with Fragile(flips(0), tls=identity.context()) as server:

        async def case(store: S3Store) -> None:
            assert await read(store, known("plain/0")) == flipped(Answer(body=OBJECTS["plain/0"]), 0).body

        using(server, case, ca_bundle=identity.trust)
        assert server.ngets == 1


def test_a_body_that_comes_slowly_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_PATIENCE_SECONDS", 0.0)
    key = "plain/large"

    def alter(_: Request, answer: Answer) -> Answer:
        def body() -> Iterator[bytes]:
            yield answer.body[: 2 * MIB]
            raise ConnectionAbortedError

        return replace(answer, headers={**answer.headers, "Content-Length": str(len(answer.body))}, pieces=body())

    with Fragile(alter) as server:

        async def case(store: S3Store) -> None:
            got = bytearray()
            with pytest.raises(StoreUnavailable):
                await store.get_range(known(key), known(key).whole, got.extend)
            assert len(got) > MIB
            assert got == OBJECTS[key][: len(got)]

        using(server, case)


@both_planes
def test_a_body_that_is_cut_each_time_gets_on(plane: str) -> None:
    key = f"{plane}/large"

    def alter(_: Request, answer: Answer) -> Answer:
        if len(answer.body) <= MIB:
            return answer

        def body() -> Iterator[bytes]:
            yield answer.body[:MIB]
            raise ConnectionAbortedError

        return replace(answer, headers={**answer.headers, "Content-Length": str(len(answer.body))}, pieces=body())

    with Fragile(alter) as server:
        got = bytearray()

        async def case(store: S3Store) -> None:
            policy = RetryPolicy(PATIENCE_SECONDS, base_seconds=0.001)
            await RetryingStore(store, policy).get_range(known(key), known(key).whole, got.extend)

        using(server, case)
    assert got == OBJECTS[key]


def test_without_threads_bodies_are_compared_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(checker, "Thread", Refused)
    with Fragile(flips(0)) as server:

        async def case(store: S3Store) -> None:
            assert await read(store, known("plain/0")) == OBJECTS["plain/0"]

        using(server, case)


# -- what a difference means

A, B, C = "a" * 32, "b" * 32, "c" * 32


def test_only_what_looks_like_the_digest_of_a_whole_object_is_expected() -> None:
    digests = Digests(checking=True)
    whole = ByteRange(0, 10)
    assert digests.expected(ObjectId("k", A.upper(), 10), whole) == A
    for etag in (f"{A}-1", A[1:], f"{A}a", "g" * 32, "@1700000000", ""):
        assert digests.expected(ObjectId("k", etag, 10), whole) is None
    assert digests.expected(ObjectId("k", A, 11), whole) is None
    assert Digests(checking=False).expected(ObjectId("k", A, 10), whole) is None


def test_a_difference_is_damage_where_the_second_body_is_another_one() -> None:
    digests = Digests(checking=True)
    assert digests.judge(A, A) is Verdict.RIGHT
    assert digests.judge(A, B) is Verdict.AGAIN
    assert digests.judge(A, A, B) is Verdict.RIGHT
    assert digests.judge(A, C, B) is Verdict.DAMAGED
    assert digests.judge(A, B, B) is Verdict.NO_DIGEST
    assert digests.damaged == 3


@pytest.mark.parametrize(("nright", "nodd"), [(0, 4), (16, 4), (31, 4), (32, 5), (800, 101)])
def test_a_store_is_not_checked_any_more_once_too_many_etags_are_no_digests(nright: int, nodd: int) -> None:
    digests = Digests(checking=True)
    for _ in range(nright):
        digests.judge(A, A)
    for number in range(nodd):
        assert digests.checking, number
        digests.judge(A, B, B)
    assert not digests.checking


def test_bytes_of_a_body_that_was_cut_do_not_wait_for_the_collector() -> None:
    async def get(_: ObjectId, span: ByteRange, deliver: Deliver) -> None:
        deliver(memoryview(pieces.pop()))
        raise StoreUnavailable("cut")

    async def main() -> None:
        with Checker(checking=True) as checker, pytest.raises(StoreUnavailable) as failure:
            await checker.get(known("plain/0"), ByteRange(0, 100_000), lambda _: None, get)
        assert failure.value.__traceback__ is not None  # whoever keeps the error
        assert gone() is None

    class Piece(bytearray):
        """Can be watched."""

    pieces = [Piece(50_000)]
    gone = weakref.ref(pieces[0])
    trio.run(main)
