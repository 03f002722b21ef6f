"""ETags, as stores write them and as this package keeps them, and what stands in for one that is not given. Pure.

Owns the one form in which a version is named: an ETag without what surrounds it, or ``@`` and the second of the last
change. Never compares times: whether an object has changed since, the store tells (``If-Unmodified-Since``).
"""

from __future__ import annotations

import re
from typing import Final

from s3stream_fs.types import MAX_MTIME_NS, NANOSECONDS

_MAX_CHARS: Final = 1024
"""Those of stores have 32 to 40 characters, some a few more; this is room enough, and fits a header."""

TAG: Final = rf"[!#-?A-~][!#-~]{{0,{_MAX_CHARS - 1}}}"
"""What may stand between the quotes of If-Match (RFC 9110), but for what is not ASCII, which clients send in more than
one way, and for ``@`` at its beginning, by which a time is known."""

_TAG: Final = re.compile(TAG)
_TIME: Final = re.compile("@([0-9]{1,10})")
_HEX: Final = re.compile("[0-9A-Fa-f]{32,}(?:-[0-9]+)?")
"""A checksum, perhaps with the number of its parts, in which large and small letters are the same digits."""

_WEAK: Final = re.compile(rf"[Ww]/(?=[\"']|(?:{_HEX.pattern})?\Z)")
"""In front of anything else it may be the beginning of the ETag: of those in Base64, one in 4,096 begins so."""


def bare(etag: str) -> str:
    """An ETag without what surrounds it: white space, ``W/``, and quotes, single, double or as XML spells them.

    Its letters stay as they are, since some stores compare them one by one with those of If-Match. Empty for what
    cannot be sent back: with quotes, spaces or control characters in it, not of ASCII, or longer than 1,024 characters;
    and for what begins with ``@``, which would be taken for a time.
    """
    if "&" in etag:
        etag = etag.replace("&quot;", '"').replace("&#34;", '"')
    while True:
        text = etag.strip(" \t\r\n")
        text = (text[2:] if _WEAK.match(text) else text).strip('"')
        if len(text) > 1 and text[0] == text[-1] == "'":
            text = text[1:-1]
        if text == etag:
            return text if _TAG.fullmatch(text) else ""
        etag = text


def same(one: str, other: str) -> bool:
    """Whether two bare ETags are of one version. Of checksums some stores write the digits now small and now large."""
    return one == other or (
        one.lower() == other.lower() and _HEX.fullmatch(one) is not None and _HEX.fullmatch(other) is not None
    )


def version_of(etag: str, mtime_ns: int) -> str:
    """What names the version of an object: its ETag, bare; without one ``@`` and the second of its last change.

    Whole seconds since 1970, rounded down, for HTTP knows no others: ``@1700000000``. Empty where there is neither, and
    for a time that is no more than a stand-in: 1970 and before, or as late as ``MAX_MTIME_NS``.
    """
    return bare(etag) or (f"@{mtime_ns // NANOSECONDS}" if NANOSECONDS <= mtime_ns < MAX_MTIME_NS else "")


def time_of(version: str) -> int | None:
    """The second of the last change, since 1970, by which a version is known; None for one that is known by an ETag."""
    found = _TIME.fullmatch(version)
    return None if found is None else int(found[1])
