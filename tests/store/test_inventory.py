"""S3 Inventory reports: what is current is read as a listing would have it, and what no report holds is told."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest

from s3stream_fs.errors import UsageError
from s3stream_fs.store.snapshot.inventory import Inventory, InventoryFile, parse_manifest, read_objects
from s3stream_fs.types import ObjectId, ObjectInfo

SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"


def manifest(**changes: Any) -> bytes:
    made: dict[str, Any] = {
        "sourceBucket": "b", "fileFormat": "CSV", "fileSchema": SCHEMA, "creationTimestamp": "1700000000123",
        "files": [{"key": "data/1.csv.gz", "size": 7, "MD5checksum": "F" * 32}],
    }  # fmt: skip
    return json.dumps({key: value for key, value in (made | changes).items() if value is not None}).encode()


def objects(text: str | bytes, schema: str = SCHEMA) -> list[ObjectInfo]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_objects(parse_manifest(manifest(fileSchema=schema)), io.BytesIO(gzip.compress(data))))


def test_a_manifest() -> None:
    assert parse_manifest(manifest()) == Inventory(
        "b", 1_700_000_000_123_000_000, tuple(SCHEMA.split(", ")), (InventoryFile("data/1.csv.gz", 7, "f" * 32),)
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"\xff", b"[" * 100_000, manifest(files=None), manifest(files=[1]), manifest(sourceBucket=3),
     manifest(files=[{"key": "a", "size": "7", "MD5checksum": "f"}]), manifest(creationTimestamp="soon"),
     manifest(creationTimestamp="9" * 20), manifest(creationTimestamp=-1),
     manifest(creationTimestamp=[])],
)  # fmt: skip
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"not the manifest\.json"):
        parse_manifest(data)


def test_rows() -> None:
    text = (
        '"b","dir/a+b%2Bc%25%C3%A9%0A","v1","true","false","5","2024-01-02T03:04:05.000Z","e1","GLACIER"\n'
        '"b","old","v1","false","false","5","2024-01-02T03:04:05.000Z","e1","STANDARD"\n'
        '"b","gone","v1","true","true","","2024-01-02T03:04:05.000Z","",""\n'
        "b,plain,,true,false,0,,e2,\n"
    )
    assert objects(text) == [
        ObjectInfo(ObjectId("dir/a b+c%é\n", "e1", 5), 1_704_164_645_000_000_000, "GLACIER"),
        ObjectInfo(ObjectId("plain", "e2", 0), 0, "STANDARD"),
    ]


def test_rows_without_an_etag() -> None:
    assert objects(ROW.replace('"e"', '""')) == [
        ObjectInfo(ObjectId("k", "@1704164645", 5), 1_704_164_645_000_000_000, "STANDARD")
    ]


ROW = '"b","k","v","true","false","5","2024-01-02T03:04:05.000Z","e","STANDARD"\n'


@pytest.mark.parametrize(
    "text",
    [ROW.replace('"5"', "9" * 5000),
     ROW.replace('"b"', '"other"'), ROW.replace('"5"', '"-5"'), ROW.replace('"5"', '"5.0"'), ROW.replace('"5"', '""'),
     ROW.replace('"k"', '""'), ROW.replace('"k"', '"%ff"'), ROW.replace("2024-", "last year"), ROW.replace(',"e"', ""),
     "\n\n", ROW + "x", '"' * 100_000, "x" * 200_000, b"\xff\xfe", ROW.replace('"5"', '"9" 9"')],
)  # fmt: skip
def test_rows_that_no_report_holds(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="inventory"):
        objects(text)


@pytest.mark.parametrize("cut", [3, 15, 60, -4])
def test_files_that_are_cut_or_no_gzip(cut: int) -> None:
    data = gzip.compress((ROW * 50).encode())
    inventory = parse_manifest(manifest())
    for broken in (data[:cut], b"x" + data, data[:30] + b"\xff\xff\xff" + data[33:]):
        with pytest.raises(UsageError, match="cannot be read"):
            list(read_objects(inventory, io.BytesIO(broken)))
