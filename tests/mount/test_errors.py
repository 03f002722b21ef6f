"""What a program sees when S3 fails, and that the mount lives on."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mounting import PATIENCE_SECONDS, Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

MIB = 1024 * 1024
DATA = random.Random(7).randbytes(12 * MIB)

_BY_MAP = "import mmap, os, sys; mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)[500]"


@pytest.fixture
def mount(server: S3Server, mounted: Mounted) -> Mount:
    server.create_bucket("bucket")
    server.put("bucket", "file", DATA)
    server.put("bucket", "small", DATA[:1000])
    mount = mounted(server, "bucket", read_deadline="2s", metadata_ttl="0")
    assert sorted(os.listdir(mount.path)) == ["file", "small"]
    return mount


def test_throttling_and_server_errors_are_retried(server: S3Server, mount: Mount) -> None:
    server.fail_next("LIST", 503, "SlowDown", times=2)
    assert sorted(os.listdir(mount.path)) == ["file", "small"]
    statistics = mount.stats()
    assert statistics["retries"]["throttled"] == 2
    assert statistics["congestion"]["cuts"] == 0
    server.fail_next("GET", 503, "SlowDown", times=3)
    server.fail_next("GET", 500, "InternalError", times=2)
    assert (mount.path / "file").read_bytes() == DATA
    statistics = mount.stats()
    assert statistics["retries"]["retries"] >= 7
    assert statistics["retries"]["throttled"] == 5
    assert statistics["congestion"]["cuts"] > 0


def test_cut_bodies_are_resumed_where_they_end(server: S3Server, mount: Mount) -> None:
    server.cut_next("GET", after_bytes=100_000, times=3)
    assert (mount.path / "file").read_bytes() == DATA


def test_denied(server: S3Server, mount: Mount) -> None:
    server.fail_next("GET", 403, "AccessDenied", times=100)
    with pytest.raises(PermissionError):
        (mount.path / "small").read_bytes()
    server.release_all()
    assert (mount.path / "small").read_bytes() == DATA[:1000]
    server.fail_next("LIST", 403, "AccessDenied", times=100)
    with pytest.raises(PermissionError):
        os.listdir(mount.path)
    server.release_all()
    assert len(os.listdir(mount.path)) == 2


def _read_once_more(path: Path) -> bytes:
    """What an error of a moment ago no longer stands for."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return path.read_bytes()
        except OSError:
            if time.monotonic() > until:
                raise


def test_trouble_beyond_the_deadline_is_eio_and_logged_once(server: S3Server, mount: Mount) -> None:
    mount.announce("GET of 'small'")
    server.fail_next("GET", 500, "InternalError", times=10_000)
    with pytest.raises(OSError, match="Input/output error") as caught:
        (mount.path / "small").read_bytes()
    assert caught.value.errno == errno.EIO
    (line,) = (line for line in mount.log_text().splitlines() if "GET of 'small'" in line)
    assert "bytes 0-999" in line
    assert "500 InternalError" in line
    server.release_all()
    assert _read_once_more(mount.path / "small") == DATA[:1000]


@pytest.mark.parametrize("flags", [0, os.O_DIRECT])
def test_a_stalled_answer_ends_at_the_deadline(server: S3Server, mount: Mount, flags: int) -> None:
    mount.announce("GET of 'small'|read of 'small'")
    fd = os.open(mount.path / "small", os.O_RDONLY | flags)
    server.stall_next("GET", times=10)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            os.preadv(fd, [mmap.mmap(-1, 4096)], 0)
    finally:
        os.close(fd)
    assert mount.stats()["filesystem"]["deadlines_missed"] == 1, "one call of a program waits for one deadline"
    server.release_all()
    assert _read_once_more(mount.path / "small") == DATA[:1000]


def test_a_page_fault_ends_at_the_deadline(server: S3Server, mount: Mount) -> None:
    mount.announce("GET of 'small'|read of 'small'")
    server.stall_next("GET", times=10)
    done = subprocess.run([sys.executable, "-c", _BY_MAP, mount.path / "small"], check=False)
    assert done.returncode == -signal.SIGBUS
    assert mount.stats()["filesystem"]["deadlines_missed"] == 1
    server.release_all()
    assert _read_once_more(mount.path / "small") == DATA[:1000]


def test_an_open_of_a_name_that_is_known_ends_at_the_deadline(server: S3Server, mount: Mount) -> None:
    """Told nothing of a name whose time is over, the kernel looks it up once more."""
    mount.announce("LIST of 'small'|lookup of 'small'")
    assert (mount.path / "small").read_bytes() == DATA[:1000]
    server.stall_next("LIST", times=10)
    with pytest.raises(OSError, match="Input/output error"):
        (mount.path / "small").open("rb")
    statistics = mount.stats()["filesystem"]
    assert (statistics["deadlines_missed"], statistics["repeated"]) == (1, 1)
    server.release_all()
    assert _read_once_more(mount.path / "small") == DATA[:1000]


def test_answers_that_are_not_true_never_become_bytes(server: S3Server, mount: Mount) -> None:
    # More than once, for the kernel asks again for a page that its read-ahead did not get.
    server.alter_next("GET", {"ETag": '"0123456789abcdef0123456789abcdef"'}, times=1000)
    with pytest.raises(OSError, match="Stale"):
        (mount.path / "small").read_bytes()
    server.release_all()
    assert (mount.path / "small").read_bytes() == DATA[:1000]
    # Of a large object a part is asked for, and here another part comes.
    mount.announce("GET of 'file'")
    server.alter_next("GET", {"Content-Range": "bytes 1-1000/1001"}, times=1000)
    with pytest.raises(OSError, match=r"Stale|Input/output"):
        (mount.path / "file").read_bytes()
    server.release_all()
    assert _read_once_more(mount.path / "file") == DATA


def test_bucket_gone(server: S3Server, mount: Mount) -> None:
    for key in ("file", "small"):
        server.delete("bucket", key)
    server.client.delete_bucket(Bucket="bucket")
    with pytest.raises(OSError, match="Input/output"):
        os.listdir(mount.path)
    with pytest.raises(OSError, match="Input/output"):
        (mount.path / "small").read_bytes()
    server.create_bucket("bucket")
    server.put("bucket", "again", b"x")
    assert os.listdir(mount.path) == ["again"]


def test_random_reads_by_many_while_requests_fail(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    contents = {f"f{number}": random.Random(number).randbytes(500_000) for number in range(20)}
    contents["big"] = DATA
    for key, data in contents.items():
        server.put("bucket", key, data)
    mount = mounted(server, "bucket", memory_limit="64MiB", cache_size="64MiB")
    for _ in range(20):
        server.fail_next("GET", 503, "SlowDown", times=1)
        server.cut_next("GET", after_bytes=70_000, times=1)
        server.fail_next("GET", 500, "InternalError", times=1)

    def check(seed: int) -> int:
        rng = random.Random(seed)
        for _ in range(25):
            key = rng.choice(list(contents))
            offset = rng.randrange(len(contents[key]))
            size = rng.randrange(1, 300_000)
            with (mount.path / key).open("rb", buffering=0) as file:
                if os.pread(file.fileno(), size, offset) != contents[key][offset : offset + size]:
                    return 1
        return 0

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(check, range(16))) == 0
    assert mount.stats()["retries"]["retries"] > 0
