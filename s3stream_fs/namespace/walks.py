"""Which directories a walk comes to next, so that they are listed before it asks. Pure.

``find``, ``os.walk`` and ImageFolder go through the sub-directories of a directory in its order, one after another;
each would wait for a request of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from s3stream_fs.namespace.listing import Listing

_MAX_WALKS: Final = 1000
"""Directories whose walks are remembered."""

_MOST: Final = 32
"""Directories that are listed ahead of a walk."""

_STEP: Final = 8
"""How many directories a walk may leave out and still be one."""


@dataclass(slots=True)
class _Walk:
    """``at`` is the directory that was opened last, ``next`` are those that a walk would come to now."""

    at: str
    next: list[str]
    window: int


class Walks:
    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._walks: LRUCache[str, _Walk] = LRUCache(maxsize=_MAX_WALKS)

    def on_open(self, prefix: str, kept: Callable[[str], Listing | None]) -> list[str]:
        """A directory is being read: the prefixes of those that are to be listed as well."""
        parent = prefix[: prefix.rfind("/", 0, -1) + 1]
        listing = kept(parent)
        if not self._enabled or listing is None or parent == prefix:
            return []
        name = prefix[len(parent) : -1].encode("utf-8", "surrogatepass")
        position, ahead = listing.directories_after(name, _MOST)
        walk = self._walks.get(parent)
        if walk is None:
            # Who begins with the first of them probably goes on; who begins elsewhere probably knows where to go.
            window = 1 if position < _STEP else 0
        elif prefix == walk.at:
            window = walk.window
        else:
            window = min(max(2 * walk.window, 1), _MOST) if prefix in walk.next[:_STEP] else 0
        self._walks[parent] = _Walk(prefix, ahead, window)
        return ahead[:window]
