"""The bytes of every synthetic object: computed from key and offset, so that any read of any size can be checked.

Owns the pattern. An object's bytes are the pattern read from a place that its key names, round and round. The pattern's
length is a prime, so that two block-aligned ranges of one object never hold the same bytes within 4 TiB, and bytes of
the wrong offset, of the wrong key or of an older version never pass for the right ones.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

PERIOD_NBYTES: Final = 16_777_213
"""The largest prime below 16 MiB: small enough to be made at every start, larger than any single part."""

_SEED: Final = 20260101


@cache
def pattern() -> bytes:
    """The pattern, twice over: any range of up to one period lies in it in one piece."""
    return random.Random(_SEED).randbytes(PERIOD_NBYTES) * 2


@lru_cache(maxsize=65_536)
def digest(key: str, version: int = 0) -> str:
    """32 hexadecimal digits that name one version of an object; serve as its ETag."""
    return hashlib.blake2b(f"{version}:{key}".encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=65_536)
def md5(key: str, size: int, version: int = 0) -> str:
    """The MD5 of an object's bytes, which is its ETag in S3 if it was put whole. Takes 130 us for 100 KB."""
    whole = memoryview(pattern())
    found = hashlib.md5(usedforsecurity=False)
    for offset in range(0, size, PERIOD_NBYTES):
        at = place(key, offset, version)
        found.update(whole[at : at + min(PERIOD_NBYTES, size - offset)])
    return found.hexdigest()


def place(key: str, offset: int, version: int = 0) -> int:
    """Where in the pattern the byte at ``offset`` lies, less than one period."""
    return (int(digest(key, version)[:12], 16) + offset) % PERIOD_NBYTES


def matches(key: str, offset: int, data: bytes | bytearray | memoryview, version: int = 0) -> bool:
    """Whether ``data`` is what the object ``key`` holds at ``offset``."""
    view = memoryview(data)
    whole = pattern()
    for start in range(0, len(view), PERIOD_NBYTES):
        piece = view[start : start + PERIOD_NBYTES]
        # Compares in place: no copy of either side.
        if not whole.startswith(piece, place(key, offset + start, version)):
            return False
    return True


def fill(key: str, path: Path, size: int) -> None:
    """Write the object ``key`` of ``size`` bytes to a local file."""
    whole = memoryview(pattern())
    with path.open("wb") as file:
        for offset in range(0, size, PERIOD_NBYTES):
            start = place(key, offset)
            file.write(whole[start : start + min(PERIOD_NBYTES, size - offset)])
