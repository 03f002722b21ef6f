"""The memory tier: parts that were fetched and may be read soon, and the one budget for all bytes in memory.

Owns the budget: a GET reserves here what its part costs before it starts, so that in flight plus held never exceeds the
limit. A part costs its body and what Python makes of it, so the limit bounds the number of small ones, too. A part of
which a reader still has a view stays held, since its memory is not free before that.
Never fetches, never waits, never touches a disk.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from s3stream_fs.cache.memory.part import Loan, Part
from s3stream_fs.ranges import give_blocks, take_blocks
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

_PART_NBYTES: Final = 1280
"""What a part costs beside its body and its key: 1,110 bytes as Python makes them (record, range, version, pieces and
places in here), 1,300 as the heap holds them after hundreds of thousands were evicted."""

_BLOCK_NBYTES: Final = 84
"""What each block of a part costs in the table by which parts are found: its number and its place."""


def cost_nbytes(part: Part) -> int:
    """What a part costs once it is complete."""
    nblocks = len(part.byte_range.blocks())
    return len(part.byte_range) + len(part.object_id.key) + _PART_NBYTES + _BLOCK_NBYTES * nblocks


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """``nbytes_reserved`` is for what is in flight, ``nbytes_held`` is complete; their sum is at most ``limit_nbytes``.
    All three count what parts cost, and not their bodies alone.

    ``nbytes_lent``, of those held, are in parts that somebody is reading at this moment. ``parts_unsaved`` wait for the
    disk tier to have time; those that were evicted before it had any are ``parts_evicted_unsaved``.
    """

    limit_nbytes: int
    nbytes_reserved: int
    nbytes_held: int
    nbytes_lent: int
    parts_held: int
    parts_evicted: int
    parts_evicted_unread: int
    parts_unsaved: int
    parts_evicted_unsaved: int


class MemoryTier:
    """Complete parts, found by block, evicted when a reservation needs their room.

    A part that was read to its end goes first (kernel pages and the disk tier hold it already), then the least recently
    used one; a part of which a view is in use does not go.
    """

    def __init__(self, limit_nbytes: int) -> None:
        self.limit_nbytes = limit_nbytes
        self._nbytes_reserved = 0
        self._nbytes_held = 0
        self._nbytes_lent = 0
        # Parts that may go, least recently used first; the values say nothing. What is lent is in neither.
        self._spent: OrderedDict[Part, None] = OrderedDict()
        self._fresh: OrderedDict[Part, None] = OrderedDict()
        self._loans: dict[Part, set[Loan]] = {}
        """The views of parts that were given out and are still in use; none of parts of which there is none."""
        self._returned: deque[Loan] = deque()
        """Views that are gone. The last one to let go may be a thread that copies into the kernel: it only says so, and
        accounts are changed by this object's methods."""
        self._by_object: dict[ObjectId, Part | dict[int, Part]] = {}
        """By block, or the only part, without a dict of its own (232 bytes): of a small object there is but one."""
        self._unsaved: OrderedDict[Part, None] = OrderedDict()
        """Held parts that the disk tier is still to be given, those that came first in front."""
        self._parts_held = 0
        self._parts_evicted = 0
        self._parts_evicted_unread = 0
        self._parts_evicted_unsaved = 0

    def reserve_nowait(self, nbytes: int) -> bool:
        """Set ``nbytes`` aside for a GET, evicting what is held. False where even that would not make room.

        Where nothing is reserved it never fails for what is lent, even if that goes beyond the limit: a reader may hold
        one part while it waits for the next. So whoever is refused may wait for a reservation to end.
        """
        if self._nbytes_reserved + nbytes > self.limit_nbytes:
            return False
        self._take_back()
        if self._nbytes_reserved and self._nbytes_reserved + self._nbytes_lent + nbytes > self.limit_nbytes:
            return False
        while self._nbytes_reserved + self._nbytes_held + nbytes > self.limit_nbytes and (self._spent or self._fresh):
            self._evict_one()
        self._nbytes_reserved += nbytes
        return True

    def release(self, nbytes: int) -> None:
        """Give the reservation for ``nbytes`` back."""
        self._nbytes_reserved -= nbytes

    def hold(self, part: Part) -> None:
        """Keep a complete part, for which the caller has just released a reservation that was at least as large."""
        self._nbytes_held += cost_nbytes(part)
        self._parts_held += 1
        self._fresh[part] = None
        blocks = self._by_object.setdefault(part.object_id, part)
        if blocks is part:
            return
        if isinstance(blocks, Part):
            blocks = self._by_object[part.object_id] = dict.fromkeys(blocks.byte_range.blocks(), blocks)
        give_blocks(blocks, part.byte_range, part)

    def holds_most(self, object_id: ObjectId) -> bool:
        """Whether more than half of an object's blocks are held."""
        blocks = self._by_object.get(object_id, {})
        held = len(blocks.byte_range.blocks()) if isinstance(blocks, Part) else len(blocks)
        return 2 * held > len(object_id.whole.blocks())

    def find(self, object_id: ObjectId, offset: int) -> Part | None:
        """The held part in which ``offset`` lies."""
        blocks = self._by_object.get(object_id)
        if blocks is None:
            return None
        if isinstance(blocks, Part):
            return blocks if blocks.byte_range.start <= offset < blocks.byte_range.stop else None
        return blocks.get(offset // BLOCK_BYTES)

    def holds_any(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether any block of the block-aligned ``wanted`` is held."""
        blocks = self._by_object.get(object_id)
        if blocks is None:
            return False
        if isinstance(blocks, Part):
            return blocks.byte_range.start < wanted.stop and wanted.start < blocks.byte_range.stop
        return not blocks.keys().isdisjoint(wanted.blocks())

    def held(self, object_id: ObjectId, wanted: Iterable[ByteRange]) -> list[Part]:
        """The held parts in which blocks of the block-aligned ``wanted`` lie, each once."""
        offsets = (index * BLOCK_BYTES for byte_range in wanted for index in byte_range.blocks())
        found = dict.fromkeys(self.find(object_id, offset) for offset in offsets)
        return [part for part in found if part is not None]

    def read(self, part: Part, start: int, stop: int) -> memoryview:
        """Bytes of a held part, which stays while the view is in use; notes that a part read to its end is spent."""
        self._take_back()
        view = part.view(start, stop)
        loans = self._loans.get(part)
        if loans is None:
            loans = self._loans[part] = set()
            (self._spent if part.spent else self._fresh).pop(part)
            self._nbytes_lent += cost_nbytes(part)
        part.spent = part.spent or stop == part.byte_range.stop
        loan = Loan(view, self._on_returned)
        loan.part = part
        loans.add(loan)
        return view

    def remember_unsaved(self, part: Part) -> None:
        """The disk tier has no time for a part that is held. It is among the unsaved until it is saved or evicted."""
        self._unsaved[part] = None

    def first_unsaved(self) -> Part | None:
        """The unsaved part that has waited longest, if there is any."""
        return next(iter(self._unsaved), None)

    def forget_unsaved(self, part: Part) -> None:
        """The disk tier has taken it."""
        del self._unsaved[part]

    def is_unsaved(self, object_id: ObjectId) -> bool:
        """Whether the disk tier is still to be given something of an object."""
        return any(part.object_id == object_id for part in self._unsaved)

    def statistics(self) -> MemoryStatistics:
        self._take_back()
        return MemoryStatistics(
            limit_nbytes=self.limit_nbytes,
            nbytes_reserved=self._nbytes_reserved,
            nbytes_held=self._nbytes_held,
            nbytes_lent=self._nbytes_lent,
            parts_held=self._parts_held,
            parts_evicted=self._parts_evicted,
            parts_evicted_unread=self._parts_evicted_unread,
            parts_unsaved=len(self._unsaved),
            parts_evicted_unsaved=self._parts_evicted_unsaved,
        )

    def _on_returned(self, loan: weakref.ref[memoryview]) -> None:
        assert isinstance(loan, Loan)
        self._returned.append(loan)

    def _take_back(self) -> None:
        """Parts of which no view is left may go again."""
        while self._returned:
            loan = self._returned.popleft()
            part = loan.part
            loans = self._loans[part]
            loans.discard(loan)
            if not loans:
                del self._loans[part]
                self._nbytes_lent -= cost_nbytes(part)
                (self._spent if part.spent else self._fresh)[part] = None

    def _evict_one(self) -> None:
        """Drop the part that is first to go; there is one."""
        part, _ = (self._spent or self._fresh).popitem(last=False)
        self._parts_evicted_unread += not part.spent
        if part in self._unsaved:
            del self._unsaved[part]
            self._parts_evicted_unsaved += 1
        self._parts_evicted += 1
        self._parts_held -= 1
        self._nbytes_held -= cost_nbytes(part)
        blocks = self._by_object.get(part.object_id)
        if blocks is part:
            del self._by_object[part.object_id]
        if not isinstance(blocks, dict):
            return
        # A block fetched twice (its first copy was dropped half-way) belongs to the later part, which may be gone.
        take_blocks(blocks, part.byte_range, part)
        if not blocks:
            del self._by_object[part.object_id]
