"""How a store writes names in its listings: as they are, or in one of the two ways that ``encoding-type=url`` is read.

Owns the decision, as far as a page tells it by itself. Pure. What a page leaves open only the store can tell: see
``lister``.

Amazon S3 and MinIO write a space as ``+`` and ``+`` as ``%2B``; Ceph, moto and others write a space as ``%20``, and
some of those leave ``+`` as it is. Some stores know no encoding, say that they encode and do not, or encode only some
names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final
from urllib.parse import unquote


class Spelling(Enum):
    RAW = "as it is"
    PERCENT = "percent-encoded"
    FORM = "percent-encoded, with + for a space"


_NEVER_ENCODED: Final = re.compile(r"[^\x21-\x7e]|%(?![0-9A-Fa-f]{2})")
"""No encoding leaves a space, a control character or what is not ASCII, nor a percent sign that begins nothing."""


def is_plain(names: Sequence[str]) -> bool:
    """Whether these names are the same in every spelling."""
    text = "/".join(names)
    return "%" not in text and "+" not in text


def read(names: Sequence[str], spelling: Spelling) -> list[str]:
    """The names that are meant. What is no UTF-8 becomes lone surrogates, which no path can have."""
    if spelling is Spelling.RAW:
        return list(names)
    if spelling is Spelling.FORM:
        names = [name.replace("+", " ") for name in names]
    return [unquote(name, errors="surrogateescape") if "%" in name else name for name in names]


def not_refuted(names: Sequence[str], *, announced: bool) -> list[Spelling]:
    """The spellings that these names can be in by their looks, of those that are the same for all of them only one.

    The likeliest comes first: ``announced`` says that the store claims to encode.
    """
    text = "/".join(names)
    if _NEVER_ENCODED.search(text):
        return [Spelling.RAW]
    left = []
    # Who writes %20 for a space means + by +, and who writes %2B for + means something else by +.
    if "+" in text and "%20" not in text:
        left.append(Spelling.FORM)
    if not ("+" in text and ("%2B" in text or "%2b" in text)):
        left.append(Spelling.PERCENT)
    left.insert(len(left) if announced else 0, Spelling.RAW)
    return left
