"""Futures that other threads complete, as obstore does it: a cancelled one is left alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from s3stream_fs.store.s3.guest import GuestLoop

PATIENCE_SECONDS = 10

Future = asyncio.Future[int]


def complete(future: Future, value: int | BaseException) -> None:
    if future.cancelled():
        return
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)


def made() -> Future:
    """A future of the loop that runs, as a foreign library gets it."""
    future: Future = asyncio.get_running_loop().create_future()
    return future


def in_thread(call: Callable[[], object]) -> None:
    """Returns when it is done. trio does not run meanwhile."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def run(case: Callable[[GuestLoop], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await case(GuestLoop())

    trio.run(main)


async def made_every_call(loop: GuestLoop) -> None:
    """Returns when all calls that were asked for before were made."""
    event = trio.Event()
    loop.call_soon_threadsafe(event.set)
    await event.wait()


class Waiting:
    """Tasks that wait for one future each, by number. ``found`` is what they came to."""

    def __init__(self, loop: GuestLoop, count: int = 1) -> None:
        self._loop = loop
        self.futures: dict[int, Future] = {}
        self.found: dict[int, int] = {}
        self.scopes = [trio.CancelScope() for _ in range(count)]

    async def start(self, nursery: trio.Nursery) -> None:
        for number in range(len(self.scopes)):
            nursery.start_soon(self._wait, number)
        await wait_all_tasks_blocked()

    def _made(self, number: int) -> Future:
        self.futures[number] = made()
        return self.futures[number]

    async def _wait(self, number: int) -> None:
        with self.scopes[number]:
            self.found[number] = await self._loop.wait(self._made, number)


def test_a_future_that_is_done_at_once_is_not_waited_for() -> None:
    async def case(loop: GuestLoop) -> None:
        def start(value: int, *, more: int) -> Future:
            future = made()
            future.set_result(value + more)
            return future

        assert await loop.wait(start, 40, more=2) == 42

    run(case)


def test_a_future_is_completed_from_another_thread() -> None:
    async def case(loop: GuestLoop) -> None:
        threads: list[threading.Thread] = []

        def start() -> Future:
            future = made()
            threads.append(threading.Thread(target=loop.call_soon_threadsafe, args=(complete, future, 42)))
            threads[0].start()
            return future

        try:
            assert await loop.wait(start) == 42
        finally:
            threads[0].join()

    run(case)


def test_a_future_that_fails_raises_its_exception_where_it_is_waited_for() -> None:
    async def case(loop: GuestLoop) -> None:
        error = ConnectionError("cut")

        def start() -> Future:
            future = made()
            in_thread(lambda: loop.call_soon_threadsafe(complete, future, error))
            return future

        with pytest.raises(ConnectionError, match="cut") as raised:
            await loop.wait(start)
        assert raised.value is error

    run(case)


def test_the_loop_runs_only_while_a_future_is_made() -> None:
    async def case(loop: GuestLoop) -> None:
        def refuse() -> Future:
            running: list[object] = [asyncio.get_running_loop()]
            assert running == [loop]
            raise ValueError("no such thing")

        with pytest.raises(ValueError, match="no such thing"):
            await loop.wait(refuse)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    run(case)


def test_cancellation_cancels_the_future_and_tells_who_made_it() -> None:
    async def case(loop: GuestLoop) -> None:
        waiting = Waiting(loop)
        told: list[Future] = []
        async with trio.open_nursery() as nursery:
            await waiting.start(nursery)
            waiting.futures[0].add_done_callback(told.append)
            waiting.scopes[0].cancel()
        assert waiting.scopes[0].cancelled_caught
        assert waiting.futures[0].cancelled()
        assert told == [waiting.futures[0]]
        assert waiting.found == {}

    run(case)


@pytest.mark.parametrize("value", [42, ConnectionError("cut")], ids=["result", "failure"])
def test_a_completion_after_the_cancellation_does_nothing(value: int | BaseException) -> None:
    async def case(loop: GuestLoop) -> None:
        waiting = Waiting(loop, 2)
        async with trio.open_nursery() as nursery:
            await waiting.start(nursery)
            waiting.scopes[0].cancel()
            in_thread(lambda: loop.call_soon_threadsafe(complete, waiting.futures[0], value))
            await made_every_call(loop)
            assert waiting.futures[0].cancelled()
            in_thread(lambda: loop.call_soon_threadsafe(complete, waiting.futures[1], 43))
        assert waiting.found == {1: 43}

    run(case)


def test_a_completion_that_waits_to_be_heard_does_not_undo_a_cancellation() -> None:
    async def case(loop: GuestLoop) -> None:
        waiting = Waiting(loop)
        async with trio.open_nursery() as nursery:
            await waiting.start(nursery)
            in_thread(lambda: loop.call_soon_threadsafe(complete, waiting.futures[0], 42))
            waiting.scopes[0].cancel()
        await made_every_call(loop)
        assert waiting.futures[0].cancelled()
        assert waiting.found == {}

    run(case)


def test_a_result_that_came_before_the_cancellation_is_not_lost() -> None:
    async def case(loop: GuestLoop) -> None:
        waiting = Waiting(loop)
        async with trio.open_nursery() as nursery:
            await waiting.start(nursery)
            complete(waiting.futures[0], 42)
            waiting.scopes[0].cancel()
        assert waiting.found == {0: 42}

    run(case)


def test_many_completions_wake_trio_once_and_all_arrive() -> None:
    async def case(loop: GuestLoop) -> None:
        waiting = Waiting(loop, 200)

        def complete_all() -> None:
            for number, future in waiting.futures.items():
                loop.call_soon_threadsafe(complete, future, number)

        async with trio.open_nursery() as nursery:
            await waiting.start(nursery)
            before = trio.lowlevel.current_statistics().run_sync_soon_queue_size
            in_thread(complete_all)
            assert trio.lowlevel.current_statistics().run_sync_soon_queue_size == before + 1
        assert waiting.found == {number: number for number in range(200)}

    run(case)


def test_completions_of_many_threads_at_once_all_arrive() -> None:
    async def case(loop: GuestLoop) -> None:
        waiting = Waiting(loop, 400)
        together = threading.Barrier(8)

        def complete_some(futures: Iterable[Future]) -> None:
            together.wait(PATIENCE_SECONDS)
            for future in futures:
                loop.call_soon_threadsafe(complete, future, 1)

        async with trio.open_nursery() as nursery:
            await waiting.start(nursery)
            futures = list(waiting.futures.values())
            threads = [threading.Thread(target=complete_some, args=(futures[each::8],)) for each in range(8)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
        assert waiting.found == dict.fromkeys(range(400), 1)

    run(case)


def test_calls_are_made_in_order_also_those_asked_for_by_calls() -> None:
    async def case(loop: GuestLoop) -> None:
        made_calls: list[str] = []

        def first() -> None:
            made_calls.append("first")
            loop.call_soon_threadsafe(made_calls.append, "third")

        loop.call_soon_threadsafe(first)
        loop.call_soon_threadsafe(made_calls.append, "second")
        assert made_calls == []
        await made_every_call(loop)
        await made_every_call(loop)
        assert made_calls == ["first", "second", "third"]

    run(case)


def test_a_completion_after_the_end_of_trio_does_nothing() -> None:
    loops: list[GuestLoop] = []

    async def case(loop: GuestLoop) -> None:
        loops.append(loop)

    run(case)
    calls: list[int] = []
    in_thread(lambda: loops[0].call_soon_threadsafe(calls.append, 1))
    assert calls == []
