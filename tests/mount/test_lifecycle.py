"""How mounts begin and end, and what is left of them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import CommandLine, Mount, MountFailed, is_mounted
from s3server import S3Server

Mounted = Callable[..., Mount]

DATA = bytes(range(256)) * 4000


@pytest.fixture
def mount(server: S3Server, mounted: Mounted) -> Mount:
    server.create_bucket("bucket")
    for name in ("one", "two", "three"):
        server.put("bucket", name, DATA)
    return mounted(server, "bucket")


class Blocked:
    """A process that waits in read() for a GET that the server holds back."""

    def __init__(self, server: S3Server, path: Path) -> None:
        code = "import sys, os; os.read(os.open(sys.argv[1], os.O_RDONLY), 1000)"
        fault = server.stall_next("GET", times=100)
        self.process = subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL)
        assert fault.arrived.wait(30)

    def ended_in_error(self) -> bool:
        return self.process.wait(30) != 0


def test_the_daemon_may_open_as_many_files_as_the_system_allows(mount: Mount) -> None:
    limits = Path(f"/proc/{mount.pid}/limits").read_text().splitlines()
    (soft, hard) = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert soft == hard


def test_sigterm_of_a_busy_mount(server: S3Server, mount: Mount) -> None:
    with (mount.path / "one").open("rb") as held:
        assert held.read() == DATA
        blocked = Blocked(server, mount.path / "two")
        mount.kill(signal.SIGTERM)
        assert not is_mounted(mount.path)
        assert blocked.ended_in_error()
        server.release_all()


def test_sigkill_leaves_a_dead_mount_that_umount_removes(server: S3Server, mount: Mount) -> None:
    assert (mount.path / "one").read_bytes() == DATA
    blocked = Blocked(server, mount.path / "two")
    mount.kill(signal.SIGKILL)
    assert blocked.ended_in_error()
    server.release_all()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)
    refused = mount.cli.run("mount", mount.source, mount.path)
    assert refused.returncode == 4
    assert "s3stream-fs umount" in refused.stderr
    mount.umount()
    mount.mount()
    assert (mount.path / "two").read_bytes() == DATA


def test_cache_survives_sigkill(server: S3Server, mount: Mount) -> None:
    assert (mount.path / "one").read_bytes() == DATA
    while mount.stats()["disk"]["nbytes_written"] < len(DATA):
        pass
    mount.kill(signal.SIGKILL)
    mount.umount()
    mount.mount()
    server.clear()
    assert (mount.path / "one").read_bytes() == DATA
    assert server.count("GET") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may detach a mount by itself")
def test_lazy_umount_of_a_busy_mount(server: S3Server, mount: Mount) -> None:
    with (mount.path / "one").open("rb", buffering=0) as held:
        subprocess.run(["umount", "-l", mount.path], check=True)
        assert not is_mounted(mount.path)
        assert held.read(len(DATA)) == DATA  # goes on until it is closed
    mount.wait_ended()


def test_umount_of_a_busy_mount_says_so_and_lazy_does_it(server: S3Server, mount: Mount) -> None:
    with (mount.path / "one").open("rb", buffering=0) as held:
        refused = mount.cli.run("umount", mount.path)
        assert refused.returncode == 4
        assert len(refused.stderr.splitlines()) == 1
        assert is_mounted(mount.path)
        assert mount.cli.run("umount", "--lazy", mount.path).returncode == 0
        assert held.read(len(DATA)) == DATA
    mount.wait_ended()


def test_mount_failures_are_one_line_and_leave_nothing(
    server: S3Server, cli: CommandLine, mounted: Mounted, short_path: Path
) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "a", b"x")
    there = mounted(server, "bucket")
    (short_path / "full").mkdir()
    (short_path / "full" / "file").touch()
    (short_path / "file").touch()
    (short_path / "empty").mkdir()
    (short_path / "not-a-folder").touch()
    endpoint = ("--endpoint-url", server.url)
    cases: list[tuple[tuple[str | Path, ...], int]] = [
        (("s3://no-such-bucket", short_path / "empty", *endpoint), 3),
        (("s3://bucket", short_path / "full", *endpoint), 4),
        (("s3://bucket", short_path / "file", *endpoint), 4),
        (("s3://bucket", short_path / "missing", *endpoint), 4),
        (("s3://bucket", there.path, *endpoint), 4),
        (("s3://bucket", short_path / "empty", *endpoint, "--cache-dir", short_path / "not-a-folder"), 5),
        (("s3://bucket", short_path / "empty", *endpoint, "--profile", "nobody"), 2),
        (("s3://bucket", short_path / "empty", *endpoint, "--cache-size", "lots"), 2),
        (("http://bucket", short_path / "empty", *endpoint), 2),
        (("s3://B", short_path / "empty", *endpoint), 2),
        (("s3://bucket", short_path / "empty", "-o", "rw", *endpoint), 2),
    ]
    for arguments, code in cases:
        done = cli.run("mount", *arguments)
        assert (done.returncode, done.stdout) == (code, ""), (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("s3stream-fs: ")
        assert not is_mounted(short_path / "empty")
    server.fail_next("LIST", 403, "AccessDenied", times=100)
    done = cli.run("mount", "s3://bucket", short_path / "empty", *endpoint)
    server.release_all()
    assert done.returncode == 3
    assert "denied" in done.stderr


def test_secrets_and_files(server: S3Server, mount: Mount) -> None:
    assert (mount.path / "one").read_bytes() == DATA
    mount.stats()
    command_line = Path(f"/proc/{mount.pid}/cmdline").read_bytes()
    assert b"testing" not in command_line
    assert "testing" not in mount.log_text()
    for path in [mount.log, *mount.cache_dir.rglob("*")]:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_stats_while_readers_wait(server: S3Server, mount: Mount) -> None:
    blocked = Blocked(server, mount.path / "two")
    assert mount.stats()["fetch"]["in_flight"] == 1
    server.release_all()
    assert blocked.process.wait(30) == 0
    assert mount.stats()["fetch"]["in_flight"] == 0


def test_foreground_ends_with_the_unmount(server: S3Server, cli: CommandLine, short_path: Path) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "a", b"x")
    mountpoint = short_path / "mount"
    mountpoint.mkdir()
    command = [sys.executable, "-m", "s3stream_daemon", "mount", "--foreground", "s3://bucket", str(mountpoint)]
    command += ["--endpoint-url", server.url, "--cache-dir", str(short_path / "cache")]
    process = subprocess.Popen(command, env=cli.environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("mounted s3://bucket" in line for line in process.stderr)
    drained = threading.Thread(target=process.stderr.read)
    drained.start()
    assert (mountpoint / "a").read_bytes() == b"x"
    assert cli.run("umount", mountpoint).returncode == 0
    assert process.wait(30) == 0
    drained.join()
    process.stderr.close()


def test_mounting_twice_is_refused(mount: Mount) -> None:
    with pytest.raises(MountFailed, match="mounted") as caught:
        mount.mount()
    assert caught.value.returncode == 4
    assert (mount.path / "one").read_bytes() == DATA
