"""One suite over every ObjectStore: the fake, S3 over HTTP against moto, both behind the retry policy, and snapshots.

A snapshot is taken when the store is opened, and what is put later is not in it: that is the one difference.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import trio

import oddstores
from oddstores import Layer
from s3server import S3Server
from s3stream_fs.errors import Archived, NotFound, ObjectChanged
from s3stream_fs.namespace.survey import Survey
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.store import open_s3
from s3stream_fs.store.snapshot.draft import SnapshotDraft
from s3stream_fs.store.snapshot.store import SnapshotFile, SnapshotStore
from s3stream_fs.types import ByteRange, ListPage, ObjectId

MIB = 1024 * 1024
Put = Callable[..., ObjectId]


@dataclass
class Rig:
    """A store under test, and the means to fill it behind its back."""

    put: Put
    restore: Callable[[str], None]
    open: Callable[[], AbstractAsyncContextManager[ObjectStore]]
    frozen: bool = False

    def run(self, case: Callable[[ObjectStore], Awaitable[None]]) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                async with self.open() as store:
                    await case(store)

        trio.run(main)


def memory_rig(in_pieces: bool) -> Rig:
    fake = MemoryStore(in_pieces=in_pieces)

    @asynccontextmanager
    async def opened() -> AsyncIterator[ObjectStore]:
        yield fake

    return Rig(fake.put, fake.restore, opened)


def s3_rig(server: S3Server) -> Rig:
    server.create_bucket("bucket")

    def put(key: str, data: bytes = b"", storage_class: str = "STANDARD") -> ObjectId:
        extra = {} if storage_class == "STANDARD" else {"StorageClass": storage_class}
        return ObjectId(key, server.put("bucket", key, data, **extra), len(data))

    def restore(key: str) -> None:
        server.client.restore_object(Bucket="bucket", Key=key, RestoreRequest={"Days": 1})

    @asynccontextmanager
    async def opened() -> AsyncIterator[ObjectStore]:
        async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region="us-east-1"), {})) as store:
            yield store

    return Rig(put, restore, opened)


def retrying(rig: Rig) -> Rig:
    @asynccontextmanager
    async def opened() -> AsyncIterator[ObjectStore]:
        async with rig.open() as inner:
            yield RetryingStore(inner, RetryPolicy(deadline_seconds=20))

    return Rig(rig.put, rig.restore, opened)


def snapshot(rig: Rig, folder: Path) -> Rig:
    @asynccontextmanager
    async def opened() -> AsyncIterator[ObjectStore]:
        path = folder / "snapshot"
        async with rig.open() as inner:
            draft = SnapshotDraft(path, folder / "stage")

            def list_page(prefix: str, *, token: str | None, after: str, flat: bool) -> Awaitable[ListPage]:
                return inner.list_page(prefix, token=token, after=after, flat=flat)

            await Survey("", list_page, draft.add).run()
            await draft.finish("bucket", "", "", 0)
            with SnapshotFile(path) as file:
                yield SnapshotStore(file, inner)

    return Rig(rig.put, rig.restore, opened, frozen=True)


LAYERS: dict[str, Layer | None] = {
    "s3": None,
    "s3 of the first version": oddstores.first_version(),
    "s3 of the first version, without NextMarker": oddstores.first_version(next_marker=False),
    "s3 of the first version, which lists a marker's prefix again": oddstores.first_version(skips=False),
    "s3 that does not implement ListObjectsV2": oddstores.first_version(("501 Not Implemented", "NotImplemented")),
    "s3 that takes list-type for an invalid argument": oddstores.first_version(("400 Bad Request", "InvalidArgument")),
    "s3 that spells names as Amazon does": oddstores.spelled(quote_plus, quote_plus),
}


@contextmanager
def rigged(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Rig]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")

    def wrap(rig: Rig) -> Rig:
        if name.startswith("snapshot"):
            return snapshot(rig, folder)
        return retrying(rig) if name.startswith("retrying") else rig

    if name.endswith("memory"):
        yield wrap(memory_rig(in_pieces="whole" not in name))
    else:
        with S3Server(LAYERS[name.removeprefix("retrying ").removeprefix("snapshot ")]) as server:
            yield wrap(s3_rig(server))


@pytest.fixture(
    params=[
        "memory",
        "whole memory",
        "s3",
        "retrying memory",
        "retrying whole memory",
        "retrying s3",
        "snapshot memory",
        "snapshot s3",
    ]
)
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rig]:
    with rigged(request.param, monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture(params=["memory", "retrying memory", "retrying s3", "snapshot memory", "snapshot s3", *LAYERS])
def lister(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rig]:
    """As ``rig``, and stores that list in ways of their own."""
    with rigged(request.param, monkeypatch, tmp_path) as made:
        yield made


async def fetched(store: ObjectStore, object_id: ObjectId, byte_range: ByteRange) -> bytes:
    got = bytearray()
    await store.get_range(object_id, byte_range, got.extend)
    return bytes(got)


KEYS = ["-a-", "-a/x", "a", "a-b", "a/b/c", "a/d", "a/é", "z/", "Ω"]


def test_listing_is_rolled_up_and_in_order_of_bytes(lister: Rig) -> None:
    ids = {key: lister.put(key, key.encode()) for key in KEYS}

    async def case(store: ObjectStore) -> None:
        page = await store.list_page("")
        assert [info.id for info in page.objects] == [ids[key] for key in ("-a-", "a", "a-b", "Ω")]
        assert page.prefixes == ("-a/", "a/", "z/")
        assert page.next_token is None
        assert page.last == "Ω"
        below = await store.list_page("a/")
        assert [info.id.key for info in below.objects] == ["a/d", "a/é"]
        assert below.prefixes == ("a/b/",)
        assert [info.id.key for info in (await store.list_page("z/")).objects] == ["z/"]
        nothing = await store.list_page("none/")
        assert (nothing.objects, nothing.prefixes, nothing.next_token) == ((), (), None)

    lister.run(case)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_are_the_whole_listing(lister: Rig, limit: int) -> None:
    for key in KEYS:
        lister.put(key, b"x")

    async def case(store: ObjectStore) -> None:
        objects: list[str] = []
        prefixes: list[str] = []
        token = None
        while True:
            page = await store.list_page("", token=token, limit=limit)
            assert len(page.objects) + len(page.prefixes) <= limit
            objects += [info.id.key for info in page.objects]
            prefixes += page.prefixes
            token = page.next_token
            if token is None:
                break
        assert objects == ["-a-", "a", "a-b", "Ω"]
        assert prefixes == ["-a/", "a/", "z/"]

    lister.run(case)


ODD_KEYS = [
    *("a b", "100%", "%41", "a+b", "a#b", "a?b&c=d", "a*b", "'q'", '"q"', "a\\b", "<&>", "ملف", "😀", "~^`|"),
    *("tab\there", "new\nline", "\x01", "\x7f", "...", "a.", " x ", "%2F"),
]


def test_odd_keys_are_listed_and_fetched_exactly(lister: Rig) -> None:
    ids = {key: lister.put(key, key.encode() * 3) for key in ODD_KEYS}

    async def case(store: ObjectStore) -> None:
        page = await store.list_page("")
        assert {info.id.key: info.id for info in page.objects} == ids
        for key, object_id in ids.items():
            assert await fetched(store, object_id, object_id.whole) == key.encode() * 3
            assert (await store.head(key)).id == object_id

    lister.run(case)


def test_ranges_are_exact(rig: Rig) -> None:
    data = random.Random(1).randbytes(11 * MIB + 7)
    object_id = rig.put("big", data)

    async def case(store: ObjectStore) -> None:
        for start, stop in [(0, 1), (0, len(data)), (len(data) - 1, len(data)), (MIB - 1, MIB + 1), (3, 9 * MIB + 5)]:
            assert await fetched(store, object_id, ByteRange(start, stop)) == data[start:stop]

    rig.run(case)


def test_many_at_once(rig: Rig) -> None:
    ids = [rig.put(f"k{number}", bytes([number]) * 1000) for number in range(40)]

    async def case(store: ObjectStore) -> None:
        async def one(number: int) -> None:
            assert await fetched(store, ids[number], ids[number].whole) == bytes([number]) * 1000

        async with trio.open_nursery() as nursery:
            for number in range(len(ids)):
                nursery.start_soon(one, number)

    rig.run(case)


def test_only_the_version_that_was_asked_for(rig: Rig) -> None:
    old = rig.put("key", b"old bytes")
    new = rig.put("key", b"new bytes")

    async def case(store: ObjectStore) -> None:
        with pytest.raises(ObjectChanged):
            await fetched(store, old, ByteRange(0, 3))
        with pytest.raises(ObjectChanged):
            await fetched(store, ObjectId("key", new.etag, 10), ByteRange(0, 3))
        assert await fetched(store, new, ByteRange(0, 3)) == b"new"

    rig.run(case)


def test_what_is_not_there(rig: Rig) -> None:
    async def case(store: ObjectStore) -> None:
        with pytest.raises(NotFound):
            await fetched(store, ObjectId("none", "e" * 32, 5), ByteRange(0, 3))
        with pytest.raises(NotFound):
            await store.head("none")

    rig.run(case)


def test_archived_objects(rig: Rig) -> None:
    object_id = rig.put("cold", b"frozen", storage_class="GLACIER")

    async def case(store: ObjectStore) -> None:
        (info,) = (await store.list_page("")).objects
        assert info.archived
        with pytest.raises(Archived):
            await fetched(store, object_id, object_id.whole)
        rig.restore("cold")
        assert (await store.head("cold")).archived is rig.frozen
        assert await fetched(store, object_id, object_id.whole) == b"frozen"

    rig.run(case)


def test_cancelled_requests_leave_the_store_usable(rig: Rig) -> None:
    object_id = rig.put("key", bytes(5 * MIB))

    async def case(store: ObjectStore) -> None:
        for _ in range(5):
            with trio.CancelScope() as scope:

                def stop(_: memoryview, scope: trio.CancelScope = scope) -> None:
                    scope.cancel()

                await store.get_range(object_id, object_id.whole, stop)
        assert await fetched(store, object_id, object_id.whole) == bytes(5 * MIB)

    rig.run(case)


@pytest.mark.parametrize("after", ["", "-a", "-a-", "a", "a-b", "a0", "zz", "Ω"])
def test_a_listing_may_begin_anywhere(lister: Rig, after: str) -> None:
    for key in KEYS:
        lister.put(key, b"x")

    async def case(store: ObjectStore) -> None:
        beyond = [key for key in sorted(KEYS, key=str.encode) if key.encode() > after.encode()]
        page = await store.list_page("", after=after)
        assert [info.id.key for info in page.objects] == [key for key in beyond if "/" not in key]
        assert list(page.prefixes) == list(dict.fromkeys(key.partition("/")[0] + "/" for key in beyond if "/" in key))
        first = await store.list_page("", after=after, limit=1)
        if first.next_token is not None:
            rest = await store.list_page("", token=first.next_token)
            assert first.objects + rest.objects == page.objects
            assert first.prefixes + rest.prefixes == page.prefixes

    lister.run(case)


@pytest.mark.parametrize("after", ["", "-a", "a/b", "a/b/c", "a/d", "zz"])
def test_a_flat_listing_has_every_key(lister: Rig, after: str) -> None:
    for key in KEYS:
        lister.put(key, b"x")

    async def case(store: ObjectStore) -> None:
        beyond = [key for key in sorted(KEYS, key=str.encode) if key.encode() > after.encode()]
        page = await store.list_page("", after=after, flat=True)
        assert [info.id.key for info in page.objects] == beyond
        assert (page.prefixes, page.next_token) == ((), None)
        below = await store.list_page("a/", flat=True)
        assert [info.id.key for info in below.objects] == ["a/b/c", "a/d", "a/é"]
        found: list[str] = []
        token = None
        while True:
            page = await store.list_page("", token=token, after="" if token else after, limit=2, flat=True)
            found += [info.id.key for info in page.objects]
            token = page.next_token
            if token is None:
                break
        assert found == beyond

    lister.run(case)
