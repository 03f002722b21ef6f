"""A disk that is full, read-only, broken, locked or tampered with costs hits, says so once, comes back by itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from disks import break_ext4, ext4_at
from disktiers import MIB, back, check, data_file, flip, missing, named, on_disk, put, run, until
from s3stream_fs.cache.disk.policy import Reserve
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.types import BLOCK_BYTES, ByteRange

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


def test_the_reserve_stays_free_whoever_fills_the_disk(disk: Path) -> None:
    def free() -> int:
        status = os.statvfs(disk)
        return status.f_bavail * status.f_frsize

    async def case(tier: DiskTier) -> None:
        for number in range(20):
            put(tier, named(str(number), MIB))
            await tier.flush()
            assert free() >= 4 * MIB
        (disk / "other").write_bytes(bytes(3 * MIB))
        await until(lambda: free() >= 4 * MIB)
        assert await check(tier, named("19", MIB))

    run(disk / "cache", case, reserve=Reserve(0.0, 4 * MIB))
    run(disk / "cache", case, reserve=Reserve(0.25))


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "ext4"
    with ext4_at(folder):
        yield folder


def test_a_disk_that_turns_read_only_and_is_replaced(ext4: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(tier: DiskTier) -> None:
        put(tier, named("before", MIB))
        await tier.flush()
        break_ext4(ext4)
        put(tier, named("lost", MIB))
        await tier.flush()
        assert not await check(tier, named("lost", MIB))
        assert not await check(tier, named("before", MIB))
        assert put(tier, named("lost", MIB))  # or memory would keep it for the disk
        await trio.run_process(["umount", "-l", ext4])
        await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", ext4])
        await back(tier)
        put(tier, named("after", MIB))
        await tier.flush()
        assert await check(tier, named("after", MIB))

    run(ext4 / "cache", case)
    assert levels(caplog) == ["ERROR", "WARNING"], caplog.text


def test_errors_of_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """/proc/self/mem is a regular file that answers EIO to whoever reads or writes where nothing is mapped."""
    victim, other = named("victim", MIB), named("other", MIB)
    path = data_file(tmp_path, victim)

    async def fill(tier: DiskTier) -> None:
        put(tier, victim)
        put(tier, other)

    async def look(tier: DiskTier) -> None:
        assert not await check(tier, victim)
        assert await check(tier, other)
        assert await missing(tier, victim, victim.whole) == (victim.whole,)
        put(tier, victim)  # fails as well
        await tier.flush()
        assert not tier.statistics().enabled
        assert tier.statistics().errors >= 2
        await trio.run_process(["umount", path])
        await back(tier)
        assert await check(tier, victim)
        assert await check(tier, other)

    run(tmp_path, fill)
    subprocess.run(["mount", "--bind", "/proc/self/mem", path], check=True)
    try:
        run(tmp_path, look)
    finally:
        subprocess.run(["umount", "-q", path], check=False)
    assert levels(caplog).count("ERROR") == 2, caplog.text


def test_nothing_is_left_of_what_was_to_be_committed_with_a_file_that_fails(tmp_path: Path) -> None:
    """Bytes that no row counts would take room until the folder is swept."""
    good, bad = named("good", MIB), named("bad", MIB)

    async def case(tier: DiskTier) -> None:
        data_file(tmp_path, bad).mkdir(parents=True)
        put(tier, good)
        put(tier, bad)
        await tier.flush()
        assert not tier.statistics().enabled
        assert not data_file(tmp_path, good).exists()
        data_file(tmp_path, bad).rmdir()
        await back(tier)
        put(tier, good)
        await tier.flush()
        assert await check(tier, good)

    run(tmp_path, case)


def test_after_an_error_of_the_disk_the_kernel_is_handed_no_files(tmp_path: Path) -> None:
    """It would give the next error to whoever reads one, where a read through the tier is answered by the store."""
    victim, other = named("victim", MIB), named("other", MIB)
    path = data_file(tmp_path, victim)

    async def fill(tier: DiskTier) -> None:
        put(tier, victim)
        put(tier, other)

    async def look(tier: DiskTier) -> None:
        assert await check(tier, other)
        assert tier.whole_file_nowait(other) is not None
        assert not await check(tier, victim)
        assert tier.whole_file_nowait(other) is None
        assert await check(tier, other)

    run(tmp_path, fill)
    subprocess.run(["mount", "--bind", "/proc/self/mem", path], check=True)
    try:
        run(tmp_path, look)
    finally:
        subprocess.run(["umount", path], check=True)


def test_locked_index(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("old"))

    async def case(tier: DiskTier) -> None:
        with sqlite3.connect(tmp_path / "blocks" / "index.sqlite", isolation_level=None) as db:
            db.execute("BEGIN EXCLUSIVE")
            began = trio.current_time()
            await check(tier, named("old"))
            put(tier, named("new"))
            assert trio.current_time() < began + 1
            await until(lambda: "locked" in tier.statistics().takes_nothing)
            assert tier.statistics().enabled
            assert await check(tier, named("old"))
            db.execute("ROLLBACK")
        db.close()
        await until(lambda: not tier.statistics().takes_nothing)
        put(tier, named("newer"))
        await tier.flush()
        assert await check(tier, named("newer"))

    run(tmp_path, fill, case)


def test_an_index_that_is_locked_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("old"))

    async def case(tier: DiskTier) -> None:
        assert await check(tier, named("old"))
        await until(lambda: "locked" in tier.statistics().takes_nothing)
        db.execute("ROLLBACK")
        await until(lambda: not tier.statistics().takes_nothing)
        put(tier, named("new"))
        await tier.flush()
        assert await check(tier, named("new"))

    run(tmp_path, fill)
    db = sqlite3.connect(tmp_path / "blocks" / "index.sqlite", isolation_level=None, check_same_thread=False)
    db.execute("BEGIN EXCLUSIVE")
    try:
        run(tmp_path, case)
    finally:
        db.close()
    assert levels(caplog) == ["WARNING", "WARNING"], caplog.text


def test_index_damaged_while_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "blocks" / "index.sqlite"

    async def case(tier: DiskTier) -> None:
        for number in range(3):
            put(tier, named(str(number)))
        await tier.flush()
        for suffix in ("", "-wal"):
            file = path.with_name(path.name + suffix)
            file.write_bytes(os.urandom(file.stat().st_size))
        while tier.statistics().enabled:
            put(tier, named(str(os.urandom(4))))
            await tier.flush()
            await tier.learn(named("0"), named("0").whole, again=True)
            await trio.sleep(0.01)
        await back(tier)
        put(tier, named("new"))
        await tier.flush()
        assert await check(tier, named("new"))

    run(tmp_path, case)
    assert "ERROR" in levels(caplog)


def hostile(change: str) -> Callable[[sqlite3.Connection], object]:
    return lambda db: db.execute(f"UPDATE file SET {change}")


TAMPERED = {
    "a name that is a path": hostile("name = CAST('../../../escape' AS BLOB)"),
    "a name of nothing": hostile("name = x''"),
    "a name that is text": hostile("name = '../../escape'"),
    "checksums of another length": hostile("checksums = zeroblob(100000)"),
    "checksums that are text": hostile("checksums = 'text'"),
    "a key that is a number": hostile("key = 7"),
    "a negative size": hostile("nbytes = -1000000000"),
    "a huge size": hostile("nbytes = 9000000000000000000"),
    "a total that is text": lambda db: db.execute("UPDATE total SET nbytes = 'text'"),
    "no total": lambda db: db.execute("DELETE FROM total"),
    "no table": lambda db: db.execute("DROP TABLE file"),
    "another table": lambda db: db.executescript("DROP TABLE file; CREATE TABLE file (name);"),
    "a trigger": lambda db: db.executescript(
        "CREATE TRIGGER t AFTER INSERT ON file BEGIN SELECT raise(ABORT, 'x'); END"
    ),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_index_leads_nowhere(tmp_path: Path, tamper: Callable[[sqlite3.Connection], object]) -> None:
    folder = tmp_path / "deep" / "deeper" / "cache"
    (tmp_path / "escape").write_bytes(b"not ours")

    async def fill(tier: DiskTier) -> None:
        put(tier, named("key", MIB))

    async def look(tier: DiskTier) -> None:
        await check(tier, named("key", MIB))
        for number in range(5):
            put(tier, named(str(number), MIB))
            await tier.flush()
            await check(tier, named(str(number), MIB))

    run(folder, fill)
    with sqlite3.connect(folder / "blocks" / "index.sqlite") as db:
        tamper(db)
    db.close()
    run(folder, look, limit=4 * MIB)
    assert (tmp_path / "escape").read_bytes() == b"not ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "escape"]


def test_blocks_may_be_checked_each_time(tmp_path: Path) -> None:
    object_id = named("key", 3 * MIB)
    path = data_file(tmp_path, object_id)

    async def case(tier: DiskTier) -> None:
        put(tier, object_id)
        await tier.flush()
        assert await check(tier, object_id)
        assert tier.whole_file_nowait(object_id) is None  # the kernel would check nothing
        flip(path)
        assert await check(tier, object_id, ByteRange(5, MIB))
        assert not await check(tier, object_id)
        assert tier.statistics().bad_blocks == 1
        assert await tier.cached_nbytes(object_id) == 3 * MIB - BLOCK_BYTES

    run(tmp_path, case, verify_always=True)


def test_a_pipe_in_place_of_a_file_holds_nobody(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("key"))

    async def look(tier: DiskTier) -> None:
        assert not await check(tier, named("key"))

    run(tmp_path, fill)
    path = data_file(tmp_path, named("key"))
    path.unlink()
    os.mkfifo(path)
    run(tmp_path, look)


def test_files_of_an_index_that_was_lost_are_counted_until_they_are_gone(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        for number in range(6):
            put(tier, named(str(number), MIB))

    async def look(tier: DiskTier) -> None:
        put(tier, named("new", MIB))
        await tier.flush()
        assert on_disk(tmp_path) <= 2 * MIB
        assert await check(tier, named("new", MIB))
        assert tier.statistics().orphans_removed == 6

    run(tmp_path, fill)
    for path in (tmp_path / "blocks").glob("index.sqlite*"):
        path.unlink()
    (tmp_path / "blocks" / "00" / "not one of ours").write_bytes(b"stays")
    run(tmp_path, look, limit=8 * MIB)
    assert (tmp_path / "blocks" / "00" / "not one of ours").read_bytes() == b"stays"


@pytest.mark.parametrize("size", [100_000, 3 * MIB])
def test_what_was_just_written_is_compared_when_it_is_read(tmp_path: Path, size: int) -> None:
    """The disk lied, though the file was never closed since."""
    object_id = named("key", size)

    async def case(tier: DiskTier) -> None:
        put(tier, object_id)
        await tier.flush()
        flip(data_file(tmp_path, object_id))
        assert not await check(tier, object_id)
        assert tier.statistics().bad_blocks == 1

    run(tmp_path, case)


def test_a_file_is_handed_over_once_it_was_read_back(tmp_path: Path) -> None:
    right, wrong = named("right", 3 * MIB), named("wrong", 3 * MIB)

    async def case(tier: DiskTier) -> None:
        put(tier, right)
        put(tier, wrong)
        await tier.flush()
        flip(data_file(tmp_path, wrong))
        assert tier.whole_file_nowait(wrong) is None
        await until(lambda: tier.whole_file_nowait(right) is not None)
        for _ in range(20):
            assert tier.whole_file_nowait(wrong) is None
            await trio.sleep(0.01)
        assert not await check(tier, wrong)

    run(tmp_path, case)


def test_a_disk_that_fails_while_it_is_opened_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in ``test_errors_of_the_disk``."""
    index = tmp_path / "blocks" / "index.sqlite"

    async def fill(tier: DiskTier) -> None:
        put(tier, named("key", MIB))

    async def look(tier: DiskTier) -> None:
        assert not tier.statistics().enabled
        assert "unable to open" in tier.statistics().takes_nothing
        assert not await check(tier, named("key", MIB))
        await trio.run_process(["umount", index])
        await back(tier)
        assert await check(tier, named("key", MIB))

    run(tmp_path, fill)
    subprocess.run(["mount", "--bind", "/proc/self/mem", index], check=True)
    try:
        run(tmp_path, look)
    finally:
        subprocess.run(["umount", "-q", index], check=False)
    assert levels(caplog) == ["ERROR", "WARNING"], caplog.text
