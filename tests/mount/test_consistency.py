"""What changes in the bucket behind the mount, and when it shows."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

MIB = 1024 * 1024
PATIENCE_SECONDS = 10.0


def wait_until(condition: Callable[[], bool]) -> None:
    """The one place that polls: a time to live ends, and no event tells."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"


def test_an_open_file_never_mixes_versions(server: S3Server, mounted: Mounted) -> None:
    old, new = (random.Random(seed).randbytes(32 * MIB) for seed in (1, 2))
    server.create_bucket("bucket")
    server.put("bucket", "file", old)
    mount = mounted(server, "bucket", metadata_ttl="0")
    path = mount.path / "file"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == old[:4096]
        server.put("bucket", "file", new)
        with pytest.raises(OSError, match="Stale") as caught:
            os.pread(file.fileno(), 4096, 20 * MIB)
        assert caught.value.errno == errno.ESTALE
        assert os.pread(file.fileno(), 4096, 0) == old[:4096]  # what is cached may still be had
        with path.open("rb", buffering=0) as again:
            assert os.pread(again.fileno(), 4096, 20 * MIB) == new[20 * MIB : 20 * MIB + 4096]
            assert os.pread(again.fileno(), 4096, 0) == new[:4096]


def test_deleted_while_open(server: S3Server, mounted: Mounted) -> None:
    data = random.Random(1).randbytes(32 * MIB)
    server.create_bucket("bucket")
    server.put("bucket", "file", data)
    mount = mounted(server, "bucket", metadata_ttl="0")
    with (mount.path / "file").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == data[:4096]
        server.delete("bucket", "file")
        assert os.pread(file.fileno(), 4096, 0) == data[:4096]
        with pytest.raises(OSError, match="No such file"):
            os.pread(file.fileno(), 4096, 20 * MIB)
    assert not (mount.path / "file").exists()


def test_a_delete_marker_hides_the_name_and_its_removal_shows_it(server: S3Server, mounted: Mounted) -> None:
    """In a versioned bucket the latest version is what there is; a GET names it by its ETag."""
    server.create_bucket("bucket")
    server.client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    for data in (b"first", b"second"):
        server.put("bucket", "file", data, ContentType="text/plain")
    server.put("bucket", "other", b"other")
    mount = mounted(server, "bucket", metadata_ttl="1")
    path = mount.path / "file"
    assert path.read_bytes() == b"second"
    marker = server.client.delete_object(Bucket="bucket", Key="file")
    assert marker["DeleteMarker"]
    wait_until(lambda: not path.exists())
    assert os.listdir(mount.path) == ["other"]
    server.client.delete_object(Bucket="bucket", Key="file", VersionId=marker["VersionId"])
    wait_until(path.exists)
    assert path.read_bytes() == b"second"


def test_ttl_zero_asks_every_time(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    mount = mounted(server, "bucket", metadata_ttl="0")
    assert os.listdir(mount.path) == []
    assert not (mount.path / "a").exists()
    server.put("bucket", "a", b"one")
    assert os.listdir(mount.path) == ["a"]
    assert (mount.path / "a").read_bytes() == b"one"
    server.put("bucket", "a", b"three")
    assert (mount.path / "a").read_bytes() == b"three"
    server.delete("bucket", "a")
    assert os.listdir(mount.path) == []
    assert not (mount.path / "a").exists()
    server.put("bucket", "a/b", b"now a directory")
    assert (mount.path / "a").is_dir()


def test_ttl_inf_never_asks_twice(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "a", b"one")
    mount = mounted(server, "bucket", metadata_ttl="inf")
    assert os.listdir(mount.path) == ["a"]
    assert (mount.path / "a").read_bytes() == b"one"
    server.put("bucket", "b", b"new")
    server.put("bucket", "a", b"replaced")
    server.clear()
    for _ in range(3):
        assert os.listdir(mount.path) == ["a"]
        assert not (mount.path / "b").exists()
        assert (mount.path / "a").read_bytes() == b"one"
    assert server.requests == []


def test_short_ttl_shows_changes_after_it_and_not_by_asking_always(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "a", b"one")
    mount = mounted(server, "bucket", metadata_ttl="1s")
    started = time.monotonic()
    assert os.listdir(mount.path) == ["a"]
    server.put("bucket", "a", b"three")
    server.put("bucket", "b", b"new")
    server.clear()
    first = (mount.path / "a").stat().st_size
    within = time.monotonic() - started < 1
    assert first == 3 or not within
    wait_until(lambda: (mount.path / "a").stat().st_size == 5)
    assert time.monotonic() - started >= 1 or not within
    wait_until(lambda: os.listdir(mount.path) == ["a", "b"])
    assert (mount.path / "a").read_bytes() == b"three"
    assert server.count("LIST") <= 8


def test_a_listing_corrects_what_was_said_before_it(server: S3Server, mounted: Mounted) -> None:
    """The kernel keeps an answer for the time to live, but not against a listing that is newer."""
    server.create_bucket("bucket")
    for name in ("gone", "replaced", "same", *(f"{number:03}" for number in range(150))):
        server.put("bucket", f"d/{name}", b"one")
    mount = mounted(server, "bucket", metadata_ttl="1h")
    folder = mount.path / "d"
    assert (folder / "gone").stat().st_size == (folder / "replaced").stat().st_size == 3
    assert not (folder / "new").exists()
    server.delete("bucket", "d/gone")
    server.put("bucket", "d/replaced", b"three")
    server.put("bucket", "d/new", b"here")
    names = sorted(os.listdir(folder))[150:]
    assert names == ["new", "replaced", "same"]
    wait_until(lambda: [name for name in ("gone", *names) if (folder / name).exists()] == names)
    wait_until(lambda: (folder / "replaced").read_bytes() == b"three")
    assert (folder / "new").read_bytes() == b"here"


def test_what_a_listing_shows_a_lookup_finds_and_the_reverse(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "d/a", b"one")
    mount = mounted(server, "bucket", metadata_ttl="inf")
    assert not (mount.path / "d" / "b").exists()
    server.put("bucket", "d/b", b"later")
    listed = os.listdir(mount.path / "d")
    assert [name for name in ("a", "b") if (mount.path / "d" / name).exists()] == [
        name for name in listed if Path(mount.path / "d" / name).exists()
    ]
    assert (mount.path / "d" / "a").read_bytes() == b"one"
