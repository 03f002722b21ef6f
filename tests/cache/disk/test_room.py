"""A cache makes room on a disk that has none, whatever it has too little of, and says so when it cannot."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import trio

from disks import btrfs_at, ext4_at, fill_up
from disktiers import MIB, back, check, named, on_disk, put, run, until
from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.policy import Policy, Reserve
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.types import ObjectId

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


HAS_BTRFS = pytest.mark.skipif(shutil.which("mkfs.btrfs") is None, reason="needs mkfs.btrfs")


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """For some 500 files, beside the folders of a cache."""
    folder = tmp_path / "disk"
    with tmpfs(folder, "size=64m,nr_inodes=800"):
        yield folder


def small(number: int) -> ObjectId:
    return named(str(number), 1000)


async def fill(tier: DiskTier, numbers: range) -> None:
    for number in numbers:
        put(tier, small(number))
    assert await tier.flush()


def free_inodes(folder: Path) -> int:
    return os.statvfs(folder).f_favail


def test_inodes_are_looked_at_as_bytes_are(few_inodes: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(tier: DiskTier) -> None:
        for epoch in range(4):
            numbers = range(400 * epoch, 400 * epoch + 400)
            await fill(tier, numbers)
            assert all([await check(tier, small(number)) for number in numbers[100:]])
        assert tier.statistics().files_evicted > 1000
        assert tier.statistics().takes_nothing == ""

    run(few_inodes / "cache", case)
    run(few_inodes / "cache", case, reserve=Reserve(0.10))
    assert free_inodes(few_inodes) >= 80
    assert caplog.text == ""


def test_the_reserve_of_inodes_stays_free_whoever_takes_them(few_inodes: Path) -> None:
    async def case(tier: DiskTier) -> None:
        await fill(tier, range(300))
        for number in range(200):
            (few_inodes / f"other {number}").touch()
        await until(lambda: free_inodes(few_inodes) >= 80)

    run(few_inodes / "cache", case, reserve=Reserve(0.10))


def test_a_disk_that_others_fill_says_so_once(few_inodes: Path, caplog: pytest.LogCaptureFixture) -> None:
    others: list[Path] = []

    async def case(tier: DiskTier) -> None:
        await tier.flush()
        while free_inodes(few_inodes):
            others.append(few_inodes / f"other {len(others)}")
            others[-1].touch()
        for epoch in range(3):
            await fill(tier, range(10 * epoch, 10 * epoch + 10))
        assert "inodes" in tier.statistics().takes_nothing
        assert tier.statistics().enabled
        for path in others:
            path.unlink()
        await until(lambda: not tier.statistics().takes_nothing)
        await fill(tier, range(10))
        assert await check(tier, small(9))

    run(few_inodes / "cache", case)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"], caplog.text
    assert "inodes" in caplog.text


def test_what_is_pinned_or_kept_is_said_to_fill_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(tier: DiskTier) -> None:
        for number in range(12):
            put(tier, named(str(number), MIB))
            await tier.flush()
        assert "size" in tier.statistics().takes_nothing

    run(tmp_path, case, policy=Policy.KEEP, limit=8 * MIB)
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == []


@HAS_BTRFS
def test_a_quota_is_room_that_is_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of btrfs: EDQUOT, of which the disk's free room says nothing."""
    folder = tmp_path / "btrfs"
    with btrfs_at(folder):
        subprocess.run(["btrfs", "quota", "enable", folder], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["btrfs", "subvolume", "create", folder / "sub"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["btrfs", "qgroup", "limit", "40M", folder / "sub"], check=True)

        async def case(tier: DiskTier) -> None:
            for number in range(60):
                put(tier, named(str(number), MIB))
                await tier.flush()
                (folder / "sub" / "sync").touch()
                os.sync()
            assert await check(tier, named("59", MIB))
            assert tier.statistics().files_evicted > 20

        run(folder / "sub" / "cache", case)
    assert "takes nothing" not in caplog.text
    assert "is off" not in caplog.text


def test_a_disk_without_a_byte_left_is_given_some_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Others fill what the cache left free, to the last block: the index's log has no room, either."""
    folder = tmp_path / "ext4"
    with ext4_at(folder):

        async def case(tier: DiskTier) -> None:
            for number in range(10):
                put(tier, named(str(number), MIB))
            await tier.flush()
            fill_up(folder / "other")
            for number in range(10, 20):
                put(tier, named(str(number), MIB))
                await tier.flush()
                fill_up(folder / f"other {number}")
            assert tier.statistics().enabled
            (folder / "other").unlink()
            await until(lambda: not tier.statistics().takes_nothing)
            put(tier, named("new", MIB))
            await tier.flush()
            assert await check(tier, named("new", MIB))

        run(folder / "cache", case)
    assert "is off" not in caplog.text


HOLDER = """
import sys, time
from pathlib import Path
from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.folder import CacheFolder
folder = CacheFolder(Path(sys.argv[1]))
with folder.locked(lambda: False):
    print("locked", flush=True)
    time.sleep(1000)
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder


def test_who_keeps_the_lock_is_named_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(tier: DiskTier) -> None:
        await fill(tier, range(10))
        with holding(tmp_path) as holder:
            holder.send_signal(signal.SIGSTOP)
            for number in range(10, 20):
                assert put(tier, small(number))
            await until(lambda: tier.statistics().takes_nothing != "")
            assert tier.statistics().enabled
            assert f"process {holder.pid} (python" in tier.statistics().takes_nothing
            assert "stopped" in tier.statistics().takes_nothing
            await fill(tier, range(20, 30))  # whose end is waited for no longer than that
            assert await check(tier, small(9))
            assert not await check(tier, small(19))
            holder.kill()
        await until(lambda: not tier.statistics().takes_nothing)
        await fill(tier, range(30, 40))
        assert await check(tier, small(39))

    run(tmp_path, case)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"], caplog.text


def test_the_queue_is_bounded_in_number_too(tmp_path: Path) -> None:
    """1,400 bytes each were measured beside the bodies: 79 MiB for these."""
    tiny = memoryview(bytes(10))

    async def case(tier: DiskTier) -> None:
        await tier.flush()
        with closing(CacheFolder(tmp_path)) as other, other.locked(lambda: False):
            keys = (ObjectId(f"train/{number}", "etag", 10) for number in range(60_000))
            assert sum(tier.put_nowait(key, key.whole, [tiny]) for key in keys) < 35_000

    run(tmp_path, case)


def test_an_unmount_does_not_wait_for_who_keeps_the_lock(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        await tier.flush()
        other = stack.enter_context(closing(CacheFolder(tmp_path)))
        stack.enter_context(other.locked(lambda: False))
        put(tier, small(1))

    with ExitStack() as stack:
        began = time.monotonic()
        run(tmp_path, case)
        assert time.monotonic() < began + 10


def test_a_full_disk_gives_up_files_for_the_index_to_be_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "ext4"

    async def fill_it(tier: DiskTier) -> None:
        for number in range(10):
            put(tier, named(str(number), MIB))
            await tier.flush()

    async def look(tier: DiskTier) -> None:
        assert tier.statistics().enabled
        assert await check(tier, named("9", MIB))
        assert not await check(tier, named("0", MIB))
        put(tier, named("new", MIB))
        await tier.flush()
        assert await check(tier, named("new", MIB))

    with ext4_at(folder):
        run(folder / "cache", fill_it)
        fill_up(folder / "other")
        run(folder / "cache", look)
    assert "is off" not in caplog.text


def test_a_cache_that_could_not_be_opened_is_taken_into_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "ext4"

    async def case(tier: DiskTier) -> None:
        assert not tier.statistics().enabled
        assert "No space" in tier.statistics().takes_nothing
        assert put(tier, named("lost", MIB))
        assert await tier.flush()
        assert not await check(tier, named("lost", MIB))
        (folder / "other").unlink()
        await back(tier)
        put(tier, named("new", MIB))
        await tier.flush()
        assert await check(tier, named("new", MIB))
        assert tier.statistics().takes_nothing == ""

    with ext4_at(folder):
        fill_up(folder / "other")
        run(folder / "cache", case)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"], caplog.text


@pytest.mark.parametrize("wrong", [1 << 60, 0])
def test_a_damaged_total_is_counted_anew(tmp_path: Path, wrong: int) -> None:
    async def fill_it(tier: DiskTier) -> None:
        for number in range(10):
            put(tier, named(str(number), MIB))

    def total() -> int:
        with closing(sqlite3.connect(tmp_path / "blocks" / "index.sqlite")) as db:
            return int(db.execute("SELECT nbytes FROM total").fetchone()[0])

    async def look(tier: DiskTier) -> None:
        assert await check(tier, named("0", MIB))
        await until(lambda: total() == right)
        assert tier.statistics().files_evicted == 0
        await until(lambda: tier.statistics().nbytes_used >= right)

    run(tmp_path, fill_it)
    right = total()
    assert right >= 10 * MIB
    with closing(sqlite3.connect(tmp_path / "blocks" / "index.sqlite")) as db:
        db.execute("UPDATE total SET nbytes = ?", (wrong,))
        db.commit()
    run(tmp_path, look, limit=64 * MIB)


def test_what_others_may_use_is_part_of_the_size(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        names = tier.allow(0.5, MIB)
        listings = tier.allow(0.25)
        for number in range(20):
            put(tier, named(str(number), MIB))
        await tier.flush()
        used = 0
        while used < 7 * MIB:
            if names.take_nowait(100_000):
                used += 100_000
                assert on_disk(tmp_path) + used <= 16 * MIB + 64 * 1024  # the index's log says what went
            else:
                await trio.sleep(0.001)  # the writer makes room
        await until(lambda: on_disk(tmp_path) + used <= 16 * MIB)
        with listings.held(2 * MIB) as held:
            assert held
            put(tier, named("new", MIB))
            await tier.flush()
            assert on_disk(tmp_path) + used + 2 * MIB <= 16 * MIB
        with listings.held(5 * MIB) as held:
            assert not held
        assert not names.take_nowait(2 * MIB)
        assert await check(tier, named("new", MIB))

    run(tmp_path, case, limit=16 * MIB)


def test_others_leave_the_reserve_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tmpfs"
    with tmpfs(folder, "size=16m"):

        async def case(tier: DiskTier) -> None:
            with tier.allow(0.5).held(5 * MIB) as held:
                assert not held
            with tier.allow(0.5).held(3 * MIB) as held:
                assert held

        run(folder / "cache", case, reserve=Reserve(0.0, 10 * MIB))


ON_FULL_BTRFS = """
import sys
from pathlib import Path
import trio
from disktiers import MIB, check, named, put, run

folder = Path(sys.argv[1])

async def case(tier):
    for number in range(20):
        put(tier, named(str(number), MIB))
        await tier.flush()
    print("filled", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    for number in range(20, 60):
        put(tier, named(str(number), MIB))
        await tier.flush()
        await check(tier, named(str(number), MIB))
    print("alive", tier.statistics().enabled, flush=True)

run(folder, case)
"""


@HAS_BTRFS
def test_nobody_dies_on_a_btrfs_without_room(tmp_path: Path) -> None:
    """SQLite's mapped index of its log was SIGBUS there."""
    folder = tmp_path / "btrfs"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with btrfs_at(folder):
        (folder / "cache").mkdir(0o700)
        command = [sys.executable, "-c", ON_FULL_BTRFS, str(folder / "cache")]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "filled\n"
            os.sync()
            for number in range(3):
                fill_up(folder / f"other {number}")
                os.sync()
            out, _ = child.communicate("go\n", timeout=60)
            assert (out, child.returncode) == ("alive True\n", 0)


@HAS_BTRFS
def test_an_index_with_a_log_is_taken_over_on_btrfs(tmp_path: Path) -> None:
    folder = tmp_path / "btrfs"

    async def fill_it(tier: DiskTier) -> None:
        put(tier, named("old"))

    async def look(tier: DiskTier) -> None:
        assert await check(tier, named("old"))
        assert not list(folder.glob("cache/blocks/*-shm"))
        put(tier, named("new"))
        await tier.flush()
        assert await check(tier, named("new"))

    with btrfs_at(folder):
        run(folder / "cache", fill_it)
        with closing(sqlite3.connect(folder / "cache/blocks/index.sqlite")) as db:
            assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        run(folder / "cache", look)


def test_what_can_never_be_allowed_is_not_waited_for_and_wakes_nobody() -> None:
    woken = 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    allowance = Allowance(1000, 0, wake)
    began = time.monotonic()
    with allowance.held(1001) as held:
        assert not held
    assert time.monotonic() < began + 1
    allowance.grant(1000)
    woken = 0
    assert allowance.take_nowait(1000)
    assert not any(allowance.take_nowait(10) for _ in range(10))
    assert woken == 0
