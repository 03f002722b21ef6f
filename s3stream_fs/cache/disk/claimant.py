"""Claims for this process what it is about to fetch, where others use the folder, and waits for what they fetch.

Owns for how long. A claim ends when the writer has written what was claimed, or when it is released.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from s3stream_fs.cache.disk.claims import Claim
from s3stream_fs.cache.disk.knowledge import Knowledge
from s3stream_fs.cache.disk.learner import Learner
from s3stream_fs.cache.disk.policy import files_of
from s3stream_fs.cache.disk.record import Record
from s3stream_fs.types import ByteRange, ObjectId

_GIVE_UP_SECONDS: Final = 2.0
"""How long somebody else's GET is waited for before a second one is sent: four times what a large part takes."""

_PAUSE_SECONDS: Final = 0.005
_MOST_PAUSE_SECONDS: Final = 0.04


class Releaser(Protocol):
    """The writer, as far as it has to do with claims."""

    def release(self, record: Record, byte_range: ByteRange) -> None:
        """Others need not wait any longer for these bytes."""

    def fail(self, error: Exception) -> None:
        """The folder has no such locks."""


class Claimant:
    """Trio's thread's."""

    def __init__(self, knowledge: Knowledge, learner: Learner, releaser: Releaser) -> None:
        self._knowledge = knowledge
        self._learner = learner
        self._releaser = releaser

    def claim_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Who is to fetch a block-aligned range that is missing: MINE or THEIRS, MINE where nobody else is there."""
        folder = self._knowledge.folder
        if folder is None or not self._knowledge.shared or not self._knowledge.enabled:
            return Claim.MINE
        claimed: list[tuple[Record, ByteRange]] = []
        for whole, inside in files_of(object_id, byte_range):
            record = self._knowledge.record(object_id, whole)
            try:
                # A lock of a byte range waits for no disk: the kernel keeps it in memory.
                mine = folder.claims.claim(record.name, record.inside(inside))
            except OSError as error:
                self._releaser.fail(error)
                return Claim.MINE
            if not mine:
                for held, given_back in claimed:
                    self._releaser.release(held, given_back)
                return Claim.THEIRS
            claimed.append((record, inside))
        return Claim.MINE

    def release_nowait(self, object_id: ObjectId, byte_range: ByteRange) -> None:
        """What was claimed is not going to be written, for now."""
        folder = self._knowledge.folder
        if folder is not None and folder.claims.any_held and self._knowledge.enabled:
            for whole, inside in files_of(object_id, byte_range):
                self._releaser.release(self._knowledge.record(object_id, whole), inside)

    def split_nowait(self, object_id: ObjectId, byte_range: ByteRange, at: int) -> None:
        """What was claimed at once may be written or released in two: up to the block-aligned ``at``, and beyond."""
        folder = self._knowledge.folder
        if folder is None or not folder.claims.any_held or not self._knowledge.enabled:
            return
        for whole, inside in files_of(object_id, byte_range):
            if inside.start < at < inside.stop:
                record = self._knowledge.record(object_id, whole)
                folder.claims.split(record.name, record.inside(inside), at - whole.start)

    async def wait_for_claim(self, object_id: ObjectId, byte_range: ByteRange) -> Claim:
        """Wait, for a while, until nobody else is fetching this. THEIRS where that takes too long; ON_DISK, and nothing
        is claimed, where another process has brought all of it."""
        pause = _PAUSE_SECONDS
        give_up_at = trio.current_time() + _GIVE_UP_SECONDS
        while True:
            # Whoever gave it up has released already what was claimed.
            await trio.lowlevel.checkpoint_if_cancelled()
            claim = self.claim_nowait(object_id, byte_range)
            if claim is not Claim.THEIRS:
                break
            if trio.current_time() >= give_up_at:
                return claim
            await trio.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)
        if self._knowledge.shared and self._knowledge.enabled:
            # Others may have ended between a look and the claim.
            await self._learner.learn(object_id, byte_range, again=True)
            if self._knowledge.has_nowait(object_id, byte_range):
                self.release_nowait(object_id, byte_range)
                return Claim.ON_DISK
        return claim
