"""The keys that requests are signed with: when they are asked for anew, and what a source in trouble does to whom."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from s3stream_fs.errors import Denied, StoreError, StoreUnavailable
from s3stream_fs.store.s3.credentials import Found, Keyring, Keys


class Source:
    """Gives ``key-1``, ``key-2``, ..., each good for ``seconds``, unless it is to ``fail``, or to wait for ``gate``."""

    def __init__(self, seconds: float | None = 3600.0) -> None:
        self.seconds = seconds
        self.fail: StoreError | None = None
        self.gate: threading.Event | None = None
        self.asked = 0
        self.answered = 0
        self.number: int | None = None

    def __call__(self) -> Found:
        gate = self.gate  # before it is told that this was asked
        self.asked += 1
        asked = self.asked
        if gate is not None:
            gate.wait(30)
        self.answered += 1
        if self.fail is not None:
            raise self.fail.again()
        return Found(Keys(f"key-{self.number or asked}", "secret", None, "test"), self.seconds)


def run(case: Callable[[MockClock], Awaitable[None]]) -> None:
    clock = MockClock()
    trio.run(case, clock, clock=clock)


async def asked(source: Source, times: int) -> None:
    """Wait until it has been asked so often; a thread that is to wait for the gate has found it then."""
    while source.asked < times:
        await trio.lowlevel.checkpoint()


async def answered_if_asked(keyring: Keyring) -> None:
    """Wait until the source, where it is being asked, has answered."""
    while keyring.statistics().asking:
        await trio.lowlevel.checkpoint()


def test_keys_are_renewed_in_good_time_and_nobody_waits() -> None:
    source = Source()

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        assert await keyring.get() is first
        assert source.asked == 1
        clock.jump(3600 - 15 * 60 - 1)
        assert await keyring.get() is first
        assert source.asked == 1
        gate = source.gate = threading.Event()
        clock.jump(2)
        # The source is asked, and while it has not answered the old keys do.
        for _ in range(10):
            assert await keyring.get() is first
        gate.set()
        await answered_if_asked(keyring)
        assert (await keyring.get()).access_key == "key-2"
        assert source.asked == 2

    run(case)


@pytest.mark.parametrize("seconds", [30.0, 240.0])
def test_keys_with_little_time_left_are_used_until_their_end(seconds: float) -> None:
    source = Source(seconds)

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        clock.jump(seconds * 0.6)
        assert await keyring.get() is first
        assert source.asked == 1
        source.fail = StoreUnavailable("down")
        clock.jump(seconds * 0.2)
        for _ in range(5):
            assert await keyring.get() is first
        clock.jump(seconds * 0.19)
        assert await keyring.get() is first

    run(case)


def test_a_source_that_fails_is_asked_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(600.0)

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        source.fail = StoreUnavailable("STS is down")
        clock.jump(450)
        for _ in range(28):
            clock.jump(5)
            assert await keyring.get() is first
            await answered_if_asked(keyring)
        assert 5 <= keyring.statistics().failures < 20
        source.fail = None
        clock.jump(100)
        assert (await keyring.get()).access_key != first.access_key

    with caplog.at_level(logging.INFO):
        run(case)
    told = [record.message for record in caplog.records if record.name.endswith("credentials")]
    assert [line for line in told if "STS is down" in line] == told[:1]
    assert "are used for" in told[0]
    assert "answers again" in told[-1]
    assert "key-" not in caplog.text


def test_without_keys_a_source_that_fails_is_an_error_and_is_asked_again() -> None:
    source = Source()

    async def case(_: MockClock) -> None:
        keyring = Keyring(source)
        source.fail = Denied("no usable credentials: log in")
        with pytest.raises(Denied, match="log in"):
            await keyring.get()
        source.fail = None
        assert (await keyring.get()).access_key == "key-2"

    run(case)


def test_refused_keys_are_asked_for_once_by_all_and_not_in_a_storm() -> None:
    source = Source(None)

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        found: list[bool] = []

        async def refused(keys: Keys) -> None:
            found.append(await keyring.renew(keys))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(refused, first)
        assert found == [True] * 50
        assert source.asked == 2
        # Who comes late with the old keys is given the new ones.
        assert await keyring.renew(first)
        assert source.asked == 2
        # Those are refused too, and the source has no others.
        source.number = 2
        second = await keyring.get()
        clock.jump(10)
        for _ in range(20):
            assert not await keyring.renew(second)
        assert source.asked == 3
        clock.jump(10)
        source.number = None
        assert await keyring.renew(second)

    run(case)


def test_a_source_that_hangs_holds_nobody_for_long() -> None:
    source = Source(600.0)

    async def case(clock: MockClock) -> None:
        clock.autojump_threshold = 0
        keyring = Keyring(source)
        gate = source.gate = threading.Event()
        try:
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await keyring.get()
            assert trio.current_time() < 60
            # Another thread asks, and the first one's answer, should it come, counts as well.
            clock.autojump_threshold = math.inf
            await asked(source, 1)
            source.gate = None
            assert (await keyring.get()).access_key == "key-2"
        finally:
            gate.set()

    run(case)


def test_keys_that_nobody_uses_are_renewed_as_well() -> None:
    source = Source(3600.0)

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keyring.keep)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(3600 - 14 * 60)
            while keyring.statistics().renewals < 1:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert source.asked == 2
        assert await keyring.get() is not first

    run(case)


def test_a_renewal_that_hangs_is_given_up_and_asked_anew_while_nobody_waits() -> None:
    source = Source(3600.0)

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        clock.jump(3600 - 14 * 60)
        gate = source.gate = threading.Event()
        try:
            assert await keyring.get() is first
            await asked(source, 2)
            clock.jump(60)
            source.gate = None
            while (await keyring.get()) is first:
                clock.jump(5)
                await answered_if_asked(keyring) if keyring.statistics().failures else None
            third = await keyring.get()
            assert third.access_key == "key-3"
        finally:
            gate.set()
        # The late answer to the second question replaces nothing.
        while source.answered < 3:
            await trio.lowlevel.checkpoint()
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert await keyring.get() is third

    run(case)


def test_after_sources_that_hang_for_long_it_is_asked_again() -> None:
    source = Source(600.0)

    async def case(clock: MockClock) -> None:
        clock.autojump_threshold = 0
        keyring = Keyring(source)
        gate = source.gate = threading.Event()
        try:
            for _ in range(10):
                with pytest.raises(StoreUnavailable):
                    await keyring.get()
            clock.autojump_threshold = math.inf
            await asked(source, 4)
            source.gate = None
            clock.jump(400)
            assert (await keyring.get()).access_key == "key-5"
        finally:
            gate.set()

    run(case)


def test_the_same_keys_with_a_later_end_are_good_until_then() -> None:
    source = Source(60.0)
    source.number = 1

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        for _ in range(20):
            clock.jump(61)
            assert await keyring.get() is first

    run(case)


def test_keys_that_seem_to_have_ended_already_are_for_the_store_to_judge() -> None:
    source = Source(-3600.0)

    async def case(clock: MockClock) -> None:
        keyring = Keyring(source)
        first = await keyring.get()
        clock.jump(20)
        assert await keyring.get() is first
        assert await keyring.renew(first)
        assert (await keyring.get()).access_key == "key-2"

    run(case)


def test_keys_are_not_shown() -> None:
    keys = Keys("AKIA1", "hidden", "hidden", "env")
    for shown in (repr(Found(keys, None)), repr(keys)):
        assert "hidden" not in shown
        assert "AKIA1" not in shown
