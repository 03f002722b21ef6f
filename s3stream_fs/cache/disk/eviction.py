"""Which files go so that others come. Told what there is, it chooses, and removes nothing.

``lru`` always makes room for what is new. ``keep`` does not for a data set that is being read: each epoch reads all of
it, so whatever goes is missed as surely as what comes is hit. With room for half of the data set LRU hits 15 % of the
time and ``keep`` 50 %. A data set that nobody has read for a day makes room.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from s3stream_fs.cache.disk.policy import PINNED, Amount, Policy, Victim

IDLE_MS: Final = 24 * 3600 * 1000
"""A day: longer than most epochs and the pause over night, shorter than what people wait for a cache to turn over."""

_VICTIMS: Final = 64
"""Files that are chosen at once at the most: they go in one transaction."""


class Files(Protocol):
    """What is in the cache."""

    def oldest(self, limit: int, before_ms: int) -> list[Victim]:
        """At most ``limit`` files that were last used before a time, the least recently used first; no pinned one."""
        ...


class Eviction(Protocol):
    """A policy. What is pinned is not among what it may choose."""

    def victims(self, files: Files, wanted: Amount, spare: Collection[str], now_ms: int) -> list[Victim]:
        """Files with so many bytes, and so many of them, or as many as may go at once; none of ``spare``.

        () where nothing may go.
        """
        ...


class Lru:
    """What was not read for longest."""

    def victims(self, files: Files, wanted: Amount, spare: Collection[str], now_ms: int) -> list[Victim]:
        return _least_recent(files, wanted, spare, PINNED)


class Keep:
    """What was not read for a day."""

    def victims(self, files: Files, wanted: Amount, spare: Collection[str], now_ms: int) -> list[Victim]:
        return _least_recent(files, wanted, spare, now_ms - IDLE_MS)


def eviction_of(policy: Policy) -> Eviction:
    return Lru() if policy is Policy.LRU else Keep()


def _least_recent(files: Files, wanted: Amount, spare: Collection[str], before_ms: int) -> list[Victim]:
    victims: list[Victim] = []
    nbytes = 0
    for victim in files.oldest(_VICTIMS + len(spare), before_ms):
        if (nbytes >= wanted.nbytes and len(victims) >= wanted.nfiles) or len(victims) == _VICTIMS:
            break
        if victim.name not in spare:
            victims.append(victim)
            nbytes += victim.nbytes
    return victims
