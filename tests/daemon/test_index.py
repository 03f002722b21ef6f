"""``index`` and ``mount --index``, from a bucket to a real mount: the same tree, and nothing is listed."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import trio

from mounting import COMMAND, CommandLine, Mount, MountFailed
from s3server import S3Server
from s3stream_fs.store.snapshot.draft import SnapshotDraft
from s3stream_fs.types import ObjectId, ObjectInfo

Mounted = Callable[..., Mount]

BIG = random.Random(1).randbytes(9_000_000)
OBJECTS: dict[str, bytes] = {
    "a": b"file a", "a-b": b"", "d/x": b"x" * 5000, "d/e/f/g": b"deep", "d/ü 1+2%41&": "ü".encode(),
    "dir/": b"", "shadow": b"hidden by", "shadow/child": b"child", "e//empty": b"e", "./dot": b".", "big": BIG,
    "n\new\tline": b"n",
}  # fmt: skip
OBJECTS |= {f"many/{number:04}": b"%d" % number for number in range(1200)}


@pytest.fixture
def bucket(server: S3Server) -> S3Server:
    server.create_bucket("bucket")
    for key, data in OBJECTS.items():
        server.put("bucket", key, data)
    server.put("bucket", "cold", b"frozen", StorageClass="GLACIER")
    return server


@pytest.fixture
def index(cli: CommandLine, bucket: S3Server, tmp_path: Path) -> Callable[..., Any]:
    """Runs ``index`` and returns what it says; the snapshot is ``tmp_path / "snap"``."""

    def run(source: str = "s3://bucket", *more: str | Path, code: int = 0, output: Path = tmp_path / "snap") -> Any:
        words = [source] if source else []
        done = cli.run("index", *words, "-o", output, "--endpoint-url", bucket.url, "--json", *more)
        assert done.returncode == code, done.stderr
        if code:
            (line,) = done.stderr.splitlines()
            return line
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a mount shows: every name, its stat, its attributes and its bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in folders:
            found[os.fsdecode(os.path.relpath(os.path.join(folder, name), os.fsencode(root)))] = ()  # noqa: PTH118
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            status = os.lstat(path)
            attributes = {text: os.getxattr(path, text) for text in os.listxattr(path) if "s3stream" not in text}
            if stat.S_IMODE(status.st_mode):
                with open(path, "rb") as file:  # noqa: PTH123
                    data: bytes | int = file.read()
            else:
                data = status.st_mode
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = (
                status.st_ino, status.st_size, status.st_mtime_ns, sorted(attributes.items()), data,
            )  # fmt: skip
    return found


def refused(server: S3Server, mount: Mount, source: str, *, code: int, **options: str | Path) -> str:
    """The one line with which a mount beside another one, of the same server, is refused."""
    options = {"endpoint_url": server.url, **options}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    place = mount.path.with_name("refused")
    place.mkdir(exist_ok=True)
    done = mount.cli.run("mount", source, place, *words)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    return line


def test_the_tree_is_the_same_and_nothing_is_listed(
    bucket: S3Server, index: Callable[..., Any], mounted: Mounted, tmp_path: Path
) -> None:
    told = index()
    assert (told["objects"], told["bytes"]) == (len(OBJECTS) + 1, sum(map(len, OBJECTS.values())) + 6)
    assert bucket.counts() == {"HEAD": 0, "LIST": told["requests"], "GET": 0, "other": 0}
    live = tree(mounted(bucket, "bucket").path)
    bucket.clear()
    mount = mounted(bucket, "bucket", index=tmp_path / "snap")
    os.unlink(tmp_path / "snap")  # noqa: PTH108
    assert tree(mount.path) == live
    assert live["d/ü 1+2%41&"][-1] == "ü".encode()
    assert not (mount.path / "nothing").exists()
    with pytest.raises(PermissionError) if os.geteuid() else pytest.raises(OSError, match="denied"):
        (mount.path / "cold").read_bytes()
    mount.announce("cold")
    assert (bucket.count("LIST"), bucket.count("HEAD")) == (0, 0)
    assert bucket.count("GET") > 0
    told = mount.stats()["snapshot"]
    assert (told["nobjects"], told["damaged"]) == (len(OBJECTS) + 1, 0)
    assert told["pages"] > 0


def test_names_stand_still_and_bytes_are_never_other_ones(
    bucket: S3Server, index: Callable[..., Any], mounted: Mounted, tmp_path: Path
) -> None:
    index()
    mount = mounted(bucket, "bucket", index=tmp_path / "snap")
    bucket.put("bucket", "d/x", b"y" * 5000)
    bucket.put("bucket", "new", b"new")
    bucket.delete("bucket", "d/e/f/g")
    with pytest.raises(OSError, match="Stale") as caught:
        (mount.path / "d/x").read_bytes()
    assert caught.value.errno == errno.ESTALE
    assert not (mount.path / "new").exists()
    assert (mount.path / "d/e/f/g").stat().st_size == 4
    with pytest.raises(FileNotFoundError):
        (mount.path / "d/e/f/g").read_bytes()
    assert (mount.path / "a").read_bytes() == b"file a"
    assert (bucket.count("HEAD"), bucket.count("GET")) == (0, bucket.count("GET"))
    (said,) = (line for line in mount.log_text().splitlines() if "was replaced" in line)
    assert "take a new one with s3stream-fs index" in said


def test_a_mount_of_a_part(bucket: S3Server, index: Callable[..., Any], mounted: Mounted, tmp_path: Path) -> None:
    assert index("s3://bucket/d")["objects"] == 3
    bucket.clear()
    mount = mounted(bucket, "bucket", "d/e", index=tmp_path / "snap")
    assert set(tree(mount.path)) == {"f", "f/g"}
    assert bucket.count("LIST") == 0
    for source in ("bucket", "bucket/a", "bucket/dx", "other"):
        told = refused(bucket, mount, f"s3://{source}", index=tmp_path / "snap", code=9)
        assert f"is of s3://bucket/d/, in which s3://{source} does not lie" in told


def test_a_snapshot_in_a_bucket(
    bucket: S3Server, index: Callable[..., Any], mounted: Mounted, tmp_path: Path, short_path: Path
) -> None:
    index()
    live = tree(mounted(bucket, "bucket").path / "d")
    bucket.create_bucket("other")
    bucket.put("other", "snaps/one", (tmp_path / "snap").read_bytes())
    bucket.clear()
    cache = short_path / "shared"
    mount = mounted(bucket, "bucket", index="s3://other/snaps/one", cache_dir=cache)
    assert sorted(path.name for path in cache.iterdir()) == ["blocks"]  # the copy has no name any more
    assert tree(mount.path / "d") == live
    assert len(os.listdir(mount.path / "many")) == 1200
    assert (bucket.count("LIST"), bucket.count("HEAD")) == (0, 0)
    bucket.put("other", "bad", b"no snapshot")
    told = refused(bucket, mount, "s3://bucket", index="s3://other/none", cache_dir=cache, code=3)
    assert "there is no s3://other/none" in told
    told = refused(bucket, mount, "s3://bucket", index="s3://other/bad", cache_dir=cache, code=9)
    assert "s3://other/bad is not a snapshot" in told
    assert sorted(path.name for path in cache.iterdir()) == ["blocks"]


def test_a_large_snapshot_comes_in_parts(bucket: S3Server, mounted: Mounted, tmp_path: Path) -> None:
    path = tmp_path / "snap"
    draft = SnapshotDraft(path, tmp_path / "stage")
    draft.add(ObjectInfo(ObjectId(f"more/{number:06}/{'x' * 240}", "e" * 32, 1), 0) for number in range(60_000))
    trio.run(draft.finish, "bucket", "", "", 0)
    assert path.stat().st_size > 16 * 1024**2
    bucket.put("bucket", "snap", path.read_bytes())
    bucket.clear()
    mount = mounted(bucket, "bucket", index="s3://bucket/snap")
    assert len(os.listdir(mount.path / "more")) == 60_000
    assert os.listdir(mount.path / "more" / "059999") == ["x" * 240]
    gets = [request for request in bucket.requests if request.kind == "GET" and request.key == "snap"]
    assert len(gets) == 1 + -(-path.stat().st_size // (8 * 1024**2))  # a small part first, then those of 8 MiB
    assert bucket.count("LIST") == bucket.count("HEAD") == 0


def test_damage_that_shows_while_mounted_is_eio(
    bucket: S3Server, index: Callable[..., Any], mounted: Mounted, tmp_path: Path
) -> None:
    index()
    db = sqlite3.connect(tmp_path / "snap")
    db.execute("UPDATE objects SET size = -7 WHERE key = 'd/x'")
    db.commit()
    db.close()
    mount = mounted(bucket, "bucket", index=tmp_path / "snap")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            os.listdir(mount.path / "d")
    assert (mount.path / "a").read_bytes() == b"file a"
    assert len(os.listdir(mount.path / "many")) == 1200
    assert mount.stats()["snapshot"]["damaged"] > 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"index": "/nowhere/snap"}, 9, "cannot read the snapshot /nowhere/snap"),
        ({"index": "/etc/passwd"}, 9, "/etc/passwd is not a snapshot"),
        ({"index": "s3://bucket"}, 2, "names no object"),
        ({"index": "/nowhere", "metadata_ttl": "60s"}, 2, "the names of a snapshot never change"),
    ],
)
def test_mistakes_at_mount(
    bucket: S3Server, mounted: Mounted, options: Mapping[str, str], code: int, said: str
) -> None:
    with pytest.raises(MountFailed) as failed:
        mounted(bucket, "bucket", **options)
    assert failed.value.returncode == code
    assert said in failed.value.stderr
    assert len(failed.value.stderr.splitlines()) == 1
    assert bucket.counts() == {"HEAD": 0, "LIST": 0, "GET": 0, "other": 0}


# index


def test_what_may_be_replaced(index: Callable[..., Any], tmp_path: Path) -> None:
    index()
    first = (tmp_path / "snap").stat().st_ino
    index()
    assert (tmp_path / "snap").stat().st_ino != first
    other = tmp_path / "other"
    other.write_text("mine")
    assert "is there already and is no snapshot" in index(output=other, code=2)
    assert other.read_text() == "mine"
    index("s3://bucket", "--force", output=other)
    link = tmp_path / "link"
    link.symlink_to(other)
    index(output=link)
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "tmp") == ["link", "other", "snap"]
    assert "is not a file" in index(output=tmp_path, code=2)
    assert "there is no folder" in index(output=tmp_path / "no" / "snap", code=9)


def test_an_error_leaves_what_was_there(index: Callable[..., Any], bucket: S3Server, tmp_path: Path) -> None:
    index()
    before = (tmp_path / "snap").read_bytes()
    bucket.fail_next("LIST", 403, "AccessDenied", times=100)
    assert "listing s3://bucket was denied" in index(code=3)
    bucket.release_all()
    assert "there is no bucket" in index("s3://nobody", code=3)
    assert (tmp_path / "snap").read_bytes() == before
    assert os.listdir(tmp_path) == ["snap"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_one_leaves_nothing(
    index: Callable[..., Any], cli: CommandLine, bucket: S3Server, tmp_path: Path, number: signal.Signals
) -> None:
    index()
    before = (tmp_path / "snap").read_bytes()
    bucket.put("bucket", "late", b"late")
    stalled = bucket.stall_next("LIST", times=100)
    with subprocess.Popen(
        [*COMMAND, "index", "s3://bucket", "-o", tmp_path / "snap", "--endpoint-url", bucket.url], env=cli.environment
    ) as child:
        assert stalled.arrived.wait(30)
        child.send_signal(number)
        assert child.wait(30) == (-9 if number == signal.SIGKILL else 130)
    bucket.release_all()
    assert (tmp_path / "snap").read_bytes() == before
    if number == signal.SIGKILL:
        assert len(os.listdir(tmp_path)) == 3
        index()  # takes away what the other has left
    assert os.listdir(tmp_path) == ["snap"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["index", "-o", "snap"], 2, "of what?"),
        (["index", "s3://bucket"], 2, "-o"),
        (["index", "bucket", "-o", "snap"], 2, "is not a bucket"),
        (["index", "--inventory", "/nowhere/manifest.json", "-o", "snap"], 9, "cannot read /nowhere/manifest.json"),
        (["index", "--inventory", "/etc/passwd", "-o", "snap"], 9, "not the manifest.json"),
    ],
)
def test_mistakes(cli: CommandLine, words: list[str], code: int, said: str) -> None:
    done = cli.run(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_result_for_people(cli: CommandLine, bucket: S3Server, tmp_path: Path) -> None:
    done = cli.run("index", "s3://bucket/many", "-o", tmp_path / "snap", "--endpoint-url", bucket.url)
    assert done.stdout.startswith(f"{tmp_path}/snap: 1,200 objects of s3://bucket/many/, 3.6 KiB; ")
    assert done.stderr == ""


# From an inventory

SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"


def report(bucket: S3Server, *, schema: str = SCHEMA, form: str = "CSV", nfiles: int = 3) -> dict[str, Any]:
    """Puts an inventory report of ``bucket`` into ``reports``, as S3 does. Returns its manifest."""
    bucket.create_bucket("reports")
    rows: list[dict[str, str]] = []
    for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        rows += [
            {
                "Bucket": "bucket", "Key": quote_plus(found["Key"], safe="/"), "VersionId": "v", "IsLatest": "true",
                "IsDeleteMarker": "false", "Size": str(found["Size"]), "ETag": found["ETag"].strip('"'),
                "LastModifiedDate": found["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "StorageClass": found["StorageClass"],
            }
            for found in page["Contents"]
        ]  # fmt: skip
    rows.append(rows[0] | {"VersionId": "old", "IsLatest": "false", "Size": "77"})
    rows.append(rows[0] | {"Key": "deleted", "IsDeleteMarker": "true", "Size": "", "ETag": ""})
    random.Random(1).shuffle(rows)
    files = []
    for number in range(nfiles):
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([row[name] for name in schema.split(", ")] for row in rows[number::nfiles])
        data = gzip.compress(text.getvalue().encode())
        key = f"inv/bucket/all/data/{number}.csv.gz"
        bucket.put("reports", key, data)
        files.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
    manifest = {
        "sourceBucket": "bucket", "destinationBucket": "arn:aws:s3:::reports", "version": "2016-11-30",
        "creationTimestamp": "1700000000000", "fileFormat": form, "fileSchema": schema, "files": files,
    }  # fmt: skip
    bucket.put("reports", MANIFEST, json.dumps(manifest).encode())
    return manifest


MANIFEST = "inv/bucket/all/2023-11-14T01-00Z/manifest.json"


def test_an_inventory_is_as_good_as_a_listing(
    bucket: S3Server, index: Callable[..., Any], mounted: Mounted, tmp_path: Path
) -> None:
    report(bucket)
    bucket.clear()
    told = index("", "--inventory", f"s3://reports/{MANIFEST}")
    assert (told["bucket"], told["objects"], told["taken"]) == ("bucket", len(OBJECTS) + 1, "2023-11-14T22:13:20Z")
    assert bucket.counts() == {"HEAD": 0, "LIST": 0, "GET": 4, "other": 0}
    index(output=tmp_path / "listed")
    rows = [
        sqlite3.connect(path).execute("SELECT * FROM objects").fetchall()
        for path in (tmp_path / "snap", tmp_path / "listed")
    ]
    assert rows[0] == rows[1]
    mount = mounted(bucket, "bucket", index=tmp_path / "snap")
    assert (mount.path / "big").read_bytes() == BIG
    assert index("s3://bucket/d", "--inventory", f"s3://reports/{MANIFEST}")["objects"] == 3
    assert "is of s3://bucket, not of s3://other" in index(
        "s3://other", "--inventory", f"s3://reports/{MANIFEST}", code=9
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "tmp") == ["listed", "snap"]


def test_an_inventory_that_was_copied(bucket: S3Server, index: Callable[..., Any], tmp_path: Path) -> None:
    manifest = report(bucket)
    folder = tmp_path / "copy"
    (folder / "data").mkdir(parents=True)
    (folder / "day").mkdir()
    (folder / "day" / "manifest.json").write_text(json.dumps(manifest))
    line = index("", "--inventory", folder / "day" / "manifest.json", code=9)
    assert "is neither beside" in line
    for file in manifest["files"]:
        data = bucket.client.get_object(Bucket="reports", Key=file["key"])["Body"].read()
        (folder / "data" / file["key"].rpartition("/")[2]).write_bytes(data)
    assert index("", "--inventory", folder / "day" / "manifest.json")["objects"] == len(OBJECTS) + 1
    with (folder / "data" / "1.csv.gz").open("r+b") as damaged:
        damaged.seek(100)
        damaged.write(b"x")
    before = (tmp_path / "snap").read_bytes()
    line = index("", "--inventory", folder / "day" / "manifest.json", code=9)
    assert "data/1.csv.gz is damaged: its MD5 is not the manifest's" in line
    assert (tmp_path / "snap").read_bytes() == before
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schema": "Bucket, Key, Size"}, "lacks the field ETag"),
        ({"schema": "Bucket, Key, ETag"}, "lacks the field Size"),
        ({"schema": "Bucket, Key, VersionId, Size, ETag"}, "without the field IsLatest"),
        ({"form": "ORC"}, "configure it with the format CSV"),
        ({"form": "Parquet"}, "configure it with the format CSV"),
    ],
)
def test_inventories_that_cannot_be_used(
    bucket: S3Server, index: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    report(bucket, **options)
    assert said in index("", "--inventory", f"s3://reports/{MANIFEST}", code=9)


def test_an_inventory_with_few_fields(bucket: S3Server, index: Callable[..., Any], tmp_path: Path) -> None:
    bucket.delete("bucket", "a")
    report(bucket, schema="Bucket, Key, IsLatest, IsDeleteMarker, Size, ETag", nfiles=1)
    index("", "--inventory", f"s3://reports/{MANIFEST}")
    row = sqlite3.connect(tmp_path / "snap").execute("SELECT * FROM objects WHERE key = 'd/e/f/g'").fetchone()
    assert row == ("d/e/f/g", 4, hashlib.md5(b"deep").hexdigest(), 0, "STANDARD", 0)


def test_a_folder_in_which_nothing_can_be_made(cli: CommandLine, bucket: S3Server) -> None:
    done = cli.run("index", "s3://bucket", "-o", "/proc/snapshot", "--endpoint-url", bucket.url)
    assert done.returncode == 9
    assert "cannot write /proc/snapshot: " in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_room_for_it(cli: CommandLine, bucket: S3Server, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *COMMAND, "index", "s3://bucket", "-o", tmp_path / "snap",
         "--endpoint-url", bucket.url],
        env=cli.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line
    assert [path.name for path in tmp_path.iterdir() if path.name != "tmp"] == []
