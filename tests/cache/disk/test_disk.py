"""The disk tier: what is put is found again, right or not at all."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from disktiers import (
    MIB,
    NO_RESERVE,
    back,
    check,
    content,
    data_file,
    flip,
    missing,
    named,
    nothing,
    on_disk,
    put,
    run,
    until,
)
from s3stream_fs.cache.disk.catalog import Catalog
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.policy import SEGMENT_NBYTES, WHOLE_NBYTES, Policy
from s3stream_fs.cache.disk.rows import Selection
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.errors import UsageError
from s3stream_fs.types import BLOCK_BYTES, ByteRange, ObjectId

SIZES = [1, 100_000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * MIB + 3]


def test_what_is_put_is_found_now_and_after_a_restart(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        for size in SIZES:
            assert await missing(tier, named(str(size), size), named(str(size), size).whole) != ()
            assert put(tier, named(str(size), size))
        await tier.flush()
        await look(tier)

    async def look(tier: DiskTier) -> None:
        for size in SIZES:
            object_id = named(str(size), size)
            assert await missing(tier, object_id, object_id.whole) == ()
            assert await tier.cached_nbytes(object_id) == size
            assert await check(tier, object_id)
            assert await check(tier, object_id, ByteRange(size // 2, size))
        assert tier.statistics().hits > 0

    run(tmp_path, fill, look)


def test_blocks_come_on_their_own(tmp_path: Path) -> None:
    object_id = named("key", 10 * BLOCK_BYTES + 7)
    middle = ByteRange(3 * BLOCK_BYTES, 5 * BLOCK_BYTES)
    end = ByteRange(10 * BLOCK_BYTES, object_id.size)

    async def case(tier: DiskTier) -> None:
        put(tier, object_id, middle)
        put(tier, object_id, end)
        await tier.flush()
        assert await missing(tier, object_id, object_id.whole) == (
            ByteRange(0, middle.start),
            ByteRange(middle.stop, end.start),
        )
        assert await check(tier, object_id, ByteRange(middle.start + 5, middle.stop - 5))
        assert await check(tier, object_id, end)
        assert not await check(tier, object_id, ByteRange(middle.start - 1, middle.stop))
        assert await tier.cached_nbytes(object_id) == 2 * BLOCK_BYTES + 7

    run(tmp_path, case)


def test_thousands_of_tiny_objects_do_not_run_out_of_descriptors(tmp_path: Path) -> None:
    ids = [named(str(number), 100) for number in range(3000)]

    async def case(tier: DiskTier) -> None:
        for object_id in ids:
            assert put(tier, object_id)
        await tier.flush()
        assert tier.statistics().errors == 0
        assert all([await check(tier, object_id) for object_id in ids])

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        run(tmp_path, case)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_versions_and_buckets_are_apart(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, ObjectId("key", "old", 1000))
        await tier.flush()
        assert not await check(tier, ObjectId("key", "new", 1000))
        assert not await check(tier, ObjectId("key", "old", 1001))

    async def other(tier: DiskTier) -> None:
        assert not await check(tier, ObjectId("key", "old", 1000))

    run(tmp_path, fill)
    run(tmp_path, other, space="s3/other")


def test_limit_is_kept_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    ids = [named(str(number), MIB) for number in range(20)]

    async def fill(tier: DiskTier) -> None:
        for object_id in ids[:8]:
            put(tier, object_id)
            await tier.flush()
        assert await check(tier, ids[0])  # used again, which is remembered over the restart

    async def more(tier: DiskTier) -> None:
        for object_id in ids[8:15]:
            put(tier, object_id)
            await tier.flush()
            assert tier.statistics().nbytes_used <= 10 * MIB
            assert on_disk(tmp_path) <= 10 * MIB
        assert await check(tier, ids[0])
        assert not await check(tier, ids[1])
        assert await check(tier, ids[14])
        assert tier.statistics().files_evicted == 6  # the index takes room as well

    run(tmp_path, fill, more, limit=10 * MIB)


@pytest.mark.parametrize("policy", Policy)
def test_lower_limit_shrinks_the_cache_at_the_next_start(tmp_path: Path, policy: Policy) -> None:
    async def fill(tier: DiskTier) -> None:
        for number in range(8):
            put(tier, named(str(number), MIB))

    async def look(tier: DiskTier) -> None:
        assert tier.statistics().nbytes_used <= 3 * MIB

    run(tmp_path, fill)
    assert on_disk(tmp_path) > 8 * MIB
    run(tmp_path, nothing, limit=3 * MIB, policy=policy)
    assert on_disk(tmp_path) <= 3 * MIB
    run(tmp_path, look, limit=3 * MIB)


def test_an_object_larger_than_the_cache_keeps_what_came_first(tmp_path: Path) -> None:
    object_id = named("large", 8 * MIB)

    async def case(tier: DiskTier) -> None:
        for part in object_id.whole.parts(MIB):
            put(tier, object_id, part)
            await tier.flush()
        assert await check(tier, object_id, ByteRange(0, MIB))
        assert tier.statistics().nbytes_used <= 4 * MIB

    run(tmp_path, case, limit=4 * MIB)


def replace(path: Path, make: Callable[[], None]) -> None:
    path.unlink()
    make()


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "bit flipped": lambda path, other: flip(path),
    "cut short": lambda path, other: os.truncate(path, 10),
    "emptied": lambda path, other: os.truncate(path, 0),
    "removed": lambda path, other: path.unlink(),
    "swapped": lambda path, other: path.write_bytes(other.read_bytes()),
    "a symlink": lambda path, other: replace(path, lambda: path.symlink_to(other)),
    "a folder": lambda path, other: replace(path, path.mkdir),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_files_are_never_believed_and_can_be_written_again(
    tmp_path: Path, damage: Callable[[Path, Path], object]
) -> None:
    victim, other = named("victim", BLOCK_BYTES), named("other", BLOCK_BYTES)

    async def fill(tier: DiskTier) -> None:
        put(tier, victim)
        put(tier, other)

    async def look(tier: DiskTier) -> None:
        assert not await check(tier, victim)
        assert await missing(tier, victim, victim.whole) == (victim.whole,)
        assert await check(tier, other)
        statistics = tier.statistics()
        assert statistics.bad_blocks + statistics.errors > 0
        path = data_file(tmp_path, victim)
        if path.is_symlink() or path.is_dir():
            return  # not ours to mend; it stays fetched from the store
        put(tier, victim)
        await tier.flush()
        assert await check(tier, victim)

    run(tmp_path, fill)
    damage(data_file(tmp_path, victim), data_file(tmp_path, other))
    run(tmp_path, look)
    assert data_file(tmp_path, other).read_bytes() == content(other)


def test_one_read_finds_all_of_its_blocks_that_are_wrong(tmp_path: Path) -> None:
    victim, other = named("victim", MIB), named("other", MIB)

    async def fill(tier: DiskTier) -> None:
        put(tier, victim)
        put(tier, other)

    async def look(tier: DiskTier) -> None:
        assert not await check(tier, victim)
        assert await missing(tier, victim, victim.whole) == (victim.whole,)
        assert tier.statistics().bad_blocks == MIB // BLOCK_BYTES

    run(tmp_path, fill)
    data_file(tmp_path, victim).write_bytes(data_file(tmp_path, other).read_bytes())
    run(tmp_path, look)


@pytest.mark.parametrize("junk", [b"", b"not a database at all" * 1000])
def test_damaged_index_starts_empty(tmp_path: Path, junk: bytes) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("key"))

    async def look(tier: DiskTier) -> None:
        assert not await check(tier, named("key"))
        put(tier, named("key"))
        await tier.flush()
        assert await check(tier, named("key"))

    run(tmp_path, fill)
    for path in (tmp_path / "blocks").glob("index.sqlite-*"):
        path.unlink()
    (tmp_path / "blocks" / "index.sqlite").write_bytes(junk)
    run(tmp_path, look)


def test_index_of_another_format_starts_empty(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("key", MIB))

    async def look(tier: DiskTier) -> None:
        assert not await check(tier, named("key", MIB))
        await tier.flush()
        assert tier.statistics().orphans_removed == 1

    run(tmp_path, fill)
    with sqlite3.connect(tmp_path / "blocks" / "index.sqlite") as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    run(tmp_path, look)
    assert on_disk(tmp_path) < MIB


def test_folders_that_cannot_be_trusted(tmp_path: Path) -> None:
    async def never(tier: DiskTier) -> None:
        raise AssertionError

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "blocks").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "open" / "blocks").mkdir(parents=True)
    (tmp_path / "open" / "blocks").chmod(0o777)
    (tmp_path / "file").touch()
    (tmp_path / "shard" / "blocks").mkdir(parents=True, mode=0o700)
    (tmp_path / "shard" / "blocks").chmod(0o700)
    (tmp_path / "shard" / "blocks" / "07").symlink_to(tmp_path / "elsewhere")
    for name in ("link", "open", "file", "shard"):
        with pytest.raises(UsageError) as caught:
            run(tmp_path / name, never)
        assert "\n" not in str(caught.value)
        assert "--cache-dir" in str(caught.value)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_everything_is_owner_only(tmp_path: Path) -> None:
    async def fill(tier: DiskTier) -> None:
        put(tier, named("key"))

    run(tmp_path / "cache", fill)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_costs_hits_and_nothing_else(small_disk: Path) -> None:
    async def case(tier: DiskTier) -> None:
        for number in range(20):
            put(tier, named(str(number), MIB))
            await tier.flush()
        assert await check(tier, named("19", MIB))
        assert tier.statistics().files_evicted > 0
        (small_disk / "other").write_bytes(bytes(MIB))  # somebody else's
        for number in range(20, 30):
            put(tier, named(str(number), MIB))
            await tier.flush()
            await check(tier, named(str(number), MIB))
        assert tier.statistics().enabled

    run(small_disk / "cache", case)


def test_folder_removed_while_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(tier: DiskTier) -> None:
        put(tier, named("key"))
        await tier.flush()
        shutil.rmtree(tmp_path / "cache")
        await check(tier, named("key"))
        put(tier, named("lost"))
        await tier.flush()
        await back(tier)
        assert not await check(tier, named("key"))
        put(tier, named("new"))
        await tier.flush()
        assert await check(tier, named("new"))
        assert tier.statistics().errors > 0

    run(tmp_path / "cache", case)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"], caplog.text


def test_no_limit_means_no_cache(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        assert put(tier, named("key"))  # or it would be offered again for ever
        assert await missing(tier, named("key"), named("key").whole) == (named("key").whole,)
        assert not await check(tier, named("key"))

    run(tmp_path, case, limit=0)


def test_two_processes_share_a_folder_and_its_limit(tmp_path: Path) -> None:
    ids = [named(str(number), MIB) for number in range(12)]

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 6 * MIB, NO_RESERVE)
        async with open_disk_tier(config, "s3/bucket") as one, open_disk_tier(config, "s3/bucket") as two:
            put(one, ids[0])
            await one.flush()
            assert await check(two, ids[0])
            for number, object_id in enumerate(ids):
                tier = (one, two)[number % 2]
                put(tier, object_id)
                await tier.flush()
                assert on_disk(tmp_path) <= 6 * MIB
            for object_id in ids:
                await check(one, object_id)
                await check(two, object_id)

    trio.run(main)


def part_of(object_id: ObjectId, byte_range: ByteRange) -> bytes:
    """Bytes of an object that is too large to be made as a whole."""
    return b"".join(random.Random(f"{object_id.key} {index}").randbytes(BLOCK_BYTES) for index in byte_range.blocks())[
        : len(byte_range)
    ]


def test_an_object_above_1_gib_lies_in_segments_that_come_and_go(tmp_path: Path) -> None:
    large = named("large", WHOLE_NBYTES + 3 * MIB + 7)
    across = ByteRange(SEGMENT_NBYTES - MIB, SEGMENT_NBYTES + MIB)
    end = ByteRange(WHOLE_NBYTES, large.size)

    async def fill(tier: DiskTier) -> None:
        for byte_range in (across, end):
            data = memoryview(part_of(large, byte_range))
            assert tier.put_nowait(large, byte_range, [data[:300_000], data[300_000:]])
        await tier.flush()
        await look(tier)

    async def look(tier: DiskTier) -> None:
        for byte_range in (across, end):
            assert await missing(tier, large, byte_range) == ()
            assert bytes(await tier.read(large, byte_range) or b"") == part_of(large, byte_range)
        inside = ByteRange(SEGMENT_NBYTES - 1000, SEGMENT_NBYTES + 1000)
        assert bytes(await tier.read(large, inside) or b"") == part_of(large, across)[MIB - 1000 : MIB + 1000]
        assert await tier.cached_nbytes(large) == len(across) + len(end)
        assert await missing(tier, large, large.whole) == (
            ByteRange(0, across.start),
            ByteRange(across.stop, WHOLE_NBYTES),
        )
        assert tier.whole_file_nowait(large) is None

    async def push_out(tier: DiskTier) -> None:
        for byte_range in (ByteRange(SEGMENT_NBYTES, across.stop), end):
            assert await tier.read(large, byte_range) is not None  # all but the first segment are used again
        put(tier, named("other", 4 * MIB))
        await tier.flush()
        assert await missing(tier, large, across) == (ByteRange(across.start, SEGMENT_NBYTES),)
        assert await missing(tier, large, end) == ()

    run(tmp_path, fill, look)
    run(tmp_path, push_out, limit=9 * MIB)


def test_a_range_that_is_half_there_misses_the_other_half(tmp_path: Path) -> None:
    object_id = named("key", 4 * MIB)

    async def case(tier: DiskTier) -> None:
        put(tier, object_id, ByteRange(MIB, 2 * MIB))
        await tier.flush()
        assert await missing(tier, object_id, ByteRange(MIB, 3 * MIB)) == (ByteRange(2 * MIB, 3 * MIB),)
        put(tier, object_id, ByteRange(2 * MIB, 3 * MIB))
        await tier.flush()
        assert await check(tier, object_id, ByteRange(MIB, 3 * MIB))

    run(tmp_path, case)


def test_an_index_that_is_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"not ours")
    (tmp_path / "cache" / "blocks").mkdir(parents=True, mode=0o700)
    (tmp_path / "cache" / "blocks").chmod(0o700)
    (tmp_path / "cache" / "blocks" / "index.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="--cache-dir"):
        run(tmp_path / "cache", nothing)
    assert (tmp_path / "elsewhere").read_bytes() == b"not ours"


def open_files() -> list[str]:
    """What the descriptors of this process lead to."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that was needed to find out
            found.append(str((Path("/proc/self/fd") / fd).readlink()))
    return found


def test_a_file_that_another_process_removed_is_let_go(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        put(tier, named("key", MIB))
        await tier.flush()
        assert await check(tier, named("key", MIB))
        with Catalog(tmp_path) as catalog:
            assert catalog.remove(Selection(), lambda _: None).nfiles == 1
        await until(lambda: not any(f"{tmp_path}/blocks/" in name and "(deleted)" in name for name in open_files()))
        assert await missing(tier, named("key", MIB), named("key", MIB).whole) != ()
        assert tier.statistics().errors == 0
        put(tier, named("key", MIB))
        await tier.flush()
        assert await check(tier, named("key", MIB))

    run(tmp_path, case)


def test_what_is_queued_waits_at_the_end_for_another_process_that_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held, ending = threading.Event(), threading.Event()

    def hold() -> None:
        with other.locked(lambda: False):
            held.set()
            ending.wait(30)

    async def fill(tier: DiskTier) -> None:
        await tier.flush()
        await trio.to_thread.run_sync(held_by.start)
        await trio.to_thread.run_sync(held.wait)
        put(tier, named("key"))
        threading.Timer(0.3, ending.set).start()

    async def look(tier: DiskTier) -> None:
        assert await check(tier, named("key"))

    run(tmp_path, nothing)
    other = CacheFolder(tmp_path)
    held_by = threading.Thread(target=hold)
    try:
        run(tmp_path, fill)
    finally:
        ending.set()
        held_by.join()
        other.close()
    assert caplog.records == []
    run(tmp_path, look)
