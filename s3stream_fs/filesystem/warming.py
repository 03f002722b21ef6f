"""Warming: brings files into the disk cache before anybody reads them, when nothing more urgent is to be done.

Owns the order of it and the account of what came of each file. What is in the cache already costs nothing, so that a
second run goes on where the first one ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.errors import S3StreamError, StoreError
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.namespace.entries import DirectoryEntry, Entry, FileEntry
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.types import ByteRange, ObjectId

PART_NBYTES: Final = 8 * 1024 * 1024
"""What one GET brings; so much of a file is a unit of work."""

_UNITS_AT_ONCE: Final = 64
"""Units that are fetched, or on their way to the disk. The fetcher starts fewer GETs where that is enough."""

_SEGMENT_NBYTES: Final = 64 * 1024 * 1024
"""Of a large file so much is looked up before others get their turn."""

_REFUSED_IN_A_ROW: Final = 2 * _UNITS_AT_ONCE
"""After so many units that the cache did not take, the rest is not fetched for nothing."""

_SAVE_PAUSE_SECONDS: Final = 0.05

_NOT_TAKEN: Final = "the cache did not take it: it is full, or off; see s3stream-fs cache info"

Failed = Callable[[bytes, str], None]
"""Told of each file that did not come, with a line that says why."""


@dataclass(slots=True)
class WarmProgress:
    """``*_found`` grow until ``listed``. ``*_done`` are in the cache, of which ``nbytes_had`` were there before.

    ``nfiles_evicted`` have left the cache meanwhile: others, or those that were brought first where not all of it fits.
    """

    nfiles_found: int = 0
    nbytes_found: int = 0
    nfiles_done: int = 0
    nbytes_done: int = 0
    nbytes_had: int = 0
    nfiles_failed: int = 0
    nfiles_evicted: int = 0
    gets: int = 0
    listed: bool = False


class _File:
    """A file on its way: how many of its units are still to come, and the first thing that went wrong."""

    __slots__ = ("failure", "object_id", "path", "units")

    def __init__(self, path: bytes, object_id: ObjectId, units: int) -> None:
        self.path = path
        self.object_id = object_id
        self.units = units
        self.failure = ""


class Warming:
    """One run of it. ``dry``: only count what would be done."""

    def __init__(self, tree: Tree, fetcher: Fetcher, disk: DiskTier, root_prefix: str, *, dry: bool) -> None:
        self._tree = tree
        self._fetcher = fetcher
        self._disk = disk
        self._root_prefix = root_prefix
        self._dry = dry
        self._evicted_before = disk.statistics().files_evicted
        self._landed: deque[tuple[_File, ByteRange]] = deque()
        self._any_landed = trio.lowlevel.ParkingLot()
        self._refused = 0
        """Units in a row that the cache did not take."""
        self.progress = WarmProgress()

    async def run(self, paths: trio.MemoryReceiveChannel[bytes], failed: Failed) -> None:
        """Bring all files at and below ``paths``, relative to the mount. Raises nothing of one file's."""
        # With half of the cache on its way at the most, nothing is evicted for others before it has been counted.
        units_at_once = max(1, min(_UNITS_AT_ONCE, self._disk.statistics().limit_nbytes // (2 * PART_NBYTES)))
        limiter = trio.Semaphore(units_at_once)
        async with trio.open_nursery() as settling:
            settling.start_soon(self._settle, limiter, failed)
            async with trio.open_nursery() as fetching:
                async for path in paths:
                    try:
                        await self._add(path, limiter, fetching, failed)
                    except S3StreamError as error:
                        self._fail(path, _why(error), failed)
                self.progress.listed = True
            for _ in range(units_at_once):
                await limiter.acquire()  # until all that landed has settled
            settling.cancel_scope.cancel()

    async def _add(self, path: bytes, limiter: trio.Semaphore, nursery: trio.Nursery, failed: Failed) -> None:
        path = b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
        entry: Entry = DirectoryEntry(b"", self._root_prefix)
        for name in path.split(b"/") if path else ():
            found = None
            if isinstance(entry, DirectoryEntry):
                found = (await self._tree.lookup(entry.prefix, name)).entry
            if found is None:
                self._fail(path, "there is no such file", failed)
                return
            entry = found
        await self._add_entry(path, entry, limiter, nursery, failed)

    async def _add_entry(
        self, path: bytes, entry: Entry, limiter: trio.Semaphore, nursery: trio.Nursery, failed: Failed
    ) -> None:
        if isinstance(entry, FileEntry):
            await self._add_file(path, entry, limiter, nursery, failed)
            return
        listing = self._tree.open_listing(entry.prefix)
        position = 0
        while True:
            await listing.wait_settled(position)
            inside = listing.entry_nowait(position)
            if inside is None:
                return
            position += 1
            await trio.lowlevel.checkpoint()
            below = path + b"/" + inside.name if path else inside.name
            try:
                await self._add_entry(below, inside, limiter, nursery, failed)
            except S3StreamError as error:
                self._fail(below, _why(error), failed)

    async def _add_file(
        self, path: bytes, entry: FileEntry, limiter: trio.Semaphore, nursery: trio.Nursery, failed: Failed
    ) -> None:
        object_id = entry.info.id
        self.progress.nfiles_found += 1
        self.progress.nbytes_found += object_id.size
        if entry.info.archived:
            self._fail(path, f"it lies in {entry.info.storage_class} and has to be restored first", failed)
            return
        units: list[ByteRange] = []
        for segment in object_id.whole.parts(_SEGMENT_NBYTES) if object_id.size else ():
            await self._disk.learn(object_id, segment)
            units += [
                unit for missing in self._disk.missing_nowait(object_id, segment) for unit in missing.parts(PART_NBYTES)
            ]
            await trio.lowlevel.checkpoint()
        had = object_id.size - sum(map(len, units))
        self.progress.nbytes_had += had
        self.progress.nbytes_done += had
        self.progress.gets += len(units)
        if not units:
            self.progress.nfiles_done += 1
        elif not self._dry and not self._disk.enabled:
            self._fail(path, "the disk cache is off; the mount's log says why", failed)
        elif not self._dry and self._refused >= _REFUSED_IN_A_ROW:
            self._fail(path, _NOT_TAKEN, failed)
        elif not self._dry:
            file = _File(path, object_id, len(units))
            for unit in units:
                await limiter.acquire()
                nursery.start_soon(self._fetch, file, unit)

    async def _fetch(self, file: _File, unit: ByteRange) -> None:
        try:
            await self._fetcher.bring(file.object_id, unit, PART_NBYTES)
        except StoreError as error:
            file.failure = file.failure or _why(error)
        self._landed.append((file, unit))
        self._any_landed.unpark()

    async def _settle(self, limiter: trio.Semaphore, failed: Failed) -> None:
        """What has landed counts once the disk has it."""
        while True:
            if not self._landed:
                await self._any_landed.park()
            landed, self._landed = self._landed, deque()  # what lands while the disk is waited for is not meant
            if not await self._disk.flush():
                self._landed.extendleft(reversed(landed))
                continue
            waiting = False
            for file, unit in landed:
                if not file.failure:
                    await self._disk.learn(file.object_id, unit)
                missing = not file.failure and self._disk.missing_nowait(file.object_id, unit)
                if missing and self._fetcher.is_unsaved(file.object_id):
                    self._landed.append((file, unit))  # the disk has not been given it yet
                    waiting = True
                    continue
                if missing:
                    file.failure = _NOT_TAKEN
                    self._refused += 1
                elif not file.failure:
                    self._refused = 0
                    self.progress.nbytes_done += len(unit)
                file.units -= 1
                if file.units == 0:
                    if file.failure:
                        self._fail(file.path, file.failure, failed)
                    else:
                        self.progress.nfiles_done += 1
                limiter.release()
            self.progress.nfiles_evicted = self._disk.statistics().files_evicted - self._evicted_before
            if waiting:
                await trio.sleep(_SAVE_PAUSE_SECONDS)

    def _fail(self, path: bytes, why: str, failed: Failed) -> None:
        self.progress.nfiles_failed += 1
        failed(path, why)


def _why(error: S3StreamError) -> str:
    return str(error) or type(error).__name__
