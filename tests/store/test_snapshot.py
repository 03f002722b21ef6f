"""A snapshot file: what it says is what was listed; whatever is wrong with it is told, and never believed."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3stream_fs.errors import NotFound, StoreError, StoreUnavailable, UsageError
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.store.snapshot.draft import SnapshotDraft
from s3stream_fs.store.snapshot.store import SnapshotFile, SnapshotInfo, SnapshotStore
from s3stream_fs.types import MAX_MTIME_NS, NANOSECONDS, ByteRange, ListPage, ObjectId, ObjectInfo

MTIME_NS = 1_700_000_000_123_456_789


def info(key: str, size: int = 3, etag: str = "0" * 32) -> ObjectInfo:
    return ObjectInfo(ObjectId(key, etag, size), MTIME_NS, "STANDARD_IA")


def write(path: Path, infos: list[ObjectInfo]) -> None:
    stage = path.with_name(f"{path.name}.stage")
    draft = SnapshotDraft(path, stage)
    draft.add(infos)
    trio.run(draft.finish, "bucket", "", "http://h:1", MTIME_NS)
    stage.unlink()


@contextmanager
def opened(path: Path) -> Iterator[SnapshotStore]:
    with SnapshotFile(path) as file:
        yield SnapshotStore(file, MemoryStore())


def run(case: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            await case()

    trio.run(main)


async def whole(
    store: ObjectStore, prefix: str, limit: int, *, after: str = "", flat: bool = False
) -> tuple[list[ObjectInfo], list[str]]:
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    token = None
    while True:
        page: ListPage = await store.list_page(
            prefix, token=token, after="" if token else after, limit=limit, flat=flat
        )
        assert len(page.objects) + len(page.prefixes) <= limit
        objects += page.objects
        prefixes += page.prefixes
        token = page.next_token
        if token is None:
            return objects, prefixes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "snapshot"
    write(found, [info(f"d/{number:05}") for number in range(3000)] + [info("a"), info("z/x/y", 0)])
    return found


def test_what_it_says(path: Path) -> None:
    with SnapshotFile(path) as file:
        assert file.info == SnapshotInfo("bucket", "", "http://h:1", "2023-11-14T22:13:20Z", 3002, 9003)
    db = sqlite3.connect(path)
    assert db.execute("SELECT * FROM objects WHERE key = 'a'").fetchall() == [
        ("a", 3, "0" * 32, MTIME_NS, "STANDARD_IA", 0)
    ]
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


KEYS = st.lists(st.text(st.sampled_from("a/b-.0é\U0010ffff\ue000\x00 "), min_size=1, max_size=6), max_size=60)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=KEYS, prefix=st.text("a/é\U0010ffff", max_size=3), after=st.text("ab-0", max_size=2),
       limit=st.integers(1, 5), flat=st.booleans())  # fmt: skip
def test_it_lists_as_the_fake_does(
    tmp_path: Path, keys: list[str], prefix: str, after: str, limit: int, flat: bool
) -> None:
    fake = MemoryStore()
    for key in keys:
        fake.put(key, key.encode())
    path = tmp_path / "same"
    path.unlink(missing_ok=True)

    async def case() -> None:
        draft = SnapshotDraft(path, tmp_path / "stage")
        draft.add((await fake.list_page("", limit=1000, flat=True)).objects)
        await draft.finish("bucket", "", "", 0)
        with SnapshotFile(path) as file:
            store = SnapshotStore(file, fake)
            start = prefix + after if after else ""
            assert await whole(store, prefix, limit, after=start, flat=flat) == await whole(
                fake, prefix, limit, after=start, flat=flat
            )
            for key in keys:
                assert await store.head(key) == await fake.head(key)

    run(case)
    (tmp_path / "stage").unlink()


def test_many_directories_are_listed_whole(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    names = [f"{number:04}" for number in range(2500)]
    write(path, [info(f"{name}/{other}") for name in names for other in "ab"] + [info(f"{names[7]}-x")])

    async def case() -> None:
        with opened(path) as store:
            objects, prefixes = await whole(store, "", 1000)
            assert prefixes == [f"{name}/" for name in names]
            assert [found.id.key for found in objects] == ["0007-x"]

    run(case)


def test_rows_that_were_given_twice_or_without_etag(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="comes twice"):
        write(tmp_path / "twice", [info("a"), info("b"), info("a")])
    with pytest.raises(UsageError, match="without an ETag"):
        write(tmp_path / "bare", [info("a", etag="")])


def test_where_there_is_no_etag_the_time_is_the_version(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write(path, [info("a", etag="@1700000000"), info("b", 0, etag="")])

    async def case() -> None:
        with opened(path) as store:
            assert (await store.head("a")).id == ObjectId("a", "@1700000000", 3)
            assert (await store.head("b")).id == ObjectId("b", "", 0)

    run(case)
    # A time that is not that of the object is not believed.
    changed(path, "UPDATE objects SET etag = '@1700000001' WHERE key = 'a'")

    async def wrong() -> None:
        with opened(path) as store, pytest.raises(StoreUnavailable, match="cannot be read"):
            await store.head("a")

    run(wrong)


def test_times_that_cannot_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    times = {"a": -62_135_596_800 * NANOSECONDS, "b": 1 << 62, "c": 1 << 70}
    write(path, [info(key)._replace(mtime_ns=mtime_ns) for key, mtime_ns in times.items()])

    async def case() -> None:
        with opened(path) as store:
            assert [(await store.head(key)).mtime_ns for key in times] == [0, 1 << 62, MAX_MTIME_NS]

    run(case)


def test_bytes_are_of_the_version_in_the_file(tmp_path: Path) -> None:
    inner = MemoryStore()
    with_etag = inner.put("a", b"abc")
    path = tmp_path / "snapshot"
    write(path, [ObjectInfo(with_etag, 0)])

    async def case() -> None:
        with SnapshotFile(path) as file:
            store = SnapshotStore(file, inner)
            got = bytearray()
            await store.get_range((await store.head("a")).id, ByteRange(0, 3), got.extend)
            assert got == b"abc"
            with pytest.raises(StoreError, match="no version"):
                await store.get_range(ObjectId("a", "", 3), ByteRange(0, 3), got.extend)
            with pytest.raises(NotFound):
                await store.head("b")
        assert inner.count("HEAD") == inner.count("LIST") == 0

    run(case)


def test_removed_and_replaced_while_it_is_open(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, [info("new")])

    async def case() -> None:
        with opened(path) as store:
            other.replace(path)
            assert len((await whole(store, "", 1000, flat=True))[0]) == 3002
            os.unlink(path)  # noqa: PTH108 - nobody waits
            assert (await store.head("a")).id.size == 3

    run(case)


def test_changed_in_place_while_it_is_open(path: Path) -> None:
    async def case() -> None:
        with opened(path) as store:
            await store.head("a")
            db = sqlite3.connect(path)
            db.execute("UPDATE objects SET size = 4 WHERE key = 'a'")
            db.commit()
            db.close()
            os.utime(path)  # whatever the clock's resolution is
            for question in (store.head("a"), store.list_page("")):
                with pytest.raises(StoreUnavailable, match="was changed since"):
                    await question
            assert store.statistics().damaged == 2

    run(case)


def changed(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA writable_schema=ON")
    for statement in statements:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["PRAGMA application_id=1"], "is not a snapshot"),
        (["PRAGMA user_version=2"], "has format 2"),
        (["PRAGMA journal_mode=WAL"], "WAL"),
        (["CREATE VIEW v AS SELECT 1"], "other tables"),
        (["CREATE TRIGGER t AFTER INSERT ON objects BEGIN DELETE FROM snapshot; END"], "other tables"),
        (["CREATE INDEX i ON objects(size)"], "other tables"),
        (["DROP TABLE objects", "CREATE VIEW objects AS SELECT * FROM snapshot"], "other tables"),
        (["DROP TABLE objects"], "other tables"),
        (["UPDATE sqlite_schema SET sql = replace(sql, 'etag TEXT', 'etag BLOB')"], "other tables"),
        (["UPDATE sqlite_schema SET sql = 'CREATE TABLE objects (' WHERE name = 'objects'"], "damaged"),
        (["DELETE FROM snapshot"], "does not say"),
        (["INSERT INTO snapshot SELECT * FROM snapshot"], "does not say"),
    ],
)
def test_what_is_no_snapshot_is_not_opened(path: Path, statements: list[str], said: str) -> None:
    changed(path, *statements)
    with pytest.raises(UsageError, match=said) as caught:
        SnapshotFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0", b"key,size\n", os.urandom(5000), bytes(100_000)])
def test_other_files_are_not_opened(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is not a snapshot"):
        SnapshotFile(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path, path: Path) -> None:
    for other, said in ((tmp_path, "regular file"), (tmp_path / "none", "No such file")):
        with pytest.raises(UsageError, match=said):
            SnapshotFile(other)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="regular file"):
        SnapshotFile(tmp_path / "pipe")
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UsageError, match="not whole"):
        SnapshotFile(path)


ROWS = [
    "UPDATE objects SET size = -1 WHERE key = 'a'",
    "UPDATE objects SET size = 1 << 60 WHERE key = 'a'",
    "UPDATE objects SET mtime_ns = -5 WHERE key = 'a'",
    "UPDATE objects SET restored = 7 WHERE key = 'a'",
    "UPDATE objects SET etag = '' WHERE key = 'a'",
    "UPDATE objects SET etag = 'x\", \"y' WHERE key = 'a'",
    "UPDATE objects SET etag = 'x' || char(13) || char(10) || 'Host: h' WHERE key = 'a'",
    "UPDATE objects SET etag = cast(x'ff00' AS TEXT) WHERE key = 'a'",
    "UPDATE objects SET storage_class = printf('%.*c', 70000, 'x') WHERE key = 'a'",
]


@pytest.mark.parametrize("statement", ROWS)
def test_a_row_that_cannot_be_true_is_an_error_of_that_name(path: Path, statement: str) -> None:
    changed(path, statement)

    async def case() -> None:
        with opened(path) as store:
            with pytest.raises(StoreUnavailable, match="snapshot cannot be read"):
                await store.head("a")
            with pytest.raises(StoreUnavailable):
                await store.list_page("")
            assert len((await whole(store, "d/", 1000))[0]) == 3000
            assert store.statistics().damaged == 2

    run(case)


def test_a_table_that_leads_elsewhere_lists_nothing(path: Path) -> None:
    changed(
        path,
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'snapshot')"
        " WHERE name = 'objects'",
    )

    async def case() -> None:
        with suppress(UsageError), opened(path) as store:
            for prefix in ("", "bucket", "d/"):
                with pytest.raises(StoreUnavailable):
                    await store.list_page(prefix)

    run(case)


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_never_crashes_hangs_or_lists_what_cannot_be(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 10, 1000])):
        # The whole first page at times, and everything at others.
        data[rng.randrange(rng.choice([8192, len(data)]))] = rng.randrange(256)
    path.write_bytes(data)

    async def case() -> None:
        with suppress(UsageError), opened(path) as store:
            for prefix in ("", "d/", "d/01", "z/"):
                with suppress(StoreUnavailable):
                    objects, prefixes = await whole(store, prefix, 1000, flat=rng.random() < 0.5)
                    keys = [found.id.key for found in objects]
                    assert keys == sorted(keys)
                    assert all(key.startswith(prefix) for key in keys + prefixes)
            with suppress(StoreUnavailable, NotFound):
                await store.head("d/00007")

    run(case)


def test_a_name_with_odd_characters(path: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"a?mode=rwc&b #%41\xff")
    shutil.copyfile(path, odd)
    with SnapshotFile(odd) as file:
        assert file.info.nobjects == 3002
