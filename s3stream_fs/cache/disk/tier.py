"""The disk tier: blocks on local disk, found again after a restart, bounded, and checked before they are believed.

Passive: it never fetches. A fault of the disk costs a hit, never a read: what cannot be read, or fails its checksum, is
simply not there. Trio's thread never touches the disk: what is known in memory is answered at once, bytes that the page
cache has are copied, and everything else is for the reader threads, which are waited for for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.claimant import Claimant
from s3stream_fs.cache.disk.claims import Claim
from s3stream_fs.cache.disk.faults import Faults
from s3stream_fs.cache.disk.files import DataFile
from s3stream_fs.cache.disk.knowledge import Knowledge
from s3stream_fs.cache.disk.learner import Learner
from s3stream_fs.cache.disk.policy import file_range, files_of
from s3stream_fs.cache.disk.reads import Reads
from s3stream_fs.cache.disk.whole_files import WholeFiles
from s3stream_fs.cache.disk.writer import Writer
from s3stream_fs.types import ByteRange, ObjectId

FLUSH_SECONDS: Final = 20.0
"""How long an unmount waits for the disk to take what is queued (at most 64 MiB)."""


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    """``takes_nothing``: why nothing new is cached; nothing where it is. ``shared``: another process uses the folder,
    too. ``hits`` counts reads; ``dropped_writes`` those for which there was no room, or which the policy refused.
    ``nbytes_used`` are those on disk, the index among them. ``orphans_removed``: files that a kill had left behind."""

    enabled: bool
    takes_nothing: str
    shared: bool
    limit_nbytes: int
    nbytes_used: int
    hits: int
    blocks_written: int
    nbytes_written: int
    dropped_writes: int
    files_evicted: int
    orphans_removed: int
    bad_blocks: int
    errors: int


class DiskTier:
    """See ``open_disk_tier``. All methods are called on trio's thread, and none of them waits there for a disk.

    ``_nowait`` goes by what is known in memory, of which ``learn`` makes more; what is not known counts as absent.
    """

    def __init__(
        self,
        limit_nbytes: int,
        writer: Writer,
        knowledge: Knowledge,
        reads: Reads,
        whole_files: WholeFiles,
        learner: Learner,
        claimant: Claimant,
        faults: Faults,
    ) -> None:
        self._limit_nbytes = limit_nbytes
        self._writer = writer
        self._knowledge = knowledge
        self._reads = reads
        self._whole_files = whole_files
        self._learner = learner
        self._claimant = claimant
        self._faults = faults

    @property
    def enabled(self) -> bool:
        """Whether there is a disk cache, and its disk works at present."""
        return self._knowledge.enabled

    @property
    def shared(self) -> bool:
        """Whether another process uses the folder, too: what is missing has to be claimed before it is fetched, and
        may be there a moment later."""
        return self._knowledge.shared

    def known_nowait(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether it is known in memory what the disk has of these bytes. Where it is not, ``learn`` finds out."""
        return self._knowledge.known_nowait(object_id, wanted)

    async def learn(self, object_id: ObjectId, wanted: ByteRange, *, again: bool = False) -> None:
        """Find out what the disk has of these bytes, so that it is known. ``again``: ask the index, whatever is known.

        Of several who ask for a file at a time one asks for all. Returns after a few seconds in any case, and raises
        nothing of the disk's: what could not be found out counts as absent, for a while.
        """
        await self._learner.learn(object_id, wanted, again=again)

    def missing_nowait(self, object_id: ObjectId, wanted: ByteRange) -> tuple[ByteRange, ...]:
        """The parts of the block-aligned ``wanted`` that are not on disk, in order, merged; () where all of it is."""
        return self._knowledge.missing_nowait(object_id, wanted)

    def has_nowait(self, object_id: ObjectId, wanted: ByteRange) -> bool:
        """Whether all of ``wanted`` is on disk."""
        return self._knowledge.has_nowait(object_id, wanted)

    def read_nowait(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk, in the page cache, and not more than may be copied on this thread."""
        record = self._knowledge.at_hand(object_id, file_range(object_id, wanted.start).start)
        if record is None or wanted.stop > record.byte_range.stop or not record.has(wanted):
            return None
        return self._reads.read_nowait(record, wanted)

    async def read(self, object_id: ObjectId, wanted: ByteRange) -> memoryview | None:
        """The bytes, if all are on disk and right; None, and forgotten, where they are not.

        What is not known is looked up, in the same turn of a thread that reads it.
        """
        found = []
        for whole, inside in files_of(object_id, wanted):
            view = await self._read(object_id, whole, inside)
            if view is None:
                return None
            found.append(view)
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    async def _read(self, object_id: ObjectId, whole: ByteRange, wanted: ByteRange) -> memoryview | None:
        if not self._knowledge.known_nowait(object_id, wanted):
            view = await self._learner.read(object_id, whole, wanted)
            if view is not None:
                return view
        record = self._knowledge.at_hand(object_id, whole.start)
        if record is None or not record.has(wanted):
            return None
        return await self._reads.read(record, wanted)

    def put_nowait(self, object_id: ObjectId, byte_range: ByteRange, pieces: Sequence[memoryview]) -> bool:
        """Have a block-aligned range written, soon. False where there is no time: it may be given again later."""
        for whole, inside in files_of(object_id, byte_range):
            if not self.enabled:
                return True  # there is no disk tier, or its disk is at fault
            record = self._knowledge.record(object_id, whole)
            if record.has(inside):
                self._writer.release(record, inside)
                continue
            own = pieces if inside == byte_range else _cut(pieces, byte_range, inside)
            if not self._writer.put_nowait(record, inside, own):
                return False
        return True

    def claim_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Who is to fetch a block-aligned range that is missing, where the folder is ``shared``: MINE or THEIRS.

        Of what is MINE another process may have brought a part since the index was asked: ``wait_for_claim`` looks. A
        claim ends when ``put_nowait`` has had all of it written, or with ``release_nowait``.
        """
        return self._claimant.claim_nowait(object_id, byte_range)

    def release_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> None:
        """What was claimed is not going to be written, for now."""
        self._claimant.release_nowait(object_id, byte_range)

    def split_claim_nowait(self, object_id: ObjectId, byte_range: ByteRange, at: int) -> None:
        """What was claimed at once may be written or released in two: up to the block-aligned ``at``, and beyond."""
        self._claimant.split_nowait(object_id, byte_range, at)

    async def wait_for_claim(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Wait, for a while, until nobody else is fetching this. THEIRS where that takes too long; ON_DISK, and nothing
        is claimed, where another process has brought all of it.

        What it had claimed when it is cancelled has to be released.
        """
        return await self._claimant.wait_for_claim(object_id, byte_range)

    def whole_file_nowait(self, object_id: ObjectId) -> DataFile | None:
        """The file with all bytes of an object and nothing else, if every block of it has been seen to be right.

        Of one that is all there that is found out, for the next who asks. None of a disk that has given errors lately.
        """
        if object_id.size == 0 or not self._whole_files.allowed:
            return None
        record = self._knowledge.at_hand(object_id, 0)
        return None if record is None else self._whole_files.get_nowait(record)

    async def cached_nbytes(self, object_id: ObjectId) -> int:
        """How many bytes of an object are on disk; 0 where the disk does not say."""
        return await self._learner.cached_nbytes(object_id)

    def allow(self, fraction: float, ahead_nbytes: int = 0) -> Allowance:
        """What may be used of the cache's disk for something else, up to a fraction of the cache's size. It counts as
        part of it; ``ahead_nbytes`` of it are held free, for who cannot wait."""
        return self._writer.allow(fraction, ahead_nbytes)

    async def flush(self) -> bool:
        """Wait until all that was put is on disk and would be found after a restart. False if that takes too long."""
        return await trio.to_thread.run_sync(self._writer.flush, FLUSH_SECONDS)

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(
            enabled=self.enabled,
            takes_nothing=self._writer.takes_nothing,
            shared=self.shared,
            limit_nbytes=self._limit_nbytes,
            nbytes_used=self._writer.nbytes_used,
            hits=self._reads.hits,
            blocks_written=self._writer.blocks_written,
            nbytes_written=self._writer.nbytes_written,
            dropped_writes=self._writer.dropped,
            files_evicted=self._writer.files_evicted,
            orphans_removed=self._writer.orphans,
            bad_blocks=self._faults.bad_blocks,
            errors=self._faults.errors + self._writer.errors,
        )


def _cut(pieces: Sequence[memoryview], byte_range: ByteRange, inside: ByteRange) -> list[memoryview]:
    """The bytes ``inside`` out of the pieces of ``byte_range``."""
    found = []
    start = byte_range.start
    for piece in pieces:
        own = piece[max(inside.start - start, 0) : max(inside.stop - start, 0)]
        if len(own):
            found.append(own)
        start += len(piece)
    return found
