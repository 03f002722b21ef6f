from __future__ import annotations

import gc
import logging
import random
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from s3stream_fs.errors import Denied, StoreUnavailable, Throttled
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.store.retry import Retries, RetryingStore, RetryPolicy, Tries
from s3stream_fs.types import ByteRange

DATA = random.Random(0).randbytes(3_000_000)


def run(case: Callable[[MemoryStore, RetryingStore], Awaitable[None]], policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008
    async def main() -> None:
        inner = MemoryStore()
        await case(inner, RetryingStore(inner, policy, rng=random.Random(1)))

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_cut_body_is_resumed_and_no_byte_comes_twice() -> None:
    async def case(inner: MemoryStore, store: RetryingStore) -> None:
        object_id = inner.put("key", DATA)
        inner.fail_next("GET", StoreUnavailable("cut"), times=2, after_nbytes=1_200_000)
        got = bytearray()
        await store.get_range(object_id, ByteRange(5, len(DATA)), got.extend)
        assert got == DATA[5:]
        assert inner.requests == [("GET", "key", start, len(DATA)) for start in (5, 1_200_005, 2_400_005)]
        assert store.statistics().retries == 2

    run(case)


def test_throttling_is_waited_out() -> None:
    async def case(inner: MemoryStore, store: RetryingStore) -> None:
        inner.put("key", DATA)
        inner.fail_next("LIST", Throttled("503"), times=5)
        started = trio.current_time()
        assert (await store.list_page("")).objects
        assert 0 < trio.current_time() - started <= sum(min(5, 0.05 * 2**n) for n in range(1, 6))
        assert store.statistics().throttled == 5

    run(case)


def test_deadline_ends_it_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def case(inner: MemoryStore, store: RetryingStore) -> None:
        object_id = inner.put("key", DATA)
        inner.fail_next("GET", StoreUnavailable("500 InternalError", request_id="R1"), times=10_000)
        started = trio.current_time()
        with pytest.raises(StoreUnavailable, match="'key' bytes 0-99"):
            await store.get_range(object_id, ByteRange(0, 100), lambda _: None)
        assert trio.current_time() - started <= 120
        assert store.statistics().given_up == 1

    with caplog.at_level(logging.INFO):
        run(case)
    (record,) = caplog.records
    assert "[request id R1]" in record.getMessage()


def test_a_stalled_request_ends_at_the_deadline() -> None:
    async def case(inner: MemoryStore, store: RetryingStore) -> None:
        inner.put("key", DATA)
        inner.gate = trio.Event()
        started = trio.current_time()
        with pytest.raises(StoreUnavailable, match="no answer"):
            await store.head("key")
        assert trio.current_time() - started == pytest.approx(120)

    run(case)


def test_what_asking_again_cannot_mend_is_not_asked_again() -> None:
    async def case(inner: MemoryStore, store: RetryingStore) -> None:
        inner.put("key", DATA)
        inner.fail_next("HEAD", Denied("403"))
        with pytest.raises(Denied):
            await store.head("key")
        assert inner.count("HEAD") == 1

    run(case)


def test_what_a_failed_request_has_brought_does_not_wait_for_the_collector() -> None:
    class Part:
        """Stands for buffers, of which a retried request must not keep more than its time."""

        def deliver(self, piece: memoryview) -> None:
            self.piece = piece

    async def case(store: MemoryStore, retrying: RetryingStore) -> None:
        object_id = store.put("key", b"x" * 1000)
        store.fail_next("GET", StoreUnavailable("500"), times=2)
        part = Part()
        gone = weakref.ref(part)
        gc.collect()
        gc.disable()
        try:
            await retrying.get_range(object_id, ByteRange(0, 1000), part.deliver)
            del part
            assert gone() is None
        finally:
            gc.enable()

    run(case)


def test_pauses_are_of_any_length_up_to_one_that_doubles_and_has_a_cap() -> None:
    policy = RetryPolicy(base_seconds=0.05, cap_seconds=5.0)
    longest = [0.0] * 2_000
    for seed in range(30):
        retries, tries = Retries(policy, random.Random(seed)), Tries("GET", 0.0)
        for number in range(len(longest)):
            pause = retries.pause(tries, StoreUnavailable("500"), 0.0)
            assert pause is not None
            longest[number] = max(longest[number], pause)
    limits = [min(5.0, 0.05 * 2.0 ** min(number, 100)) for number in range(1, len(longest) + 1)]
    assert all(0.5 * limit < pause <= limit for pause, limit in zip(longest, limits, strict=True))


def test_what_was_cut_goes_on_at_once_three_times_in_a_row_and_starts_the_pauses_anew() -> None:
    retries, tries = Retries(RetryPolicy(), random.Random(1)), Tries("GET", 0.0)
    for _ in range(10):
        retries.pause(tries, StoreUnavailable("500"), 0.0)
    pauses = [retries.pause(tries, StoreUnavailable("cut"), 0.0, moved=True) or 0.0 for _ in range(8)]
    assert [pause > 0 for pause in pauses] == [False, False, False, True] * 2
    assert max(pauses) <= 0.1


def test_what_is_told_of_tries_says_which_how_often_how_long_and_why() -> None:
    retries, tries = Retries(RetryPolicy()), Tries("GET of 'key' bytes 0-9", 3.0)
    assert retries.pause(tries, Throttled("503 SlowDown", request_id="R7"), 3.0) is not None
    assert str(tries.error(1.25)) == (
        "GET of 'key' bytes 0-9 failed: one try in 1.25 s, the last one: 503 SlowDown [request id R7]"
    )
    assert retries.pause(tries, StoreUnavailable("500"), 4.0) is not None
    assert str(tries.error(100.0)) == "GET of 'key' bytes 0-9 failed: 2 tries in 100 s, the last one: 500"
    assert retries.pause(tries, Denied("403"), 4.0) is None
    assert retries.statistics().throttled == 1
