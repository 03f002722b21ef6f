"""What the battery puts into a bucket, and what a mount has to show of it.

Owns names and bytes. Which of the names a store refuses stands in ``stores``.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20

MULTIPART: Final = "multipart.bin"
PART_NBYTES: Final = 8 * MIB
"""More than the 5 MiB that stores ask of each part but the last, and far less than all is read ahead at first."""

CROWD: Final = tuple(f"crowd/{number:05}" for number in range(2500))
"""One folder of more than two pages of a listing."""

MARKER: Final = "marker/"
SHADOWED: Final = "both"
HIDDEN: Final = ("a//b", "/lead", "up/../q")
"""Keys that no path can name."""

NAMES: Final = (
    "plain.txt",
    "empty",
    "with space",
    "two  spaces",
    " space before",
    "space after ",
    "plus+plus",
    "plus + space",
    "per%cent",
    "per%20cent",
    "per%2Fcent",
    "per%2Bcent+",
    "hash#hash",
    "what?",
    "a=b&c;d,e",
    "<tag>&amp;",
    "quo\"te'",
    "back\\slash",
    "star*[br]{ace}^`|~",
    "at@ex!dollar$",
    "co:lon",
    ".hidden",
    "...",
    "dot.",
    "Case",
    "case",
    "grüße",
    "e\N{COMBINING ACUTE ACCENT}",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "日本語",
    "\N{GRINNING FACE}",
    "n" * 255,
    "tab\there",
    "line\nline",
    "control\x01",
    "delete\x7f",
    "\N{NO-BREAK SPACE}",
    "in a folder/with space+plus %41",
    "percent%/dir%20/file",
    "a/b/c/d/e/f/g",
    "日本/語 +",
    "both/below",
)
"""Names of files, each odd in one way or more."""


def content(key: str) -> bytes:
    """The bytes of a key: always the same, of another length for each."""
    choice = random.Random(key)
    if key == "empty" or key.endswith("/"):
        return b""
    if key == MULTIPART:
        return choice.randbytes(3 * PART_NBYTES + 12345)
    return choice.randbytes(choice.randrange(1, 100 if key.startswith("crowd/") else 100_000))


def shown(keys: Iterable[str]) -> dict[str, str | None]:
    """Every path that a mount of a bucket with these keys has, with the sha256 of its bytes; None for a directory."""
    found: dict[str, str | None] = {}
    for key in keys:
        *folders, last = key.split("/")
        good = 0
        while good < len(folders) and folders[good] not in ("", ".", ".."):
            good += 1
        for depth in range(good):
            found["/".join(folders[: depth + 1])] = None
        if good == len(folders) and last not in ("", ".", ".."):
            found.setdefault(key, digest(content(key)))
    return found


def read(root: Path) -> Mapping[str, str | None]:
    """The same of a real tree, read through to the last byte."""
    found: dict[str, str | None] = {}
    for folder, directories, files in os.walk(root, onerror=_raise):
        at = Path(folder)
        found |= {str((at / name).relative_to(root)): None for name in directories}
        found |= {str((at / name).relative_to(root)): digest((at / name).read_bytes()) for name in files}
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _raise(error: OSError) -> None:
    raise error
