"""What a page of keys proves of names further down: a key that exists proves all directories above it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from s3stream_fs.namespace.keys import Hidden, component
from s3stream_fs.namespace.rows import Row, row_of
from s3stream_fs.types import ListPage, ObjectInfo

_MOST_DIRECTORIES: Final = 2000
"""Of which one page tells. A key has room for 500 levels, and of a hundred such keys each would be a listing of its
own: 50,000 of them, 2 s of work and 50 MB, for one question."""

_MOST_STEPS: Final = 20_000
"""From a level to the next one, over all keys: some 10 ms."""


def proven(prefix: str, page: ListPage) -> Iterator[tuple[str, bytes, Row]]:
    """The names below ``prefix`` that a flat page tells for certain, each with the prefix of its directory.

    A file is certain once no key can follow that makes its name a directory's.
    """
    last = None if page.next_token is None else _bytes(page.last)
    levels = _levels(prefix, page)
    directories: set[str] = set()
    files: list[tuple[str, bytes, ObjectInfo]] = []
    for key, info in _keys(page):
        if not key.startswith(prefix):
            continue
        above = prefix
        *parents, text = key[len(prefix) :].split("/")
        for parent in parents[:levels]:
            name = component(parent)
            if isinstance(name, Hidden):
                break
            below = f"{above}{parent}/"
            if below not in directories:
                directories.add(below)
                yield above, name, row_of(above, name, None)
            above = below
        else:
            if len(parents) >= levels:
                continue  # there may be a directory of this name, a level too far down
            name = component(text)
            if info is not None and not isinstance(name, Hidden) and (last is None or last >= _bytes(key) + b"/"):
                files.append((above, name, info))
    for above, name, info in files:
        if f"{info.id.key}/" not in directories:
            yield above, name, row_of(above, name, info)


def listed(prefix: str, page: ListPage) -> Iterator[tuple[str, ListPage]]:
    """What a flat page that has all keys below ``prefix`` says of each directory there, ``prefix`` first; of those
    that are far down nothing, where there are many."""
    levels = _levels(prefix, page)
    objects: dict[str, list[ObjectInfo]] = {prefix: []}
    prefixes: dict[str, list[str]] = {prefix: []}
    unusable: defaultdict[str, list[str]] = defaultdict(list)
    too_deep: set[str] = set()
    for key, info in _keys(page):
        if not key.startswith(prefix):
            continue
        above = prefix
        parents = key[len(prefix) :].split("/", levels)[:-1]
        for text in parents:
            below = f"{above}{text}/"
            if below not in objects:
                prefixes[above].append(below)
                objects[below], prefixes[below] = [], []
            above = below
        if len(parents) == levels:
            too_deep.add(above)
        elif info is None:
            unusable[above].append(key)
        else:
            objects[above].append(info)
    for directory in objects:
        if directory in too_deep:
            continue
        yield (
            directory,
            ListPage(tuple(objects[directory]), tuple(prefixes[directory]), None, tuple(unusable.get(directory, ()))),
        )


def _levels(prefix: str, page: ListPage) -> int:
    """How many levels below ``prefix`` a page tells of; of the last one, that its directories are there."""
    paths = [(key, len(prefix)) for key, _ in _keys(page) if key.startswith(prefix)]
    levels, ndirectories, nsteps = 1, 0, 0
    while paths:
        nsteps += len(paths)
        paths = [(key, end) for key, at in paths if (end := key.find("/", at) + 1)]
        ndirectories += len({key[:end] for key, end in paths})
        if ndirectories > _MOST_DIRECTORIES or nsteps > _MOST_STEPS:
            break
        levels += 1
    return levels


def _keys(page: ListPage) -> Iterator[tuple[str, ObjectInfo | None]]:
    """All keys of a page; of those that are unusable nothing is known but that they are there."""
    for info in page.objects:
        yield info.id.key, info
    for key in page.unusable:
        yield key, None


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
