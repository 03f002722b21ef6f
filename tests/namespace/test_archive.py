"""Listings of an earlier process: found while they are fresh, and never believed where they were damaged."""

from __future__ import annotations

import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from xxhash import xxh3_64_intdigest

from s3stream_fs.errors import StoreUnavailable
from s3stream_fs.namespace.archive import ArchiveConfig, Archived, ArchiveStatistics, open_archive
from s3stream_fs.namespace.rows import Rows
from s3stream_fs.namespace.shelf import open_shelf
from s3stream_fs.types import ObjectId, ObjectInfo
from scratches import HangingScratch

TTL_SECONDS = 3600.0


def config(folder: Path, space: str = "space", limit_nbytes: int = 1 << 30, room: bool = True) -> ArchiveConfig:
    return ArchiveConfig(folder / "names.sqlite", space, limit_nbytes, lambda _: nullcontext(room))


def archived(prefix: str, count: int = 10, age_seconds: float = 0.0, seed: int = 0) -> Archived:
    choice = random.Random(f"{prefix} {seed}")
    entries = []
    for number in range(count):
        name = f"{number:06}"
        etag = choice.randbytes(16).hex()
        entries.append((name.encode(), ObjectInfo(ObjectId(prefix + name, etag, number), number)))
    pieces = tuple(Rows.packed(prefix, entries[start : start + 1000]) for start in range(0, count, 1000))
    return Archived(prefix, int((time.time() - age_seconds) * 1000), choice.randbytes(32), pieces)


def saved(config: ArchiveConfig, *listings: Archived) -> ArchiveStatistics:
    async def main() -> ArchiveStatistics:
        async with open_archive(config, TTL_SECONDS) as archive:
            for listing in listings:
                archive.save_nowait(listing)
        return archive.statistics()

    return trio.run(main)


def found(config: ArchiveConfig, prefix: str, ttl_seconds: float = TTL_SECONDS) -> Archived | None:
    async def main() -> Archived | None:
        async with open_archive(config, ttl_seconds) as archive:
            return await archive.find(prefix, ttl_seconds)

    return trio.run(main)


def content(listing: Archived | None) -> object:
    assert listing is not None
    return listing.prefix, listing.listed_ms, listing.digest, [rows.data for rows in listing.pieces]


@pytest.mark.parametrize("count", [0, 1, 2500])
def test_what_was_saved_is_found_by_the_next(tmp_path: Path, count: int) -> None:
    listing = archived("d/", count)
    assert saved(config(tmp_path), listing, archived("e/")).saved == 2
    assert content(found(config(tmp_path), "d/")) == content(listing)
    assert found(config(tmp_path), "f/") is None
    assert found(config(tmp_path, space="another"), "d/") is None
    assert (tmp_path / "names.sqlite").stat().st_mode & 0o777 == 0o600


def test_another_listing_takes_its_place_and_the_same_is_only_newer(tmp_path: Path) -> None:
    old, same, new = (archived("d/", seed=0, age_seconds=100), archived("d/"), archived("d/", 20, seed=1))
    saved(config(tmp_path), old)
    saved(config(tmp_path), same)
    assert content(found(config(tmp_path), "d/")) == content(same)
    saved(config(tmp_path), new)
    assert content(found(config(tmp_path), "d/")) == content(new)
    with sqlite3.connect(tmp_path / "names.sqlite") as db:
        assert db.execute("SELECT (SELECT count(*) FROM listing), (SELECT count(*) FROM piece)").fetchone() == (1, 1)


def test_what_is_dropped_is_found_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_archive(config(tmp_path), TTL_SECONDS) as archive:
            archive.save_nowait(archived("saved here/"))
            for prefix in ("d/", "saved here/", "never there/"):
                archive.drop_nowait(prefix)
            archive.drop_nowait("e/")
            archive.save_nowait(archived("e/", 20))
            archive.save_nowait(archived("f/"))
        assert archive.statistics().saved == 3

    saved(config(tmp_path), archived("d/"), archived("e/"))
    trio.run(main)
    assert [found(config(tmp_path), prefix) is not None for prefix in ("d/", "saved here/", "e/", "f/")] == [
        False,
        False,
        True,
        True,
    ]
    with sqlite3.connect(tmp_path / "names.sqlite") as db:
        assert db.execute("SELECT (SELECT count(*) FROM listing), (SELECT count(*) FROM piece)").fetchone() == (2, 2)


def test_what_is_dropped_goes_also_where_nothing_can_be_saved(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_archive(config(tmp_path, room=False), TTL_SECONDS) as archive:
            archive.drop_nowait("d/")

    saved(config(tmp_path), archived("d/"))
    trio.run(main)
    assert found(config(tmp_path), "d/") is None


def test_only_what_is_fresh(tmp_path: Path) -> None:
    saved(config(tmp_path), archived("old/", age_seconds=100), archived("new/"), archived("future/", age_seconds=-100))
    assert found(config(tmp_path), "old/", 50) is None
    assert found(config(tmp_path), "old/", 200) is not None
    assert found(config(tmp_path), "old/", math.inf) is not None
    assert found(config(tmp_path), "new/", 50) is not None
    assert found(config(tmp_path), "future/") is None


def test_it_stays_within_its_limit(tmp_path: Path) -> None:
    listings = [archived(f"{number}/", 1000, age_seconds=1000 - number) for number in range(100)]
    for start in range(0, 100, 10):
        saved(config(tmp_path, limit_nbytes=2_000_000), *listings[start : start + 10])
    assert (tmp_path / "names.sqlite").stat().st_size < 2_500_000
    assert found(config(tmp_path), "99/") is not None
    assert found(config(tmp_path), "0/") is None
    assert saved(config(tmp_path, room=False), archived("more/")).saved == 0


def overwrite(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def another_format(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=77")


def flip_a_bit(path: Path) -> None:
    with sqlite3.connect(path) as db:
        number, data = db.execute("SELECT id, data FROM piece").fetchone()
        db.execute("UPDATE piece SET data = ? WHERE id = ?", (data[:-1] + bytes([data[-1] ^ 1]), number))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [overwrite, another_format, flip_a_bit, cut])
def test_damage_is_never_an_answer(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    saved(config(tmp_path), archived("d/", 3000))
    harm(tmp_path / "names.sqlite")
    assert found(config(tmp_path), "d/") is None
    assert len(caplog.records) == 1
    again = archived("d/", 3000)
    saved(config(tmp_path), again, archived("e/"))
    assert content(found(config(tmp_path), "d/")) == content(again)
    assert found(config(tmp_path), "e/") is not None


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"a\0b", b"\xff", b"x" * 255 + b"y"])
def test_names_that_somebody_has_put_there_are_not_shown(
    tmp_path: Path, name: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Archived("d/", int(time.time() * 1000), b"", (Rows.packed("d/", [(name[:255], None)]),))
    expected = name == b"x" * 255 + b"y"  # cut, it is one that can be shown
    saved(config(tmp_path), bad)
    assert (found(config(tmp_path), "d/") is not None) == expected
    assert len(caplog.records) == (not expected)


@pytest.mark.parametrize(
    "tampered",
    [
        "UPDATE listing SET listed_ms = 'long ago'",
        "UPDATE listing SET digest = 1000000000000",
        "UPDATE piece SET data = 'text'",
        "UPDATE piece SET data = zeroblob(4), checksum = :empty",
        "UPDATE piece SET checksum = 'none'",
    ],
)
def test_rows_that_somebody_has_put_there(tmp_path: Path, tampered: str, caplog: pytest.LogCaptureFixture) -> None:
    saved(config(tmp_path), archived("d/"))
    with sqlite3.connect(tmp_path / "names.sqlite") as db:
        db.execute(tampered, {"empty": xxh3_64_intdigest(bytes(4)) - (1 << 63)} if ":empty" in tampered else {})
    assert found(config(tmp_path), "d/") is None
    assert len(caplog.records) == 1
    saved(config(tmp_path), archived("d/"))
    assert found(config(tmp_path), "d/") is not None


def test_what_the_shelf_has_lost_is_left_out(tmp_path: Path) -> None:
    class Lost(Rows):
        @property
        def data(self) -> bytes:
            raise StoreUnavailable("names on the disk are damaged")

    good, bad = archived("d/"), archived("e/")
    bad = replace(bad, pieces=(Lost("e/", bad.pieces[0].data),))
    assert saved(config(tmp_path), bad, good).saved == 1
    assert found(config(tmp_path), "d/") is not None
    assert found(config(tmp_path), "e/") is None


def test_what_lies_on_the_disk_is_saved(tmp_path: Path) -> None:
    listing = archived("d/", 5000)
    before = content(listing)
    for folder in ("names", "cache"):
        (tmp_path / folder).mkdir()

    async def main() -> None:
        async with (
            open_shelf(HangingScratch(tmp_path / "names"), 20_000) as shelf,
            open_archive(config(tmp_path / "cache"), TTL_SECONDS) as archive,
        ):
            for rows in listing.pieces:
                shelf.put(rows)
            while shelf.statistics().nbytes_in_memory > 20_000:
                await trio.lowlevel.checkpoint()
            archive.save_nowait(listing)
            while archive.statistics().saved == 0:
                await trio.lowlevel.checkpoint()
            assert shelf.statistics().reads > 0

    trio.run(main)
    assert content(found(config(tmp_path / "cache"), "d/")) == before


def test_a_folder_that_is_gone_costs_nothing_but_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = config(tmp_path / "gone")
    assert not saved(gone, archived("d/")).enabled
    assert found(gone, "d/") is None
    assert len(caplog.records) == 2  # one for each


def test_two_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            open_archive(config(tmp_path), TTL_SECONDS) as one,
            open_archive(config(tmp_path), TTL_SECONDS) as other,
        ):
            for number in range(200):
                for archive in (one, other):
                    archive.save_nowait(archived(f"{number}/", seed=number))
        assert one.statistics().errors == other.statistics().errors == 0

    trio.run(main)
    assert found(config(tmp_path), "199/") is not None


def test_bytes_that_are_no_rows() -> None:
    choice = random.Random(3)
    good = archived("d/").pieces[0].data
    for _ in range(300):
        at = choice.randrange(len(good))
        harmed = good[:at] + choice.randbytes(1) + good[at + 1 :]
        Rows("d/", harmed[: choice.randrange(4, len(good))]).is_sound()  # raises nothing
        rows = Rows("d/", harmed)
        if rows.is_sound():
            names = [row.name for row in rows.rows()]
            assert names == sorted(set(names))


class HangingDisk:
    """``room`` waits as a write to it would, from when ``hanging`` is set until ``over`` is."""

    def __init__(self) -> None:
        self.hanging = threading.Event()
        self.over = threading.Event()

    @contextmanager
    def room(self, _: int) -> Iterator[bool]:
        self.hanging.set()
        self.over.wait(60)
        yield True


def test_a_disk_that_hangs_is_waited_for_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it has is asked of the store meanwhile; once it is back, what was saved is found."""
    disk = HangingDisk()

    async def main() -> None:
        async with open_archive(replace(config(tmp_path), room=disk.room), TTL_SECONDS) as archive:
            archive.save_nowait(archived("new/"))
            await trio.to_thread.run_sync(disk.hanging.wait)
            with trio.fail_after(20):
                assert await archive.find("old/", TTL_SECONDS) is None
            before = trio.current_time()
            for _ in range(100):
                assert await archive.find("old/", TTL_SECONDS) is None
            assert trio.current_time() - before < 1  # the patience of one is 2 s
            assert archive.statistics().errors == 1
            disk.over.set()

    saved(config(tmp_path), archived("old/"))
    trio.run(main)
    for prefix in ("old/", "new/"):
        assert content(found(config(tmp_path), prefix))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_end_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    disk = HangingDisk()

    async def main() -> None:
        async with open_archive(replace(config(tmp_path), room=disk.room), TTL_SECONDS) as archive:
            archive.save_nowait(archived("new/"))
            await trio.to_thread.run_sync(disk.hanging.wait)
        assert not disk.over.is_set()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(trio.run, main)
        try:
            ended.result(40)
        finally:
            disk.over.set()
