"""The objects of a page, ``<Contents>`` after ``<Contents>``, found by a regular expression where they are as usual.

Owns the shapes in which stores write them. Only recognises: whatever is not seen at once to be well-formed, and to mean
what it seems to mean, is left to a parser of XML (``page``), which would find the same in three times the time. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

PLACE: Final = "run-of-contents"

Row = tuple[str, str, str, str, str, str]
"""Of one object: key as it is written, LastModified, bare ETag, size in digits (empty for one that cannot be true),
storage class, and whether restored."""

MOST_CLASS_CHARS: Final = 64
"""Of a storage class; those that there are have up to 19."""


class Run(NamedTuple):
    """All ``<Contents>`` of a page, and the page with one empty element ``PLACE`` instead of them."""

    rows: list[Row]
    rest: str


_CHAR: Final = "[ -%'-;=?-~]"
_TEXT: Final = f"{_CHAR}*"
"""ASCII that is the same in XML and in what it says."""

_SHORT_TEXT: Final = f"{_CHAR}{{0,{MOST_CLASS_CHARS}}}"

_NOT_IN_KEYS: Final = re.compile("[>&\x00-\x1f\ufffe\uffff]")
"""What a key may not hold to be the same in XML and in what it says. Looked for in all keys of a page at once, which is
faster. (``<`` ends a key; and of bytes that are UTF-8 there are no lone surrogates.)"""

_QUOTE: Final = '(?:&quot;|&#34;|")'

_FIELDS: Final = {
    "Key": "<Key>([^<]+)</Key>",
    "LastModified": f"(?:<LastModified>({_TEXT})</LastModified>)?+",
    "ETag": f"(?:<ETag>{_QUOTE}([0-9A-Za-z-]{{0,1024}}){_QUOTE}</ETag>)?+",
    # Longer ones may be too large; that is for ``page`` to say.
    "Size": "<Size>([0-9]{1,15})</Size>",
    "StorageClass": f"(?:<StorageClass>({_SHORT_TEXT})</StorageClass>)?+",
}
"""By name, in the order of a row. What may be missing of one object may be missing of any."""

_LEFT_OUT: Final = {
    "ChecksumAlgorithm": f"(?:<ChecksumAlgorithm>{_TEXT}</ChecksumAlgorithm>)*+",
    "ChecksumType": f"(?:<ChecksumType>{_TEXT}</ChecksumType>)?+",
    "Type": f"(?:<Type>{_TEXT}</Type>)?+",
    "Owner": f"(?:<Owner>(?:<ID>{_TEXT}</ID>)?+(?:<DisplayName>{_TEXT}</DisplayName>)?+</Owner>)?+",
}
"""What nobody asks for. RestoreStatus is not among it: a page that has one is read otherwise."""

_OPEN: Final = "<Contents>"
_CLOSE: Final = "</Contents>"
_TAG: Final = re.compile("<([A-Za-z]+)>")
_DECLARATION: Final = re.compile(r'<\?xml version="1\.0"(?: encoding="[Uu][Tt][Ff]-8")?\?>')


class _Shape(NamedTuple):
    """``row`` finds whole objects that another one follows, or nothing. ``order`` puts what is found into a row's."""

    row: re.Pattern[str]
    order: Callable[[Row], Row] | None


@lru_cache(maxsize=64)
def _shape(tags: tuple[str, ...]) -> _Shape | None:
    """Of the objects of a page, from the names of the elements in its first one. None for what is not known."""
    tags = tuple(tag for tag in tags if tag not in ("ID", "DisplayName"))
    if len(set(tags)) < len(tags) or not {"Key", "Size"} <= set(tags) <= _FIELDS.keys() | _LEFT_OUT.keys():
        return None
    # Objects with checksums and without stand side by side; of those that have one it comes after the ETag.
    known = [tag for tag in tags if not tag.startswith("Checksum")]
    at = known.index("ETag") + 1 if "ETag" in known else len(known)
    known[at:at] = ["ChecksumAlgorithm", "ChecksumType"]
    parts = [_FIELDS.get(tag) or _LEFT_OUT[tag] for tag in known]
    found = [tag for tag in known if tag in _FIELDS]
    missing = [tag for tag in (*_FIELDS, "RestoreStatus") if tag not in found]
    pattern = _OPEN + "".join(parts) + "()" * len(missing) + _CLOSE + rf"(?={_OPEN}|\Z)"
    found += missing
    order = [found.index(tag) for tag in (*_FIELDS, "RestoreStatus")]
    return _Shape(re.compile(pattern), None if order == sorted(order) else _in_order(order))


def _in_order(order: list[int]) -> Callable[[Row], Row]:
    put: Any = itemgetter(*order)
    return put  # type: ignore[no-any-return]


def cut_run(body: bytes) -> Run | None:
    """The objects of a page, if they stand in one run and are all of one shape. None where this is not seen at once."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    start, stop = text.find(_OPEN), text.rfind(_CLOSE) + len(_CLOSE)
    declaration = _DECLARATION.match(text)
    begin = declaration.end() if declaration else 0
    # A DOCTYPE could give entities another meaning. (One character is found ten times as fast as two.)
    if start < 0 or stop < start or ("!" in text and "<!" in text):
        return None
    if declaration is None and text.startswith("<?"):
        return None  # perhaps of another encoding
    shape = _shape(tuple(_TAG.findall(text, start + len(_OPEN), text.find(_CLOSE, start))))
    if shape is None:
        return None
    run = text[start:stop]
    rows: list[Row] = shape.row.findall(run)
    # As many as there are, each followed by the next one: so they are the whole run, and nothing stands between them.
    if len(rows) != run.count(_OPEN):
        return None
    if shape.order is not None:
        rows = [shape.order(row) for row in rows]
    if _NOT_IN_KEYS.search("".join([row[0] for row in rows])):
        return None
    before, after = text[begin:start], text[stop:]
    if PLACE in before or PLACE in after:
        return None
    return Run(rows, f"{before}<{PLACE}/>{after}")
