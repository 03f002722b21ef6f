"""The disk cache by itself: how it opens when it is large, what small objects cost, what checksums cost. Needs root.

``scripts/bench-cache``. What readers see of it through a mount is measured by ``scripts/bench``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio
import xxhash

from bench import machine
from bench.contestants.contestant import BUCKET, Place
from bench.contestants.ours import S3StreamFS
from bench.load.spec import Load
from bench.simulated import SimulatedS3
from bench.simulator.bucket import Tree
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.files import file_name
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.rows import Written
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

GIB: Final = 1 << 30
_SMALL_NBYTES: Final = 20_000
_BATCH: Final = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--files", type=int, default=2_000_000, metavar="N", help="files of the large index")
    parser.add_argument("--small", type=int, default=100_000, metavar="N", help="objects of 20 KB")
    arguments = parser.parse_args()
    print(f"- {machine.describe()}\n")
    print("| what | measured |\n|---|---|")
    # Beside the repository's own files, and not in /tmp: a cache in a tmpfs would be no cache on disk.
    build = Path(__file__).parents[1] / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build, prefix="cache-") as folder:
        checksums()
        small(Path(folder), arguments.small)
        opening(Path(folder), arguments.files)


def row(what: str, measured: str) -> None:
    print(f"| {what} | {measured} |", flush=True)


@contextmanager
def clock() -> Iterator[Callable[[], float]]:
    """Seconds since it began, and for good once it is over."""
    began = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended[0] if ended else time.perf_counter()) - began
    ended.append(time.perf_counter())


def checksums() -> None:
    blocks = memoryview(os.urandom(256 * 1024 * 1024))
    with clock() as seconds:
        for at in range(0, len(blocks), BLOCK_BYTES):
            xxhash.xxh3_64_digest(blocks[at : at + BLOCK_BYTES])
    row("checksums (xxh3, 64 bits)", f"{seconds() * GIB / len(blocks):.2f} s per GiB")


def small(folder: Path, count: int) -> None:
    """Objects of 20 KB in, read back without the page cache, and evicted; and the same as plain files."""
    data = memoryview(os.urandom(_SMALL_NBYTES))
    ids = [ObjectId(f"small/{number:07}", "etag", _SMALL_NBYTES) for number in range(count)]
    plain = folder / "plain"
    for shard in range(256):
        (plain / f"{shard:02x}").mkdir(parents=True)

    async def fill(tier: DiskTier) -> None:
        for object_id in ids:
            while not tier.put_nowait(object_id, object_id.whole, [data]):
                await tier.flush()
        await tier.flush()

    async def read(tier: DiskTier) -> None:
        for object_id in ids:
            found = await tier.read(object_id, object_id.whole)
            assert found == data

    async def nothing(tier: DiskTier) -> None:
        await tier.flush()

    def measured(what: str, case: Callable[[DiskTier], Awaitable[None]], limit_nbytes: int = 1 << 40) -> None:
        machine.drop_page_cache()
        before = time.process_time()
        with clock() as seconds:
            trio.run(_with_tier, folder / "cache", limit_nbytes, case)
        cpu = (time.process_time() - before) / count * 1e6
        row(f"{count:,} objects of 20 KB: {what}", f"{count / seconds():,.0f} per second, {cpu:.0f} µs of CPU each")

    measured("written", fill)
    with clock() as seconds:
        for number in range(count):
            (plain / f"{number % 256:02x}" / f"{number}").write_bytes(data)
    row("the same as plain files", f"{count / seconds():,.0f} per second")
    measured("read, without the page cache", read)
    machine.drop_page_cache()
    with clock() as seconds:
        for number in range(count):
            (plain / f"{number % 256:02x}" / f"{number}").read_bytes()
    row("the same as plain files", f"{count / seconds():,.0f} per second")
    taken = sum(path.stat().st_blocks * 512 for path in (folder / "cache").rglob("*"))
    row("on disk", f"{taken / count:,.0f} bytes each, the index among them")
    measured("evicted", nothing, limit_nbytes=64 * 1024 * 1024)
    shutil.rmtree(plain)
    shutil.rmtree(folder / "cache")


async def _with_tier(directory: Path, limit_nbytes: int, case: Callable[[DiskTier], Awaitable[None]]) -> None:
    async with open_disk_tier(DiskTierConfig(directory, limit_nbytes), "bench") as tier:
        await case(tier)


def opening(folder: Path, count: int) -> None:
    """A cache of so many objects of two blocks: how long a mount takes, and the first hit."""
    tree = Tree("large", count, 2 * BLOCK_BYTES, 1000)
    with SimulatedS3([f"large:{count}:{2 * BLOCK_BYTES}:1000"], {}) as server:
        place = Place(server.url, folder / "mounted", Load(()))
        contestant = S3StreamFS("s3stream-fs", ("--cache-size", "2TiB", "--cache-reserve", "1GiB"))
        with clock() as empty:
            mounted = contestant.mount(place)
        # One that is really there, so that there is something to hit.
        item = tree.item(count // 2)
        path = Path(mounted.root) / item.key
        path.read_bytes()
        mounted.unmount()
        _fill(place.cache_dir, f"{server.url}/{BUCKET}", tree, item.key)
        index = place.cache_dir / "blocks" / "index.sqlite"
        row("index", f"{count:,} objects, {2 * count:,} blocks, {index.stat().st_size / 2**20:,.0f} MiB")
        machine.drop_page_cache()
        with clock() as seconds:
            mounted = contestant.mount(place)
        row("a mount over it", f"{seconds():.2f} s; over an empty cache {empty():.2f} s")
        server.reset()
        with clock() as seconds:
            path.read_bytes()
        traffic = server.traffic()
        row("the first hit", f"{seconds() * 1e3:.0f} ms, {traffic.gets} GET, {traffic.lists} LIST")
        status = Path(f"/proc/{mounted.pid}/status").read_text()
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
        row("peak memory of the daemon by then", f"{peak / 1024:.0f} MiB")
        mounted.unmount()


def _fill(directory: Path, space: str, tree: Tree, there: str) -> None:
    """Rows for all objects but one, as if their files were there."""
    cache = CacheFolder(directory)
    now_ms = int(time.time() * 1000)
    number = 0
    while number < len(tree):
        with cache.writing.transaction():
            written = []
            for item in map(tree.item, range(number, min(number + _BATCH, len(tree)))):
                object_id = ObjectId(item.key, item.etag, item.size)
                found = {0: b"checksum", 1: b"checksum"}
                name = file_name(space, object_id, object_id.whole)
                written.append(Written(name, object_id, ByteRange(0, item.size), found, item.size, fresh=True))
            cache.writing.add(
                cache.writing.space(space), [one for one in written if one.object_id.key != there], now_ms
            )
        number += _BATCH
        if sys.stderr.isatty():
            print(f"\r{number:,} rows", end="", file=sys.stderr)
    cache.close()


if __name__ == "__main__":
    main()
