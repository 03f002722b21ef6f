"""What happens before a mount is one: its bucket is listed, and one byte of what is listed is read, like all data.

So a mount that comes up can be read. What fails ends in one line that says which of the two, and what to do.
"""

from __future__ import annotations

from typing import Final

from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_daemon.source import Source
from s3stream_fs.errors import Denied, NotFound, ObjectChanged, StoreError, Untrusted, WrongRegion
from s3stream_fs.store import ObjectStore
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.types import ByteRange, ListPage, ObjectInfo

STARTUP_SECONDS: Final = 15.0
"""How long a mount command tries to reach the bucket before it says that it cannot."""

_NREADS: Final = 3
"""One object that may not be read is no reason not to mount, if another may."""


async def check_bucket(bucket: ObjectStore, source: Source, names: ObjectStore | None = None) -> None:
    """``names`` is what is listed, where that is a snapshot. Raises ExitError, and StoreError for what a LIST gave."""
    store = RetryingStore(bucket, RetryPolicy(deadline_seconds=STARTUP_SECONDS))
    for again in (True, False):
        page = await _listed(store if names is None else names, source.prefix)
        found = _spread([info for info in page.objects if info.id.size and not info.archived])
        if await _read_one(store, source, found) or not found or names is not None:
            return
        if not again:
            raise ExitError(
                one_line(
                    f"{source} can be listed, but not read: the store has another {found[0].id.key!r} than it lists"
                ),
                ExitCode.STORE,
            )


async def _listed(store: ObjectStore, prefix: str) -> ListPage:
    try:
        return await store.list_page(prefix, flat=True)
    except Denied as error:
        # Some policies allow one directory at a time only.
        try:
            return await store.list_page(prefix, flat=False)
        except StoreError:
            raise error from None


async def _read_one(store: ObjectStore, source: Source, found: list[ObjectInfo]) -> bool:
    """Whether one of them could be read; not, where all have changed meanwhile."""
    refused: tuple[ObjectInfo, StoreError] | None = None
    for info in found:
        try:
            await store.get_range(info.id, ByteRange(0, 1), lambda piece: None)
            return True
        except WrongRegion:
            raise
        except (NotFound, ObjectChanged):
            continue
        except StoreError as error:
            refused = info, error
            if not isinstance(error, Denied):
                break
    if refused is None:
        return False
    info, why = refused
    line = f"{source} can be listed, but not read: GET of {info.id.key!r} gave {why}"
    raise ExitError(one_line(f"{line}; {_advice(why)}"), ExitCode.STORE)


def _spread(infos: list[ObjectInfo]) -> list[ObjectInfo]:
    """A few of a page, from one end of it to the other: what may be read is often a matter of the first directory."""
    step = max(-(-len(infos) // _NREADS), 1)
    return infos[::step]


def _advice(error: StoreError) -> str:
    match error:
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
