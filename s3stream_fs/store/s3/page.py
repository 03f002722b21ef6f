"""One page of a listing, from XML to what it says, checked: nothing of it is trusted. Pure.

botocore's own parser takes 40 to 70 ms for a page of 1,000 keys, ElementTree and a loop 5 to 6, and with the objects
cut out before (``contents``) it is 1.5 to 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError, fromstring

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.store.etags import bare, version_of
from s3stream_fs.store.objects import is_size, mtime_of
from s3stream_fs.store.s3.contents import MOST_CLASS_CHARS, PLACE, Row, cut_run
from s3stream_fs.store.s3.unprintable import meant, readable
from s3stream_fs.types import ListPage, ObjectId, ObjectInfo

_MOST_TAGS: Final = 500_000
"""Those that begin an element, and those that end one: 30 for an object of many fields, so some 16,000 objects. Of
each, which may have 4 bytes, a parser makes 100 bytes of memory."""

_USUAL_ROOT: Final = "ListBucketResult"
_OF_OTHER_ANSWERS: Final = frozenset(
    ("Code", "Buckets", "Version", "DeleteMarker", "KeyMarker", "Upload", "UploadIdMarker", "Part", "PartNumberMarker")
)
"""Elements of what is no listing of objects: errors, and listings of buckets, versions, uploads and parts."""


class Written(NamedTuple):
    """A page as it is written: names may be encoded, and nobody has compared them with what was asked for."""

    rows: list[Row]
    prefixes: list[str]
    truncated: bool
    next_token: str | None
    next_marker: str | None
    announced: bool
    """It says that names are encoded."""

    @property
    def keys(self) -> list[str]:
        return [row[0] for row in self.rows]


def written(body: bytes) -> Written:
    """What a page says, word for word. Raises StoreUnavailable for what is no listing, or not all of one."""
    run = cut_run(body)
    if run is not None:
        with suppress(_Elsewhere, StoreError):
            return _by_elements(run.rest, run.rows)
    try:
        return _by_elements(body)
    except StoreUnavailable:
        text = readable(body)
        if text is None:
            raise
    return _without_stand_ins(_by_elements(text))


def _without_stand_ins(page: Written) -> Written:
    return page._replace(
        rows=[(meant(row[0]), *row[1:]) for row in page.rows],
        prefixes=[meant(prefix) for prefix in page.prefixes],
        next_token=None if page.next_token is None else meant(page.next_token),
        next_marker=None if page.next_marker is None else meant(page.next_marker),
    )


def checked_page(
    page: Written, keys: Sequence[str], prefixes: Sequence[str], next_token: str | None, prefix: str, token: str | None
) -> ListPage:
    """A page of the keys below ``prefix``, which was asked for with ``token``.

    ``keys`` and ``prefixes`` are the page's own, as they are meant. One without any may have others behind it. An
    object of which something cannot be true is left out. Raises StoreError for a page that cannot be true as a whole.
    """
    for common in prefixes:
        if not common.startswith(prefix) or len(common) <= len(prefix):
            raise untrue(common, prefix)
    if not page.truncated:
        next_token = None
    elif not next_token or next_token == token:
        raise StoreError(f"the listing of {prefix!r} does not come to an end")
    rows = page.rows
    for key, row in zip(keys, rows, strict=True):
        if not key.startswith(prefix) and row[0]:
            raise untrue(key, prefix)
    unusable: tuple[str, ...] = ()
    if not all(row[3] for row in rows):
        unusable = tuple(key for key, row in zip(keys, rows, strict=True) if not row[3])
        keys = [key for key, row in zip(keys, rows, strict=True) if row[3]]
        rows = [row for row in rows if row[3]]
    mtimes = _Times()
    versions = _Versions(mtimes)
    new = tuple.__new__  # what NamedTuple's own constructor comes to, in half the time
    objects = [
        new(
            ObjectInfo,
            (
                new(ObjectId, (key, etag or versions[modified], int(size))),
                mtimes[modified],
                in_class or "STANDARD",
                restored != "",
            ),
        )
        for key, (_, modified, etag, size, in_class, restored) in zip(keys, rows, strict=True)
    ]
    return ListPage(tuple(objects), tuple(prefixes), next_token, unusable)


def untrue(name: str, prefix: str) -> StoreError:
    return StoreError(f"the store lists {name[:1024]!r} under {prefix!r}; it cannot be trusted")


class _Times(dict[str, int]):
    """Nanoseconds by what is written; many objects of a page have the same."""

    def __missing__(self, text: str) -> int:
        try:
            mtime_ns = mtime_of(datetime.fromisoformat(text.strip()))
        except (ValueError, OverflowError):
            mtime_ns = 0
        self[text] = mtime_ns
        return mtime_ns


class _Versions(dict[str, str]):
    """What names a version without an ETag, by when it is written to have been changed."""

    def __init__(self, mtimes: _Times) -> None:
        self._mtimes = mtimes

    def __missing__(self, text: str) -> str:
        version = self[text] = version_of("", self._mtimes[text])
        return version


class _Elsewhere(Exception):
    """What looks like the objects of the listing stands in something else."""


class _Names(dict[str, str]):
    """Names of elements without their namespace, which some stores leave out."""

    def __missing__(self, tag: str) -> str:
        name = self[tag] = tag.rpartition("}")[2]
        return name


def _by_elements(body: bytes | str, run: list[Row] | None = None) -> Written:
    """``run`` are the objects that stood where the body now has an element ``PLACE``.

    Raises _Elsewhere where that is no child of the root.
    """
    if (body.count("<") if isinstance(body, str) else body.count(b"<")) > _MOST_TAGS:
        raise StoreError("the store's listing has more elements than any listing")
    try:
        root = fromstring(body)
    except (ParseError, LookupError, ValueError) as error:  # the latter two: encodings that Python does not have
        raise StoreUnavailable(f"the store's listing cannot be read: {error}") from None
    names = _Names()
    rows: list[Row] = []
    prefixes: list[str] = []
    said: dict[str, str | None] = {}
    for node in root:
        name = names[node.tag]
        if name == "Contents":
            rows.append(_row(node, names))
        elif name == "CommonPrefixes":
            prefixes += [child.text or "" for child in node if names[child.tag] == "Prefix"]
        else:
            said[name] = node.text
    if run is not None:
        if rows or [names[node.tag] for node in root].count(PLACE) != 1:
            raise _Elsewhere
        rows = run
    if names[root.tag] != _USUAL_ROOT and not _is_listing(names[root.tag], said):
        raise StoreUnavailable(f"the store answers a listing with {names[root.tag]!r}")
    return Written(
        rows,
        prefixes,
        (said.get("IsTruncated") or "").strip().lower() in ("true", "1"),
        said.get("NextContinuationToken"),
        said.get("NextMarker"),
        said.get("EncodingType") == "url",
    )


def _is_listing(root: str, said: dict[str, str | None]) -> bool:
    """Whether it is one under another name, as some stores have it."""
    return root.lower() not in ("error", "html") and "IsTruncated" in said and _OF_OTHER_ANSWERS.isdisjoint(said)


def _row(node: Element, names: _Names) -> Row:
    found = {names[child.tag]: child.text or "" for child in node}
    key = found.get("Key", "")
    size = found.get("Size", "")
    if not (key and size.isascii() and size.isdecimal() and len(size) < 20 and is_size(int(size))):
        size = ""
    restored = "yes" if "RestoreStatus" in found and _is_restored(node, names) else ""
    etag = bare(found.get("ETag", ""))
    return key, found.get("LastModified", ""), etag, size, found.get("StorageClass", "")[:MOST_CLASS_CHARS], restored


def _is_restored(node: Element, names: _Names) -> bool:
    status = {names[field.tag]: field.text for child in node for field in child}
    return status.get("IsRestoreInProgress") == "false"
