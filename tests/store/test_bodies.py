"""How the bodies of GETs come, by either plane: piece by piece, and what is done when one is cut."""

from __future__ import annotations

import gc
import hashlib
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from loopback import Answer, Request
from s3stream_fs.errors import ObjectChanged, StoreUnavailable
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.store.s3 import data
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.pace import LEAST_NBYTES, Pace
from s3stream_fs.store.s3.store import S3Store, open_s3
from s3stream_fs.types import ByteRange, ObjectId
from smalls3 import SmallS3

PATIENCE_SECONDS: Final = 30

MIB: Final = 1024 * 1024

DATA: Final = "plain"
CONTROL: Final = "control\x01"
"""Keys by which the plane is chosen: obstore does not take the second one."""

BODY: Final = random.Random(14).randbytes(8 * MIB)
PART: Final = ByteRange(MIB, len(BODY))
"""A range; the whole object is asked for in another way."""

LOST_NBYTES: Final = 4 * MIB
"""More than a cut may cost: the largest piece, and what a socket's buffers hold of it."""

both_planes = pytest.mark.parametrize("key", [DATA, CONTROL], ids=["data plane", "control plane"])
any_span = pytest.mark.parametrize("span", [PART, ByteRange(0, len(BODY))], ids=["a range", "whole"])

left_generators = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
"""httpx2 leaves its generators to the garbage collector where a body is not read to its end; what counts is closed."""

Alter = Callable[[Request, Answer], Answer]


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


class Large(SmallS3):
    """One object under either key, the bodies of whose GETs ``alter`` may change. Its ETag is no digest."""

    def __init__(self, alter: Alter) -> None:
        super().__init__({"bucket": {DATA: BODY, CONTROL: BODY}})
        self._alter = alter
        self.starts: list[int] = []
        """Where the GETs began."""

    def serve(self, request: Request, bucket: str, key: str) -> Answer:
        if request.method != "GET" or not key:
            return super().serve(request, bucket, key)
        unconditional = replace(request, headers={k: v for k, v in request.headers.items() if k != "if-match"})
        answer = super().serve(unconditional, bucket, key)
        told = answer.headers.get("Content-Range", "bytes 0-").removeprefix("bytes ")
        self.starts.append(int(told.partition("-")[0]))
        return self._alter(request, replace(answer, headers={**answer.headers, "ETag": '"version"'}))


def version(key: str) -> ObjectId:
    return ObjectId(key, "version", len(BODY))


def using(server: SmallS3, case: Callable[[S3Store], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region="eu-west-1"), {})) as store:
                await case(store)

    trio.run(main)


def sent(answer: Answer, body: Iterator[bytes]) -> Answer:
    """The answer, which tells its length, with a body that comes as ``body`` does."""
    return replace(answer, headers={**answer.headers, "Content-Length": str(len(answer.body))}, pieces=body)


def cut(answer: Answer, nbytes: int) -> Answer:
    def body() -> Iterator[bytes]:
        yield answer.body[:nbytes]
        raise ConnectionAbortedError

    return sent(answer, body())


@both_planes
@any_span
def test_a_body_that_is_cut_goes_on_where_it_ended(key: str, span: ByteRange) -> None:
    ncuts = 3

    def alter(_: Request, answer: Answer) -> Answer:
        return cut(answer, len(answer.body) * 95 // 100) if len(server.starts) <= ncuts else answer

    with Large(alter) as server:
        got = bytearray()

        async def case(store: S3Store) -> None:
            await RetryingStore(store, RetryPolicy(PATIENCE_SECONDS)).get_range(version(key), span, got.extend)

        using(server, case)
    assert got == BODY[span.start : span.stop]
    assert len(server.starts) == ncuts + 1
    assert server.starts[1] > span.start + len(span) // 2
    assert server.starts == sorted(server.starts)


@both_planes
@any_span
def test_a_body_gets_on_however_often_it_is_cut(key: str, span: ByteRange) -> None:
    """As by a proxy that ends each answer after a MiB, or a moment."""
    with Large(lambda _, answer: cut(answer, MIB) if len(answer.body) > MIB else answer) as server:
        got = bytearray()

        async def case(store: S3Store) -> None:
            await see_that_bodies_come_fast(store, key)
            policy = RetryPolicy(PATIENCE_SECONDS, base_seconds=0.001)
            await RetryingStore(store, policy).get_range(version(key), span, got.extend)

        using(server, case)
    assert got == BODY[span.start : span.stop]


@both_planes
def test_what_came_before_a_cut_is_handed_over_but_for_a_piece(key: str) -> None:
    with Large(lambda _, answer: cut(answer, 6 * MIB)) as server:

        async def case(store: S3Store) -> None:
            # At first small pieces, and once it has been seen how fast bodies come, large ones.
            for lost_nbytes in (2 * LEAST_NBYTES + MIB, LOST_NBYTES, LOST_NBYTES):
                got = bytearray()
                with pytest.raises(StoreUnavailable):
                    await store.get_range(version(key), version(key).whole, got.extend)
                assert got == BODY[: len(got)]
                assert 6 * MIB - lost_nbytes <= len(got) <= 6 * MIB

        using(server, case)


async def see_that_bodies_come_fast(store: S3Store, key: str) -> None:
    for _ in range(20):
        await store.get_range(version(key), ByteRange(0, MIB), lambda _: None)


@pytest.mark.parametrize("span", [PART, ByteRange(0, MIB)], ids=["a part", "little"])
def test_a_body_that_was_to_come_at_once_and_does_not_is_taken_in_pieces(
    span: ByteRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that has no end, too, no more comes than there is time for."""
    monkeypatch.setattr(data, "_AT_ONCE_SECONDS", 0.2)
    waiting = threading.Event()  # is never set

    def alter(_: Request, answer: Answer) -> Answer:
        def body() -> Iterator[bytes]:
            yield answer.body[:-1]
            server.server.wait(waiting)

        return sent(answer, body()) if hung else answer

    with Large(alter) as server:
        hung = False

        async def case(store: S3Store) -> None:
            nonlocal hung
            await see_that_bodies_come_fast(store, DATA)
            hung = True
            with pytest.raises(StoreUnavailable, match=r"has not come within 0\.2 s"):
                await store.get_range(version(DATA), span, lambda _: None)
            got = bytearray()
            with trio.move_on_after(0.5):
                await store.get_range(version(DATA), span, got.extend)
            assert len(got) >= len(span) - LEAST_NBYTES - 1
            assert got == BODY[span.start :][: len(got)]

        using(server, case)


@left_generators
@any_span
@pytest.mark.parametrize("more", [-MIB, 1, MIB])
def test_of_a_body_that_comes_at_once_the_length_is_checked(span: ByteRange, more: int) -> None:
    def alter(request: Request, answer: Answer) -> Answer:
        if not wrong:
            return answer
        whole = answer.body + bytes(max(more, 0))
        return replace(answer, pieces=iter([whole[:MIB], whole[MIB : len(answer.body) + more]]))

    with Large(alter) as server:
        wrong = False

        async def case(store: S3Store) -> None:
            nonlocal wrong
            await see_that_bodies_come_fast(store, DATA)
            wrong = True
            got = bytearray()
            with pytest.raises(StoreUnavailable, match="instead of"):
                await store.get_range(version(DATA), span, got.extend)
            assert got == BODY[span.start :][: len(got)]
            gc.collect()

        using(server, case)


@both_planes
def test_the_first_bytes_are_there_while_the_last_ones_are_not(key: str) -> None:
    waited_for = threading.Event()

    def alter(_: Request, answer: Answer) -> Answer:
        def body() -> Iterator[bytes]:
            yield answer.body[: 4 * MIB]
            server.server.wait(waited_for)
            yield answer.body[4 * MIB :]

        return sent(answer, body())

    with Large(alter) as server:

        async def case(store: S3Store) -> None:
            got = bytearray()

            def deliver(piece: memoryview) -> None:
                got.extend(piece)
                waited_for.set()

            await store.get_range(version(key), version(key).whole, deliver)
            assert got == BODY

        using(server, case)


@left_generators
@both_planes
@any_span
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("more", [1, MIB, 40 * MIB])
def test_of_a_body_that_is_too_long_nothing_wrong_is_handed_over(
    key: str, span: ByteRange, more: int, told: bool
) -> None:
    def alter(_: Request, answer: Answer) -> Answer:
        whole = answer.body + bytes(more)
        return replace(answer, body=whole) if told else replace(answer, pieces=iter([whole[:MIB], whole[MIB:]]))

    with Large(alter) as server:

        async def case(store: S3Store) -> None:
            got = bytearray()
            # Of a whole object it looks like another size.
            with pytest.raises((StoreUnavailable, ObjectChanged)):
                await store.get_range(version(key), span, got.extend)
            assert got == BODY[span.start :][: len(got)]
            assert len(got) < len(span)
            gc.collect()

        using(server, case)


@both_planes
@any_span
def test_a_body_that_ends_early_without_a_fault_is_too_short(key: str, span: ByteRange) -> None:
    with Large(lambda _, answer: replace(answer, pieces=iter([answer.body[: 5 * MIB]]))) as server:

        async def case(store: S3Store) -> None:
            got = bytearray()
            with pytest.raises(StoreUnavailable, match=f"instead of {len(span)}"):
                await store.get_range(version(key), span, got.extend)
            assert got == BODY[span.start :][: len(got)]

        using(server, case)


@both_planes
def test_a_body_that_has_just_come_leaves_its_connection_to_the_next(key: str) -> None:
    with Large(lambda _, answer: answer) as server:

        async def case(store: S3Store) -> None:
            for nbytes in (1, LEAST_NBYTES, 3 * MIB, 3 * MIB + 1, 6 * MIB, len(BODY)) * 2:
                got = bytearray()
                await store.get_range(version(key), ByteRange(0, nbytes), got.extend)
                assert hashlib.md5(got).digest() == hashlib.md5(BODY[:nbytes]).digest()

        using(server, case)
        assert server.server.nconnections <= 3  # the next GET is sometimes sooner than the connection is free


# -- the pace


ANY: Final = ObjectId("any", "version", 1 << 40)


def test_pieces_are_small_until_it_is_known_how_fast_bodies_come() -> None:
    assert Pace().piece_nbytes(ANY) == LEAST_NBYTES


@pytest.mark.parametrize(
    ("nbytes_per_second", "piece_nbytes"),
    [(1e3, LEAST_NBYTES), (1e6, LEAST_NBYTES), (4e6, 1_000_000), (8e6, 2_000_000), (90e6, 3 * MIB), (1e12, 3 * MIB)],
)
def test_a_piece_is_what_comes_in_a_quarter_of_a_second(nbytes_per_second: float, piece_nbytes: int) -> None:
    pace = Pace()
    for nbytes in (300_000, 2_000_000, 3_500_000):
        pace.came(nbytes, nbytes / nbytes_per_second)
    assert pace.piece_nbytes(ANY) == pytest.approx(piece_nbytes, rel=0.001)


@pytest.mark.parametrize(
    ("nbytes_per_second", "at_once"), [(1e6, LEAST_NBYTES), (4e6, 1_000_000), (30e6, 7 * MIB), (34e6, 8 * MIB)]
)
def test_what_comes_in_a_quarter_of_a_second_comes_at_once(nbytes_per_second: float, at_once: int) -> None:
    pace = Pace()
    assert not pace.comes_at_once(ANY, 1, told=False)
    assert not pace.comes_at_once(ANY, LEAST_NBYTES + 1, told=True)
    pace.came(MIB, MIB / nbytes_per_second)
    assert pace.comes_at_once(ANY, min(at_once, int(nbytes_per_second / 4)), told=False)
    assert not pace.comes_at_once(ANY, max(int(nbytes_per_second / 4), LEAST_NBYTES) + 1, told=True)
    assert pace.comes_at_once(ANY, LEAST_NBYTES, told=True)
    pace.cut(ANY)
    assert not pace.comes_at_once(ANY, 1, told=True)


def test_a_link_that_becomes_slow_is_known_after_a_few_pieces() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.came(3 * MIB, 3 * MIB / 90e6)
    for _ in range(5):
        pace.came(pace.piece_nbytes(ANY), pace.piece_nbytes(ANY) / 1e6)
    assert pace.piece_nbytes(ANY) < MIB


def test_a_piece_that_took_no_time_is_no_fault() -> None:
    pace = Pace()
    pace.came(LEAST_NBYTES, 0.0)
    assert pace.piece_nbytes(ANY) == 3 * MIB


def test_of_what_was_cut_pieces_are_small_until_eight_bodies_are_complete() -> None:
    pace, other = Pace(), ObjectId("other", "version", 10)
    pace.came(MIB, 0.0)
    pace.cut(ANY)
    assert pace.piece_nbytes(ANY) == LEAST_NBYTES
    assert pace.piece_nbytes(other) == 3 * MIB
    for object_id in (ANY,) * 7 + (other,) * 10:
        pace.complete(object_id)
        assert pace.piece_nbytes(ANY) == LEAST_NBYTES
    pace.complete(ANY)
    assert pace.piece_nbytes(ANY) == 3 * MIB
