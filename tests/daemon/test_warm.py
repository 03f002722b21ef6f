"""``warm``: files are in the cache before anybody reads them; what did not come is told exactly."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mounting import COMMAND, Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

LARGE = random.Random(1).randbytes(20_000_000)
FILES = {
    f"data/{folder}/{number:02}": random.Random(number).randbytes(50_000) for folder in "ab" for number in range(20)
}
FILES |= {"data/large": LARGE, "data/empty": b""}
NBYTES = sum(map(len, FILES.values()))


@pytest.fixture
def mount(server: S3Server, mounted: Mounted) -> Mount:
    server.create_bucket("bucket")
    for key, data in FILES.items():
        server.put("bucket", key, data)
    return mounted(server, "bucket", no_hedging=True)


def warm(mount: Mount, *words: str | Path, code: int = 0) -> Any:
    done = mount.cli.run("warm", *words, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def read_all(mount: Mount) -> None:
    for key, data in FILES.items():
        assert (mount.path / key).read_bytes() == data


def test_a_tree_is_warmed_once_and_read_without_requests(server: S3Server, mount: Mount) -> None:
    server.clear()
    dry = warm(mount, mount.path, "--dry-run")
    assert server.count("GET") == 0
    assert (dry["nfiles_found"], dry["nbytes_found"], dry["nbytes_had"]) == (len(FILES), NBYTES, 0)

    first = warm(mount, mount.path)
    assert (first["nfiles_done"], first["nbytes_done"], first["nfiles_failed"]) == (len(FILES), NBYTES, 0)
    assert server.count("GET") == first["gets"] == dry["gets"] == 40 + 3

    again = warm(mount, mount.path / "data" / "a", mount.path / "data" / "large")
    assert (again["nfiles_done"], again["gets"]) == (21, 0)
    assert again["nbytes_had"] == again["nbytes_done"] == 20 * 50_000 + len(LARGE)

    mount.remount()
    server.clear()
    read_all(mount)
    assert server.count("GET") == 0


def test_lists_and_what_did_not_come(server: S3Server, mount: Mount, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text(
        f"{mount.path}/data/a/01\n\n{mount.path}/data/nowhere\n{mount.path}/data/a/01/below\n{mount.path}\n"
    )
    server.delete("bucket", "data/b/07")  # after it was listed: the mount still shows it
    os.listdir(mount.path / "data" / "b")
    done = mount.cli.run("warm", "--list", listed)
    assert done.returncode == 8
    told = [line.removeprefix(f"s3stream-fs: {mount.path}/") for line in done.stderr.splitlines()]
    assert sorted(told) == ["data/a/01/below: there is no such file", "data/nowhere: there is no such file"]
    assert "2 files did not come" in done.stdout


def test_a_file_that_cannot_be_fetched_is_named(server: S3Server, mount: Mount) -> None:
    mount.announce("404|no such key|data/b/07")
    os.listdir(mount.path / "data" / "b")
    server.delete("bucket", "data/b/07")
    done = mount.cli.run("warm", mount.path / "data" / "b")
    assert done.returncode == 8
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"s3stream-fs: {mount.path}/data/b/07: ")
    assert re.search(r"19 files are cached.*; 1 files did not come", done.stdout)


def test_what_does_not_fit_is_told(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for number in range(90):
        server.put("bucket", f"{number:02}", os.urandom(1 << 20))
    mount = mounted(server, "bucket", no_hedging=True, cache_size="64MiB", cache_policy="keep")
    dry = mount.cli.run("warm", mount.path, "--dry-run")
    assert "26.0 MiB would not fit" in dry.stdout
    result = warm(mount, mount.path, code=8)
    assert result["nfiles_done"] + result["nfiles_failed"] == 90
    assert 55 <= result["nfiles_done"] <= 64
    assert result["nfiles_evicted"] == 0


def test_what_was_evicted_is_told(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    for number in range(90):
        server.put("bucket", f"{number:02}", os.urandom(1 << 20))
    mount = mounted(server, "bucket", no_hedging=True, cache_size="64MiB")
    told = mount.cli.run("warm", mount.path)
    assert told.returncode == 0
    assert "90 files are cached" in told.stdout
    assert "cached files were evicted for them; the cache takes 64.0 MiB: 26.0 MiB did not fit" in told.stdout


def test_an_interrupted_one_is_gone_on_with(server: S3Server, mount: Mount) -> None:
    stalled = server.stall_next("GET", times=100)
    with subprocess.Popen(
        [*COMMAND, "warm", mount.path, "--json"],
        env=mount.cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert stalled.arrived.wait(30)
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    while mount.stats()["fetch"]["queued"] + mount.stats()["fetch"]["in_flight"]:
        pass
    server.release_all()
    assert warm(mount, mount.path)["nfiles_done"] == len(FILES)
    read_all(mount)


def test_in_the_background(server: S3Server, mount: Mount) -> None:
    done = mount.cli.run("warm", "--background", mount.path)
    assert done.returncode == 0
    log = Path(done.stdout.rpartition(" ")[2].strip())
    while "files are cached" not in log.read_text():
        pass
    server.clear()
    read_all(mount)
    assert server.count("GET") == 0
    log.unlink()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "what shall be warmed"),
        (["/etc"], 2, "not in a mount"),
        (["--list", "/nowhere"], 2, "cannot read the list"),
    ],
)
def test_mistakes(mount: Mount, words: list[str], code: int, told: str) -> None:
    done = mount.cli.run("warm", *words)
    assert done.returncode == code
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
