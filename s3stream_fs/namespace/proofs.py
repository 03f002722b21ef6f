"""What a page of keys proves of names further down: a key that exists proves all directories above it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from s3stream_fs.namespace.keys import Hidden, component
from s3stream_fs.namespace.rows import Row, row_of
from s3stream_fs.types import ListPage, ObjectInfo


def proven(prefix: str, page: ListPage) -> Iterator[tuple[str, bytes, Row]]:
    """The names below ``prefix`` that a flat page tells for certain, each with the prefix of its directory.

    A file is certain once no key can follow that makes its name a directory's.
    """
    last = None if page.next_token is None else _bytes(page.last)
    directories: set[str] = set()
    files: list[tuple[str, bytes, ObjectInfo]] = []
    for key, info in _keys(page):
        if not key.startswith(prefix):
            continue
        above = prefix
        *parents, text = key[len(prefix) :].split("/")
        for parent in parents:
            name = component(parent)
            if isinstance(name, Hidden):
                break
            below = f"{above}{parent}/"
            if below not in directories:
                directories.add(below)
                yield above, name, row_of(above, name, None)
            above = below
        else:
            name = component(text)
            if info is not None and not isinstance(name, Hidden) and (last is None or last >= _bytes(key) + b"/"):
                files.append((above, name, info))
    for above, name, info in files:
        if f"{info.id.key}/" not in directories:
            yield above, name, row_of(above, name, info)


def listed(prefix: str, page: ListPage) -> Iterator[tuple[str, ListPage]]:
    """What a flat page that has all keys below ``prefix`` says of each directory there, ``prefix`` first."""
    objects: dict[str, list[ObjectInfo]] = {prefix: []}
    prefixes: dict[str, list[str]] = {prefix: []}
    unusable: defaultdict[str, list[str]] = defaultdict(list)
    for key, info in _keys(page):
        if not key.startswith(prefix):
            continue
        above = prefix
        for text in key[len(prefix) :].split("/")[:-1]:
            below = f"{above}{text}/"
            if below not in objects:
                prefixes[above].append(below)
                objects[below], prefixes[below] = [], []
            above = below
        if info is None:
            unusable[above].append(key)
        else:
            objects[above].append(info)
    for directory in objects:
        yield (
            directory,
            ListPage(tuple(objects[directory]), tuple(prefixes[directory]), None, tuple(unusable.get(directory, ()))),
        )


def _keys(page: ListPage) -> Iterator[tuple[str, ObjectInfo | None]]:
    """All keys of a page; of those that are unusable nothing is known but that they are there."""
    for info in page.objects:
        yield info.id.key, info
    for key in page.unusable:
        yield key, None


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
