"""What the simulated bucket holds: trees of synthetic keys that are computed, never stored, and a few real files.

Owns names, sizes, versions and the order of a listing. Knows no HTTP.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.content import digest, md5

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """``100KB``, ``8MiB``, ``4GiB`` or plain bytes. Raises ValueError."""
    found = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"not a size: {text!r}")
    return int(found[1]) * _UNITS[found[2].upper()]


@dataclass(frozen=True, slots=True)
class Item:
    """An object. ``fd`` is an open file that holds its bytes, or None where they are computed. The ETag is the MD5 of
    its bytes where it is ``digested``, else other digits."""

    key: str
    size: int
    version: int = 0
    fd: int | None = None
    digested: bool = False

    @property
    def etag(self) -> str:
        return md5(self.key, self.size, self.version) if self.digested else digest(self.key, self.version)


class Source(Protocol):
    """A run of keys in order, none of them between two keys of another source."""

    @property
    def prefix(self) -> str: ...
    def __len__(self) -> int: ...
    def item(self, index: int) -> Item: ...
    def index_from(self, key: str) -> int:
        """The index of the first key that is not less than ``key``."""

    def find(self, key: str) -> Item | None: ...


class Tree:
    """``count`` objects of ``size`` bytes below ``prefix``, ``per_folder`` of them in each folder (0: one flat one)."""

    digested = False
    """Whether ETags are the MD5s of objects."""

    def __init__(self, prefix: str, count: int, size: int, per_folder: int = 0) -> None:
        self.prefix = prefix.rstrip("/") + "/"
        if not 0 <= count <= 10**7 or size < 0 or per_folder < 0 or (per_folder and count > 10**4 * per_folder):
            raise ValueError(f"at most 10**7 objects in 10**4 folders fit the names of {prefix!r}")
        self._count = count
        self._size = size
        self._per_folder = per_folder
        self._versions: dict[int, int] = {}

    @classmethod
    def parse(cls, text: str) -> Tree:
        """``PREFIX:COUNT:SIZE[:PER_FOLDER]``. Raises ValueError."""
        prefix, count, size, *rest = text.split(":")
        if not prefix or len(rest) > 1:
            raise ValueError(f"not a tree: {text!r}")
        return cls(prefix, int(count), parse_size(size), int(rest[0]) if rest else 0)

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        if self._per_folder:
            return f"{self.prefix}{index // self._per_folder:04d}/{index:07d}.bin"
        return f"{self.prefix}{index:07d}.bin"

    def item(self, index: int) -> Item:
        return Item(self.key(index), self._size, self._versions.get(index, 0), digested=self.digested)

    def index_from(self, key: str) -> int:
        return bisect_left(range(self._count), key, key=self.key)

    def find(self, key: str) -> Item | None:
        index = self._index(key)
        return None if index is None else self.item(index)

    def overwrite(self, key: str) -> bool:
        """Another version of the object from now on: other bytes, another ETag. False for a key that is not here."""
        index = self._index(key)
        if index is None:
            return False
        self._versions[index] = self._versions.get(index, 0) + 1
        return True

    def _index(self, key: str) -> int | None:
        digits = key[-11:-4]
        if not digits.isdecimal() or (index := int(digits)) >= self._count or key != self.key(index):
            return None
        return index


class RealFile:
    """One key whose bytes are a local file's."""

    def __init__(self, key: str, path: Path) -> None:
        self.prefix = key
        fd = os.open(path, os.O_RDONLY)
        self._item = Item(key, os.fstat(fd).st_size, fd=fd)

    def __len__(self) -> int:
        return 1

    def item(self, index: int) -> Item:
        return self._item

    def index_from(self, key: str) -> int:
        return 0 if key <= self.prefix else 1

    def find(self, key: str) -> Item | None:
        return self._item if key == self.prefix else None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; ``next_key`` is where the next one starts, None on the last."""

    items: tuple[Item, ...]
    prefixes: tuple[str, ...]
    next_key: str | None


class Bucket:
    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sorted(sources, key=lambda source: source.prefix)
        trees = [source.prefix for source in sources if isinstance(source, Tree)]
        for source in sources:
            if any(source.prefix.startswith(tree) for tree in trees if tree != source.prefix):
                raise ValueError(f"{source.prefix!r} lies inside another tree")
        if len({source.prefix for source in sources}) < len(sources):
            raise ValueError("two trees or files of the same name")

    def find(self, key: str) -> Item | None:
        for source in self._sources:
            if key.startswith(source.prefix) and (item := source.find(key)) is not None:
                return item
        return None

    def overwrite(self, key: str) -> bool:
        return any(source.overwrite(key) for source in self._sources if isinstance(source, Tree))

    def page(self, prefix: str, delimiter: str, start: str, limit: int) -> Page:
        """Keys below ``prefix`` from ``start`` on (included), those with a further ``delimiter`` rolled up."""
        items: list[Item] = []
        prefixes: list[str] = []
        start = max(start, prefix)
        if not limit:
            return Page((), (), None)
        for source in self._sources:
            index = source.index_from(start)
            while index < len(source):
                item = source.item(index)
                if not item.key.startswith(prefix):
                    break
                if len(items) + len(prefixes) == limit:
                    return Page(tuple(items), tuple(prefixes), item.key)
                cut = item.key.find(delimiter, len(prefix)) if delimiter else -1
                if cut < 0:
                    items.append(item)
                    index += 1
                else:
                    common = item.key[: cut + len(delimiter)]
                    prefixes.append(common)
                    # The first key behind all that begin with the common prefix.
                    start = common[:-1] + chr(ord(common[-1]) + 1)
                    index = source.index_from(start)
        return Page(tuple(items), tuple(prefixes), None)
