"""Characters that XML cannot carry, in pages of stores that write them all the same. Pure.

A store that encodes no names writes ``\\x01`` as it is, or as ``&#1;``, and no parser takes the page: one such key
would hide its whole directory. Each such character is read as a stand-in of a private plane, and put right in names.
"""

from __future__ import annotations

import re
from typing import Final

_PLANE: Final = 0xF0000
"""A private plane of Unicode: a stand-in is as far into it as the character is into the first one."""

_STAND_IN: Final = re.compile("[\U000f0000-\U000fffff]")

_UNPRINTABLE: Final = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
"""In XML 1.0. What is no UTF-8 becomes lone surrogates, which no path can have."""

_AS_IT_IS: Final = re.compile(f"[{_UNPRINTABLE}]")
_BY_NUMBER: Final = re.compile("&#(?:x0*([0-9A-Fa-f]{1,4})|0*([0-9]{1,5}));")


def readable(body: bytes) -> str | None:
    """A page with stand-ins. None where nothing needs one, or where one could not be told from what is there."""
    text = body.decode("utf-8", "surrogateescape")
    if _STAND_IN.search(text):
        return None
    mended = _AS_IT_IS.sub(lambda found: chr(_PLANE + ord(found[0])), text)
    mended = _BY_NUMBER.sub(_numbered, mended)
    return None if mended == text else mended


def meant(name: str) -> str:
    """A name of such a page, without stand-ins."""
    return _STAND_IN.sub(lambda found: chr(ord(found[0]) - _PLANE), name)


def _numbered(found: re.Match[str]) -> str:
    code = int(found[1], 16) if found[1] else int(found[2])
    return chr(_PLANE + code) if code <= 0xFFFF and _AS_IT_IS.match(chr(code)) else found[0]
