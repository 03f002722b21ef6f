"""The one retry policy: asks again where asking again may help.

Nobody else retries, but who waits meanwhile is not decided here: LISTs, HEADs and a command's GETs by ``RetryingStore``
until its deadline; the fetcher's GETs outside of their slots, as long as somebody waits for them. A GET goes on from
where the delivered bytes end, so no byte is delivered twice.
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
from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

_SILENT_SECONDS: Final = 60.0
"""So long nothing is said of another request that is refused for a reason that was just told."""
_MOST_TOLD: Final = 100
"""Reasons that are remembered; there are a dozen."""

_RESUMED_IN_A_ROW: Final = 3
"""So often a body that was cut goes on at once: a store that sends bytes is not one to leave alone for a while."""


_MOST_DOUBLED: Final = 100
"""An outage may last for more tries than a float has powers of two."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: before the next try it waits a random time between 0 and base * 2^n, at most the cap; n counts the
    tries since one brought something.

    ``deadline_seconds``: how long a request is tried, where nobody who waits for it has a deadline of his own.
    ``base_seconds``: about a first byte from a near store, so that a single lost connection costs little.
    ``cap_seconds``: S3 forgets a SlowDown within seconds.
    """

    deadline_seconds: float = 120.0
    base_seconds: float = 0.05
    cap_seconds: float = 5.0

    def longest_pause(self, nvain: int) -> float:
        """Seconds that may pass before the next try, after so many in a row that brought nothing."""
        return min(self.cap_seconds, self.base_seconds * 2.0 ** min(nvain, _MOST_DOUBLED))


@dataclass(frozen=True, slots=True)
class RetryStatistics:
    """``retries`` counts requests that were sent again, ``throttled`` those because the store asked for fewer."""

    retries: int
    throttled: int
    given_up: int


class Tries:
    """One request that has failed and may be sent again: how often it was, since when, and why it failed last."""

    __slots__ = ("_cause", "_nresumed", "_nvain", "_request_id", "ntries", "since", "what")

    def __init__(self, what: str, since: float) -> None:
        self.what = what
        self.since = since
        """When it was first sent."""
        self.ntries = 0
        self._nvain = 0
        self._nresumed = 0
        # Not the error itself: it holds frames, and those may hold this.
        self._cause, self._request_id = "no answer", ""

    def failed(self, error: StoreError, policy: RetryPolicy, *, moved: bool) -> float:
        """A try came to nothing, or ended early where it has ``moved``. Returns how long the next may wait at most."""
        self.ntries += 1
        self._cause, self._request_id = str(error), error.request_id
        if moved and self._nresumed < _RESUMED_IN_A_ROW:
            self._nresumed += 1
            self._nvain = 0
            return 0.0
        self._nresumed = 0
        self._nvain = 1 if moved else self._nvain + 1
        return policy.longest_pause(self._nvain)

    def start_over(self) -> None:
        """Somebody else waits now: pauses are as short again as after the first try."""
        self._nvain = self._nresumed = 0

    def error(self, seconds: float) -> StoreUnavailable:
        """What is told after ``seconds`` to those who waited."""
        tries = f"{self.ntries} tries" if self.ntries != 1 else "one try"
        text = f"{self.what} failed: {tries} in {seconds:.3g} s, the last one: {self._cause}"
        if self._request_id:
            text += f" [request id {self._request_id}]"
        return StoreUnavailable(text, request_id=self._request_id)


class Retries:
    """The policy at work. Decides upon each failure, counts, and says in the log what asking again cannot mend."""

    def __init__(self, policy: RetryPolicy, rng: random.Random | None = None) -> None:
        self.policy = policy
        self._rng = rng or random.Random()
        self._retries = 0
        self._throttled = 0
        self._given_up = 0
        self._told: dict[str, float] = {}
        """What was refused, and until when that is not told again."""

    def pause(self, tries: Tries, error: StoreError, now: float, *, moved: bool = False) -> float | None:
        """Seconds until a request that failed is to be sent again; None where that is of no use."""
        if isinstance(error, Throttled):
            self._throttled += 1
        if isinstance(error, Transient):
            return self._rng.uniform(0, tries.failed(error, self.policy, moved=moved))
        if not isinstance(error, (NotFound, ObjectChanged, WrongRegion)):
            self._tell(tries.what, error, now)
        return None

    def on_sent_again(self) -> None:
        self._retries += 1

    def on_given_up(self) -> None:
        """Nobody could wait any longer for what had failed so far."""
        self._given_up += 1

    def statistics(self) -> RetryStatistics:
        return RetryStatistics(self._retries, self._throttled, self._given_up)

    def _tell(self, what: str, error: StoreError, now: float) -> None:
        """Asking again is of no use, and who waits gets an errno: the log says what that means."""
        text = str(error)
        if now < self._told.get(text, 0.0):
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[text] = now + _SILENT_SECONDS
        log.warning("%s was refused: %s%s", what, text, f" [request id {error.request_id}]" if error.request_id else "")


def get_text(object_id: ObjectId, byte_range: ByteRange) -> str:
    """A GET's name in the log."""
    return f"GET of {object_id.key!r} bytes {byte_range.start}-{byte_range.stop - 1}"


class RetryingStore:
    """An ObjectStore that hides the transient errors of another one, within the policy's deadline."""

    def __init__(self, inner: ObjectStore, policy: RetryPolicy, rng: random.Random | None = None) -> None:
        self._inner = inner
        self.retries = Retries(policy, rng)

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

        await self.retried(get_text(object_id, byte_range), rest, lambda: position)

    def statistics(self) -> RetryStatistics:
        return self.retries.statistics()

    async def retried(
        self, what: str, request: Callable[[], Awaitable[T]], position: Callable[[], int] = lambda: 0
    ) -> T:
        """Make any request under the same policy. ``what`` names it in the log, ``position`` tells how far it is."""
        retries = self.retries
        started = trio.current_time()
        deadline = started + retries.policy.deadline_seconds
        tries = Tries(what, started)
        while True:
            before = position()
            wait = 0.0
            with trio.move_on_at(deadline) as scope:
                try:
                    return await request()
                except StoreError as error:
                    pause = retries.pause(tries, error, trio.current_time(), moved=position() > before)
                    if pause is None:
                        raise
                    wait = pause
            if scope.cancelled_caught:
                tries.ntries += 1
            if trio.current_time() + wait >= deadline:
                break
            retries.on_sent_again()
            await trio.sleep(wait)
        retries.on_given_up()
        failure = tries.error(retries.policy.deadline_seconds)
        # Said once, when it is given up: a line per retry would bury it.
        log.error("%s", failure)
        raise failure
