"""A FileSystem over the store in memory, for tests that need no kernel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio
from trio.testing import MockClock

from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import NotFound
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.fetch.scheduler import FetchConfig
from s3stream_fs.filesystem.attributes import AttributeConfig, Attributes
from s3stream_fs.filesystem.filesystem import FileSystem, FileSystemConfig
from s3stream_fs.namespace.inodes import ROOT, InodeTable
from s3stream_fs.namespace.scratch import Scratch
from s3stream_fs.namespace.shelf import Shelf, open_shelf
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.reading.reader import Reader
from s3stream_fs.reading.stream import ReadAheadConfig
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.memory import MemoryStore

MIB = 1024 * 1024


@dataclass
class Rig:
    store: MemoryStore
    filesystem: FileSystem
    inodes: InodeTable
    shelf: Shelf

    async def walk(self, path: str) -> Attributes:
        """Look a path up, as a kernel does. Raises NotFound."""
        attributes = self.filesystem.getattr(ROOT).attributes
        assert attributes is not None
        for name in path.split("/"):
            attributes = (await self.filesystem.lookup(attributes.inode, name.encode())).attributes
            if attributes is None:
                raise NotFound(path)
        return attributes


def run_filesystem(
    folder: Path,
    case: Callable[[Rig], Awaitable[None]],
    *,
    ttl: float = 60,
    prefix: str = "",
    real_time: bool = False,
    scratch: Scratch | None = None,
    names_nbytes: int = 1 << 30,
) -> None:
    """Run ``case``. Its clock jumps to the next deadline whenever nothing else is left to do, unless ``real_time``.

    Names beyond ``names_nbytes`` lie in ``scratch``, which takes real time.
    """

    async def main() -> None:
        store = MemoryStore()
        config = FileSystemConfig(AttributeConfig(uid=1, gid=2), ttl, deadline_seconds=30, mounted_at_ns=7)
        async with (
            open_disk_tier(DiskTierConfig(folder, 0), "x") as disk,
            open_shelf(scratch, names_nbytes) as shelf,
            trio.open_nursery() as nursery,
        ):
            memory = MemoryTier(64 * MIB)
            tree = Tree(store, shelf, ttl_seconds=ttl, nursery=nursery)
            fetcher = Fetcher(store, memory, disk, FetchConfig(), Congestion(16), nursery, tree.outdated_nowait)
            reader = Reader(fetcher, ReadAheadConfig(), 64 * MIB)
            inodes = InodeTable(prefix)
            await case(Rig(store, FileSystem(tree, inodes, reader, disk, config), inodes, shelf))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=None if real_time else MockClock(autojump_threshold=0))
