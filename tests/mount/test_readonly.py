"""Nothing can be changed, and the daemon sends S3 nothing but GET, HEAD and LIST."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

# ruff: noqa: PTH101, PTH102, PTH104, PTH105, PTH108, PTH106
CHANGES: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda root: os.open(root / "file", os.O_WRONLY),
    "open for both": lambda root: os.open(root / "file", os.O_RDWR),
    "truncate by open": lambda root: os.open(root / "file", os.O_WRONLY | os.O_TRUNC),
    "append": lambda root: os.open(root / "file", os.O_WRONLY | os.O_APPEND),
    "create": lambda root: os.open(root / "new", os.O_WRONLY | os.O_CREAT),
    "create exclusively": lambda root: os.open(root / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "unnamed file": lambda root: os.open(root, os.O_WRONLY | os.O_TMPFILE),
    "truncate": lambda root: os.truncate(root / "file", 0),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "rmdir": lambda root: os.rmdir(root / "folder"),
    "unlink": lambda root: os.unlink(root / "file"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "replace": lambda root: os.replace(root / "file", root / "folder" / "inside"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "symlink": lambda root: os.symlink("file", root / "new"),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "chmod of a directory": lambda root: os.chmod(root / "folder", 0o700),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "utime": lambda root: os.utime(root / "file", (0, 0)),
    "set an attribute": lambda root: os.setxattr(root / "file", "user.x", b"y"),
    "change an attribute": lambda root: os.setxattr(root / "file", "user.s3.etag", b"y"),
    "remove an attribute": lambda root: os.removexattr(root / "file", "user.s3.etag"),
}


def test_every_change_is_refused(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "file", b"content")
    server.put("bucket", "folder/inside", b"content")
    mount = mounted(server, "bucket")
    answers = {}
    for name, change in CHANGES.items():
        try:
            change(mount.path)
        except OSError as error:
            answers[name] = errno.errorcode[error.errno or 0]
        else:
            answers[name] = "done"
    assert answers == dict.fromkeys(CHANGES, "EROFS")
    assert server.count("other") == 0
    server.clear()
    assert (mount.path / "file").read_bytes() == b"content"
    assert server.counts() == {"HEAD": 0, "LIST": 0, "GET": 1, "other": 0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may remount")
def test_a_mount_made_writable_by_force_still_refuses(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "file", b"content")
    server.put("bucket", "folder/inside", b"content")
    mount = mounted(server, "bucket")
    done = os.spawnlp(os.P_WAIT, "mount", "mount", "-i", "-o", "remount,rw", str(mount.path))
    if done != 0:
        pytest.skip("the kernel does not remount it")
    for name in ("create", "mkdir", "unlink", "rename", "symlink", "mkfifo", "chmod", "utime", "rmdir", "link"):
        with pytest.raises(OSError, match="Read-only file system"):
            CHANGES[name](mount.path)
    assert (mount.path / "file").read_bytes() == b"content"
    assert server.count("other") == 0
