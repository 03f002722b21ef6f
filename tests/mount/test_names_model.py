"""A bucket that changes behind the mount: once a change is due to show, tree, stat and bytes are those of the model.

Keys are few and their names such that files become directories and back all the time, and some are both at once.

``S3STREAM_MODEL_EXAMPLES=200`` runs so many histories in place of the few of every day.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mounting import Mount, tree_of
from s3server import S3Server

Mounted = Callable[..., Mount]

EXAMPLES: Final = int(os.environ.get("S3STREAM_MODEL_EXAMPLES", "12"))

NAMES: Final = ("a", "a-", "b")
PATHS: Final = ["/".join(names) for depth in (1, 2, 3) for names in itertools.product(NAMES, repeat=depth)]

CHANGES: Final = st.tuples(st.sampled_from(["put", "put", "put", "delete"]), st.sampled_from(PATHS), st.integers(0, 9))
LOOKS: Final = st.tuples(st.sampled_from(["stat", "list", "read"]), st.sampled_from(PATHS))
HISTORY: Final = st.lists(st.tuples(st.lists(LOOKS, max_size=6), st.lists(CHANGES, max_size=5)), max_size=5)


def shown(keys: dict[str, bytes]) -> dict[str, bytes | None]:
    """What the mount shows of these keys, in the simplest words: a directory shadows a file."""
    tree: dict[str, bytes | None] = {}
    for key in keys:
        parts = key.split("/")
        tree |= {"/".join(parts[:length]): None for length in range(1, len(parts))}
    return {key: data for key, data in keys.items() if key not in tree} | tree


def looked_up(root: Path) -> dict[str, int | None]:
    """By name alone: the size of each file, None for a directory."""
    found: dict[str, int | None] = {}
    for path in PATHS:
        if (root / path).exists():
            found[path] = None if (root / path).is_dir() else (root / path).stat().st_size
    return found


def look(root: Path, how: str, path: str) -> None:
    """Whatever comes of it, mount and kernel remember."""
    try:
        if how == "stat":
            (root / path).stat()
        elif how == "list":
            os.listdir(root / path)
        else:
            (root / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        pass


@pytest.mark.parametrize("ttl", ["0", "inf"])
def test_the_mount_shows_what_the_bucket_holds(server: S3Server, mounted: Mounted, ttl: str) -> None:
    server.create_bucket("bucket")
    mount = mounted(server, "bucket", metadata_ttl=ttl)
    keys: dict[str, bytes] = {}

    def change(kind: str, key: str, number: int) -> None:
        if kind == "put":
            keys[key] = f"{key} {number}".encode() * number
            server.put("bucket", key, keys[key])
        elif key in keys:
            del keys[key]
            server.delete("bucket", key)

    def settle(path: str = "") -> None:
        if ttl == "inf":
            done = mount.cli.run("refresh", mount.path / path)
            assert done.returncode == 0, done.stderr

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(HISTORY, st.sampled_from(PATHS))
    def holds(history: list[tuple[list[tuple[str, str]], list[tuple[str, str, int]]]], part: str) -> None:
        for key in list(keys):
            change("delete", key, 0)
        settle()
        for looks, changes in history:
            for how, path in looks:
                look(mount.path, how, path)
            for kind, key, number in changes:
                change(kind, key, number)
            settle(part)
            expected = shown(keys)
            below = {path: data for path, data in expected.items() if path == part or path.startswith(f"{part}/")}
            found = {path: size for path, size in looked_up(mount.path).items() if path in below or path == part}
            assert found == {path: None if data is None else len(data) for path, data in below.items()}
            settle()
            assert looked_up(mount.path) == {
                path: None if data is None else len(data) for path, data in expected.items()
            }
            assert tree_of(mount.path) == expected

    holds()
