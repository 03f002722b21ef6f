"""What happens before a mount is one: its bucket is listed, and a little of what is listed is read, like all data.

So a mount that comes up can be read. What fails ends in one line that says which of the two, and what to do.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

import trio

from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_daemon.source import Source
from s3stream_fs.errors import Denied, NoBucket, NotFound, ObjectChanged, StoreError, Untrusted, WrongRegion
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.types import ByteRange, ListPage, ObjectInfo

log = logging.getLogger(__name__)

STARTUP_SECONDS: Final = 15.0
"""How long a mount command tries to reach the bucket before it says that it cannot."""

_SAMPLE_SECONDS: Final = 5.0
"""For a page in which an object is looked for; it takes 0.1 s."""

_NBYTES: Final = 2
"""One would do, but there are servers that take ``bytes=0-0`` for no range at all (s3rver 3.7)."""

_CHANGES: Final = (NotFound, ObjectChanged)
"""What a GET gives for an object that is another one since it was listed."""

_NREADS: Final = 3
"""One object that may not be read is no reason not to mount, if another may."""


async def check_bucket(bucket: ObjectStore, source: Source, names: ObjectStore | None = None) -> None:
    """``names`` is what is listed, where that is a snapshot. Raises ExitError, and StoreError for what a LIST gave."""
    store = RetryingStore(bucket, RetryPolicy(deadline_seconds=STARTUP_SECONDS))
    listed, once = (store, bucket) if names is None else (names, names)
    for again in (True, False):
        # One LIST shows that there is a bucket. Where it names nothing that can be read, another one looks deeper.
        found = _readable(await listed.list_page(source.prefix, limit=1)) or await _deeper(once, source.prefix)
        refused = await _read_one(store, found)
        if isinstance(refused, (Denied, NotFound)) and len(found) == 1:
            found = await _deeper(once, source.prefix) or found
            refused = await _read_one(store, found)
        if refused is None:
            return
        if names is not None and isinstance(refused, _CHANGES) and not isinstance(refused, NoBucket):
            log.warning("%s: what was tried of the snapshot is not in the bucket any more (%s)", source, refused)
            return
        if not again or not isinstance(refused, _CHANGES):
            said = str(refused)
            if not said.startswith("GET of"):  # the retries name it
                said = f"GET of {found[-1].id.key!r} gave {said}"
            line = f"{source} can be listed, but not read: {said}; {_advice(refused)}"
            raise ExitError(one_line(line), ExitCode.STORE)


async def _deeper(store: ObjectStore, prefix: str) -> list[ObjectInfo]:
    """A few objects of the first page of all, from one end of it to the other; none where it cannot be had.

    A policy may allow one directory at a time only, and a page may hold what cannot be read: no reason not to mount.
    """
    with suppress(StoreError), trio.move_on_after(_SAMPLE_SECONDS):
        found = _readable(await store.list_page(prefix, flat=True))
        return found[:: max(-(-len(found) // _NREADS), 1)]
    return []


def _readable(page: ListPage) -> list[ObjectInfo]:
    return [info for info in page.objects if info.id.size and not info.archived and _is_text(info.id.key)]


def _is_text(key: str) -> bool:
    """Whether a request can hold it: not, if it stands for bytes that are no UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in key)


async def _read_one(store: ObjectStore, found: list[ObjectInfo]) -> StoreError | None:
    """None where one of them can be read or there is none; else what the last one gave. Raises WrongRegion."""
    refused: StoreError | None = None
    for info in found:
        try:
            await store.get_range(info.id, ByteRange(0, min(_NBYTES, info.id.size)), lambda piece: None)
            return None
        except WrongRegion:
            raise
        except StoreError as error:
            refused = error
            if not isinstance(error, (Denied, *_CHANGES)):
                return error
    return refused


def _advice(error: StoreError) -> str:
    match error:
        case NotFound() | ObjectChanged():
            return "the store has other objects than it lists"
        case Denied() if "SSE-C" in str(error):
            return "or mount a prefix of what is not"
        case Denied():
            return (
                "it takes credentials that may s3:GetObject (and kms:Decrypt, where KMS encrypts); where only a part of"
                " the bucket may be read, mount that: s3://BUCKET/PREFIX"
            )
        case Untrusted():
            return "--ca-bundle FILE names the certificates of a private authority"
        case _:
            return "check --endpoint-url, --addressing and what lies between"
