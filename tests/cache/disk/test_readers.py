"""Threads that read for tasks: what a job gives or raises comes back, and nobody waits for a job that hangs."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import trio
import trio.testing

from s3stream_fs.cache.disk.readers import ReadThreads


def test_what_a_job_gives_or_raises_comes_back() -> None:
    async def main() -> None:
        threads = ReadThreads(2)
        found: list[int] = []

        async def one(number: int) -> None:
            found.append(await threads.run(lambda: number))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        assert sorted(found) == list(range(100))
        with pytest.raises(OSError, match="disk"):
            await threads.run(failing)
        assert await threads.run(lambda: 7) == 7
        threads.close()

    def failing() -> int:
        raise OSError(5, "disk")

    trio.run(main)
    assert not [thread for thread in threading.enumerate() if thread.name == "s3stream-read" and not thread.daemon]


def test_no_more_threads_than_allowed_and_none_before_they_are_needed() -> None:
    at_work: set[int] = set()
    most = 0
    lock = threading.Lock()

    def job() -> None:
        nonlocal most
        with lock:
            at_work.add(threading.get_ident())
            most = max(most, len(at_work))
        barrier.wait(10)
        with lock:
            at_work.discard(threading.get_ident())

    async def main() -> None:
        threads = ReadThreads(3)
        before = threading.active_count()
        for _ in range(10):
            await threads.run(lambda: None)
        assert threading.active_count() <= before + 1
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(threads.run, job)
        assert most == 3
        threads.close()

    barrier = threading.Barrier(3)
    trio.run(main)


def test_who_gives_up_does_not_wait_and_the_others_go_on() -> None:
    hanging = threading.Event()

    async def main() -> None:
        threads = ReadThreads(2)
        with trio.move_on_after(0.01) as scope:
            await threads.run(lambda: hanging.wait(30))
        assert scope.cancelled_caught
        assert await threads.run(lambda: 7) == 7
        hanging.set()
        assert await threads.run(lambda: 8) == 8
        threads.close()

    trio.run(main)


def test_a_disk_that_hangs_is_given_up_once_and_not_waited_for_again_until_it_answers() -> None:
    hanging = threading.Event()

    async def main() -> None:
        threads = ReadThreads(2)

        async def give_up() -> None:
            with pytest.raises(TimeoutError, match="has not answered for 3 s"):
                await threads.run(lambda: hanging.wait(30))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(3)
        assert threads.hanging
        with pytest.raises(TimeoutError):
            await threads.run(lambda: 7)
        hanging.set()
        while threads.hanging:  # until the thread that hung is heard of
            await trio.lowlevel.checkpoint()
        assert await threads.run(lambda: 8) == 8
        threads.close()

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)


def test_what_was_read_is_let_go_of() -> None:
    class Bytes:
        pass

    async def main() -> None:
        threads = ReadThreads(1)
        found = await threads.run(Bytes)
        gone = weakref.ref(found)
        del found
        await trio.lowlevel.checkpoint()
        gc.collect()
        assert gone() is None
        threads.close()

    trio.run(main)


def test_without_threads_a_read_fails_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        threads = ReadThreads(4)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(OSError, match="can't start"):
                await threads.run(lambda: 7)
        assert await threads.run(lambda: 7) == 7
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(threads.run, lambda: 8)
        threads.close()

    trio.run(main)
