"""The cache as those see it who mount: shared, looked at, cleared, pinned, kept; every byte compared."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from disks import break_ext4, ext4_at
from mounting import CommandLine, Mount, MountFailed
from s3server import S3Server

Mounted = Callable[..., Mount]

NFILES = 24
FILES = {f"dir/{number:03}.bin": random.Random(number).randbytes(100_000 + number) for number in range(NFILES)}


@pytest.fixture
def filled(server: S3Server) -> S3Server:
    server.create_bucket("bucket")
    for key, data in FILES.items():
        server.put("bucket", key, data)
    return server


def read_all(mount: Mount, order: int = 0) -> None:
    for key, data in random.Random(order).sample(list(FILES.items()), NFILES):
        assert (mount.path / key).read_bytes() == data


def written(mount: Mount, nbytes: int = sum(map(len, FILES.values()))) -> None:
    """Wait until so much is on disk, and would be found by somebody else."""
    while mount.stats()["disk"]["nbytes_written"] < nbytes:
        pass


def cache(cli: CommandLine, *words: str | Path) -> Any:
    done = cli.run("cache", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_mounts_share_a_cache(filled: S3Server, mounted: Mounted, tmp_path: Path) -> None:
    one = mounted(filled, "bucket", no_hedging=True, cache_dir=tmp_path / "shared")
    two = mounted(filled, "bucket", no_hedging=True, cache_dir=tmp_path / "shared")
    (first, *_) = FILES
    assert (two.path / first).stat().st_size == len(FILES[first])
    filled.clear()
    read_all(one)
    written(one)
    assert filled.count("GET") == NFILES
    read_all(two, order=1)
    assert filled.count("GET") == NFILES
    assert two.stats()["disk"]["hits"] >= NFILES


def test_two_mounts_at_once_read_right_and_share_what_is_there(
    filled: S3Server, mounted: Mounted, tmp_path: Path
) -> None:
    mounts = [mounted(filled, "bucket", no_hedging=True, cache_dir=tmp_path / "shared") for _ in range(2)]
    failures: list[BaseException] = []

    def read(mount: Mount, order: int) -> None:
        try:
            read_all(mount, order)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(mount, order)) for order, mount in enumerate(mounts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for mount in mounts:
        mount.remount()
    filled.clear()
    for mount in mounts:
        read_all(mount)
    assert filled.count("GET") == 0


def test_two_mounts_that_miss_the_same_at_once_fetch_it_once(
    server: S3Server, mounted: Mounted, tmp_path: Path
) -> None:
    server.create_bucket("bucket")
    files = FILES | {"large.bin": random.Random("large").randbytes(24_000_000)}
    for key, data in files.items():
        server.put("bucket", key, data)
    mounts = [mounted(server, "bucket", no_hedging=True, cache_dir=tmp_path / "shared") for _ in range(2)]
    for mount in mounts:
        os.listdir(mount.path / "dir")
        while not mount.stats()["disk"]["shared"]:
            pass
    server.clear()
    with ThreadPoolExecutor(8) as pool:
        reads = [(pool.submit((mount.path / key).read_bytes), data) for key, data in files.items() for mount in mounts]
        assert all(read.result() == data for read, data in reads)
    fetched = [mount.stats()["fetch"] for mount in mounts]
    assert sum(one["nbytes_fetched"] for one in fetched) == sum(map(len, files.values()))
    assert sum(one["brought_by_others"] for one in fetched) > 0


def test_cache_by_hand_while_it_is_in_use(filled: S3Server, mounted: Mounted) -> None:
    mount = mounted(filled, "bucket", "dir/", no_hedging=True)
    cli = mount.cli
    for key, data in FILES.items():
        assert (mount.path / key.removeprefix("dir/")).read_bytes() == data
    written(mount)

    info = cache(cli, "info", mount.path)
    assert info["directory"] == str(mount.cache_dir)
    assert info["nfiles"] == NFILES
    assert info["limit_nbytes"] > 0
    listed = cache(cli, "ls", mount.path)
    assert [(one["key"], one["nbytes"], one["nbytes_cached"]) for one in listed] == [
        (key, len(data), len(data)) for key, data in FILES.items()
    ]
    assert [one["key"] for one in cache(cli, "ls", mount.path / "001.bin")] == ["dir/001.bin"]
    assert len(cache(cli, "ls", "s3://bucket/dir/01", "--cache-dir", mount.cache_dir)) == 10
    assert cache(cli, "ls", "s3://bucket/other", "--cache-dir", mount.cache_dir) == []
    assert len(cache(cli, "ls", mount.cache_dir)) == NFILES

    assert cache(cli, "verify", mount.path)["bad_blocks"] == 0
    assert cache(cli, "clear", "s3://bucket/dir/00", "--cache-dir", mount.cache_dir, "--yes")["nfiles"] == 10
    assert cache(cli, "info", mount.cache_dir)["nfiles"] == NFILES - 10
    mount.remount()
    filled.clear()
    for key, data in FILES.items():
        assert (mount.path / key.removeprefix("dir/")).read_bytes() == data
    assert filled.count("GET") == 10


def test_verify_drops_what_was_damaged(filled: S3Server, mounted: Mounted) -> None:
    mount = mounted(filled, "bucket", no_hedging=True)
    read_all(mount)
    written(mount)
    mount.umount()
    victim, lost, *_ = sorted(mount.cache_dir.glob("blocks/??/*"))
    with victim.open("r+b") as file:
        file.seek(50_000)
        file.write(b"damage")
    lost.unlink()
    done = mount.cli.run("cache", "verify", mount.cache_dir)
    assert done.returncode == 5
    assert "dropped 1 blocks" in done.stdout
    assert "1 files that were not there" in done.stdout
    assert cache(mount.cli, "verify", mount.cache_dir)["bad_blocks"] == 0
    mount.mount()
    filled.clear()
    read_all(mount)
    assert filled.count("GET") == 2
    assert mount.stats()["disk"]["bad_blocks"] == 0


def test_what_is_pinned_stays(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    data = {f"{folder}/{number}": os.urandom(1 << 20) for folder in ("kept", "other") for number in range(40)}
    for key, content in data.items():
        server.put("bucket", key, content)
    mount = mounted(server, "bucket", no_hedging=True, cache_size="64MiB")

    def read(folder: str) -> None:
        for key, content in data.items():
            if key.startswith(folder):
                assert (mount.path / key).read_bytes() == content

    read("kept/1")  # 11 of 40
    written(mount, 11 << 20)
    assert cache(mount.cli, "pin", mount.path / "kept") == {"nfiles": 11, "nbytes": 11 << 20}
    read("kept")
    written(mount, 40 << 20)
    read("other")
    written(mount, 80 << 20)
    info = cache(mount.cli, "info", mount.path)
    assert info["pinned_nfiles"] == 40
    assert info["nbytes"] <= 64 << 20
    assert [pin[1] for pin in info["pins"]] == ["kept/"]
    mount.remount()
    server.clear()
    read("kept")
    assert server.count("GET") == 0
    assert cache(mount.cli, "unpin", mount.path) == {"pins": 1}
    assert cache(mount.cli, "info", mount.path)["pinned_nfiles"] == 0
    assert mount.cli.run("cache", "unpin", mount.path / "kept").returncode == 2


def test_policy_keep_hits_what_fits(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    data = {f"{number}": os.urandom(1 << 20) for number in range(90)}
    for key, content in data.items():
        server.put("bucket", key, content)
    mount = mounted(server, "bucket", no_hedging=True, cache_size="64MiB", memory_limit="64MiB", cache_policy="keep")

    def epoch() -> int:
        server.clear()
        for key, content in data.items():
            assert (mount.path / key).read_bytes() == content
        return server.count("GET")

    assert epoch() == 90
    mount.remount()
    assert epoch() <= 40
    assert mount.stats()["disk"]["files_evicted"] == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["ls", "/nowhere"], 2, "neither s3://BUCKET/PREFIX"),
        (["info", "--cache-dir", "/nowhere"], 5, "holds no cache"),
        (["info", "/tmp/" + 300 * "x"], 5, "cannot be used: File name too long"),
        (["clear", "s3://"], 2, "the bucket is missing"),
        (["pin"], 2, "TARGET"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_are_one_line(cli: CommandLine, words: list[str], code: int, told: str) -> None:
    done = cli.run("cache", *words)
    assert done.returncode == code
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_clear_asks_first(filled: S3Server, mounted: Mounted) -> None:
    mount = mounted(filled, "bucket", no_hedging=True)
    read_all(mount)
    written(mount)
    done = mount.cli.run("cache", "clear", mount.path)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert cache(mount.cli, "info", mount.path)["nfiles"] == NFILES
    assert "24 files" in mount.cli.run("cache", "clear", mount.path, "--yes").stdout
    read_all(mount)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_readers_notice_nothing_of_a_full_disk_and_a_cache_that_is_removed(
    filled: S3Server, mounted: Mounted, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for again in ("again", "third"):
        for key, data in FILES.items():
            filled.put("bucket", f"{again}/{key}", data)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m,mode=700", "tmpfs", disk], check=True)
    try:
        mount = mounted(filled, "bucket", no_hedging=True, cache_dir=disk / "cache", cache_reserve="0")
        read_all(mount)
        free = os.statvfs(disk)
        (disk / "other").write_bytes(bytes(free.f_bavail * free.f_frsize))
        for key, data in FILES.items():
            assert (mount.path / "again" / key).read_bytes() == data
        assert mount.stats()["disk"]["enabled"]
        mount.announce("the disk cache is off|a file of the disk cache cannot be read")
        shutil.rmtree(disk / "cache")
        for key, data in FILES.items():
            assert (mount.path / "third" / key).read_bytes() == data
        while mount.stats()["disk"]["errors"] == 0:
            pass
        mount.umount()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def make_read_only(folder: Path) -> None:
    break_ext4(folder.parent)


def damage_the_index(folder: Path) -> None:
    for path in (folder / "blocks").glob("index.sqlite*"):
        if not path.name.endswith("-shm"):
            path.write_bytes(os.urandom(path.stat().st_size))


def lock_the_index(folder: Path) -> sqlite3.Connection:
    db = sqlite3.connect(folder / "blocks" / "index.sqlite", isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    return db


def cut_all_files(folder: Path) -> None:
    for path in (folder / "blocks").glob("??/*"):
        os.truncate(path, 50_000)


def flip_all_files(folder: Path) -> None:
    for path in (folder / "blocks").glob("??/*"):
        data = path.read_bytes()
        path.write_bytes(data[:70_000] + bytes([data[70_000] ^ 1]) + data[70_001:])


def make_all_files_pipes(folder: Path) -> None:
    for path in (folder / "blocks").glob("??/*"):
        path.unlink()
        os.mkfifo(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize(
    "fault",
    [make_read_only, damage_the_index, lock_the_index, cut_all_files, flip_all_files, make_all_files_pipes],
    ids=lambda fault: fault.__name__,
)
@pytest.mark.parametrize("when", ["while mounted", "before"])
def test_readers_get_right_bytes_whatever_becomes_of_the_cache(
    filled: S3Server, mounted: Mounted, tmp_path: Path, fault: Callable[[Path], object], when: str
) -> None:
    for key, data in FILES.items():
        filled.put("bucket", f"new/{key}", data)
    with ext4_at(tmp_path / "disk"):
        disk = tmp_path / "disk"
        mount = mounted(filled, "bucket", no_hedging=True, cache_dir=disk / "cache", cache_reserve="0")
        read_all(mount)
        written(mount)
        mount.announce("the disk cache is off|cannot be read|not what was written|shorter than|starts empty")
        if when == "before":
            mount.umount()
        held = fault(disk / "cache")
        if when == "before":
            if fault is make_read_only:
                with pytest.raises(MountFailed, match="--cache-dir") as failed:
                    mount.mount()
                assert failed.value.returncode == 5
                return
            mount.mount()
        for prefix in ("new/", ""):
            for key, data in FILES.items():
                path = mount.path / (prefix + key)
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert file.read() == data
        del held
        mount.umount()


def resident_nbytes(path: Path) -> int:
    """How much of a file is in the page cache."""
    done = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", path], capture_output=True)
    return int(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may empty the page cache")
def test_what_was_read_is_in_memory_once(server: S3Server, mounted: Mounted) -> None:
    server.create_bucket("bucket")
    files = FILES | {"large.bin": random.Random("large").randbytes(12_000_000)}
    for key, data in files.items():
        server.put("bucket", key, data)
    mount = mounted(server, "bucket", no_hedging=True)
    for key, data in files.items():
        assert (mount.path / key).read_bytes() == data
    mount.remount()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
    server.clear()
    with ExitStack() as stack:
        for key, data in files.items():
            file = stack.enter_context((mount.path / key).open("rb"))
            assert file.read() == data
        assert server.count("GET") == 0
        assert resident_nbytes(mount.path / "large.bin") >= 12_000_000
        in_files = sum(resident_nbytes(path) for path in (mount.cache_dir / "blocks").glob("??/*"))
        assert in_files < 0.1 * sum(map(len, files.values()))
