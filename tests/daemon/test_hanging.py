"""The cache's disk hangs: names and files are served from the store, and the mount ends as it should."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from disks import HangingDisk, can_hang, hanging_disk_at
from mounting import Mount
from s3server import S3Server

CACHED = {f"cached/{number:03}": os.urandom(50_000) for number in range(40)}
OTHERS = {f"other/{number:03}": os.urandom(50_000) for number in range(40)}

pytestmark = pytest.mark.skipif(not can_hang(), reason="no disk can be made to hang here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[HangingDisk]:
    with hanging_disk_at(tmp_path / "disk") as made:
        yield made


def test_a_cache_whose_disk_hangs_holds_nobody(
    server: S3Server, mounted: Callable[..., Mount], disk: HangingDisk, tmp_path: Path
) -> None:
    server.create_bucket("bucket")
    for name, data in (CACHED | OTHERS).items():
        server.put("bucket", name, data)
    mount = mounted(server, "bucket", cache_dir=tmp_path / "disk" / "cache", cache_reserve="1MiB")
    for name, data in CACHED.items():
        assert (mount.path / name).read_bytes() == data
    mount.umount()
    disk.remount()
    mount.mount()
    assert (mount.path / "cached/000").read_bytes() == CACHED["cached/000"]
    assert mount.stats()["disk"]["hits"] == 1
    disk.hang(mount.pid)
    try:
        with ThreadPoolExecutor(24) as readers:
            hung = [readers.submit((mount.path / name).read_bytes) for name in list(CACHED)[1:20]]
            for name, data in OTHERS.items():
                began = time.monotonic()
                assert (mount.path / name).read_bytes() == data
                assert len(os.listdir(mount.path / "other")) == len(OTHERS)
                assert time.monotonic() < began + 10
            assert [one.result(60) for one in hung] == list(CACHED.values())[1:20]
        began = time.monotonic()
        for name, data in list(CACHED.items())[20:]:
            assert (mount.path / name).read_bytes() == data
        assert time.monotonic() < began + 20
    finally:
        disk.answer()
    mount.umount()
