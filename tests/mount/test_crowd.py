"""Many readers at once through the kernel: while the store is slow, refuses, or leaves them waiting."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.content import matches
from bench.simulated import SimulatedS3
from bench.simulator.server import BUCKET
from mounting import PATIENCE_SECONDS, Mount
from s3server import S3Server

NREADERS = 32
NFILES = 400
NBYTES = 100_000

Mounted = Callable[..., Mount]


@pytest.fixture
def simulated() -> Iterator[SimulatedS3]:
    with SimulatedS3([f"small:{NFILES}:{NBYTES}", "large:1:64MiB"], {}, md5=True) as server:
        server.behave("30ms")
        yield server


def read_all(mount: Mount) -> dict[str, Any]:
    """Read every small file with many readers, compare every byte, and tell what the mount did."""

    def read(name: str) -> bool:
        return matches(f"small/{name}", 0, (mount.path / "small" / name).read_bytes())

    names = sorted(os.listdir(mount.path / "small"))
    assert len(names) == NFILES
    with ThreadPoolExecutor(NREADERS) as pool:
        assert all(pool.map(read, names))
    statistics: dict[str, Any] = mount.stats()
    return statistics


def test_five_thousand_threads_wait_for_a_store_that_is_slow(server: S3Server, mounted: Mounted, binding: str) -> None:
    """None of them is told to try again."""
    if binding != "native":
        pytest.skip("pyfuse3 leaves all but 512 of them in the kernel, where nobody counts them")
    count = 5000
    server.create_bucket("bucket")
    server.put("bucket", "d/file", b"x")
    mount = mounted(server, "bucket")
    stalled = server.stall_next("LIST", times=count)
    answers: list[int] = []

    def look(number: int) -> None:
        try:
            (mount.path / f"missing{number}").stat()
        except OSError as error:
            answers.append(error.errno or 0)

    before = threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=look, args=(number,)) for number in range(count)]
    try:
        for thread in threads:
            thread.start()
        assert stalled.arrived.wait(PATIENCE_SECONDS)
        until = time.monotonic() + PATIENCE_SECONDS
        while mount.stats()["kernel"]["waited"] < count:
            assert time.monotonic() < until
    finally:
        threading.stack_size(before)
        server.release_all()
        for thread in threads:
            thread.join()
    assert answers == [errno.ENOENT] * count


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's limits may be raised by root only")
def test_no_read_waits_in_the_kernel_where_its_deadline_does_not_run(mounted: Mounted, binding: str) -> None:
    if binding != "native":
        pytest.skip("pyfuse3 handles 512 at once")
    nfiles, nreads = 40, 18
    with SimulatedS3([f"large:{nfiles}:{nreads}MiB"], {}) as server:
        mount = mounted(server, BUCKET, read_deadline="10s")
        mount.announce("of 'large/.* took longer")
        files = [os.open(path, os.O_RDONLY) for path in (mount.path / "large").iterdir()]
        server.change({"faults": {"stall": 1.0}})
        errors: list[int] = []

        def read(file: int, offset: int) -> None:
            try:
                os.pread(file, 4096, offset)
            except OSError as error:
                errors.append(error.errno or 0)

        # Each far from all others, so that none is answered by what another has the kernel read.
        threads = [
            threading.Thread(target=read, args=(file, number * 1024 * 1024 + 500_000))
            for file in files
            for number in range(nreads)
        ]
        for thread in threads:
            thread.start()
        nwanted = 0
        while nwanted < nfiles * nreads:
            assert not errors, f"{nwanted} are seen before the first one has ended"
            fetch = mount.stats()["fetch"]
            nwanted = fetch["in_flight"] + fetch["queued"] + fetch["paused"]
        for thread in threads:
            thread.join()
        for file in files:
            os.close(file)
        assert errors == [errno.EIO] * nfiles * nreads


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's limits may be raised by root only")
def test_the_kernel_asks_once_for_a_small_file_however_many_readers_wait(
    simulated: SimulatedS3, mounted: Mounted
) -> None:
    mount = mounted(simulated, BUCKET, no_hedging=True)
    before = simulated.traffic().gets
    statistics = read_all(mount)
    # At its default of 12 background requests it gives up reading ahead, and asks for each file in 8 KiB pieces.
    assert statistics["reading"]["reads"] == NFILES
    assert simulated.traffic().gets - before == NFILES


def test_the_kernel_reads_a_mib_ahead(simulated: SimulatedS3, mounted: Mounted) -> None:
    mount = mounted(simulated, BUCKET)
    device = mount.path.stat().st_dev
    read_ahead = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert int(read_ahead.read_text()) == (1024 if os.geteuid() == 0 else 128)


def test_slow_down_lowers_the_number_in_flight_and_reaches_no_reader(simulated: SimulatedS3, mounted: Mounted) -> None:
    simulated.behave("30ms", max_rate=200)
    statistics = read_all(mounted(simulated, BUCKET))
    assert simulated.traffic().refused > 0
    assert statistics["congestion"]["cuts"] > 0
    assert statistics["congestion"]["limit"] < NREADERS
    # Most requests are allowed ones, although so many readers push.
    assert simulated.traffic().refused < NFILES


def test_a_get_that_hangs_is_answered_by_its_hedge(simulated: SimulatedS3, mounted: Mounted) -> None:
    mount = mounted(simulated, BUCKET)
    warm = sorted(os.listdir(mount.path / "small"))[:100]
    for name in warm:  # what is usual has to be known first
        assert matches(f"small/{name}", 0, (mount.path / "small" / name).read_bytes())
    simulated.change({"faults": {"stall": 0.02}})
    statistics = read_all(mount)
    assert statistics["fetch"]["hedges_won"] > 0
    assert statistics["fetch"]["failed"] == 0
