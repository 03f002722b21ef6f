"""The cache as it is looked at by hand."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from disktiers import named, put, run
from s3stream_fs.cache.disk.catalog import Catalog
from s3stream_fs.cache.disk.index import Selection
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
