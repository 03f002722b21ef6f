"""What a store says of one object, checked: nothing of it is trusted. Pure."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from s3stream_fs.errors import StoreError
from s3stream_fs.store.etags import version_of
from s3stream_fs.types import MAX_OBJECT_NBYTES, NANOSECONDS, ObjectId, ObjectInfo, shown_mtime


def mtime_of(modified: datetime) -> int:
    """Of a time without a zone it is taken that it is UTC, as all others are. Raises OverflowError."""
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    return shown_mtime(int(modified.timestamp() * NANOSECONDS))


def is_size(size: object) -> bool:
    """Whether an object may have so many bytes."""
    return isinstance(size, int) and 0 <= size <= MAX_OBJECT_NBYTES


def checked_size(key: str, size: object) -> int:
    if not isinstance(size, int) or not is_size(size):
        raise StoreError(f"the store says that {key!r} has {size!r} bytes; it cannot be trusted")
    return size


def checked_info(
    key: str,
    etag: str,
    size: object,
    modified: object,
    storage_class: str,
    restored: bool,
) -> ObjectInfo:
    """What a store says of one object. Raises StoreError where it cannot be true."""
    mtime_ns = 0
    if isinstance(modified, datetime):
        with suppress(OverflowError):
            mtime_ns = mtime_of(modified)
    object_id = ObjectId(key, version_of(etag, mtime_ns), checked_size(key, size))
    return ObjectInfo(object_id, mtime_ns, storage_class, restored)
