"""Gives the disk tier what has come: at once, or as soon as it has time. Owns the task that offers parts again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.cache.memory.part import Part
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.types import ByteRange, ObjectId

_SAVE_PAUSE_SECONDS: Final = 0.05
"""A disk of 1 GB/s writes 50 MB in that time, of the 64 MiB that it is given at once."""


class Saver:
    def __init__(self, memory: MemoryTier, disk: DiskTier, on_saved: Callable[[], None]) -> None:
        """``on_saved`` is called whenever the disk has taken something that had waited."""
        self._memory = memory
        self._disk = disk
        self._on_saved = on_saved
        self._any_unsaved = trio.lowlevel.ParkingLot()

    @property
    def behind(self) -> bool:
        """Whether the disk has enough to do."""
        return self._memory.first_unsaved() is not None

    def take(self, part: Part, *, hold: bool) -> None:
        """A part has come: have it written, and held in memory where it is to be read, or has to wait for the disk."""
        saved = self._disk.put_nowait(part.object_id, part.byte_range, part.pieces)
        if hold or not saved:
            self._memory.hold(part)
        if not saved:
            self._disk.release_nowait(part.object_id, part.byte_range)
            self._remember(part)

    def save_held(self, object_id: ObjectId, wanted: tuple[ByteRange, ...]) -> None:
        """Have written what memory holds of the block-aligned ``wanted``."""
        for part in self._memory.held(object_id, wanted):
            if not self._disk.put_nowait(object_id, part.byte_range, part.pieces):
                self._remember(part)

    async def run(self) -> None:
        """Offer the disk tier, whenever it has time, what it had no time for and memory still holds."""
        while True:
            part = self._memory.first_unsaved()
            if part is None:
                await self._any_unsaved.park()
            elif self._disk.put_nowait(part.object_id, part.byte_range, part.pieces):
                self._memory.forget_unsaved(part)
                self._on_saved()
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(_SAVE_PAUSE_SECONDS)

    def _remember(self, part: Part) -> None:
        self._memory.remember_unsaved(part)
        self._any_unsaved.unpark_all()
