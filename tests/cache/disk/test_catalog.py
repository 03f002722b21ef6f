"""The cache as it is looked at by hand."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from disktiers import named, put, run
from s3stream_fs.cache.disk.catalog import Catalog
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.policy import PINNED
from s3stream_fs.cache.disk.rows import Selection
from s3stream_fs.cache.disk.tier import DiskTier


def test_who_reads_page_by_page_holds_up_nobody(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        for number in range(10):
            put(tier, named(str(number)))

    async def more(tier: DiskTier) -> None:
        put(tier, named("more"))

    run(tmp_path, fill)
    with Catalog(tmp_path) as catalog:
        shown = catalog.objects(Selection())
        assert next(shown).key == b"0"
        run(tmp_path, more)
        db = sqlite3.connect(tmp_path / "blocks" / "index.sqlite")
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        db.close()
        assert [one.key for one in shown] == [b"%d" % number for number in range(1, 10)]
        assert len(list(catalog.objects(Selection()))) == 11


NROWS = 40_000


def test_pins_of_many_files_let_those_who_write_in_between(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("other"))

    run(tmp_path, fill)
    with closing(sqlite3.connect(tmp_path / "blocks" / "index.sqlite")) as db:
        db.executemany(
            "INSERT INTO file (name, space, key, etag, size, start, checksums, nbytes, used)"
            " VALUES (randomblob(16), 1, ?, x'00', 1000, 0, x'0000000000000001', 4096, ?)",
            ((b"train/%d" % number, number) for number in range(NROWS)),
        )
        db.commit()

    def change(pin: bool) -> None:
        with Catalog(tmp_path) as catalog:
            selection = Selection((1,), b"train/")
            if pin:
                assert catalog.pin(selection)[0] == NROWS
            else:
                assert catalog.unpin(selection) == 1

    def count_turns(pin: bool) -> int:
        thread = threading.Thread(target=change, args=(pin,))
        turns = 0
        with closing(CacheFolder(tmp_path)) as folder:
            thread.start()
            while thread.is_alive():
                with folder.locked(lambda: False), folder.writing.transaction():
                    turns += 0 < folder.writing.count_pinned()[0] < NROWS
                time.sleep(0.02)  # or the pin would never have its turn
        thread.join()
        return turns

    def count_pinned() -> int:
        with Catalog(tmp_path) as catalog:
            return catalog.summary().pinned_nfiles

    assert count_turns(pin=True) >= 2
    assert count_pinned() == NROWS
    assert count_turns(pin=False) >= 2
    assert count_pinned() == 0


def test_a_pin_within_another_goes_alone(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        for key in ("a/1", "a/b/1", "c"):
            put(tier, named(key))

    def pinned() -> list[bytes]:
        return [one.key for one in catalog.objects(Selection()) if one.used_ms == PINNED]

    run(tmp_path, fill)
    with Catalog(tmp_path) as catalog:
        catalog.pin(Selection((1,), b"a/"))
        catalog.pin(Selection((1,), b"a/b/"))
        assert pinned() == [b"a/1", b"a/b/1"]
        assert catalog.unpin(Selection((1,), b"a/b/")) == 1
        assert pinned() == [b"a/1", b"a/b/1"]
        catalog.pin(Selection((1,), b"a/b/"))
        assert catalog.unpin(Selection((1,), b"a/")) == 2
        assert pinned() == []
