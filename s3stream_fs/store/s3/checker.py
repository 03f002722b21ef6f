"""Bodies that are compared with their ETag before anybody gets them. TLS sees every flipped bit, HTTP hardly any.

Owns the threads that compute digests; what a difference means is for ``digests`` to say.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Final, Self

import trio
from cachetools import LRUCache

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.store import Deliver
from s3stream_fs.store.s3.digests import Digests, Verdict
from s3stream_fs.store.s3.guest import GuestLoop
from s3stream_fs.types import ByteRange, ObjectId

log = logging.getLogger(__name__)

_INLINE_NBYTES: Final = 16 * 1024
"""An MD5 takes 1.3 us per KB: more than this is cheaper for trio's thread by another one, at 20 to 40 us."""

_NTHREADS: Final = min(4, os.cpu_count() or 1)
"""One computes 740 MB/s."""

_PATIENCE_SECONDS: Final = 5.0
"""A body that comes so slowly is handed over as it comes, unchecked: a cut would cost all of it again."""

_MOST_CUTS: Final = 2
"""So often a body may be cut while it is held; then the object is handed over as it comes, unchecked, and gets on."""
_MOST_CUT: Final = 1000
"""Objects whose cuts are counted."""

_SILENT_SECONDS: Final = 60.0
"""So long nothing is said of another damaged body."""

_Job = tuple[Sequence[memoryview], "asyncio.Future[str]"]

Get = Callable[[ObjectId, ByteRange, Deliver], Awaitable[None]]


class Checker:
    """``with`` it, its threads are there once they are needed."""

    def __init__(self, *, checking: bool) -> None:
        """Not ``checking``: bodies cannot be wrong, or their ETags say nothing."""
        self._digests = Digests(checking=checking)
        self._loop = GuestLoop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._silent_until = float("-inf")
        self._doubt = trio.Lock()
        self._cuts: LRUCache[ObjectId, int] = LRUCache(maxsize=_MOST_CUT)

    @property
    def damaged(self) -> int:
        """Bodies that were seen to be wrong."""
        return self._digests.damaged

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    async def get(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver, get: Get) -> None:
        """``get`` it, and ``deliver`` what is right. Raises what ``get`` does, and StoreUnavailable for what is not."""
        expected = self._digests.expected(object_id, byte_range)
        if expected is None or self._cuts.get(object_id, 0) >= _MOST_CUTS:
            await get(object_id, byte_range, deliver)
            return
        body = await self._held(object_id, byte_range, deliver, get)
        if body is None:
            return
        found = await self._digest(body.pieces)
        if self._digests.judge(expected, found) is not Verdict.RIGHT:
            # Until an ETag was seen to be a digest, one body after another is fetched again: it is mostly the store.
            async with nullcontext() if self._digests.proven else self._doubt:
                if self._digests.checking:
                    body = await self._told_apart(object_id, byte_range, deliver, get, expected, found)
        if body is not None:
            body.hand_over()

    async def _held(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver, get: Get) -> _Body | None:
        """A body that nobody has got yet; None for one that took so long that it was handed over as it came."""
        body = _Body(len(byte_range), deliver)
        try:
            await get(object_id, byte_range, body.take)
        except StoreError:
            if body.pieces:
                self._cuts[object_id] = self._cuts.get(object_id, 0) + 1
                body.pieces.clear()  # or the error would hold them, until the collector of cycles comes
            raise
        return None if body.handed_over else body

    async def _told_apart(
        self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver, get: Get, expected: str, before: str
    ) -> _Body | None:
        """A second body, of which it is known that it is right. Raises StoreUnavailable where it is not."""
        body = await self._held(object_id, byte_range, deliver, get)
        if body is None:
            return None
        checking = self._digests.checking
        verdict = self._digests.judge(expected, await self._digest(body.pieces), before)
        if verdict is not Verdict.NO_DIGEST:
            self._tell(object_id.key)
        elif checking and not self._digests.checking:
            log.info("the store's ETags are not the MD5s of its objects: what comes without TLS is not checked")
        if verdict is Verdict.DAMAGED:
            raise StoreUnavailable("the body came damaged, twice")
        return body

    async def _digest(self, pieces: Sequence[memoryview]) -> str:
        if sum(map(len, pieces)) <= _INLINE_NBYTES:
            return _md5(pieces)
        if len(self._threads) < _NTHREADS:
            self._start_thread()
        if not self._threads:
            return _md5(pieces)
        return await self._loop.wait(self._enqueue, pieces)

    def _start_thread(self) -> None:
        thread = Thread(target=self._compute, name=f"digest-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # this process may have no more: those that are there have to do
            log.debug("no thread for digests: %s", error)
        else:
            self._threads.append(thread)

    def _enqueue(self, pieces: Sequence[memoryview]) -> asyncio.Future[str]:
        future: asyncio.Future[str] = self._loop.create_future()
        self._queue.put((pieces, future))
        return future

    def _compute(self) -> None:
        while (job := self._queue.get()) is not None:
            pieces, future = job
            self._loop.call_soon_threadsafe(_complete, future, _md5(pieces))
            del job, pieces, future

    def _tell(self, key: str) -> None:
        now = trio.current_time()
        if now >= self._silent_until:
            self._silent_until = now + _SILENT_SECONDS
            log.warning("bodies come damaged from the store and are fetched again, as that of %r; TLS would help", key)


class _Body:
    """What has come of one body. It is held until it is complete, or takes too long."""

    def __init__(self, nbytes: int, deliver: Deliver) -> None:
        self.pieces: list[memoryview] = []
        self.handed_over = False
        self._left = nbytes
        self._deliver = deliver
        self._until = trio.current_time() + _PATIENCE_SECONDS

    def take(self, piece: memoryview) -> None:
        self.pieces.append(piece)
        self._left -= len(piece)
        if self.handed_over or (self._left and trio.current_time() > self._until):
            self.handed_over = True
            self.hand_over()

    def hand_over(self) -> None:
        for piece in self.pieces:
            self._deliver(piece)
        self.pieces.clear()


def _complete(future: asyncio.Future[str], digest: str) -> None:
    if not future.cancelled():
        future.set_result(digest)


def _md5(pieces: Sequence[memoryview]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
