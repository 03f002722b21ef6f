"""Bodies that are damaged or cut on their way: what a program reads is right all the same, and little comes twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench.content import matches
from bench.simulated import SimulatedS3
from bench.simulator.server import BUCKET
from mounting import Mount

Mounted = Callable[..., Mount]

NFILES: Final = 600
TREES: Final = (f"small:{NFILES}:20KB:100", "middle:40:1MB", "whole:10:4MB")
FLIPPED_SHARE: Final = 0.1


def files(mount: Mount) -> list[Path]:
    return sorted(Path(folder) / name for folder, _, names in os.walk(mount.path) for name in names)


def wrong(mount: Mount, paths: list[Path]) -> list[str]:
    """The names of files whose bytes are not the object's."""

    def read(path: Path) -> str | None:
        key = str(path.relative_to(mount.path))
        return None if matches(key, 0, path.read_bytes()) else key

    with ThreadPoolExecutor(16) as readers:
        return [key for key in readers.map(read, paths) if key is not None]


def test_flipped_bytes_reach_no_reader(mounted: Mounted) -> None:
    with SimulatedS3(TREES, {}, md5=True) as simulated:
        mount = mounted(simulated, BUCKET)
        paths = files(mount)
        assert len(paths) == NFILES + 50
        simulated.change({"faults": {"flip": FLIPPED_SHARE}})
        assert wrong(mount, paths) == []
        assert mount.stats()["s3"]["damaged"] > NFILES * FLIPPED_SHARE / 2
        # Neither does one lie in the cache.
        simulated.change({"faults": {}})
        mount.umount()
        mount.mount()
        gets = simulated.traffic().gets
        assert wrong(mount, paths) == []
        assert simulated.traffic().gets == gets


def test_etags_of_as_many_digits_that_are_no_digests_cost_a_few_gets(mounted: Mounted) -> None:
    with SimulatedS3(TREES, {}) as simulated:
        mount = mounted(simulated, BUCKET, no_hedging=True)
        paths = files(mount)
        before = simulated.traffic().gets
        assert wrong(mount, paths) == []
        assert simulated.traffic().gets - before <= len(paths) + 4
        assert mount.log_text().count("MD5") == 1
        assert mount.stats()["s3"]["damaged"] == 0


def test_of_bodies_that_are_cut_little_comes_twice(mounted: Mounted) -> None:
    with SimulatedS3(["large:1:96MiB"], {}) as simulated:
        mount = mounted(simulated, BUCKET, no_hedging=True)
        simulated.change({"faults": {"truncate": 0.5}, "seed": 1})
        (path,) = files(mount)
        assert wrong(mount, [path]) == []
        simulated.settled(10)
        # Fetched from their beginning again, they are a third more.
        assert simulated.traffic().nbytes < 1.15 * path.stat().st_size
