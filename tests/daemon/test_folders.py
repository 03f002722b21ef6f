"""Places, and who may look into them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.folders import check_cache_folder, folders_of, log_name, private_folder, socket_name

HOME = Path("/home/u")

paths = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
).map(lambda parts: Path("/", *parts))


def test_a_user_has_places_of_their_own() -> None:
    folders = folders_of(1000, HOME, {})
    assert folders.configs == (HOME / ".config/s3stream-fs/config.toml", Path("/etc/s3stream-fs/config.toml"))
    assert folders.cache == HOME / ".cache/s3stream-fs"
    assert folders.logs == HOME / ".local/state/s3stream-fs"
    assert folders.runtimes == (Path("/run/user/1000/s3stream-fs"), Path("/tmp/s3stream-fs-1000"))


def test_xdg_variables_count_where_they_are_absolute() -> None:
    environ = {"XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/g"}
    folders = folders_of(1000, HOME, environ)
    assert folders.cache == Path("/c/s3stream-fs")
    assert folders.logs == HOME / ".local/state/s3stream-fs"
    assert folders.runtimes[0] == Path("/r/s3stream-fs")
    assert folders.configs[0] == Path("/g/s3stream-fs/config.toml")


def test_root_has_the_systems_places_whatever_sudo_leaves_in_the_environment() -> None:
    folders = folders_of(0, Path("/root"), {"XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert folders.cache == Path("/var/cache/s3stream-fs")
    assert folders.logs == Path("/var/log/s3stream-fs")
    assert folders.runtimes[0] == Path("/run/s3stream-fs")


def test_a_log_is_named_for_its_mount_point() -> None:
    assert log_name(Path("/mnt/my-data")) == "mnt+my-data.log"
    assert log_name(Path("/")) == "root.log"


@given(paths, paths)
def test_no_two_mount_points_share_a_log_or_a_socket(one: Path, other: Path) -> None:
    for name in (log_name, socket_name):
        assert (name(one) == name(other)) == (one == other)
        assert len(os.fsencode(name(one))) <= 255
        assert "/" not in name(one)


def test_a_private_folder_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a/b", ExitCode.USAGE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    private_folder(folder, ExitCode.USAGE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_private_folder_is_never_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(ExitError) as raised:
            private_folder(tmp_path / name, ExitCode.CACHE)
        assert raised.value.code is ExitCode.CACHE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_private_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(ExitError, match="belongs to another user"):
        private_folder(tmp_path / "theirs", ExitCode.USAGE)


def test_the_cache_folder_is_made_and_tried(tmp_path: Path) -> None:
    check_cache_folder(tmp_path / "a/cache", tmp_path / "m")
    assert list((tmp_path / "a/cache").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "m", "m/cache"])
def test_a_cache_folder_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExitError, match="--cache-dir") as raised:
        check_cache_folder(tmp_path / name, tmp_path / "m")
    assert raised.value.code is ExitCode.CACHE
