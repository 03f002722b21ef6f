"""The mount table, and what is checked before a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.mountpoint import (
    Mount,
    check_fuse,
    check_mountpoint,
    mount_at,
    parse_mountinfo,
    read_mounts,
    unmount,
)

TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:22 / /proc rw,nosuid - proc proc rw
90 22 0:55 / /mnt/with\040space\011tab\134back\012line ro,nosuid shared:2 master:3 - fuse.s3stream s3://b/p\040q ro
91 22 0:56 / /mnt/over rw - tmpfs none rw
92 91 0:57 / /mnt/over ro - fuse.sshfs host: rw
nonsense
"""


def test_the_mount_table_with_its_escapes() -> None:
    mounts = parse_mountinfo(TABLE)
    assert [str(mount.path) for mount in mounts] == ["/", "/proc", "/mnt/with space\ttab\\back\nline"] + [
        "/mnt/over"
    ] * 2
    ours = mounts[2]
    assert ours == Mount(Path("/mnt/with space\ttab\\back\nline"), "0:55", "fuse.s3stream", "s3://b/p q")
    assert [mount.ours for mount in mounts] == [False, False, True, False, False]


def test_the_newest_of_several_mounts_counts() -> None:
    mounts = parse_mountinfo(TABLE)
    newest = mount_at(Path("/mnt/over"), mounts)
    assert newest is not None
    assert newest.filesystem_type == "fuse.sshfs"
    assert mount_at(Path("/mnt"), mounts) is None


@given(st.binary())
def test_any_bytes_are_a_mount_table(raw: bytes) -> None:
    assert isinstance(parse_mountinfo(raw), list)


def test_this_machines_table_has_a_root() -> None:
    assert mount_at(Path("/"), read_mounts()) is not None


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    check_mountpoint(tmp_path, [])
    check_mountpoint(tmp_path, [Mount(tmp_path, "0:1", "tmpfs", "none")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("absent", "mkdir -p"), ("file", "not a directory"), ("full", "not empty"), ("file/x", "not a dir")],
)
def test_what_cannot_be_mounted_on(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full/child").mkdir(parents=True)
    with pytest.raises(ExitError, match=said) as raised:
        check_mountpoint(tmp_path / name, [])
    assert raised.value.code is ExitCode.MOUNTPOINT


def test_a_second_mount_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExitError, match="s3://b is already mounted"):
        check_mountpoint(tmp_path, [Mount(tmp_path, "0:1", "fuse.s3stream", "s3://b")])


def test_a_missing_fuse_device_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ExitError, match="modprobe fuse") as raised:
        check_fuse(False, uid=0, device=tmp_path / "fuse")
    assert raised.value.code is ExitCode.FUSE


def test_allow_other_needs_a_line_in_fuse_conf(tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    conf.write_text("#user_allow_other\n")
    with pytest.raises(ExitError, match="user_allow_other"):
        check_fuse(True, uid=1000, device=Path(os.devnull), fuse_conf=conf)
    conf.write_text("user_allow_other # yes\n")
    check_fuse(True, uid=1000, device=Path(os.devnull), fuse_conf=conf)
    conf.unlink()
    check_fuse(False, uid=1000, device=Path(os.devnull), fuse_conf=conf)


def test_unmounting_what_is_not_mounted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExitError, match="cannot unmount") as raised:
        unmount(tmp_path, lazy=False)
    assert raised.value.code is ExitCode.MOUNTPOINT
    assert "\n" not in str(raised.value)
