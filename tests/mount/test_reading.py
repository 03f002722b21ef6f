"""Every byte is right, whichever way it is read."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

KIB = 1024
MIB = 1024 * KIB
SIZES = [
    *(0, 1, 4095, 4096, 4097, 128 * KIB),
    *(256 * KIB - 1, 256 * KIB, 256 * KIB + 1),
    *(4 * MIB - 1, 4 * MIB, 4 * MIB + 1),
    *(8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB + 12_345),
]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def mount(server: S3Server, mounted: Mounted) -> Mount:
    """A mount of files of all SIZES."""
    server.create_bucket("bucket")
    for size in SIZES:
        server.put("bucket", f"sizes/{size}", content(size))
    return mounted(server, "bucket")


def big(mount: Mount) -> tuple[Path, bytes]:
    return mount.path / "sizes" / str(SIZES[-1]), content(SIZES[-1])


def test_files_of_all_sizes(mount: Mount) -> None:
    for size in SIZES:
        assert (mount.path / "sizes" / str(size)).read_bytes() == content(size)
    mount.remount()  # now out of the cache on disk
    for size in SIZES:
        assert (mount.path / "sizes" / str(size)).read_bytes() == content(size)


def test_odd_offsets_and_sizes(mount: Mount) -> None:
    path, data = big(mount)
    rng = random.Random(1)
    with path.open("rb", buffering=0) as file:
        for _ in range(300):
            offset = rng.randrange(len(data) + 10)
            size = rng.choice([1, 3, 511, 4096, 4097, 70_000, 262_145, 1_500_001])
            assert os.pread(file.fileno(), size, offset) == data[offset : offset + size]


def test_backwards_and_strided(mount: Mount) -> None:
    path, data = big(mount)
    with path.open("rb", buffering=0) as file:
        for offset in range(len(data) - 100_000, 0, -1_000_003):
            assert os.pread(file.fileno(), 100_000, offset) == data[offset : offset + 100_000]
        for offset in range(0, len(data), 777_777):
            assert os.pread(file.fileno(), 10_000, offset) == data[offset : offset + 10_000]


def test_two_streams_on_one_descriptor(mount: Mount) -> None:
    path, data = big(mount)
    half = len(data) // 2
    with path.open("rb", buffering=0) as file:
        for offset in range(0, half - 300_000, 300_000):
            for start in (offset, half + offset):
                assert os.pread(file.fileno(), 300_000, start) == data[start : start + 300_000]


def test_many_threads_on_one_file(mount: Mount) -> None:
    path, data = big(mount)
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(16) as pool:

        def check(seed: int) -> bool:
            rng = random.Random(seed)
            for _ in range(20):
                offset = rng.randrange(len(data))
                size = rng.randrange(1, 500_000)
                if os.pread(file.fileno(), size, offset) != data[offset : offset + size]:
                    return False
            return True

        assert all(pool.map(check, range(16)))


MMAP = """
import hashlib, mmap, random, sys
with open(sys.argv[1], "rb") as file, open(sys.argv[2], "rb") as expected:
    data = expected.read()
    with mmap.mmap(file.fileno(), 0, flags=int(sys.argv[3]), prot=mmap.PROT_READ) as mapped:
        rng = random.Random(2)
        for _ in range(100):
            offset = rng.randrange(len(data))
            assert mapped[offset : offset + 5000] == data[offset : offset + 5000]
        assert hashlib.sha256(mapped).digest() == hashlib.sha256(data).digest()
"""


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_mmap(mount: Mount, tmp_path: Path, flags: int) -> None:
    # In a process of its own: a page fault holds the interpreter's lock, which the server's thread needs to answer it.
    path, data = big(mount)
    (tmp_path / "expected").write_bytes(data)
    subprocess.run([sys.executable, "-c", MMAP, path, tmp_path / "expected", str(int(flags))], check=True)


def test_direct_io(mount: Mount) -> None:
    path, data = big(mount)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 2 * MIB)  # page-aligned, as O_DIRECT asks
        for offset in (0, 4096, 3 * MIB, len(data) // 4096 * 4096):
            got = os.preadv(fd, [buffer], offset)
            assert buffer[:got] == data[offset : offset + 2 * MIB]
        buffer.close()
    finally:
        os.close(fd)


def test_sendfile_splice_and_copy_file_range(mount: Mount, tmp_path: Path) -> None:
    path, data = big(mount)
    target = tmp_path / "copy"
    with path.open("rb") as source, target.open("w+b") as sink:
        sent = 0
        while sent < len(data):
            sent += os.sendfile(sink.fileno(), source.fileno(), sent, len(data) - sent)
        assert target.read_bytes() == data

        reader, writer = os.pipe()
        try:
            moved = os.splice(source.fileno(), writer, 65_536, offset_src=12_345)
            assert os.read(reader, moved) == data[12_345 : 12_345 + moved]
        finally:
            os.close(reader)
            os.close(writer)

        # Linux copies between file systems of different types by nobody's hand: EXDEV, as between any other two, and
        # every program then reads and writes.
        with pytest.raises(OSError, match="cross-device"):
            os.copy_file_range(source.fileno(), sink.fileno(), len(data), 0, 0)
    subprocess.run(["cp", "--reflink=auto", path, tmp_path / "by-cp"], check=True)
    assert (tmp_path / "by-cp").read_bytes() == data


def test_seek_data_advice_and_readahead(mount: Mount) -> None:
    path, data = big(mount)
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        fd = file.fileno()
        assert os.lseek(fd, 1000, os.SEEK_DATA) == 1000
        assert os.lseek(fd, 1000, os.SEEK_HOLE) == len(data)
        os.posix_fadvise(fd, 0, len(data), os.POSIX_FADV_SEQUENTIAL)
        os.posix_fadvise(fd, 0, MIB, os.POSIX_FADV_WILLNEED)
        assert libc.readahead(fd, ctypes.c_int64(2 * MIB), ctypes.c_size_t(MIB)) == 0
        assert os.pread(fd, MIB, 2 * MIB) == data[2 * MIB : 3 * MIB]
        os.posix_fadvise(fd, 0, len(data), os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, MIB, 2 * MIB) == data[2 * MIB : 3 * MIB]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_whole_trees_by_cp_tar_and_rsync(server: S3Server, mounted: Mounted, tmp_path: Path) -> None:
    server.create_bucket("bucket")
    rng = random.Random(3)
    original = {}
    for number in range(120):
        key = f"{number % 4}/{number % 7}/file {number}.bin"
        data = rng.randbytes(rng.choice([0, 10, 5000, 100_000, 300_000]))
        original[key] = hashlib.sha256(data).hexdigest()
        server.put("bucket", key, data)
    large = rng.randbytes(12 * MIB)
    original["large.bin"] = hashlib.sha256(large).hexdigest()
    server.put("bucket", "large.bin", large)
    mount = mounted(server, "bucket")
    assert digests(mount.path) == original

    subprocess.run(["cp", "-r", mount.path, tmp_path / "cp"], check=True)
    assert digests(tmp_path / "cp") == original

    (tmp_path / "tar").mkdir()
    archive = subprocess.run(["tar", "-C", mount.path, "-cf", "-", "."], stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-C", tmp_path / "tar", "-xf", "-"], input=archive.stdout, check=True)
    assert digests(tmp_path / "tar") == original

    command = ["rsync", "-rc", "--no-perms", "--itemize-changes", f"{mount.path}/", str(tmp_path / "rsync")]
    subprocess.run(command, check=True, capture_output=True)
    assert digests(tmp_path / "rsync") == original
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ">f" not in again.stdout  # checksums of all files are what they were
