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
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
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
