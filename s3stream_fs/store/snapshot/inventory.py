"""An S3 Inventory report: what its manifest says, and the objects in its CSV files, checked. Pure.

Owns what a report's fields mean. Never opens a file: the caller brings its bytes.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final
from urllib.parse import unquote_plus

from s3stream_fs.errors import StoreError, UsageError
from s3stream_fs.store.objects import checked_info
from s3stream_fs.types import ObjectInfo

MAX_MANIFEST_NBYTES: Final = 16 * 1024**2
"""A manifest has some 150 bytes for each of its files, of which the largest buckets have thousands."""

_MAX_LINE_CHARS: Final = 64 * 1024
"""A key of 1,024 bytes takes three times as much, percent-encoded; all other fields are short."""

_MAX_TIME_MS: Final = 253_402_300_799_000
"""The end of the year 9999, behind which Python has no dates."""

_NEEDED: Final = ("Bucket", "Key", "Size", "ETag")


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """One of a report's files, by its key in the bucket that holds the report. ``md5`` is hexadecimal."""

    key: str
    size: int
    md5: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """``columns`` are the fields of each row, in order; ``created_ns`` is when the report was begun."""

    bucket: str
    created_ns: int
    columns: tuple[str, ...]
    files: tuple[InventoryFile, ...]


def parse_manifest(data: bytes) -> Inventory:
    """Raises UsageError for what is not a manifest, and for a report that cannot be read."""
    try:
        manifest = json.loads(data)
        bucket, form = manifest["sourceBucket"], manifest["fileFormat"]
        if not (isinstance(bucket, str) and isinstance(form, str)):
            raise TypeError
        created_ms = int(manifest.get("creationTimestamp", 0))
        if not 0 <= created_ms <= _MAX_TIME_MS:
            raise ValueError
        files = tuple(_file(found) for found in manifest["files"])
        schema = str(manifest["fileSchema"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError("this is not the manifest.json of an S3 Inventory report") from None
    if form != "CSV":
        raise UsageError(f"the inventory is in {form!r}, which is not read here; configure it with the format CSV")
    columns = tuple(name.strip() for name in schema.split(","))
    for name in _NEEDED:
        if name not in columns:
            raise UsageError(f"the inventory lacks the field {name}; add it to the inventory's configuration")
    if "VersionId" in columns and "IsLatest" not in columns:
        raise UsageError("the inventory lists all versions without the field IsLatest; add it, or list current ones")
    return Inventory(bucket, created_ms * 1_000_000, columns, files)


def _file(found: dict[str, Any]) -> InventoryFile:
    key, size, md5 = found["key"], found["size"], found["MD5checksum"]
    if not (isinstance(key, str) and isinstance(md5, str) and type(size) is int and size > 0):
        raise TypeError
    return InventoryFile(key, size, md5.lower())


def read_objects(inventory: Inventory, file: BinaryIO) -> Iterator[ObjectInfo]:
    """The current objects in one of the report's files, in its order. Raises UsageError for what no report holds."""
    with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        try:
            for row in csv.reader(_lines(text)):
                info = _object(inventory, row)
                if info is not None:
                    yield info
        except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
            raise UsageError(f"the inventory's rows cannot be read: {error}") from None
        except StoreError as error:
            raise UsageError(f"the inventory holds what cannot be true: {error}") from None


def _lines(text: Any) -> Iterator[str]:
    while line := text.readline(_MAX_LINE_CHARS):
        if len(line) == _MAX_LINE_CHARS:
            raise csv.Error("a line is too long")
        yield line


def _object(inventory: Inventory, row: list[str]) -> ObjectInfo | None:
    """None for a version that is not the current one, and for a delete marker."""
    if len(row) != len(inventory.columns):
        raise StoreError(f"a row has {len(row)} fields instead of {len(inventory.columns)}")
    found = dict(zip(inventory.columns, row, strict=True))
    if found["Bucket"] != inventory.bucket:
        raise StoreError(f"a row is of the bucket {found['Bucket']!r}")
    if found.get("IsLatest", "true") != "true" or found.get("IsDeleteMarker", "false") == "true":
        return None
    # Encoded as in a form: a space is a plus sign, and a plus sign %2B.
    key = unquote_plus(found["Key"], errors="strict")
    if not key:
        raise StoreError("a row has no key")
    size = int(found["Size"]) if found["Size"].isascii() and found["Size"].isdecimal() else None
    modified = None
    if text := found.get("LastModifiedDate"):
        try:
            modified = datetime.fromisoformat(text)
        except ValueError:
            raise StoreError(f"{key!r} was changed at {text!r}, which is no time") from None
        if modified.tzinfo is None:
            modified = modified.replace(tzinfo=UTC)
    storage_class = found.get("StorageClass") or "STANDARD"
    return checked_info(key, found["ETag"], size, modified, storage_class, False)
