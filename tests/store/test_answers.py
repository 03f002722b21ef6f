"""Answers that are odd, wrong or without an end, at the level of one S3Store: what is made of each, by either plane.

What is asked once and answered here is what the mount's retries then build on: what may be tried again, what is told as
final, and that one answer never changes what the whole mount does.
"""

from __future__ import annotations

import gc
import gzip
import hashlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import pytest
import trio

from loopback import Answer, Request
from s3stream_fs.errors import Denied, KeysRefused, ObjectChanged, StoreError, StoreUnavailable, WrongRegion
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.store.s3 import http
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.faults import RangeIgnored
from s3stream_fs.store.s3.room import open_bucket
from s3stream_fs.store.s3.store import S3Store, open_s3
from s3stream_fs.types import ByteRange, ObjectId
from smalls3 import SmallS3, error

PATIENCE_SECONDS: Final = 30

REGION: Final = "eu-west-1"

DATA: Final = "plain"
CONTROL: Final = "control\x01"
"""Keys by which the plane is chosen: obstore does not take the second one."""

BODY: Final = bytes(range(256)) * 4
OBJECTS: Final = {key: key.encode() + BODY for key in (DATA, CONTROL, "one", "two", "three", "four")}

PART: Final = ByteRange(10, 110)

Alter = Callable[[Request, Answer], Answer]

both_planes = pytest.mark.parametrize("key", [DATA, CONTROL], ids=["data plane", "control plane"])


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of keys; nothing else counts."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    write_key(file, "OLD")
    return file


def write_key(file: Path, name: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = secret\n")


class OddS3(SmallS3):
    """Objects in a bucket, whose answers ``alter`` may change."""

    def __init__(self, alter: Alter = lambda _, answer: answer) -> None:
        super().__init__({"bucket": OBJECTS})
        self.alter = alter

    def serve(self, request: Request, bucket: str, key: str) -> Answer:
        return self.alter(request, super().serve(request, bucket, key))


def using(server: SmallS3, case: Callable[[S3Store], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region=REGION), {})) as store:
                await case(store)

    trio.run(main)


def known(key: str) -> ObjectId:
    return ObjectId(key, hashlib.md5(OBJECTS[key]).hexdigest(), len(OBJECTS[key]))


async def read(store: S3Store, object_id: ObjectId, span: ByteRange = PART) -> bytes:
    got = bytearray()
    await store.get_range(object_id, span, got.extend)
    return bytes(got)


def is_get(request: Request) -> bool:
    return request.method == "GET" and request.path.count("/") == 2 and not request.path.endswith("/")


# -- regions that are ours


async def _list(store: S3Store) -> None:
    assert (await store.list_page("")).objects


async def _head(store: S3Store) -> None:
    assert (await store.head(DATA)).id == known(DATA)


async def _get(store: S3Store) -> None:
    assert await read(store, known(DATA)) == OBJECTS[DATA][PART.start : PART.stop]


async def _get_by_control(store: S3Store) -> None:
    assert await read(store, known(CONTROL)) == OBJECTS[CONTROL][PART.start : PART.stop]


@pytest.mark.parametrize("ask", [_list, _head, _get, _get_by_control])
def test_keys_that_expired_are_renewed_where_the_answer_names_our_own_region(
    credentials: Path, ask: Callable[[S3Store], Awaitable[None]]
) -> None:
    refused = []

    def alter(request: Request, answer: Answer) -> Answer:
        if request.access_key == "NEW":
            return answer
        refused.append(request)
        write_key(credentials, "NEW")
        return error(400, "ExpiredToken", {"x-amz-bucket-region": REGION}, said=f"<Region>{REGION}</Region>")

    with OddS3(alter) as server:

        async def case(store: S3Store) -> None:
            await ask(store)
            statistics = store.statistics()
            assert statistics.credentials is not None
            assert statistics.credentials.renewals == 1

        using(server, case)
        assert len(refused) == 1


@pytest.mark.parametrize("named", [REGION, None])
def test_a_head_with_400_means_keys_that_are_refused(named: str | None) -> None:
    def alter(_: Request, __: Answer) -> Answer:
        return Answer(400, b"", {} if named is None else {"x-amz-bucket-region": named})

    with OddS3(alter) as server:

        async def case(store: S3Store) -> None:
            with pytest.raises(KeysRefused):
                await store.head(DATA)

        using(server, case)


def test_a_request_that_is_wrong_is_not_in_another_region() -> None:
    def alter(_: Request, __: Answer) -> Answer:
        return error(400, "InvalidArgument", {"x-amz-bucket-region": REGION}, said=f"<Region>{REGION}</Region>")

    with OddS3(alter) as server:

        async def case(store: S3Store) -> None:
            for ask in (_list, _get, _get_by_control):
                with pytest.raises(StoreError, match="400 InvalidArgument") as raised:
                    await ask(store)
                assert type(raised.value) is StoreError

        using(server, case)


def test_a_store_that_names_ever_other_regions_is_not_followed_for_ever() -> None:
    asked: list[str] = []

    def alter(request: Request, _: Answer) -> Answer:
        asked.append(request.region)
        return error(400, "AuthorizationHeaderMalformed", said=f"<Region>mars-{len(asked)}</Region>")

    async def main(url: str) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            connection = resolve(S3Config("bucket", endpoint_url=url, region=REGION), {})
            with pytest.raises(WrongRegion):
                async with open_bucket(connection, lambda store: store.list_page("")):
                    pass

    with OddS3(alter) as server:
        trio.run(main, server.url)
    assert asked == [REGION, "mars-1", "mars-2"]


# -- a clock that is wrong

READERS: Final = 20


class LateS3(OddS3):
    """A store whose clock is ``ahead`` of this machine's. What it refuses it refuses to all the readers at once."""

    def __init__(self, ahead: timedelta, *, tells_in_body: bool, at_once: int) -> None:
        super().__init__(self._judge_time)
        self._now = datetime.now(UTC) + ahead
        self._tells_in_body = tells_in_body
        self._at_once = at_once
        self._rounds: list[threading.Event] = []
        self.nrefused = 0
        self._counting = threading.Lock()

    def _judge_time(self, request: Request, answer: Answer) -> Answer:
        signed = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(signed - self._now) < timedelta(minutes=15):
            return answer
        with self._counting:
            if self.nrefused % self._at_once == 0:
                self._rounds.append(threading.Event())
            self.nrefused += 1
            now = self._rounds[-1]
            if self.nrefused % self._at_once == 0:
                now.set()
        told = self._now.strftime("%Y-%m-%dT%H:%M:%SZ")
        said = f"<ServerTime>{told}</ServerTime>" if self._tells_in_body else ""
        date = format_datetime(self._now, usegmt=True)
        return replace(error(403, "RequestTimeTooSkewed", {"Date": date}, said=said), after=now)


@pytest.mark.parametrize("tells_in_body", [True, False])
def test_many_that_are_refused_for_the_clock_all_come_through_after_one_correction(
    caplog: pytest.LogCaptureFixture, tells_in_body: bool
) -> None:
    with LateS3(timedelta(hours=5), tells_in_body=tells_in_body, at_once=READERS) as server:

        async def one(store: S3Store) -> None:
            await _get(store)

        async def case(store: S3Store) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(READERS):
                    nursery.start_soon(one, store)
            await _list(store)
            assert store.statistics().gets_by == "botocore"

        using(server, case)
        # Where obstore is not told the time, each is asked for once more by the plane that is.
        assert server.nrefused == READERS * (1 if tells_in_body else 2)
    assert sum("clock is behind" in record.getMessage() for record in caplog.records) == 1


@both_planes
@pytest.mark.parametrize("years", [1000, -1000])
def test_a_store_in_another_millennium_is_not_believed(caplog: pytest.LogCaptureFixture, key: str, years: int) -> None:
    with LateS3(timedelta(days=365 * years), tells_in_body=True, at_once=1) as server:

        async def case(store: S3Store) -> None:
            with pytest.raises(KeysRefused, match="RequestTimeTooSkewed"):
                await read(store, known(key))
            with pytest.raises(KeysRefused, match="RequestTimeTooSkewed"):
                await store.list_page("")
            server.alter = lambda _, answer: answer
            await _list(store)
            await _get(store)
            assert store.statistics().gets_by == "obstore"

        using(server, case)
        for seen in server.seen:
            signed = datetime.strptime(seen.request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            assert abs(signed - datetime.now(UTC)) < timedelta(minutes=15)
    assert not caplog.records


# -- ranges


def _without(answer: Answer, *names: str) -> Answer:
    return replace(answer, headers={name: value for name, value in answer.headers.items() if name not in names})


def _with(answer: Answer, **headers: str) -> Answer:
    return replace(answer, headers=dict(answer.headers) | {k.replace("_", "-"): v for k, v in headers.items()})


def _ok(_: Request, answer: Answer) -> Answer:
    """The part that was asked for, as if that were all."""
    return replace(answer, status=200)


def _without_size(_: Request, answer: Answer) -> Answer:
    told = answer.headers.get("Content-Range", "")
    return _with(answer, Content_Range=f"{told.partition('/')[0]}/*") if told else answer


def _in_chunks(_: Request, answer: Answer) -> Answer:
    return replace(answer, body=b"", pieces=[answer.body[:7], answer.body[7:]])


def _all(request: Request, answer: Answer) -> Answer:
    """The whole object, whatever range was asked for."""
    data = OBJECTS[request.path.removeprefix("/bucket/")]
    return replace(_without(answer, "Content-Range"), status=200, body=data)


def to_gets(alter: Alter) -> Alter:
    return lambda request, answer: alter(request, answer) if is_get(request) and answer.status < 300 else answer


@both_planes
@pytest.mark.parametrize("alter", [_ok, _without_size, _in_chunks])
def test_a_part_in_an_odd_answer_is_right(key: str, alter: Alter) -> None:
    with OddS3(to_gets(alter)) as server:

        async def case(store: S3Store) -> None:
            for span in (PART, ByteRange(0, 1), ByteRange(PART.start, known(key).size)):
                assert await read(store, known(key), span) == OBJECTS[key][span.start : span.stop]

        using(server, case)


@both_planes
@pytest.mark.parametrize("alter", [_all, _in_chunks])
def test_the_whole_object_in_an_odd_answer_is_right(key: str, alter: Alter) -> None:
    with OddS3(to_gets(alter)) as server:

        async def case(store: S3Store) -> None:
            assert await read(store, known(key), known(key).whole) == OBJECTS[key]

        using(server, case)


@both_planes
def test_the_whole_object_in_the_place_of_a_part_is_told_at_once(key: str) -> None:
    with OddS3(to_gets(_all)) as server:

        async def case(store: S3Store) -> None:
            with pytest.raises(RangeIgnored):
                await RetryingStore(store, RetryPolicy()).get_range(known(key), PART, lambda _: None)
            with pytest.raises(RangeIgnored):
                await store.get_start(key, 10)

        using(server, case)
        assert len(server.of_kind("GET")) == (3 if key == DATA else 2)


@pytest.mark.parametrize("alter", [_ok, _without_size, _in_chunks])
def test_after_three_objects_the_plane_that_cannot_take_the_answers_is_left(
    caplog: pytest.LogCaptureFixture, alter: Alter
) -> None:
    with OddS3(to_gets(alter)) as server:

        async def case(store: S3Store) -> None:
            for _ in range(5):  # of one object only: it may be the object
                await read(store, known("one"))
            await read(store, known("two"))
            assert store.statistics().gets_by == "obstore"
            await read(store, known("three"))
            assert store.statistics().gets_by == "botocore"
            server.clear()
            for key in ("one", "two", "three", "four"):
                await read(store, known(key))

        using(server, case)
        assert len(server.of_kind("GET")) == 4
    assert sum("through botocore" in record.getMessage() for record in caplog.records) == 1


def test_odd_answers_between_ordinary_ones_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with OddS3() as server:

        async def case(store: S3Store) -> None:
            for _ in range(2):
                for key in ("one", "two"):
                    server.alter = to_gets(_without_size)
                    await read(store, known(key))
                server.alter = lambda _, answer: answer
                await read(store, known("three"))
            assert store.statistics().gets_by == "obstore"

        using(server, case)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_answers_that_are_given_up_leave_no_connection_behind() -> None:
    with OddS3(to_gets(lambda _, answer: _without(answer, "Content-Range"))) as server:

        async def case(store: S3Store) -> None:
            for _ in range(100):
                with pytest.raises(StoreUnavailable):
                    await store.get_start(DATA, 100)
            await _list(store)

        using(server, case)


@both_planes
def test_connections_are_used_again_by_one_after_another(key: str) -> None:
    with OddS3() as server:

        async def case(store: S3Store) -> None:
            for start in range(20):
                span = ByteRange(start, start + 500)
                assert await read(store, known(key), span) == OBJECTS[key][span.start : span.stop]
                assert await read(store, known(key), known(key).whole) == OBJECTS[key]

        using(server, case)
        # The next GET is sometimes sooner than the connection of the last one is free.
        assert server.server.nconnections <= 5


# -- bodies without an end


class Endless:
    """Pieces without an end, counted as they are taken."""

    def __init__(self) -> None:
        self.nbytes = 0

    def __iter__(self) -> Iterator[bytes]:
        piece = b"<!--" + bytes(64 * 1024) + b"-->"
        while True:
            self.nbytes += len(piece)
            yield piece


NBYTES_AT_MOST: Final = 48 * 1024 * 1024
"""What the sockets of both ends and obstore hold before anybody looks at it."""


left_generators = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
"""httpx2 leaves its generators to the garbage collector where a body is not read to its end; what counts is closed."""


@left_generators
@both_planes
@pytest.mark.parametrize("told", [1 << 40, None])
def test_of_a_body_that_is_longer_than_what_was_asked_for_no_more_is_read(key: str, told: int | None) -> None:
    endless = Endless()

    def alter(_: Request, answer: Answer) -> Answer:
        answer = replace(answer, body=b"", pieces=endless)
        return answer if told is None else _with(answer, Content_Length=str(told))

    with OddS3(to_gets(alter)) as server:

        async def case(store: S3Store) -> None:
            with pytest.raises(StoreUnavailable, match="instead of 100"):
                await read(store, known(key))
            with pytest.raises(StoreUnavailable, match="instead of 100"):
                await store.get_start(key, 100)
            await _list(store)
            gc.collect()

        using(server, case)
    assert endless.nbytes < NBYTES_AT_MOST


@left_generators
def test_a_listing_and_a_refusal_without_an_end_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MOST_LISTED_NBYTES", 1024 * 1024)
    endless = Endless()

    with OddS3() as server:

        async def case(store: S3Store) -> None:
            for status, kind in ((200, StoreError), (403, Denied), (500, StoreUnavailable)):
                server.alter = lambda _, answer: replace(answer, status=status, pieces=endless)  # noqa: B023
                with pytest.raises(kind) as failed:
                    await store.list_page("")
                assert type(failed.value) is kind
            server.alter = lambda _, answer: answer
            await _list(store)
            gc.collect()

        using(server, case)
    assert endless.nbytes < NBYTES_AT_MOST


@left_generators
@pytest.mark.parametrize("status", [200, 403])
def test_a_packed_answer_is_as_long_as_what_it_comes_to(status: int) -> None:
    """20 MB of blanks are 20 KB."""

    def alter(request: Request, answer: Answer) -> Answer:
        body = answer.body
        if endless:
            body = body.replace(b"</ListBucketResult>", b" " * 20_000_000 + b"</ListBucketResult>")
        packed = gzip.compress(body)
        headers = {**answer.headers, "Content-Encoding": "gzip", "Content-Length": str(len(packed))}
        return replace(answer, status=status if endless else 200, body=packed, headers=headers)

    with OddS3() as server:
        server.alter = alter
        endless = False

        async def case(store: S3Store) -> None:
            nonlocal endless
            await _list(store)
            endless = True
            with pytest.raises(StoreError if status == 200 else Denied):
                await store.list_page("")
            gc.collect()

        using(server, case)


# -- versions


@both_planes
def test_one_stray_412_changes_nothing(caplog: pytest.LogCaptureFixture, key: str) -> None:
    strays = [error(412, "PreconditionFailed")]

    with OddS3(to_gets(lambda _, answer: strays.pop() if strays else answer)) as server:

        async def case(store: S3Store) -> None:
            with pytest.raises(ObjectChanged):
                await read(store, known(key))
            assert {info.id for info in (await store.list_page("")).objects} == {known(one) for one in OBJECTS}
            assert (await store.head(key)).id == known(key)
            assert await read(store, known(key)) == OBJECTS[key][PART.start : PART.stop]

        using(server, case)
    assert not caplog.records


@pytest.mark.parametrize("told", [True, False], ids=["by HEAD", "by nothing but refusals"])
def test_a_store_that_reads_by_other_etags_than_it_lists_is_told_once(
    caplog: pytest.LogCaptureFixture, told: bool
) -> None:
    def alter(request: Request, answer: Answer) -> Answer:
        if "if-match" in request.headers:
            return error(412, "PreconditionFailed")
        return _with(answer, ETag='"other"') if "ETag" in answer.headers and told else answer

    with OddS3(alter) as server:

        async def case(store: S3Store) -> None:
            for key in (DATA, CONTROL):
                with pytest.raises(ObjectChanged):
                    await read(store, known(key))
            for info in (await store.list_page("")).objects:
                assert info.id.etag.startswith("@")
                assert (await store.head(info.id.key)).id == info.id
                assert await read(store, info.id) == OBJECTS[info.id.key][PART.start : PART.stop]

        using(server, case)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "other ETags" in warning
