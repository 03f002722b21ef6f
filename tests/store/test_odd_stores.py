"""Stores that are not quite Amazon S3, and its directory buckets: the same tree, through the kernel."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

import oddstores
from mounting import CommandLine, Mount
from oddstores import Layer
from s3server import S3Server

Mounted = Callable[..., Mount]

DIRECTORY_BUCKET = "data--use1-az4--x-s3"

STORES: dict[str, tuple[str, Layer]] = {
    "directory bucket": (DIRECTORY_BUCKET, oddstores.directory_bucket()),
    "directory bucket that ignores start-after": (
        DIRECTORY_BUCKET,
        oddstores.directory_bucket(refuses_start_after=False),
    ),
    "first version": ("bucket", oddstores.first_version()),
    "first version without NextMarker": ("bucket", oddstores.first_version(next_marker=False)),
    "first version, the second refused": ("bucket", oddstores.first_version(("501 No", "NotImplemented"))),
    "spelled as Amazon does": ("bucket", oddstores.spelled(quote_plus, quote_plus)),
    "no encoding": ("bucket", oddstores.spelled(str, str, announced=False)),
    "prefixes only": ("bucket", oddstores.spelled(str, quote)),
    "plus as it is": ("bucket", oddstores.spelled(lambda name: quote(name, safe="/+"))),
    "spelled as SeaweedFS does": ("bucket", oddstores.spelled(oddstores.seaweedfs, quote)),
    "refuses optional attributes": ("bucket", oddstores.refuses("x-amz-optional-object-attributes")),
    "refuses an encoding": (
        "bucket",
        oddstores.refuses("encoding-type", status="400 Bad Request", code="InvalidArgument"),
    ),
    "refuses both, and the second version": (
        "bucket",
        oddstores.refuses("x-amz-optional-object-attributes", "encoding-type", "list-type"),
    ),
    "lists with a delimiter only": ("bucket", oddstores.allows(lambda query: query.get("delimiter") == "/")),
    "lists whole directories only": (
        "bucket",
        oddstores.allows(lambda query: query.get("delimiter") == "/" and query["prefix"][-1:] in ("", "/")),
    ),
    "pages without names": ("bucket", oddstores.pages_without_names(2)),
    "another root": ("bucket", oddstores.rewritten("ListBucketResult( xmlns=[^>]*)?>", "ListBucketV2Result>")),
    "times before 1970": (
        "bucket",
        oddstores.rewritten("<LastModified>.*?</LastModified>", "<LastModified>0001-01-01T00:00:00Z</LastModified>"),
    ),
    "weak ETags in listings": ("bucket", oddstores.rewritten("<ETag>", "<ETag>W/")),
}

KEYS = [
    *("a", "a-b", "a/x", "a b/c d", "a+b/c+d", "%41", "é", "x", "x/", "deep/er/and/deeper", "-a-", "-a/x"),
    *(f"many/{number:04}" for number in range(1100)),
    *(f"dirs/{number:04}/" for number in range(1050)),
]


def shown(keys: list[str]) -> set[str]:
    """What the mount has to show: files, and directories with a slash at their end."""
    directories = {key[: at + 1] for key in keys for at, char in enumerate(key) if char == "/"}
    return directories | {key for key in keys if not key.endswith("/") and key + "/" not in directories}


@pytest.mark.parametrize(("bucket", "layer"), STORES.values(), ids=STORES.keys())
def test_the_tree_is_the_same(mounted: Mounted, cli: CommandLine, tmp_path: Path, bucket: str, layer: Layer) -> None:
    with S3Server(layer) as server:
        server.create_bucket(bucket)
        for key in KEYS:
            server.put(bucket, key, key.encode())
        mount = mounted(server, bucket)
        # One name after another first: nothing is listed yet.
        for name in ("a", "a b", "a+b", "%41", "absent", "x"):
            path = mount.path / name
            assert path.is_dir() is (name + "/" in shown(KEYS)), name
            assert path.is_file() is (name in shown(KEYS)), name
        assert (mount.path / "a b" / "c d").read_bytes() == b"a b/c d"
        found = set()
        for folder, directories, files in os.walk(mount.path):
            below = Path(folder).relative_to(mount.path)
            found |= {f"{below / name}/" for name in directories} | {str(below / name) for name in files}
            if below == Path("dirs"):
                directories.clear()  # a request each, and nothing new
        assert found == shown(KEYS)
        names = os.listdir(mount.path / "many")
        assert names == sorted(names)
        assert not (mount.path / "many" / "absent").exists()
        for key in ("%41", "é", "a+b/c+d", "many/1099"):
            assert (mount.path / key).read_bytes() == key.encode()
        mount.close()
        index = cli.run("index", f"s3://{bucket}", "-o", tmp_path / "snapshot", "--endpoint-url", server.url)
        assert index.returncode == 0, index.stderr
        assert indexed(tmp_path / "snapshot") == sorted(KEYS)


def indexed(snapshot: Path) -> list[str]:
    """The keys in a snapshot."""
    db = sqlite3.connect(snapshot)
    keys = [key for (key,) in db.execute("SELECT key FROM objects")]
    db.close()
    return sorted(keys)


def test_a_store_whose_names_cannot_be_told_is_an_error_and_no_snapshot(cli: CommandLine, tmp_path: Path) -> None:
    """It writes a space in two ways, and a plus sign in one of them."""

    def spell(name: str) -> str:
        return name.replace(" ", "%20", 1).replace(" ", "+")

    with S3Server(oddstores.spelled(spell, spell)) as server:
        server.create_bucket("bucket")
        for key in ("a b", "a b c", "d+e"):
            server.put("bucket", key)
        done = cli.run("index", "s3://bucket", "-o", tmp_path / "snapshot", "--endpoint-url", server.url)
        assert done.returncode != 0
        (line,) = done.stderr.splitlines()
        assert "encode" in line
        assert not (tmp_path / "snapshot").exists()


def without_etags(modified: dict[str, str]) -> Layer:
    """A store without ETags. ``modified`` is when keys were changed last."""

    def answer(_: oddstores.Query, text: str) -> str:
        pieces = re.split("(<Contents>.*?</Contents>)", re.sub("<ETag>.*?</ETag>", "", text))
        for at, piece in enumerate(pieces):
            for key, when in modified.items():
                if f"<Key>{key}</Key>" in piece:
                    pieces[at] = re.sub("(?<=<LastModified>).*?(?=</LastModified>)", when, piece)
        return "".join(pieces)

    return oddstores.listings(lambda query: query, answer)


def test_without_etags_another_time_is_another_version(mounted: Mounted, cli: CommandLine, tmp_path: Path) -> None:
    modified = {"f": "2023-11-14T22:13:20.000Z", "d/g": "2023-11-14T22:13:20.700Z", "d/none": ""}
    with S3Server(without_etags(modified)) as server:
        server.create_bucket("bucket")
        for key in modified:
            server.put("bucket", key, b"12")
        mount = mounted(server, "bucket", metadata_ttl="0")
        path = mount.path / "f"
        before = path.stat()
        assert before.st_mtime_ns == 1_700_000_000_000_000_000
        assert path.stat().st_ino == before.st_ino
        assert "user.s3.etag" not in os.listxattr(path)
        assert (mount.path / "d" / "none").stat().st_mtime == 0
        modified["f"] = "2023-11-14T22:13:21.000Z"
        after = path.stat()
        assert after.st_size == before.st_size
        assert after.st_ino != before.st_ino
        assert after.st_mtime_ns == 1_700_000_001_000_000_000
        assert {entry.name: entry.inode() for entry in os.scandir(mount.path)}["f"] == after.st_ino
        mount.close()
        done = cli.run("index", "s3://bucket", "-o", tmp_path / "snapshot", "--endpoint-url", server.url)
        assert done.returncode == 9
        assert "without an ETag and without a time" in done.stderr
        server.delete("bucket", "d/none")
        done = cli.run("index", "s3://bucket", "-o", tmp_path / "snapshot", "--endpoint-url", server.url)
        assert done.returncode == 0, done.stderr
        assert indexed(tmp_path / "snapshot") == ["d/g", "f"]
        shown = mounted(server, "bucket", index=tmp_path / "snapshot")
        assert (shown.path / "d" / "g").stat().st_mtime_ns == 1_700_000_000_700_000_000
        assert (shown.path / "f").stat().st_ino == after.st_ino
        shown.close()


def test_names_that_are_no_text_are_hidden_and_the_others_are_not(mounted: Mounted) -> None:
    """What a store writes as bytes that are no UTF-8, such as a lone surrogate, has no name that can be asked for."""

    def spell(name: str) -> str:
        return quote(name).replace("surrogate", "%ED%A0%80").replace("latin", "%E9")

    with S3Server(oddstores.spelled(spell, spell)) as server:
        server.create_bucket("bucket")
        for key in ("good", "surrogate", "d/latin", "d/é", "e-surrogate/x"):
            server.put("bucket", key, b"bytes")
        mount = mounted(server, "bucket")
        assert sorted(os.listdir(mount.path)) == ["d", "good"]
        assert os.listdir(mount.path / "d") == ["é"]
        assert (mount.path / "good").read_bytes() == b"bytes"
        assert mount.log_text().count("characters that UTF-8 cannot carry") == 2
        mount.close()
