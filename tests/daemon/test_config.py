"""Settings and the machine become one frozen value."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3stream_daemon.config import Host, MountConfig, build, canonical, default_cache_nbytes, free_nbytes
from s3stream_daemon.exits import ExitError
from s3stream_daemon.folders import folders_of
from s3stream_daemon.settings import from_mount_options, merge
from s3stream_daemon.source import Source

GIB = 1024**3


def host(folder: Path, *, memory: int | None = 16 * GIB, free: int = 1000 * GIB) -> Host:
    return Host(1000, 1001, folders_of(1000, folder, {}), memory, lambda path: free)


def configured(folder: Path, options: str = "", **more: str) -> MountConfig:
    environ = {"S3STREAM_FS_SOURCE": "s3://bucket/p", "S3STREAM_FS_MOUNTPOINT": str(folder / "m")}
    environ |= {f"S3STREAM_FS_{key.upper()}": value for key, value in more.items()}
    return build(merge(from_mount_options(options), environ, None), host(folder))


def test_defaults(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert config.source == Source("bucket", "p/")
    assert config.mountpoint == tmp_path / "m"
    assert config.store.bucket == "bucket"
    assert (config.store.endpoint_url, config.store.region, config.store.profile) == (None, None, None)
    assert (config.store.anonymous, config.store.requester_pays, config.store.addressing) == (False, False, "auto")
    assert config.disk.directory == tmp_path / ".cache/s3stream-fs"
    assert config.disk.limit_nbytes == 20 * GIB
    assert config.memory_limit_nbytes == GIB
    assert (config.metadata_ttl_seconds, config.read_deadline_seconds) == (60, 120)
    assert (config.attributes.uid, config.attributes.gid) == (1000, 1001)
    assert (config.attributes.file_mode, config.attributes.dir_mode) == (0o444, 0o555)
    assert (config.allow_other, config.foreground, config.log_level) == (False, False, "info")
    assert config.log_file is not None
    assert config.log_file.parent == tmp_path / ".local/state/s3stream-fs"


def test_everything_given(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        "endpoint-url=http://h:9000,region=r,profile=p,requester-pays,virtual-style,cache-dir=/c,cache-size=1G,"
        "memory-limit=64M,metadata-ttl=inf,read-deadline=5s,uid=0,gid=0,file-mode=400,dir-mode=500,allow-other,"
        "log-file=/l,log-level=error,foreground",
    )
    assert config.store.addressing == "virtual"
    assert config.disk.directory == Path("/c")
    assert config.metadata_ttl_seconds == float("inf")
    assert (config.attributes.uid, config.attributes.gid) == (0, 0)
    assert (config.attributes.file_mode, config.attributes.dir_mode) == (0o400, 0o500)
    assert config.log_file == Path("/l")
    assert config.foreground


def test_in_the_foreground_the_log_goes_to_standard_error(tmp_path: Path) -> None:
    assert configured(tmp_path, "foreground").log_file is None


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        ("no-sign-request,profile=p", {}, "--profile"),
        ("", {"source": "bucket"}, "is not a bucket"),
        ("log-file=/m/log", {"mountpoint": "/m"}, "inside the mount"),
    ],
)
def test_what_cannot_be(tmp_path: Path, options: str, more: dict[str, str], said: str) -> None:
    with pytest.raises(ExitError, match=said):
        configured(tmp_path, options, **more)


@pytest.mark.parametrize("missing", ["SOURCE", "MOUNTPOINT"])
def test_source_and_mount_point_are_needed(tmp_path: Path, missing: str) -> None:
    environ = {"S3STREAM_FS_SOURCE": "s3://bucket", "S3STREAM_FS_MOUNTPOINT": "/m"}
    del environ[f"S3STREAM_FS_{missing}"]
    with pytest.raises(ExitError):
        build(merge([], environ, None), host(tmp_path))


def test_default_cache_size_leaves_the_disk_to_others() -> None:
    assert default_cache_nbytes(1000 * GIB) == 20 * GIB
    assert default_cache_nbytes(50 * GIB) == 5 * GIB
    assert default_cache_nbytes(0) == 64 * 1024**2


def test_free_space_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_nbytes(tmp_path / "a/b/c") > 0


def test_a_canonical_path_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert canonical(f"{tmp_path}/link/sub") == tmp_path / "real/sub"
    assert canonical(f"{tmp_path}/link") == tmp_path / "real"
    assert canonical(f"{tmp_path}/link/sub/..") == tmp_path / "real"
    assert canonical(f"{tmp_path}/absent/") == tmp_path / "absent"
    monkeypatch.chdir(tmp_path / "real")
    assert canonical("sub") == tmp_path / "real/sub"
    assert canonical(".") == tmp_path / "real"
    assert canonical("/") == Path("/")
