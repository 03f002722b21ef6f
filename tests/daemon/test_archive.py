"""Listings survive a restart within their time to live."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]


@pytest.fixture
def mount(server: S3Server, mounted: Mounted) -> Mount:
    server.create_bucket("bucket")
    for folder in range(5):
        for number in range(20):
            server.put("bucket", f"{folder}/{number:02}", b"x" * number)
    return mounted(server, "bucket", metadata_ttl="1h")


def sizes(root: Path) -> dict[str, int]:
    return {
        str(Path(folder, name).relative_to(root)): Path(folder, name).stat().st_size
        for folder, _, names in os.walk(root)
        for name in names
    }


def test_a_restart_lists_nothing(server: S3Server, mount: Mount) -> None:
    before = sizes(mount.path)
    assert len(before) == 100
    mount.remount()
    server.clear()
    assert sizes(mount.path) == before
    assert not (mount.path / "3" / "absent").exists()
    assert server.requests == []
    assert mount.stats()["archive"]["found"] == 6


def test_a_kill_costs_nothing_that_was_written_down(server: S3Server, mount: Mount) -> None:
    before = sizes(mount.path)
    while mount.stats()["archive"]["saved"] < 6:
        pass
    mount.kill()
    mount.umount()
    mount.mount()
    server.clear()
    assert sizes(mount.path) == before
    assert server.requests == []


def test_a_refresh_goes_before_it_and_is_what_the_next_one_finds(server: S3Server, mount: Mount) -> None:
    before = sizes(mount.path)
    mount.remount()
    server.put("bucket", "3/new", b"12345")
    assert sizes(mount.path) == before
    assert mount.cli.run("refresh", mount.path).returncode == 0
    assert sizes(mount.path) == before | {"3/new": 5}
    mount.remount()
    server.clear()
    assert sizes(mount.path) == before | {"3/new": 5}
    assert server.requests == []


def test_with_another_time_to_live_it_may_be_too_old(server: S3Server, mount: Mount) -> None:
    before = sizes(mount.path)
    server.put("bucket", "3/new", b"12345")
    mount.umount()
    with sqlite3.connect(mount.cache_dir / "blocks" / "names.sqlite") as db:
        db.execute("UPDATE listing SET listed_ms = listed_ms - 3600000")
    mount.mount()
    assert sizes(mount.path) == before | {"3/new": 5}


def test_damage_costs_a_listing(server: S3Server, mount: Mount) -> None:
    before = sizes(mount.path)
    mount.umount()
    (mount.cache_dir / "blocks" / "names.sqlite").write_bytes(b"this is no index" * 1000)
    mount.mount()
    assert sizes(mount.path) == before
    assert "made anew" in mount.log_text()
