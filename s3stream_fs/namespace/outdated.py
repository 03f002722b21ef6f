"""Outdated: versions that the store no longer has, as a GET has found out, while names may still stand for them. Pure.

Owns whose word counts: what was asked for before a version was reported says nothing of it any more, what was asked for
later does, also where it says that the version is back.
"""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

_MAX_VERSIONS: Final = 20_000
"""At some 300 bytes each. One that had to go is reported again by the next reader who meets it."""

_AGAIN_SECONDS: Final = 1.0
"""So often the same version may be reported: many readers have it open, and there are stores whose listings insist on
what their GETs deny. A guess: a program that opens the file again after an error does not do it more often for long."""


class Outdated:
    """``moment`` is how many reports have come, which tells before from after where a clock may not."""

    def __init__(self) -> None:
        self.moment = 0
        self._versions: LRUCache[bytes, tuple[int, float]] = LRUCache(maxsize=_MAX_VERSIONS)
        """By identity (see Row): the moment of its last report, 0 where it has come back since; and when that was."""

    def report(self, identity: bytes, now: float) -> bool:
        """The store does not have this version. False where that was reported a moment ago: nothing shall follow."""
        _, reported_at = self._versions.get(identity, (0, float("-inf")))
        if now < reported_at + _AGAIN_SECONDS:
            return False
        self.moment += 1
        self._versions[identity] = (self.moment, now)
        return True

    def believes(self, identity: bytes, moment: int) -> bool:
        """Whether an answer that was asked for at ``moment`` may say that a name stands for this version.

        One that may has seen it: the version counts as there again.
        """
        if not self._versions:
            return True
        reported, reported_at = self._versions.get(identity, (0, 0.0))
        if moment < reported:
            return False
        if reported:
            self._versions[identity] = (0, reported_at)
        return True

    def holds(self, identity: bytes) -> bool:
        """Whether this version was reported, and nobody has seen it since."""
        return bool(self._versions) and self._versions.get(identity, (0, 0.0))[0] > 0
