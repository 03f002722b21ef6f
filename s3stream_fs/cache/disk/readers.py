"""Threads that read from the disk for trio's tasks.

A turn costs trio's thread, the one that everything waits for, 30 us less than trio's own threads do, which are there
for any kind of work: small files are read from the disk at 2,550 a second instead of 2,320, one after another.

Owns how long a disk is waited for. One that hangs holds these threads, and nothing else.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

import outcome
import trio

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 3.0
"""How long the disk is waited for before the store is asked in its place: a disk that works hard takes some 0.1 s for a
read, and the store as long."""

_SPARE_SECONDS: Final = 10.0
"""How long nobody waits again for a disk that has let somebody down, and has not answered anybody since."""


class _Turn(Generic[T]):
    """``task`` is who waits; None once nobody does. ``unasked``: nobody ever did."""

    __slots__ = ("found", "job", "task", "unasked")

    def __init__(self, job: Callable[[], T], task: trio.lowlevel.Task | None) -> None:
        self.job = job
        self.task = task
        self.unasked = task is None
        self.found: outcome.Outcome[T] | None = None

    def run(self) -> None:
        self.found = outcome.capture(self.job)


class ReadThreads:
    """At most ``limit`` threads, started as they are needed."""

    def __init__(self, limit: int, after_each: Callable[[], None] = lambda: None) -> None:
        """``after_each`` turn the thread does this, too, while nobody waits for it."""
        self._limit = limit
        self._after_each = after_each
        self._token = trio.lowlevel.current_trio_token()
        self._turns: SimpleQueue[_Turn[object] | None] = SimpleQueue()
        self._over: deque[_Turn[object]] = deque()
        self._nthreads = 0
        self._under_way = 0
        self._spared_until = float("-inf")

    @property
    def hanging(self) -> bool:
        """Whether the disk did not answer in time a short while ago, and has not answered since."""
        return self._spared_until > 0 and trio.current_time() < self._spared_until

    async def run(self, job: Callable[[], T]) -> T:
        """What ``job`` returns or raises in a thread. Cancelled at once; the job goes on then, for nobody.

        Raises OSError where there is no thread and none can be had; TimeoutError, which is one, where the disk does not
        answer in time, and at once where it is ``hanging``.
        """
        if self.hanging:
            raise TimeoutError(errno.ETIMEDOUT, "the disk does not answer")
        if self._nthreads < min(self._under_way + 1, self._limit):
            self._begin_another()
        turn = _Turn(job, trio.lowlevel.current_task())
        self._under_way += 1
        self._turns.put(turn)  # type: ignore[arg-type]

        def abort(_: object) -> trio.lowlevel.Abort:
            turn.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(_PATIENCE_SECONDS):
            return await trio.lowlevel.wait_task_rescheduled(abort)  # type: ignore[no-any-return]
        self._spared_until = trio.current_time() + _SPARE_SECONDS
        raise TimeoutError(errno.ETIMEDOUT, f"the disk has not answered for {_PATIENCE_SECONDS:g} s")

    def begin_nowait(self, job: Callable[[], object]) -> None:
        """Have ``job``, which raises nothing, done by a thread at some time."""
        if self._nthreads == 0:
            with suppress(OSError):
                self._begin_another()
        turn = _Turn(job, None)
        self._under_way += 1
        self._turns.put(turn)

    def close(self) -> None:
        """The threads end when they have done what they are at."""
        for _ in range(self._nthreads):
            self._turns.put(None)

    def _begin_another(self) -> None:
        try:
            threading.Thread(target=self._work, name="s3stream-read", daemon=True).start()
        except RuntimeError as error:
            if self._nthreads == 0:
                raise OSError(errno.EAGAIN, str(error)) from None
            return  # those that there are do it
        self._nthreads += 1

    def _work(self) -> None:
        while (turn := self._turns.get()) is not None:
            if turn.task is not None or turn.unasked:
                turn.run()
            self._over.append(turn)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver, idempotent=True)
            del turn  # and with it the bytes, while the next one is waited for
            self._after_each()

    def _deliver(self) -> None:
        while self._over:
            turn = self._over.popleft()
            self._under_way -= 1
            self._spared_until = float("-inf")
            if turn.task is not None:
                trio.lowlevel.reschedule(turn.task, turn.found)  # type: ignore[arg-type]
