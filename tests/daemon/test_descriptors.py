"""Few descriptors do: the cache works with 256 of them, and with 64 everything is still read."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mounting import CommandLine, Mount
from s3server import S3Server
from s3stream_daemon.descriptors import shares_of

MIB = 1024 * 1024
FILES = {f"{number:03}": bytes([number % 251]) * 20_000 for number in range(150)} | {
    f"large {number}": os.urandom(5 * MIB) for number in range(12)
}


def test_all_shares_together_are_what_there_is() -> None:
    for limit in (64, 256, 1024, 4096, 1 << 20):
        shares = shares_of(limit)
        assert shares.files >= 2
        assert shares.connections >= 8
        assert 3 * shares.files + shares.connections <= limit - 48
    assert shares_of(1 << 20).files == 512


def read_all(mount: Mount) -> None:
    with ThreadPoolExecutor(16) as readers:
        found = dict(zip(FILES, readers.map(lambda name: (mount.path / name).read_bytes(), FILES), strict=True))
    assert found == FILES


@pytest.mark.parametrize("limit", [256, 64])
def test_a_mount_with_few_descriptors(
    server: S3Server, mounted: Callable[..., Mount], cli: CommandLine, limit: int
) -> None:
    server.create_bucket("bucket")
    for name, data in FILES.items():
        server.put("bucket", name, data)
    cli.before = ("prlimit", f"--nofile={limit}:{limit}")
    mount = mounted(server, "bucket")
    read_all(mount)
    mount.remount()
    before = server.count("GET")
    read_all(mount)
    if limit == 256:
        disk = mount.stats()["disk"]
        assert disk["errors"] == disk["dropped_writes"] == 0
        assert server.count("GET") == before
    assert len(list(Path(f"/proc/{mount.pid}/fd").iterdir())) < limit
    assert mount.stats()["disk"]["enabled"]
