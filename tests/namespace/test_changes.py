from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s3stream_fs.namespace.changes import Change, Changes


def test_all_that_was_announced_is_told_before_it_is_said_so() -> None:
    told: list[int] = []

    async def tell(changes: Changes) -> None:
        while True:
            change = await changes.next()
            await trio.sleep(0.01)
            told.append(int(change.name))

    async def main() -> None:
        changes = Changes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, changes)
            await changes.wait_told()
            for count in (1, 5000, 2):
                told.clear()
                for number in range(count):
                    await changes.announce(Change("d/", b"%d" % number))
                await changes.wait_told()
                assert told == list(range(count))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_with_nobody_to_take_them_who_announces_waits() -> None:
    async def main() -> None:
        changes = Changes()
        for _ in range(1000):
            await changes.announce(Change("", b"x"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changes.announce, Change("", b"last"))
            nursery.start_soon(changes.wait_told)
            await wait_all_tasks_blocked()
            changes.announce_nowait(Change("", b"too many"))
            assert len(changes) == 1000
            await changes.next()
            await wait_all_tasks_blocked()
            assert len(changes) == 1000
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_waits_does_not_wait_for_what_is_announced_later() -> None:
    async def main() -> None:
        changes = Changes()
        changes.announce_nowait(Change("", b"first"))
        done = trio.Event()

        async def wait() -> None:
            await changes.wait_told()
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            changes.announce_nowait(Change("", b"second"))
            assert (await changes.next()).name == b"first"
            await wait_all_tasks_blocked()
            assert not done.is_set()  # taken, but perhaps not passed on yet
            assert (await changes.next()).name == b"second"
            await wait_all_tasks_blocked()
            assert done.is_set()

    trio.run(main)
