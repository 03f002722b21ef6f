"""Rates of GETs in, the number worth having in flight out."""

from __future__ import annotations

from itertools import pairwise

from s3stream_fs.fetch.concurrency import Concurrency

MIB = 1024 * 1024


def run(concurrency: Concurrency, in_flight: int, seconds: float, nbytes: int, start: float, stop: float) -> float:
    """So many GETs in flight at any time, each taking so long. Returns the time after the last."""
    now, interval = start, seconds / in_flight
    while now < stop:
        now += interval
        concurrency.on_complete(nbytes, seconds, now)
    return now


def test_the_limit_doubles_while_more_in_flight_brings_more() -> None:
    concurrency = Concurrency()
    now, limits = 0.0, []
    for _ in range(4):
        limits.append(concurrency.ahead_limit)
        now = run(concurrency, concurrency.ahead_limit, 0.1, 8 * MIB, now, now + 1.0)
    assert limits[0] == 32
    assert all(1.8 * before <= after <= 2.1 * before for before, after in pairwise(limits))


def test_the_limit_stays_at_twice_what_would_do_where_gets_wait_for_each_other() -> None:
    concurrency = Concurrency()
    now = run(concurrency, 8, 0.1, 8 * MIB, 0.0, 1.0)
    # The machine brings 400 a second, whatever is in flight; unimpeded each takes 0.1 s.
    for in_flight in (64, 128, 256):
        now = run(concurrency, in_flight, in_flight / 400, 8 * MIB, now, now + 2.0)
        assert 78 <= concurrency.ahead_limit <= 82


def test_the_limit_never_falls_below_its_floor() -> None:
    concurrency = Concurrency()
    run(concurrency, 1, 0.1, 8 * MIB, 0.0, 5.0)
    assert concurrency.ahead_limit == 32


def test_a_pause_of_the_readers_does_not_lower_the_limit_at_once() -> None:
    concurrency = Concurrency()
    now = run(concurrency, 100, 0.1, 8 * MIB, 0.0, 2.0)
    before = concurrency.ahead_limit
    run(concurrency, 1, 0.1, 8 * MIB, now + 0.5, now + 1.0)
    assert concurrency.ahead_limit >= 0.9 * before


def test_the_least_time_of_a_get_is_forgotten_after_a_while() -> None:
    concurrency = Concurrency()
    now = run(concurrency, 4, 0.05, 8 * MIB, 0.0, 1.0)
    assert concurrency.large_get_seconds == 0.05
    now = run(concurrency, 4, 0.2, 8 * MIB, now, now + 5.0)
    assert concurrency.large_get_seconds == 0.05
    run(concurrency, 4, 0.2, 8 * MIB, now, now + 20.0)
    assert concurrency.large_get_seconds == 0.2


def test_small_gets_say_nothing_of_large_ones() -> None:
    concurrency = Concurrency()
    run(concurrency, 64, 0.03, 100_000, 0.0, 1.0)
    assert concurrency.large_get_seconds == 0.0
    run(concurrency, 4, 0.2, 8 * MIB, 1.0, 2.0)
    assert concurrency.large_get_seconds == 0.2
