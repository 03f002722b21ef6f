"""Keys and paths: every row of docs/SEMANTICS.md as a case, through the kernel."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]


def tree(folder: Path) -> dict[bytes, bytes | None]:
    """Every path below ``folder``, byte for byte; a file's content, None for a directory."""
    found: dict[bytes, bytes | None] = {}
    root = os.fsencode(folder)
    for parent, directories, files in os.walk(root):
        for name in directories:
            found[os.path.relpath(os.path.join(parent, name), root)] = None  # noqa: PTH118 - bytes
        for name in files:
            path = os.path.join(parent, name)  # noqa: PTH118 - bytes
            with open(path, "rb") as file:  # noqa: PTH123 - bytes
                found[os.path.relpath(path, root)] = file.read()
    return found


LONGEST = "n" * 255

ROWS: list[tuple[str, dict[str, bytes], dict[bytes, bytes | None]]] = [
    ("implicit directories", {"a/b/c.jpg": b"x"}, {b"a": None, b"a/b": None, b"a/b/c.jpg": b"x"}),
    ("empty marker", {"dir/": b""}, {b"dir": None}),
    ("marker with bytes", {"dir/": b"lost", "dir/f": b"x"}, {b"dir": None, b"dir/f": b"x"}),
    ("directory shadows file", {"x": b"file", "x/y": b"x"}, {b"x": None, b"x/y": b"x"}),
    ("marker shadows file", {"x": b"file", "x/": b""}, {b"x": None}),
    ("empty component", {"a//b": b"x", "a/c": b"y", "/x": b"z"}, {b"a": None, b"a/c": b"y"}),
    ("dots", {"a/./b": b"x", "a/../b": b"y", "../x": b"z", "./w": b"v", "a/...": b"k"}, {b"a": None, b"a/...": b"k"}),
    ("too long", {f"d/{LONGEST}": b"x", f"d/{LONGEST}n": b"y"}, {b"d": None, f"d/{LONGEST}".encode(): b"x"}),
    ("too long in bytes", {"é" * 127: b"x", "é" * 128: b"y"}, {("é" * 127).encode(): b"x"}),
]


@pytest.mark.parametrize(("keys", "shown"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(server: S3Server, mounted: Mounted, keys: dict[str, bytes], shown: dict[bytes, bytes | None]) -> None:
    server.create_bucket("bucket")
    for key, data in keys.items():
        server.put("bucket", key, data)
    mount = mounted(server, "bucket")
    assert tree(mount.path) == shown


ODD_NAMES = [
    *("a b", "100%", "%41", "a#b", "a?b", "a*b", "'single'", '"double"', "a\\b", "tab\there", "new\nline", "\x01\x7f"),
    *("naïve", "nai\u0308ve", "ملف", "😀", "A", "a", "~", "^", "&", "+", "=", ":", "|", "<>", "[x]", "{y}", "..."),
    # What XML cannot carry, and what it would change.
    *("\x0b", "\x1f!", "\ufffe", "x\uffff", "\x85", "\u2028", "\r", "\r\n", "a\r", "<![CDATA[x]]>", "&lt;", "\x1b[0m"),
    *("-a-", " leading", "trailing ", ".hidden", "a.", "$HOME", "`id`", ";", "\u200b", "\ufeff"),
]


def test_odd_names_are_byte_exact(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for name in ODD_NAMES:
        server.put("bucket", f"d/{name}", name.encode())
        server.put("bucket", f"{name}/inside", name.encode())
    mount = mounted(server, "bucket")
    shown = tree(mount.path)
    for name in ODD_NAMES:
        assert shown[f"d/{name}".encode()] == name.encode()
        assert shown[f"{name}/inside".encode()] == name.encode()
    # Found by name too, in a daemon that has listed nothing.
    mount.remount()
    for name in ODD_NAMES:
        assert Path(os.fsdecode(os.fsencode(mount.path) + f"/d/{name}".encode())).read_bytes() == name.encode()


def of_length(nbytes: int, *parts: str) -> str:
    """A key of so many bytes that begins with these parts, each in a directory of the one before."""
    key = "/".join(parts) + "/"
    return key + "k" * (nbytes - len(key.encode()))


LONG_KEYS = [
    of_length(1024, LONGEST, LONGEST, LONGEST, "d"),  # four components of 255 bytes and less
    of_length(1024, "é" * 127, "ü" * 127, "漢" * 85, "xx"),
    of_length(1024, *(f"{level:02}" for level in range(100)), *["m" * 200] * 3),
    "/".join(str(level % 10) for level in range(100)) + "/leaf",
]


def test_the_longest_keys_and_the_deepest(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for key in LONG_KEYS:
        server.put("bucket", key, key.encode())
    too_long = of_length(1024, "short", LONGEST + "n", "below")
    server.put("bucket", too_long, b"x")
    mount = mounted(server, "bucket")
    for key in LONG_KEYS:  # by its whole path, with nothing listed
        assert len(key.encode()) <= 1024
        path = mount.path / key
        assert path.stat().st_size == len(key.encode())
        assert path.read_bytes() == key.encode()
    mount.remount()
    files = {name: data for name, data in tree(mount.path).items() if data is not None}
    assert files == {key.encode(): key.encode() for key in LONG_KEYS}
    assert os.listdir(mount.path / "short") == []
    with pytest.raises(OSError, match="too long"):
        (mount.path / too_long).stat()
    assert "a path component longer than 255 bytes" in mount.log_text()


def test_names_that_are_not_utf8_do_not_exist(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "a", b"x")
    mount = mounted(server, "bucket")
    with pytest.raises(FileNotFoundError):
        os.stat(os.fsencode(mount.path) + b"/\xff\xfe")  # noqa: PTH116 - bytes
    with pytest.raises(OSError, match="too long"):
        (mount.path / ("n" * 256)).stat()


def test_hidden_keys_are_logged_once_and_counted(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for key in ("../x", "a//b", "a/ok", "marker/"):
        server.put("bucket", key, b"bytes")
    mount = mounted(server, "bucket", metadata_ttl="0")
    for _ in range(3):
        tree(mount.path)
    log = mount.log_text()
    assert log.count("'../'") == 1
    assert log.count("'a//'") == 1
    assert log.count("'marker/' is shown as a directory") == 1
    assert mount.stats()["namespace"]["hidden_keys"] == 2


def test_prefix_mount_shows_what_lies_under_it_and_nothing_else(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for key in ("p/q/in", "p/q/../out", "p/qq/other", "p/q", "other"):
        server.put("bucket", key, key.encode())
    for prefix in ("p/q", "p/q/"):
        mount = mounted(server, "bucket", prefix)
        assert tree(mount.path) == {b"in": b"p/q/in"}
        with pytest.raises(FileNotFoundError):
            (mount.path / "qq").stat()
    assert all(request.key.startswith("p/q/") for request in server.requests)


def test_order_is_by_bytes_and_no_name_comes_twice(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    keys = ["-a-", "-a/x", "a", "a-b", "a/z", "a0", "é", "z", "Z", *(f"a-{number:04}" for number in range(1500))]
    for key in keys:
        server.put("bucket", key, b"x")
    mount = mounted(server, "bucket")
    names = os.listdir(os.fsencode(mount.path))
    assert names == sorted({key.split("/")[0].encode() for key in keys})
    assert (mount.path / "a").is_dir()
    assert (mount.path / "-a").is_dir()


def test_shadowed_file_reappears_when_the_last_child_is_gone(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "x", b"file")
    server.put("bucket", "x/y", b"child")
    mount = mounted(server, "bucket", metadata_ttl="0")
    assert (mount.path / "x" / "y").read_bytes() == b"child"
    server.delete("bucket", "x/y")
    assert (mount.path / "x").read_bytes() == b"file"


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_archived_object_is_shown_but_denied_until_it_is_restored(
    server: S3Server, mounted: Mounted, storage_class: str
) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "cold", b"frozen bytes", StorageClass=storage_class)
    server.put("bucket", "warm", b"warm bytes", StorageClass="GLACIER_IR")
    mount = mounted(server, "bucket", metadata_ttl="0")
    cold = mount.path / "cold"
    assert stat.S_IMODE(cold.stat().st_mode) == 0
    assert cold.stat().st_size == 12
    with pytest.raises(PermissionError):
        cold.read_bytes()
    assert "has to be restored" in mount.log_text()
    assert (mount.path / "warm").read_bytes() == b"warm bytes"
    server.client.restore_object(Bucket="bucket", Key="cold", RestoreRequest={"Days": 1})
    assert cold.read_bytes() == b"frozen bytes"
    assert stat.S_IMODE(cold.stat().st_mode) == 0o444
