"""An object that was replaced or deleted is found out by whoever reads it first; its name is then asked for again."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

MIB: Final = 1024 * 1024
TTL: Final = "1h"


@pytest.fixture(params=["native daemon", "native kernel", "pyfuse3"])
def way(request: pytest.FixtureRequest) -> list[str]:
    """The binding, and what becomes of opens where it knows several ways."""
    return str(request.param).split()


@pytest.fixture
def binding(way: list[str]) -> str:
    """In place of that of the other tests of this folder."""
    return way[0]


@pytest.fixture
def mounted(mounted: Mounted, way: list[str]) -> Mounted:
    """As elsewhere, opened in this way."""
    return lambda *arguments, **options: mounted(
        *arguments, **dict(zip(["open_mode"], way[1:], strict=False)), **options
    )


def read_or_stale(path: Path) -> bytes | None:
    """All bytes; None where the file turns out to be of a version that is no more."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None


def content(seed: int, nbytes: int) -> bytes:
    return random.Random(seed).randbytes(nbytes)


@pytest.mark.parametrize("nbytes", [100, 9 * MIB])
@pytest.mark.parametrize("known", ["by name", "by listing"])
def test_the_next_open_is_of_the_new_version(server: S3Server, mounted: Mounted, nbytes: int, known: str) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "a", b"read at the start")  # which shows that this store's ETags are to be believed
    server.put("bucket", "d/file", b"first")
    for number in range(1100):
        server.put("bucket", f"d/{number:04}")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    path = mount.path / "d" / "file"
    if known == "by listing":
        assert len(os.listdir(path.parent)) == 1101
    assert path.stat().st_size == 5
    for number in range(10):
        new = content(number, nbytes)  # of the same size each time
        server.put("bucket", "d/file", new)
        server.clear()
        assert read_or_stale(path) is None  # what is not cached of it
        assert path.stat().st_size == nbytes
        assert server.count("LIST") == 1
        assert (path.parent / "0077").stat().st_size == 0
    assert path.read_bytes() == new
    assert server.count("LIST") <= (1 if known == "by listing" else 2)


def test_the_old_handle_stays_what_it_was(server: S3Server, mounted: Mounted) -> None:
    old, new = content(1, 32 * MIB), content(2, 32 * MIB)
    server.create_bucket("bucket")
    server.put("bucket", "file", old)
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    path = mount.path / "file"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == old[:4096]
        server.put("bucket", "file", new)
        for _ in range(3):
            with pytest.raises(OSError, match="Stale"):
                os.pread(file.fileno(), 4096, 20 * MIB)
            with path.open("rb", buffering=0) as again:
                assert os.pread(again.fileno(), 4096, 20 * MIB) == new[20 * MIB : 20 * MIB + 4096]
                assert os.pread(again.fileno(), 4096, 0) == new[:4096]
                assert os.fstat(again.fileno()).st_ino != os.fstat(file.fileno()).st_ino
            assert os.pread(file.fileno(), 4096, 0) == old[:4096]


@pytest.mark.parametrize("listed", [False, True])
def test_deleted_or_become_a_directory(server: S3Server, mounted: Mounted, listed: bool) -> None:
    server.create_bucket("bucket")
    for key in ("d/gone", "d/turned", "d/same"):
        server.put("bucket", key, b"one")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    folder = mount.path / "d"
    if listed:
        assert os.listdir(folder) == ["gone", "same", "turned"]
    for name in ("gone", "turned", "same"):
        assert (folder / name).stat().st_size == 3
    for key in ("d/gone", "d/turned"):
        server.delete("bucket", key)
    server.put("bucket", "d/turned/inside", b"two")
    for name in ("gone", "turned"):
        with pytest.raises(FileNotFoundError):
            (folder / name).read_bytes()
    with pytest.raises(FileNotFoundError):
        (folder / "gone").open()
    assert (folder / "turned" / "inside").read_bytes() == b"two"
    assert os.listdir(folder) == ["same", "turned"]
    assert (folder / "same").read_bytes() == b"one"


def test_many_readers_make_one_request(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "file", content(1, 64 * MIB))
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    with (mount.path / "file").open("rb", buffering=0) as file:
        server.put("bucket", "file", b"new")
        server.clear()

        def read(number: int) -> bytes | None:
            with pytest.raises(OSError, match="Stale"):
                os.pread(file.fileno(), 4096, number * 2 * MIB)
            return read_or_stale(mount.path / "file")

        with ThreadPoolExecutor(32) as pool:
            assert set(pool.map(read, range(32))) == {b"new"}
        assert server.count("LIST") == 1


def test_of_a_directory_that_was_replaced_few_files_are_found_out_one_by_one(
    server: S3Server, mounted: Mounted
) -> None:
    count = 400
    server.create_bucket("bucket")
    for number in range(count):
        server.put("bucket", f"d/{number:03}", b"old")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    paths = [mount.path / "d" / f"{number:03}" for number in range(count)]
    os.listdir(mount.path / "d")
    assert {path.stat().st_size for path in paths} == {3}
    for number in range(count):
        server.put("bucket", f"d/{number:03}", b"newer")
    server.clear()
    found = [path.read_bytes() if read_or_stale(path) is None else b"newer" for path in paths]
    assert found == [b"newer"] * count
    # Four by one LIST each, then one for all; a few more may be met while that is under way.
    assert server.count("LIST") <= 20
    assert server.count("GET") < count + 100


def test_a_lookup_that_waits_keeps_nobody_from_hearing_of_it(server: S3Server, mounted: Mounted) -> None:
    """The kernel takes the directory's lock to be told of a name, and whoever looks up another one there holds it."""
    server.create_bucket("bucket")
    for number in range(150):  # so that the LIST by which the directory is found does not tell of all
        server.put("bucket", f"d/{number:03}", b"one")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    path = mount.path / "d" / "000"
    with path.open("rb", buffering=0) as file:
        server.put("bucket", "d/000", b"three")
        stalled = server.stall_next("LIST")
        waiting = threading.Thread(target=(mount.path / "d" / "unknown").exists)
        waiting.start()
        assert stalled.arrived.wait(10)
        with pytest.raises(OSError, match="Stale"):
            file.read()
        server.release_all()
        waiting.join()
        while (new := read_or_stale(path)) is None:  # the kernel is being told by now
            pass
    assert new == b"three"


def test_a_lookup_that_waits_does_not_keep_the_mount_from_its_end(server: S3Server, mounted: Mounted) -> None:
    """A thread that waits in the kernel, to tell it of a name, cannot be ended: what it waits for is answered."""
    server.create_bucket("bucket")
    for number in range(150):
        server.put("bucket", f"d/{number:03}", b"one")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    with (mount.path / "d" / "000").open("rb", buffering=0) as file:
        server.put("bucket", "d/000", b"three")
        stalled = server.stall_next("LIST")
        with subprocess.Popen(["stat", mount.path / "d" / "unknown"], stderr=subprocess.DEVNULL) as waiting:
            assert stalled.arrived.wait(10)
            with pytest.raises(OSError, match="Stale"):
                file.read()
            os.kill(mount.pid, signal.SIGTERM)
            mount.wait_ended()
            assert waiting.wait(10) != 0


def test_the_next_process_is_not_told_of_the_old_version(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for name in ("a", "b", "c"):
        server.put("bucket", f"d/{name}", b"one")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    assert os.listdir(mount.path / "d") == ["a", "b", "c"]
    mount.remount()
    assert (mount.path / "d" / "b").stat().st_size == 3
    server.put("bucket", "d/b", b"three")
    assert read_or_stale(mount.path / "d" / "b") is None
    mount.remount()
    assert read_or_stale(mount.path / "d" / "b") == b"three"


def test_what_warming_finds_out_readers_need_not(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "d/file", b"one")
    mount = mounted(server, "bucket", metadata_ttl=TTL)
    assert (mount.path / "d" / "file").stat().st_size == 3
    server.put("bucket", "d/file", b"three")
    assert mount.cli.run("warm", mount.path / "d").returncode == 8
    while (mount.path / "d" / "file").stat().st_size == 3:  # nobody waits here until the kernel was told
        pass
    assert (mount.path / "d" / "file").read_bytes() == b"three"
    assert mount.cli.run("warm", mount.path / "d").returncode == 0


def test_with_frozen_names_it_is_said_and_nothing_else_happens(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for name in ("a", "b"):
        server.put("bucket", name, b"one")
    mount = mounted(server, "bucket", metadata_ttl="inf")
    for round_ in range(2):
        assert os.listdir(mount.path) == ["a", "b"]
        assert {(mount.path / name).stat().st_size for name in ("a", "b")} == {3 + round_}
        for name in ("a", "b"):
            server.put("bucket", name, b"four" + b"x" * round_)
        server.clear()
        for name in ("a", "b", "a", "b"):
            assert read_or_stale(mount.path / name) is None
        assert server.count("LIST") == 0
        said = [line for line in mount.log_text().splitlines() if "was replaced" in line]
        assert len(said) == 1 + round_
        assert "s3stream-fs refresh" in said[-1]
        assert mount.cli.run("refresh", mount.path).returncode == 0
    assert [(mount.path / name).read_bytes() for name in ("a", "b")] == [b"fourx"] * 2
