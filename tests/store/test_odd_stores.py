"""Stores that are not quite Amazon S3, and its directory buckets: the same tree, through the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

import oddstores
from mounting import Mount
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
def test_the_tree_is_the_same(mounted: Mounted, bucket: str, layer: Layer) -> None:
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
