"""obstore's futures under trio: the few methods of an asyncio loop that they need, served by trio's own.

obstore hands out asyncio futures and completes them from its own threads by ``call_soon_threadsafe``. Given a loop of
which just that is true, no thread has to run asyncio: measured against one that did, a GET of 100 KB takes two thread
switches less each way, and no second thread of Python asks for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import outcome
import trio

log = logging.getLogger(__name__)

T = TypeVar("T")


class GuestLoop:
    """Looks like an asyncio loop to futures; everything happens on the trio thread that made it."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        """What other threads have asked for. Appending is atomic; trio's own queue takes a lock, for which a dozen
        threads that complete small GETs were seen to wait a third of the time."""
        self._announced = False

    async def wait(self, start: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """What the future that ``start(*args, **kwargs)`` gives comes to. Cancelling it cancels the future."""
        # In a list, so that it can be let go: a future that failed holds its exception, whose traceback holds this
        # frame, and with it all that the caller has (a part's buffers), until the collector of cycles comes.
        held: list[asyncio.Future[T]] = []
        asyncio._set_running_loop(cast(asyncio.AbstractEventLoop, self))
        try:
            held.append(cast("asyncio.Future[T]", start(*args, **kwargs)))
        finally:
            asyncio._set_running_loop(None)
        if not held[0].done():
            task = trio.lowlevel.current_task()

            def wake(_: object) -> None:
                trio.lowlevel.reschedule(task)

            def abort(_: object) -> trio.lowlevel.Abort:
                held[0].remove_done_callback(wake)
                held[0].cancel()
                return trio.lowlevel.Abort.SUCCEEDED

            held[0].add_done_callback(wake)
            await trio.lowlevel.wait_task_rescheduled(abort)
        return outcome.capture(held.pop().result).unwrap()

    # What futures and their makers call:

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: object = None) -> None:
        self._calls.append((callback, args))
        # One wake-up for all that has gathered. The flag is cleared before the calls are made, so that none is left.
        if not self._announced:
            self._announced = True
            try:
                self._token.run_sync_soon(self._run_calls)
            except trio.RunFinishedError:
                log.debug("trio has ended before a GET did")

    def call_soon(self, callback: Callable[..., object], *args: Any, context: object = None) -> None:
        callback(*args)

    def _run_calls(self) -> None:
        self._announced = False
        while self._calls:
            callback, args = self._calls.popleft()
            callback(*args)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A future failed after nobody waited for it any more."""
        log.debug("%s", context.get("message"))
