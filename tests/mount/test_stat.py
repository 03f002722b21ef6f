"""What stat, xattrs and statfs show."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import oddstores
from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]


def test_files_and_directories(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "d/file", b"x" * 1025)
    server.put("bucket", "empty", b"")
    head = server.client.head_object(Bucket="bucket", Key="d/file")
    mount = mounted(server, "bucket")
    shown = (mount.path / "d" / "file").stat()
    assert shown.st_mode == stat.S_IFREG | 0o444
    assert (shown.st_size, shown.st_blocks, shown.st_nlink) == (1025, 3, 1)
    assert (shown.st_uid, shown.st_gid) == (os.getuid(), os.getgid())
    assert shown.st_mtime_ns == shown.st_ctime_ns == int(head["LastModified"].timestamp()) * 10**9
    assert (mount.path / "d").stat().st_mode == stat.S_IFDIR | 0o555
    empty = (mount.path / "empty").stat()
    assert (empty.st_size, empty.st_blocks) == (0, 0)
    assert (mount.path / "empty").read_bytes() == b""


def test_owner_and_modes_are_options(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "d/file", b"x")
    mount = mounted(server, "bucket", uid=12, gid=34, file_mode="0640", dir_mode="0750")
    shown = (mount.path / "d" / "file").stat()
    assert (shown.st_uid, shown.st_gid, stat.S_IMODE(shown.st_mode)) == (12, 34, 0o440)
    assert stat.S_IMODE((mount.path / "d").stat().st_mode) == 0o550
    assert (mount.path.stat().st_uid, stat.S_IMODE(mount.path.stat().st_mode)) == (12, 0o550)


def test_readdir_lookup_and_fstat_agree(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for number in range(20):
        server.put("bucket", f"d/{number}", b"x" * number)
    mount = mounted(server, "bucket")
    listed = {entry.name: (entry.inode(), entry.stat().st_size) for entry in os.scandir(mount.path / "d")}
    mount.remount()
    for name, (inode, size) in listed.items():
        with (mount.path / "d" / name).open("rb") as file:
            shown = os.fstat(file.fileno())
        assert (shown.st_ino, shown.st_size) == (inode, size)  # even over a remount
    assert len({inode for inode, _ in listed.values()}) == 20


def test_inode_follows_key_and_etag(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "file", b"one")
    server.put("bucket", "copy", b"one")
    mount = mounted(server, "bucket", metadata_ttl="0")
    first = (mount.path / "file").stat().st_ino
    assert (mount.path / "copy").stat().st_ino != first
    server.put("bucket", "file", b"two")
    assert (mount.path / "file").stat().st_ino != first
    server.put("bucket", "file", b"one")
    assert (mount.path / "file").stat().st_ino == first


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the kernel's caches")
def test_inodes_outlast_the_kernels_cache(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for number in range(50):
        server.put("bucket", f"d/{number}", b"x")
    mount = mounted(server, "bucket")
    before = {entry.name: entry.inode() for entry in os.scandir(mount.path / "d")}
    remembered = mount.stats()["inodes"]["remembered"]
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert mount.stats()["inodes"]["remembered"] < remembered  # what the kernel forgets costs nothing
    assert {entry.name: entry.inode() for entry in os.scandir(mount.path / "d")} == before


def test_extended_attributes(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    etag = server.put("bucket", "d/é", b"x" * 300_000, StorageClass="STANDARD_IA")
    mount = mounted(server, "bucket")
    path = mount.path / "d" / "é"
    assert os.getxattr(path, "user.s3.key") == "d/é".encode()
    assert os.getxattr(path, "user.s3.etag") == etag.encode()
    assert os.getxattr(path, "user.s3.storage_class") == b"STANDARD_IA"
    assert os.getxattr(path, "user.s3stream.cached") == b"0"
    assert "user.s3.etag" in os.listxattr(path)
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(path, "user.nothing")
    assert path.read_bytes() == b"x" * 300_000
    mount.remount()  # flushes the cache
    assert os.getxattr(path, "user.s3stream.cached") == b"300000"


def test_times_that_no_file_has(mounted: Mounted) -> None:
    """Some stores have a year 1 for what they do not know; a directory with such an object is as good as others."""
    times = {
        "0001-01-01T00:00:00Z": 0,
        "1601-01-01T00:00:00.000Z": 0,
        "1969-12-31T23:59:59.000Z": 0,
        "2262-04-12T00:00:00.000Z": 9_223_372_036,
        "9999-12-31T23:59:59.000Z": 9_223_372_036,
        "99999-12-31T23:59:59.000Z": 0,
    }
    keys = {f"d/{number}": when for number, when in enumerate(times)}

    def answer(_: oddstores.Query, text: str) -> str:
        for key, when in keys.items():
            key = re.escape(key).replace("/", "(?:/|%2F)")
            text = re.sub(f"(?<=<Key>)({key}</Key><LastModified>)[^<]*", rf"\g<1>{when}", text)
        return text

    with S3Server(oddstores.listings(lambda query: query, answer)) as server:
        server.create_bucket("bucket")
        for key in (*keys, "d/z"):
            server.put("bucket", key, key.encode())
        mount = mounted(server, "bucket")
        assert (mount.path / "d" / "0").stat().st_mtime == 0  # by itself first
        assert sorted(os.listdir(mount.path / "d")) == [*(str(number) for number in range(len(keys))), "z"]
        for key, when in keys.items():
            status = (mount.path / key).stat()
            assert [status.st_mtime_ns, status.st_ctime_ns, status.st_atime_ns] == [times[when] * 10**9] * 3
            assert (mount.path / key).read_bytes() == key.encode()
        assert (mount.path / "d" / "z").stat().st_mtime > 1_700_000_000


def test_statfs_never_looks_full(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    mount = mounted(server, "bucket")
    shown = os.statvfs(mount.path)
    assert shown.f_bavail * shown.f_frsize >= 1 << 50
    assert shown.f_favail > 1 << 30
    assert shown.f_namemax == 255
