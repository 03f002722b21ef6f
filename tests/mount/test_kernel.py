"""What only the native binding does: opens that ask nobody, files that the kernel reads, readers that are let go."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from conftest import Mounted
from mounting import COMMAND, CommandLine, Mount, MountFailed
from s3server import S3Server

MIB = 1024 * 1024
DATA = random.Random(11).randbytes(9 * MIB + 123)


@pytest.fixture
def binding() -> str:
    """These hold for one binding only."""
    return "native"


@pytest.fixture
def bucket(server: S3Server) -> str:
    server.create_bucket("bucket")
    return "bucket"


def drop_kernel_pages() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


def requests(mount: Mount) -> int:
    """How many requests of the kernel the daemon has answered."""
    return int(mount.stats()["kernel"]["requests"])


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what a thread of the daemon is about to do."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        select.select([], [], [], 0.01)


def test_an_epoch_from_the_kernels_pages_asks_nothing(server: S3Server, mounted: Mounted, bucket: str) -> None:
    for number in range(50):
        server.put(bucket, f"d/{number}", DATA[number : number + 1000])
    mount = mounted(server, bucket, metadata_ttl="inf", open_mode="kernel")
    names = os.listdir(mount.path / "d")

    def epoch() -> None:
        for name in names:
            # Not by open(): until Python 3.14 that asks each file, by an ioctl, whether it is a terminal.
            fd = os.open(mount.path / "d" / name, os.O_RDONLY)
            assert os.read(fd, 2000) == DATA[int(name) : int(name) + 1000]
            os.close(fd)

    epoch()
    counts = []
    for _ in range(5):
        before = requests(mount)
        epoch()
        assert sorted(os.listdir(mount.path / "d")) == sorted(names)
        counts.append(requests(mount) - before)
    # A stat of the mount point, by the command that asks for the statistics, is all that came. A machine that
    # reclaims memory ahead of need may take a few pages away, which are read again: not in each epoch, nor each file's.
    assert min(counts) <= 2
    assert max(counts) < len(names) / 2
    assert mount.stats()["filesystem"]["opens"] <= 1
    assert mount.stats()["kernel"]["open_mode"].startswith("kernel")


def passes_through(mount: Mount, path: Path) -> bool:
    with path.open("rb"):
        return bool(mount.stats()["kernel"]["passed_through"] == 1)


def test_whole_cached_files_are_read_by_the_kernel_itself(server: S3Server, mounted: Mounted, bucket: str) -> None:
    server.put(bucket, "large", DATA)
    server.put(bucket, "partial", DATA)
    mount = mounted(server, bucket, open_mode="passthrough")
    path = mount.path / "large"
    assert path.read_bytes() == DATA
    with (mount.path / "partial").open("rb", buffering=0) as partial:
        assert partial.read(1000) == DATA[:1000]
    wait_until(lambda: os.getxattr(path, "user.s3stream.cached") == b"%d" % len(DATA))
    wait_until(lambda: passes_through(mount, path))  # the first open has it compared with its checksums
    drop_kernel_pages()
    reads = mount.stats()["reading"]["reads"]
    gets = server.count("GET")
    with path.open("rb") as one, path.open("rb", buffering=0) as two:
        assert mount.stats()["kernel"]["passed_through"] == 1
        assert one.read() == DATA
        assert os.pread(two.fileno(), 5000, 7 * MIB) == DATA[7 * MIB : 7 * MIB + 5000]
        assert os.pread(two.fileno(), 5000, len(DATA) - 10) == DATA[-10:]
        assert os.pread(two.fileno(), 5000, len(DATA)) == b""
        assert os.fstat(two.fileno()).st_size == len(DATA)
    assert mount.stats()["reading"]["reads"] == reads
    assert mount.stats()["kernel"]["passed_through"] == 0
    with (mount.path / "partial").open("rb") as partial:
        assert mount.stats()["kernel"]["passed_through"] == 0
        assert partial.read() == DATA
    assert server.count("GET") > gets  # what was missing of the partial one


def test_auto_hands_over_what_memory_does_not_hold(server: S3Server, mounted: Mounted, bucket: str) -> None:
    server.put(bucket, "large", DATA)
    mount = mounted(server, bucket)
    path = mount.path / "large"
    assert path.read_bytes() == DATA
    wait_until(lambda: os.getxattr(path, "user.s3stream.cached") == b"%d" % len(DATA))
    with path.open("rb"):
        assert mount.stats()["kernel"]["passed_through"] == 0
    mount.remount()
    drop_kernel_pages()
    assert path.read_bytes() == DATA  # each block is seen to be right
    with path.open("rb") as file:
        assert mount.stats()["kernel"]["passed_through"] == 1
        assert file.read() == DATA


def test_a_file_that_is_evicted_while_it_passes_through_keeps_its_bytes(
    server: S3Server, mounted: Mounted, bucket: str
) -> None:
    for number in range(10):
        server.put(bucket, f"{number}", DATA[number:])
    mount = mounted(server, bucket, open_mode="passthrough", cache_size="64MiB")
    first = mount.path / "0"
    assert first.read_bytes() == DATA
    wait_until(lambda: os.getxattr(first, "user.s3stream.cached") == b"%d" % len(DATA))
    wait_until(lambda: passes_through(mount, first))
    with first.open("rb") as file:
        assert mount.stats()["kernel"]["passed_through"] == 1
        for number in range(1, 10):
            assert (mount.path / f"{number}").read_bytes() == DATA[number:]
            wait_until(lambda: mount.stats()["disk"]["nbytes_used"] <= 64 * MIB)
        assert mount.stats()["disk"]["files_evicted"] > 0
        drop_kernel_pages()
        assert file.read() == DATA
        # The kernel lets nobody open it in another way meanwhile.
        assert first.read_bytes() == DATA
    assert mount.stats()["kernel"]["passed_through"] == 0
    assert first.read_bytes() == DATA


def test_auto_stops_asking_once_files_are_known_to_be_small(server: S3Server, mounted: Mounted, bucket: str) -> None:
    for number in range(100):
        server.put(bucket, f"{number}", DATA[number : number + 1000])
    mount = mounted(server, bucket)
    for _ in range(2):
        for number in range(100):
            assert (mount.path / f"{number}").read_bytes() == DATA[number : number + 1000]
    assert mount.stats()["filesystem"]["opens"] == 65
    assert "small" in mount.stats()["kernel"]["open_mode"]


@contextmanager
def held_up(server: S3Server, kind: Literal["GET", "LIST"], path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads ``path`` and waits for an answer that does not come."""
    stalled = server.stall_next(kind)
    reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert stalled.arrived.wait(20)
        yield reader
    finally:
        server.release_all()
        reader.kill()
        reader.wait(20)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_reader_is_gone_at_once(
    server: S3Server, mounted: Mounted, bucket: str, number: signal.Signals
) -> None:
    server.put(bucket, "file", DATA[:1000])
    mount = mounted(server, bucket, no_hedging=True)
    assert os.listdir(mount.path) == ["file"]
    with held_up(server, "GET", mount.path / "file") as reader:
        reader.send_signal(number)
        assert reader.wait(20) == -number  # the read's deadline is 120 s
    assert (mount.path / "file").read_bytes() == DATA[:1000]


def test_a_lookup_that_is_interrupted_is_given_up(server: S3Server, mounted: Mounted, bucket: str) -> None:
    server.put(bucket, "file", b"x")
    mount = mounted(server, bucket)
    with held_up(server, "LIST", mount.path / "file") as reader:
        reader.kill()
        assert reader.wait(20) == -signal.SIGKILL
        wait_until(lambda: mount.stats()["kernel"]["interrupted"] == 1)


def test_what_cannot_be_done_with_a_file_is_said(server: S3Server, mounted: Mounted, bucket: str) -> None:
    server.put(bucket, "file", DATA[:1000])
    mount = mounted(server, bucket)
    fd = os.open(mount.path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            fcntl.ioctl(fd, 0x5401, bytearray(64))
        poll = select.poll()
        poll.register(fd)
        assert poll.poll(0)[0][1] & select.POLLIN
        assert os.lseek(fd, 10, os.SEEK_DATA) == 10
        assert os.lseek(fd, 10, os.SEEK_HOLE) == 1000
        os.fsync(fd)
    finally:
        os.close(fd)


class _Handle(ctypes.Structure):
    _fields_ = (("nbytes", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))


def test_files_are_found_again_by_handle(server: S3Server, mounted: Mounted, bucket: str) -> None:
    """As an NFS server does: a number that the kernel still knows, or one that was forgotten."""
    server.put(bucket, "d/file", DATA[:1000])
    mount = mounted(server, bucket)
    libc = ctypes.CDLL(None, use_errno=True)
    handle = _Handle(nbytes=128)
    where = os.open(mount.path, os.O_RDONLY)
    try:
        path = bytes(mount.path / "d" / "file")
        assert libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(ctypes.c_int()), 0) == 0
        fd = libc.open_by_handle_at(where, ctypes.byref(handle), os.O_RDONLY)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        assert os.read(fd, 2000) == DATA[:1000]
        os.close(fd)
    finally:
        os.close(where)


def test_mode_that_the_machine_does_not_allow_is_refused_before_it_is_mounted(
    server: S3Server, mounted: Mounted, bucket: str
) -> None:
    with pytest.raises(MountFailed, match="open-mode must be one of"):
        mounted(server, bucket, open_mode="fast")


def test_a_mount_made_by_somebody_else_is_served_through_its_descriptor(
    server: S3Server, cli: CommandLine, short_path: Path, bucket: str
) -> None:
    """As in a container without rights: whoever has them opens the device, mounts, and passes the descriptor on."""
    server.put(bucket, "file", DATA[:1000])
    path = short_path / "made"
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    try:
        words = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        assert libc.mount(b"made", bytes(path), b"fuse.s3stream", 1, words) == 0, os.strerror(ctypes.get_errno())
        command = [*COMMAND, "mount", "--foreground", f"s3://{bucket}", f"/dev/fd/{fd}", "--endpoint-url", server.url]
        process = subprocess.Popen(
            [*command, "--cache-dir", str(short_path / "cache"), "--log-file", str(short_path / "log")],
            env=cli.environment,
            pass_fds=[fd],
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(fd)
    try:
        assert (path / "file").read_bytes() == DATA[:1000]
        done = cli.run("stats", f"/dev/fd/{fd}", "--json")
        assert '"mountpoint": "/dev/fd/' in done.stdout
    finally:
        assert libc.umount2(bytes(path), 0) == 0
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"ERROR" not in log


def test_a_descriptor_that_is_none_is_refused(server: S3Server, cli: CommandLine, bucket: str) -> None:
    done = cli.run("mount", f"s3://{bucket}", "/dev/fd/99", "--endpoint-url", server.url)
    assert done.returncode == 6
    assert "/dev/fd/99 is no open descriptor of /dev/fuse" in done.stderr


def test_an_unchanged_directory_is_not_sent_again(server: S3Server, mounted: Mounted) -> None:
    """Once the time to live is over it is listed again, and the kernel goes on with what it has."""
    server.create_bucket("bucket")
    for number in range(300):
        server.put("bucket", f"{number}", b"x")
    mount = mounted(server, "bucket", metadata_ttl="1s")
    wanted = sorted(map(str, range(300)))
    assert sorted(os.listdir(mount.path)) == wanted

    def requests() -> int:
        return int(mount.stats()["kernel"]["requests"])

    def list_anew() -> tuple[list[str], int]:
        """The names that are found once the time to live is over, and how many requests of the kernel it took."""
        deadline = time.monotonic() + 10
        while True:
            before, lists_before = requests(), server.count("LIST")
            names = sorted(os.listdir(mount.path))
            if server.count("LIST") > lists_before:
                return names, requests() - before
            assert time.monotonic() < deadline

    listed = [list_anew() for _ in range(4)]
    assert [names for names, _ in listed] == [wanted] * 4
    # OPENDIR and RELEASEDIR. A kernel that reclaims memory ahead of need may have lost the directory's pages once.
    assert min(nrequests for _, nrequests in listed) == 2
    server.put("bucket", "new", b"x")
    names, nrequests = list_anew()
    assert names == [*wanted, "new"]
    assert nrequests > 2
    assert mount.stats()["namespace"]["listings"]["unchanged"] >= 3
