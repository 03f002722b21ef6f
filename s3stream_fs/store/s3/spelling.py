"""How a store writes names in its listings: as they are, or in one of the two ways that ``encoding-type=url`` is read.

Owns what a name may mean, and what is known of it so far. Never believes the looks of a page: only what the store has
confirmed counts, and what that is, ``lister`` finds out. Pure.

Amazon S3 and MinIO write a space as ``+`` and ``+`` as ``%2B``; Ceph, moto and others write a space as ``%20``, and
some of those leave ``+`` as it is. SeaweedFS does the one in the last part of a key, and the other in the parts before
it and in common prefixes. Some stores know no encoding, say that they encode and do not, or encode only some names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from itertools import product
from typing import Final, NamedTuple
from urllib.parse import unquote


class Spelling(Enum):
    RAW = "as it is"
    PERCENT = "percent-encoded"
    FORM = "percent-encoded, with + for a space"


class Way(NamedTuple):
    """How names are spelled: the last part of each, and all in front of it."""

    front: Spelling
    last: Spelling


_ORDERS: Final = {
    True: (Spelling.FORM, Spelling.PERCENT, Spelling.RAW),
    False: (Spelling.RAW, Spelling.FORM, Spelling.PERCENT),
}
"""The likeliest first, by whether the store claims to encode."""

_CUT: Final = re.compile(r"((?:.*(?:/|%2[Ff]))?)(.+)", re.DOTALL)
"""Some stores encode the slash too. Where it was none, both parts are spelled in one way, and nothing is lost."""

_NO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
"""A percent sign that begins nothing: no encoding leaves one."""


def is_plain(names: Sequence[str]) -> bool:
    """Whether these names are the same in every spelling."""
    text = "/".join(names)
    return "%" not in text and "+" not in text


class Spellings:
    """What is not refuted, of names of one kind (keys, or common prefixes)."""

    def __init__(self, spelling: Spelling | None) -> None:
        """None for what has to be found out."""
        left = frozenset(Spelling if spelling is None else [spelling])
        self._front = left
        self._last = left

    def settled(self, names: Sequence[str]) -> list[str] | None:
        """The names that are meant, where what is known tells. None where it does not, or where they contradict it."""
        text = "/".join(names)
        front, last = _narrowed(text, self._front), _narrowed(text, self._last)
        if len(front) == len(last) == 1 and front == last:
            (spelling,) = front
            return None if _contradicts(text, spelling) else read(names, spelling)
        fronts, lasts = _cut(names)
        front, last = _narrowed("/".join(fronts), self._front), _narrowed("/".join(lasts), self._last)
        if len(front) != 1 or len(last) != 1:
            return None
        (one,), (other,) = front, last
        if _contradicts("/".join(fronts), one) or _contradicts("/".join(lasts), other):
            return None
        return _joined(fronts, lasts, Way(one, other))

    def readings(self, names: Sequence[str], *, announced: bool) -> dict[Way, list[str]]:
        """What the names may mean, the likeliest first: all that is not refuted, and differs."""
        fronts, lasts = _cut(names)
        front_text, last_text = "/".join(fronts), "/".join(lasts)
        order = _ORDERS[announced]
        ways = [Way(*way) for way in product(order, order) if way[0] in self._front and way[1] in self._last]
        # Those of one spelling for all are the likelier ones.
        ways.sort(key=lambda way: way.front is not way.last)
        told_apart = dict.fromkeys(
            Way(_stand_in(front_text, way.front), _stand_in(last_text, way.last)) for way in ways
        )
        return {way: _joined(fronts, lasts, way) for way in told_apart}

    def refute(self, names: Sequence[str], ways: set[Way], left: set[Way]) -> None:
        """Of ``ways``, which are of ``readings``, the store has confirmed that only these are ``left``."""
        fronts, lasts = _cut(names)
        gone = {way.front for way in ways} - {way.front for way in left}
        self._front = _without(self._front, gone, "/".join(fronts))
        gone = {way.last for way in ways} - {way.last for way in left}
        self._last = _without(self._last, gone, "/".join(lasts))


def contradict(names: Sequence[str], way: Way) -> bool:
    """Whether these names cannot all be spelled in this way."""
    fronts, lasts = _cut(names)
    return _contradicts("/".join(fronts), way.front) or _contradicts("/".join(lasts), way.last)


def encodes(names: Sequence[str], way: Way) -> bool:
    """Whether no percent sign in these names is taken for itself."""
    parts = zip(_cut(names), way, strict=True)
    return all(spelling is not Spelling.RAW or "%" not in "/".join(texts) for texts, spelling in parts)


def _contradicts(text: str, spelling: Spelling) -> bool:
    if spelling is Spelling.RAW or not ("%" in text or "+" in text):
        return False
    if _NO_ESCAPE.search(text):
        return True
    # Who writes %20 for a space means + by +, and who writes %2B for + means something else by +.
    other = "%20" if spelling is Spelling.FORM else "%2B"
    return "+" in text and (other in text or other.lower() in text or (spelling is Spelling.FORM and " " in text))


def _cut(names: Sequence[str]) -> tuple[list[str], list[str]]:
    found = [_CUT.fullmatch(name) for name in names]
    return [match[1] if match else "" for match in found], [match[2] if match else "" for match in found]


def _joined(fronts: Sequence[str], lasts: Sequence[str], way: Way) -> list[str]:
    pairs = zip(read(fronts, way.front), read(lasts, way.last), strict=True)
    return [front + last for front, last in pairs]


def _narrowed(text: str, left: frozenset[Spelling]) -> frozenset[Spelling]:
    """One each of those spellings that read this text alike."""
    return frozenset(_stand_in(text, spelling) for spelling in left)


def _stand_in(text: str, spelling: Spelling) -> Spelling:
    if spelling is Spelling.FORM and "+" not in text:
        spelling = Spelling.PERCENT
    if spelling is Spelling.PERCENT and "%" not in text:
        spelling = Spelling.RAW
    return spelling


def _without(left: frozenset[Spelling], gone: set[Spelling], text: str) -> frozenset[Spelling]:
    return frozenset(spelling for spelling in left if _stand_in(text, spelling) not in gone)


def read(names: Sequence[str], spelling: Spelling) -> list[str]:
    """The names that are meant. What is no UTF-8 becomes lone surrogates, which no path can have."""
    if spelling is Spelling.RAW:
        return list(names)
    if spelling is Spelling.FORM:
        names = [name.replace("+", " ") for name in names]
    return [unquote(name, errors="surrogateescape") if "%" in name else name for name in names]
