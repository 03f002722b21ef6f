"""The table of flights: which one brings which block. Owns that a block is in one flight at most, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from s3stream_fs.fetch.flight import Flight
from s3stream_fs.ranges import absent_ranges, give_blocks, take_blocks
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId


class Flights:
    """Flights that are queued, started or paused: those that can be joined."""

    def __init__(self) -> None:
        self._by_object: dict[ObjectId, dict[int, Flight]] = {}

    def __contains__(self, object_id: ObjectId) -> bool:
        return object_id in self._by_object

    def at(self, object_id: ObjectId, offset: int) -> Flight | None:
        """The flight that brings the byte at ``offset``."""
        blocks = self._by_object.get(object_id)
        return None if blocks is None else blocks.get(offset // BLOCK_BYTES)

    def within(self, object_id: ObjectId, wanted: ByteRange) -> list[Flight]:
        """The flights that bring blocks of ``wanted``, in order."""
        blocks = self._by_object.get(object_id, {})
        return list(dict.fromkeys(blocks[index] for index in wanted.blocks() if index in blocks))

    def bring_any(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether any block of ``wanted`` is on its way."""
        return not self._by_object.get(object_id, {}).keys().isdisjoint(wanted.blocks())

    def of(self, object_id: ObjectId) -> list[Flight]:
        """All flights of an object."""
        return list(dict.fromkeys(self._by_object.get(object_id, {}).values()))

    def add(self, flight: Flight) -> None:
        give_blocks(self._by_object.setdefault(flight.part.object_id, {}), flight.part.byte_range, flight)

    def forget(self, flight: Flight, byte_range: ByteRange) -> None:
        """From now on nobody can join this flight for blocks of ``byte_range``."""
        object_id = flight.part.object_id
        blocks = self._by_object.get(object_id, {})
        take_blocks(blocks, byte_range, flight)
        if not blocks:
            self._by_object.pop(object_id, None)

    def absent(
        self, object_id: ObjectId, wanted: ByteRange, held: Callable[[int], bool], joined: Callable[[Flight], object]
    ) -> list[ByteRange]:
        """What of the block-aligned ``wanted`` neither is ``held``, by index of the block, nor is on its way; each
        flight that is on its way with some of it is ``joined``."""
        blocks = self._by_object.get(object_id, {})
        last: Flight | None = None

        def coming_or_held(index: int) -> bool:
            nonlocal last
            flight = blocks.get(index)
            if flight is None:
                return held(index)
            if flight is not last:
                last = flight
                joined(flight)
            return True

        return list(absent_ranges(wanted, coming_or_held))
