"""The table of flights, the pauses, and what a flight tells those who wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s3stream_fs.cache.memory.part import Part
from s3stream_fs.errors import Denied
from s3stream_fs.fetch.flight import Flight
from s3stream_fs.fetch.flights import Flights
from s3stream_fs.fetch.pauses import Pauses
from s3stream_fs.fetch.queue import Priority
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

OBJECT = ObjectId("key", "etag", 100 * BLOCK_BYTES)


def blocks(first: int, last: int) -> ByteRange:
    return ByteRange(first * BLOCK_BYTES, last * BLOCK_BYTES)


def flight(first: int = 0, last: int = 1) -> Flight:
    return Flight(Part(OBJECT, blocks(first, last)), Priority.DEMAND)


def run(case: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await case(nursery)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_flight_is_found_by_each_of_its_blocks_and_once_for_all() -> None:
    flights, one, two = Flights(), flight(2, 5), flight(7, 8)
    flights.add(one)
    flights.add(two)
    assert [flights.at(OBJECT, index * BLOCK_BYTES) for index in range(1, 9)] == [
        None,
        one,
        one,
        one,
        None,
        None,
        two,
        None,
    ]
    assert flights.within(OBJECT, blocks(0, 100)) == flights.of(OBJECT) == [one, two]
    assert flights.within(OBJECT, blocks(5, 7)) == []


def test_what_is_forgotten_cannot_be_joined_and_leaves_nothing_behind() -> None:
    flights, one = Flights(), flight(2, 5)
    flights.add(one)
    flights.forget(one, blocks(2, 4))
    assert [flights.at(OBJECT, index * BLOCK_BYTES) for index in (2, 3, 4)] == [None, None, one]
    later = flight(2, 4)
    flights.add(later)
    flights.forget(one, blocks(2, 5))
    assert flights.of(OBJECT) == [later]
    flights.forget(later, blocks(2, 4))
    assert OBJECT not in flights


def test_absent_is_what_is_neither_held_nor_on_its_way_and_each_flight_on_the_way_is_joined_once() -> None:
    flights, joined = Flights(), list[Flight]()
    one, two = flight(2, 5), flight(7, 8)
    flights.add(one)
    flights.add(two)
    absent = flights.absent(OBJECT, blocks(0, 12), lambda index: index in (0, 9, 10), joined.append)
    assert absent == [blocks(1, 2), blocks(5, 7), blocks(8, 9), blocks(11, 12)]
    assert joined == [one, two]


def test_pauses_end_in_their_order_and_those_that_are_discarded_never() -> None:
    async def case(nursery: trio.Nursery) -> None:
        ended: list[tuple[Flight, float]] = []
        pauses = Pauses(lambda flight: ended.append((flight, trio.current_time())))
        nursery.start_soon(pauses.run)
        late, early, dropped, again = (flight() for _ in range(4))
        pauses.add(late, 5.0)
        await trio.sleep(1)
        pauses.add(dropped, 2.0)
        pauses.add(early, 3.0)
        pauses.add(again, 4.0)
        assert len(pauses) == 4
        pauses.discard(dropped)
        pauses.discard(again)
        pauses.add(again, 6.0)
        await trio.sleep(10)
        assert ended == [(early, 3.0), (late, 5.0), (again, 6.0)]
        assert len(pauses) == 0

    run(case)


def test_who_waits_for_what_is_kept_elsewhere_looks_there_and_the_others_go_on_waiting() -> None:
    async def case(nursery: trio.Nursery) -> None:
        one, found = flight(0, 4), dict[int, bool]()

        async def wait(index: int) -> None:
            found[index] = await one.wait(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES)

        for index in range(4):
            nursery.start_soon(wait, index)
        await wait_all_tasks_blocked()
        assert (one.readers, one.waiters) == (4, 4)
        one.deliver(memoryview(bytes(BLOCK_BYTES)))
        await wait_all_tasks_blocked()
        assert found == {0: True}
        one.go_on_with(Part(OBJECT, blocks(2, 4)))
        await wait_all_tasks_blocked()
        assert found == {0: True, 1: False}
        one.deliver(memoryview(bytes(2 * BLOCK_BYTES)))
        await wait_all_tasks_blocked()
        assert found == {0: True, 1: False, 2: True, 3: True}

    run(case)


def test_an_attempt_that_was_aborted_delivers_nothing() -> None:
    async def case(_: trio.Nursery) -> None:
        one = flight(0, 4)
        first, hedge = one.attempt(), one.attempt(hedge=True)
        first.deliver(memoryview(bytes(10)))
        assert hedge.scope.cancel_called
        hedge.deliver(memoryview(bytes(20)))
        assert one.part.filled_to == 10
        assert not one.ended(hedge)
        assert one.ended(first)
        again = one.attempt()
        first.deliver(memoryview(bytes(30)))
        assert one.part.filled_to == 10
        one.abort()
        assert not one.ended(again)

    run(case)


def test_an_error_reaches_all_who_wait_each_its_own() -> None:
    async def case(nursery: trio.Nursery) -> None:
        one, errors = flight(), list[Denied]()

        async def wait(all_of_it: bool) -> None:
            with pytest.raises(Denied) as caught:
                await (one.wait_all() if all_of_it else one.wait(0, 10))
            errors.append(caught.value)

        for all_of_it in (False, True, False):
            nursery.start_soon(wait, all_of_it)
        await wait_all_tasks_blocked()
        one.land(Denied("403", request_id="R"))
        await wait_all_tasks_blocked()
        assert [str(error) for error in errors] == ["403"] * 3
        assert len({id(error) for error in errors}) == 3
        assert (one.readers, one.waiters) == (0, 0)

    run(case)
