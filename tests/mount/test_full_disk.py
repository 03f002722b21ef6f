"""Mounts whose cache lies on a disk without room. Needs root."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from disks import ext4_at, fill_up
from mounting import Mount
from s3server import S3Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")

Mounted = Callable[..., Mount]

DATA = bytes(range(256)) * 4000
NFILES = 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    with ext4_at(folder):
        yield folder


@pytest.fixture
def filled(server: S3Server) -> S3Server:
    server.create_bucket("bucket")
    for number in range(NFILES):
        server.put("bucket", str(number), DATA + b"%d" % number)
    return server


def read_all(mount: Mount, numbers: Iterable[int]) -> None:
    for number in numbers:
        assert (mount.path / str(number)).read_bytes() == DATA + b"%d" % number


def test_a_warm_cache_on_a_full_disk_is_used(disk: Path, filled: S3Server, mounted: Mounted) -> None:
    mount = mounted(filled, "bucket", cache_dir=disk / "cache", cache_reserve="0%")
    read_all(mount, range(NFILES))
    mount.umount()
    fill_up(disk / "other")
    mount.mount()
    read_all(mount, reversed(range(NFILES)))  # the newest first: the oldest had to go
    assert mount.stats()["disk"]["enabled"]
    assert mount.stats()["disk"]["hits"] >= NFILES // 4
    mount.announce("listings are not kept")


def test_a_mount_on_a_full_disk_does_without_a_cache(disk: Path, filled: S3Server, mounted: Mounted) -> None:
    fill_up(disk / "other")
    mount = mounted(filled, "bucket", cache_dir=disk / "cache", cache_reserve="0%")
    mount.announce("the disk cache is off: .*No space left on device")
    mount.announce("listings are not kept")
    read_all(mount, range(NFILES))
    assert mount.stats()["disk"]["takes_nothing"].startswith("[Errno 28] No space")
    assert mount.log_text().count("the disk cache is off") == 1
