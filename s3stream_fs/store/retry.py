"""The one retry policy: asks again where asking again may help, until a deadline.

Nobody else retries. A GET goes on from where the delivered bytes end, so no byte is delivered twice.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from s3stream_fs.errors import NotFound, ObjectChanged, StoreError, StoreUnavailable, Throttled, Transient, WrongRegion
from s3stream_fs.store import Deliver, ObjectStore
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

_SILENT_SECONDS: Final = 60.0
"""So long nothing is said of another request that is refused for a reason that was just told."""
_MOST_TOLD: Final = 100
"""Reasons that are remembered; there are a dozen."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: before try n+1 it waits a random time between 0 and base * 2^n, at most the cap.

    ``base_seconds``: about a first byte from a near store, so that a single lost connection costs little.
    ``cap_seconds``: S3 forgets a SlowDown within seconds.
    """

    deadline_seconds: float = 120.0
    base_seconds: float = 0.05
    cap_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class RetryStatistics:
    """``retries`` counts requests that were sent again, ``throttled`` those because the store asked for fewer."""

    retries: int
    throttled: int
    given_up: int


class RetryingStore:
    """An ObjectStore that hides the transient errors of another one, and reports every SlowDown to ``congestion``."""

    def __init__(
        self,
        inner: ObjectStore,
        policy: RetryPolicy,
        congestion: Congestion | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._congestion = congestion
        self._rng = rng or random.Random()
        self._retries = 0
        self._throttled = 0
        self._given_up = 0
        self._told: dict[str, float] = {}
        """What was refused, and until when that is not told again."""

    @property
    def lists_any_prefix(self) -> bool:
        return self._inner.lists_any_prefix

    async def head(self, key: str) -> ObjectInfo:
        return await self.retried(f"HEAD of {key!r}", lambda: self._inner.head(key))

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        return await self.retried(
            f"LIST of {prefix!r}",
            lambda: self._inner.list_page(prefix, token=token, after=after, limit=limit, flat=flat),
        )

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        position = byte_range.start

        def counted(piece: memoryview) -> None:
            nonlocal position
            position += len(piece)
            deliver(piece)

        async def rest() -> None:
            if position < byte_range.stop:
                await self._inner.get_range(object_id, ByteRange(position, byte_range.stop), counted)

        await self.retried(f"GET of {object_id.key!r} bytes {byte_range.start}-{byte_range.stop - 1}", rest)

    def statistics(self) -> RetryStatistics:
        return RetryStatistics(self._retries, self._throttled, self._given_up)

    async def retried(self, what: str, request: Callable[[], Awaitable[T]]) -> T:
        """Make any request under the same policy. ``what`` names it in the log."""
        deadline = trio.current_time() + self._policy.deadline_seconds
        ntries = 0
        cause, request_id = "no answer", ""
        while True:
            ntries += 1
            with trio.move_on_at(deadline):
                try:
                    return await request()
                except Transient as error:
                    # Not the error itself: it holds this frame, and that would hold it.
                    cause, request_id = str(error), error.request_id
                    if isinstance(error, Throttled):
                        self._throttled += 1
                        if self._congestion is not None:
                            self._congestion.on_throttled(trio.current_time())
                except (NotFound, ObjectChanged, WrongRegion):
                    raise
                except StoreError as error:
                    self._tell(what, error)
                    raise
            pause = self._rng.uniform(0, min(self._policy.cap_seconds, self._policy.base_seconds * 2**ntries))
            if trio.current_time() + pause >= deadline:
                break
            self._retries += 1
            await trio.sleep(pause)
        self._given_up += 1
        seconds = self._policy.deadline_seconds
        # Said once, when it is given up: a line per retry would bury it.
        log.error(
            "%s failed: %d tries in %g s, the last one: %s%s",
            what,
            ntries,
            seconds,
            cause,
            f" [request id {request_id}]" if request_id else "",
        )
        raise StoreUnavailable(f"{what}: {cause} ({ntries} tries in {seconds:g} s)", request_id=request_id)

    def _tell(self, what: str, error: StoreError) -> None:
        """Asking again is of no use, and who waits gets an errno: the log says what that means."""
        text, now = str(error), trio.current_time()
        if now < self._told.get(text, 0.0):
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[text] = now + _SILENT_SECONDS
        log.warning("%s was refused: %s%s", what, text, f" [request id {error.request_id}]" if error.request_id else "")
