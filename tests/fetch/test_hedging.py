from __future__ import annotations

import random

import pytest

from bench.simulator.behaviour import PRESETS
from s3stream_fs.fetch.hedging import HedgePolicy

NBYTES = 100_000


def told(*seconds: float, nbytes: int = NBYTES) -> HedgePolicy:
    """A policy that has seen these answers."""
    policy = HedgePolicy()
    for one in seconds:
        policy.on_answered(nbytes, one)
    return policy


def spent(policy: HedgePolicy) -> int:
    count = 0
    while policy.spend():
        count += 1
    return count


def test_nothing_is_late_while_little_is_known() -> None:
    policy = told(*[0.01] * 31)
    assert policy.late_after(NBYTES) is None
    policy.on_answered(NBYTES, 0.01)
    assert policy.late_after(NBYTES) == pytest.approx(0.011)


def test_late_is_a_tenth_more_than_95_in_100_take() -> None:
    milliseconds = list(range(101, 201))
    random.Random(1).shuffle(milliseconds)
    # Seen often enough that the newest are counted in.
    policy = told(*[each / 1000 for each in milliseconds * 4])
    assert policy.late_after(NBYTES) == pytest.approx(1.1 * 0.196, abs=0.0015)


def test_answers_of_other_sizes_say_nothing() -> None:
    policy = told(*[0.5] * 64, nbytes=8 * 1024 * 1024)
    assert policy.late_after(NBYTES) is None
    assert policy.late_after(NBYTES * 1000) is None
    assert policy.late_after(8 * 1024 * 1024) == pytest.approx(0.55)


def test_sizes_of_one_power_of_two_are_alike() -> None:
    policy = told(*[0.02] * 32, nbytes=65_536)
    assert policy.late_after(131_071) == pytest.approx(0.022)
    assert policy.late_after(131_072) is None
    assert policy.late_after(65_535) is None


def test_nothing_is_late_within_5_ms() -> None:
    assert told(*[0.0002] * 64).late_after(NBYTES) == 0.005


def test_a_store_that_becomes_slower_is_soon_not_late_any_more() -> None:
    policy = told(*[0.01] * 512, *[0.1] * 64)
    assert policy.late_after(NBYTES) == pytest.approx(0.11)


def test_old_answers_are_forgotten() -> None:
    policy = told(*[0.1] * 512, *[0.01] * 512)
    assert policy.late_after(NBYTES) == pytest.approx(0.011)


def test_nothing_may_be_spent_before_anything_was_sent() -> None:
    assert not HedgePolicy().spend()


def test_one_second_request_for_twenty_first_ones() -> None:
    policy = HedgePolicy()
    nsecond = 0
    for _ in range(2_000):
        policy.on_started()
        nsecond += policy.spend()
    assert 95 <= nsecond <= 100


def test_a_quiet_time_saves_up_a_few_and_no_more() -> None:
    policy = HedgePolicy()
    for _ in range(100_000):
        policy.on_started()
    assert spent(policy) == 10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_late_gets_of_a_hot_bucket_sent_again_halve_p99_for_few_more_requests(seed: int) -> None:
    rng = random.Random(seed)
    hot = PRESETS["hot"]
    policy = HedgePolicy()
    ngets, nsecond = 5_000, 0
    plain, hedged = [], []
    for _ in range(ngets):
        first = seconds = hot.first_byte(rng)
        policy.on_started()
        late_after = policy.late_after(NBYTES)
        if late_after is not None and first > late_after and policy.spend():
            nsecond += 1
            seconds = min(first, late_after + hot.first_byte(rng))
        policy.on_answered(NBYTES, seconds)
        plain.append(first)
        hedged.append(seconds)

    def p99(seconds: list[float]) -> float:
        return sorted(seconds)[ngets * 99 // 100]

    assert p99(hedged) <= p99(plain) / 2
    assert 0 < nsecond <= ngets * 0.05
