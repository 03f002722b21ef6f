"""The golden table of docs/SEMANTICS.md: what each operation costs at the server, when nothing is known before."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

MIB = 1024 * 1024
SMALL = bytes(range(256)) * 400


@pytest.fixture
def mount(server: S3Server, mounted: Mounted) -> Mount:
    server.create_bucket("bucket")
    for number in range(30):
        server.put("bucket", f"d/{number:03}", SMALL)
    server.put("bucket", "d/four-mib", bytes(4 * MIB))
    mount = mounted(server, "bucket")
    assert server.count("HEAD") <= 1
    assert server.count("LIST") <= 2
    assert server.count("GET") <= 1  # one byte, which shows that what is listed can be read
    server.clear()
    return mount


def cost(server: S3Server) -> tuple[int, int, int]:
    """(HEAD, LIST, GET) since the last time."""
    found = (server.count("HEAD"), server.count("LIST"), server.count("GET"))
    server.clear()
    return found


def test_stat_of_one_file_nothing_known(server: S3Server, mount: Mount) -> None:
    """The LIST by which a small directory is found says what is in it."""
    (mount.path / "d").stat()
    assert cost(server) == (0, 1, 0)
    assert (mount.path / "d" / "003").stat().st_size == len(SMALL)
    assert not (mount.path / "d" / "missing").exists()
    assert len(os.listdir(mount.path / "d")) == 31
    assert cost(server) == (0, 0, 0)


def test_stat_of_one_file_in_a_large_directory(server: S3Server, mount: Mount) -> None:
    for number in range(200):
        server.put("bucket", f"large/{number:03}", SMALL)
    (mount.path / "large").stat()
    assert cost(server) == (0, 1, 0)
    assert (mount.path / "large" / "150").stat().st_size == len(SMALL)
    assert cost(server) == (0, 1, 0)
    assert not (mount.path / "large" / "missing").exists()
    assert cost(server) == (0, 1, 0)
    assert not (mount.path / "large" / "missing").exists()
    (mount.path / "large" / "150").stat()
    assert cost(server) == (0, 0, 0)


@pytest.mark.parametrize("nentries", [1, 999, 1000, 1001, 2500])
def test_listing_and_stat_of_all(server: S3Server, mounted: Mounted, nentries: int) -> None:
    server.create_bucket("bucket")
    for number in range(nentries):
        server.put("bucket", f"d/{number:05}", b"x" * (number % 3))
    mount = mounted(server, "bucket")
    (mount.path / "d").stat()
    server.clear()
    with os.scandir(mount.path / "d") as entries:
        sizes = [entry.stat().st_size for entry in entries]
    assert sizes == [number % 3 for number in range(nentries)]
    subprocess.run(["ls", "-l", mount.path / "d"], check=True, stdout=subprocess.DEVNULL)
    # The LIST of the stat before has told of a small directory all that there is.
    assert cost(server) == (0, -(-nentries // 1000) if nentries > 100 else 0, 0)


def test_whole_file_is_one_get(server: S3Server, mount: Mount) -> None:
    os.listdir(mount.path / "d")
    server.clear()
    assert (mount.path / "d" / "000").read_bytes() == SMALL
    assert cost(server) == (0, 0, 1)
    assert (mount.path / "d" / "four-mib").read_bytes() == bytes(4 * MIB)
    assert cost(server) == (0, 0, 1)


def test_reading_again_costs_nothing_in_any_process(server: S3Server, mount: Mount) -> None:
    path = mount.path / "d" / "000"
    assert path.read_bytes() == SMALL
    server.clear()
    assert path.read_bytes() == SMALL
    subprocess.run(["cmp", path, path], check=True)
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("1")  # without the kernel's pages too
        assert path.read_bytes() == SMALL
    assert cost(server) == (0, 0, 0)


def test_after_a_restart_data_comes_from_the_disk(server: S3Server, mount: Mount) -> None:
    (mount.path / "d").stat()
    assert (mount.path / "d" / "000").read_bytes() == SMALL
    mount.remount()
    (mount.path / "d").stat()
    server.clear()
    assert (mount.path / "d" / "000").read_bytes() == SMALL
    assert cost(server) == (0, 0, 0)


def test_many_processes_reading_one_cold_file_cost_as_much_as_one(server: S3Server, mount: Mount) -> None:
    os.listdir(mount.path / "d")
    server.clear()
    fault = server.stall_next("GET")  # until all are waiting for it
    code = "import sys; data = open(sys.argv[1], 'rb').read(); sys.exit(data != bytes(range(256)) * 400)"
    readers = [subprocess.Popen([sys.executable, "-c", code, mount.path / "d" / "007"]) for _ in range(8)]
    assert fault.arrived.wait(30)
    server.release_all()
    assert [reader.wait(30) for reader in readers] == [0] * 8
    assert cost(server) == (0, 0, 1)


def test_probing_missing_names_in_a_listed_directory_costs_nothing(server: S3Server, mount: Mount) -> None:
    os.listdir(mount.path / "d")
    server.clear()
    assert not any((mount.path / "d" / f"{row}.{column}").exists() for row in range(10) for column in range(10))
    assert cost(server) == (0, 0, 0)


def test_probing_many_names_in_an_unlisted_directory_lists_it_once(server: S3Server, mount: Mount) -> None:
    (mount.path / "d").stat()
    server.clear()
    assert not any((mount.path / "d" / f"0.{column}").exists() for column in range(100))
    heads, lists, gets = cost(server)
    assert (heads, gets) == (0, 0)
    assert lists <= 4


def nbytes_fetched(server: S3Server) -> int:
    return sum(request.nbytes_sent for request in server.requests if request.kind == "GET")


@pytest.mark.parametrize("buffered", [False, True])
def test_columns_of_a_table_cost_little_more_than_they_hold(server: S3Server, mounted: Mounted, buffered: bool) -> None:
    """Two of five columns of 8 row groups of 0.75 MB, read as Parquet libraries do, through Python's files too."""
    server.create_bucket("bucket")
    server.put("bucket", "table", random.Random(1).randbytes(6_117_442))
    mount = mounted(server, "bucket")
    reads = [(6_117_442 - 65_536, 65_536)]
    reads += [(762_000 * group + start, 12_075) for group in range(8) for start in (4, 504_801)]
    server.clear()
    with (mount.path / "table").open("rb", buffering=-1 if buffered else 0) as file:
        for offset, nbytes in reads:
            file.seek(offset)
            assert len(file.read(nbytes)) == nbytes
    asked = sum(nbytes for _, nbytes in reads)
    # A buffer that is filled for each column is asked for as well.
    assert nbytes_fetched(server) <= 2 * asked + 256 * 1024 + (16 * 2**15 if buffered else 0)


@pytest.mark.parametrize("nbytes", [65_536, 2 * MIB])
def test_a_slice_of_an_array_costs_no_more_than_twice_what_it_holds(
    server: S3Server, mounted: Mounted, nbytes: int
) -> None:
    """2 MiB in sequence out of 22, as h5py reads a contiguous dataset: in pieces, or at once."""
    server.create_bucket("bucket")
    server.put("bucket", "array", random.Random(2).randbytes(22_024_760))
    mount = mounted(server, "bucket")
    server.clear()
    fd = os.open(mount.path / "array", os.O_RDONLY)
    try:
        os.pread(fd, 1400, 0)
        for offset in range(3 * 2 * MIB + 2048, 4 * 2 * MIB + 2048, nbytes):
            os.pread(fd, nbytes, offset)
    finally:
        os.close(fd)
    while mount.stats()["fetch"]["in_flight"]:  # whatever is fetched ahead
        pass
    assert nbytes_fetched(server) <= 2 * (2 * MIB + 1400) + 256 * 1024
