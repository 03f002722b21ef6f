"""Which name a key shows in a directory, or why it shows none. Pure.

S3 keys are any text; a path component is not: it cannot be empty, ``.`` or ``..``, hold NUL or ``/``, or be longer than
255 bytes. Keys that no path can name are hidden, never changed into something else.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

NAME_MAX: Final = 255
"""Bytes in a path component, as Linux has it."""


class Hidden(Enum):
    """Why a key cannot be shown."""

    EMPTY = "an empty path component (//)"
    DOT = "a path component that is '.' or '..'"
    NUL = "a NUL byte"
    TOO_LONG = "a path component longer than 255 bytes"
    NOT_TEXT = "characters that UTF-8 cannot carry"
    UNTRUE = "the store says what cannot be true of it, such as its size"


def component(text: str) -> bytes | Hidden:
    """One component of a key as a name, byte for byte, or why it cannot be one."""
    if not text:
        return Hidden.EMPTY
    if text in (".", ".."):
        return Hidden.DOT
    if "\0" in text:
        return Hidden.NUL
    try:
        name = text.encode()
    except UnicodeEncodeError:
        return Hidden.NOT_TEXT
    return Hidden.TOO_LONG if len(name) > NAME_MAX else name


def text_of(name: bytes) -> str | None:
    """The key component that a name from the kernel asks for; None where no key can have it."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return text if component(text) == name else None


def settled_before(last: bytes) -> bytes:
    """Up to which name (not included) a listing that has come to key ``last`` is final.

    ``last`` is relative to the directory; keys come in the order of their bytes. A directory ``m`` shows up as ``m/``,
    which sorts after every ``m`` + character below ``/`` (space ``!`` ``-`` ``.`` and more): ``m``, ``m-x``, ``m/``.
    So a later key can still insert the name ``m``, or turn the file ``m`` into a directory, if ``m/`` is greater than
    ``last``. For such an ``m`` that is not itself greater than ``last``: m <= last < m/, so ``last`` is ``m`` or begins
    with ``m`` and a character below ``/``. The shortest such ``m`` is the least of them, since each is a prefix of the
    next; every name before it is final.
    """
    for length in range(1, len(last)):
        if last[length] < 0x2F:
            return last[:length]
    return last
