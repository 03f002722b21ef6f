"""What a full cache evicts: traces of epochs over more files than fit, against the figures that are known for them."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from s3stream_fs.cache.disk.eviction import IDLE_MS, eviction_of
from s3stream_fs.cache.disk.index import BlockIndex
from s3stream_fs.cache.disk.policy import (
    SEGMENT_NBYTES,
    WHOLE_NBYTES,
    Amount,
    Clock,
    Policy,
    Reserve,
    file_range,
)
from s3stream_fs.cache.disk.rows import Selection, Written
from s3stream_fs.types import ByteRange, ObjectId

NFILES = 1000
NEPOCHS = 8


class Cache:
    """An index of files that are all the same size, with room for ``nfiles`` of them."""

    def __init__(self, folder: Path, policy: Policy, nfiles: int) -> None:
        self.index = BlockIndex(folder / "index.sqlite", patient=True)
        self.policy = policy
        self.room = nfiles
        self.names: set[str] = set()
        self.now_ms = 10 * IDLE_MS

    def read(self, number: int, of: str = "") -> bool:
        """Whether it was a hit. One more millisecond passes."""
        self.now_ms += 1
        object_id = ObjectId(f"{of}{number}", "etag", 1000)
        name = random.Random(object_id.key).randbytes(16).hex()
        with self.index.transaction():
            if name in self.names:
                self.index.touch([(self.now_ms, name)])
                return True
            if len(self.names) == self.room:
                victims = eviction_of(self.policy).victims(self.index, Amount(1, 1), (), self.now_ms)
                self.index.remove(victims)
                self.names -= {victim.name for victim in victims}
            if len(self.names) < self.room:
                self.index.add(
                    1, [Written(name, object_id, object_id.whole, {0: b"12345678"}, 4096, True)], self.now_ms
                )
                self.names.add(name)
        return False


@pytest.mark.parametrize(
    ("policy", "fraction", "expected"),
    [
        (Policy.LRU, 0.35, 0.07),
        (Policy.LRU, 0.50, 0.15),
        (Policy.LRU, 0.80, 0.49),
        (Policy.LRU, 0.90, 0.67),
        (Policy.KEEP, 0.35, 0.35),
        (Policy.KEEP, 0.50, 0.50),
        (Policy.KEEP, 0.80, 0.80),
        (Policy.KEEP, 0.90, 0.90),
    ],
)
def test_shuffled_epochs(tmp_path: Path, policy: Policy, fraction: float, expected: float) -> None:
    cache = Cache(tmp_path, policy, int(NFILES * fraction))
    order = random.Random(7)
    hits = 0
    for epoch in range(1 + NEPOCHS):
        for number in order.sample(range(NFILES), NFILES):
            hits += cache.read(number) and epoch > 0
    assert hits / NFILES / NEPOCHS == pytest.approx(expected, abs=0.02)


def test_a_scan_in_order_gets_nothing_from_lru_and_its_share_from_keep(tmp_path: Path) -> None:
    found = []
    for policy in Policy:
        (tmp_path / policy).mkdir()
        cache = Cache(tmp_path / policy, policy, 50)
        found.append([sum(cache.read(number) for number in range(100)) for _ in range(3)][-1])
    assert found == [0, 50]


def test_keep_lets_another_data_set_in_after_a_day(tmp_path: Path) -> None:
    cache = Cache(tmp_path, Policy.KEEP, 50)
    for _ in range(2):
        for number in range(100):
            cache.read(number)
    assert [cache.read(number, "other") for number in range(50)] == [False] * 50
    cache.now_ms += IDLE_MS // 2
    assert [cache.read(number, "other") for number in range(50)] == [False] * 50
    assert cache.read(0)  # still there, and used just now
    cache.now_ms += IDLE_MS // 2
    assert [cache.read(number, "other") for number in range(49)] == [False] * 49
    assert [cache.read(number, "other") for number in range(49)] == [True] * 49
    assert cache.read(0)
    assert not cache.read(1)


@pytest.mark.parametrize("policy", Policy)
def test_what_is_pinned_or_spared_is_never_evicted(tmp_path: Path, policy: Policy) -> None:
    cache = Cache(tmp_path, policy, 10)
    for number in range(10):
        cache.read(number)
    names = [victim.name for victim in cache.index.oldest(10, cache.now_ms + 1)]
    with cache.index.transaction():
        cache.index.pin(Selection(prefix=b"1"), range(1, 100))
    spared = names[0]
    victims = eviction_of(policy).victims(cache.index, Amount(0, 10), {spared}, cache.now_ms + 2 * IDLE_MS)
    assert [victim.name for victim in victims] == names[2:]


def test_as_many_files_go_as_bytes_or_inodes_are_wanted(tmp_path: Path) -> None:
    cache = Cache(tmp_path, Policy.LRU, 10)
    for number in range(10):
        cache.read(number)
    wanted = {(0, 0): 0, (1, 0): 1, (4097, 0): 2, (0, 3): 3, (4096 * 20, 20): 10}
    for amount, expected in wanted.items():
        assert len(eviction_of(Policy.LRU).victims(cache.index, Amount(*amount), (), cache.now_ms)) == expected


def test_the_clock_goes_on_when_the_wall_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    before = clock.now_ms()
    assert before == pytest.approx(time.time() * 1000, abs=1000)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= clock.now_ms() <= before + 60_000


def test_uses_in_the_future_are_brought_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path, Policy.LRU, 10)
    for number in range(5):
        cache.read(number)
    with cache.index.transaction():
        cache.index.bring_back(2)  # the clock was far ahead, and is right again
    cache.now_ms = 2
    for number in range(5, 10):
        cache.read(number)
    assert cache.read(9)
    assert not cache.read(10)  # takes the place of an old one, not of a new one
    assert cache.read(9)
    assert cache.read(5)


def test_reserve_is_a_share_or_bytes() -> None:
    assert Reserve(0.10).of(1000) == 100
    assert Reserve(0.0, 250).of(1000) == 250
    assert Reserve(0.10, 50).of(1000) == 100


def test_large_objects_lie_in_segments() -> None:
    whole = ObjectId("key", "etag", WHOLE_NBYTES)
    assert file_range(whole, WHOLE_NBYTES - 1) == whole.whole
    large = ObjectId("key", "etag", WHOLE_NBYTES + 1)
    assert file_range(large, 0) == ByteRange(0, SEGMENT_NBYTES)
    assert file_range(large, SEGMENT_NBYTES) == ByteRange(SEGMENT_NBYTES, 2 * SEGMENT_NBYTES)
    assert file_range(large, WHOLE_NBYTES) == ByteRange(WHOLE_NBYTES, WHOLE_NBYTES + 1)
