"""Several processes, one folder: who fetches what. Each tier here has descriptors of its own, as a process has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import trio
import trio.testing

from disktiers import MIB, NO_RESERVE, RETRY_SECONDS, check, content, named, put, run, until
from s3stream_fs.cache.disk.claims import Claim
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.fetch.scheduler import FetchConfig
from s3stream_fs.store import Deliver
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.memory import MemoryStore
from s3stream_fs.types import ByteRange, ObjectId

LARGE = named("large", 3 << 30)
"""In segments of 64 MiB, each a file of its own."""


async def know_each_other(*tiers: DiskTier) -> None:
    while not all(tier.statistics().shared for tier in tiers):
        await trio.lowlevel.checkpoint()


def test_what_another_process_fetches_is_waited_for_and_found(tmp_path: Path) -> None:
    one_id, other_id = named("one"), named("other")

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
        with trio.fail_after(30):
            async with open_disk_tier(config, "s3/bucket") as one, open_disk_tier(config, "s3/bucket") as two:
                await know_each_other(one, two)
                assert one.claim_nowait(one_id, one_id.whole) is Claim.MINE
                assert two.claim_nowait(one_id, one_id.whole) is Claim.THEIRS
                assert two.claim_nowait(other_id, other_id.whole) is Claim.MINE
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(put_soon, one)
                    assert await two.wait_for_claim(one_id, one_id.whole) is Claim.ON_DISK
                assert await check(two, one_id)
                assert await one.wait_for_claim(one_id, one_id.whole) is Claim.ON_DISK
                two.release_nowait(other_id, other_id.whole)
                assert one.claim_nowait(other_id, other_id.whole) is Claim.MINE

    async def put_soon(tier: DiskTier) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        put(tier, one_id)

    trio.run(main)


def test_who_gave_up_before_it_began_claims_nothing(tmp_path: Path) -> None:
    object_id = named("one")

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
        async with open_disk_tier(config, "s3/bucket") as one, open_disk_tier(config, "s3/bucket") as two:
            await know_each_other(one, two)
            with trio.CancelScope() as given_up:
                given_up.cancel()
                await one.wait_for_claim(object_id, object_id.whole)
            assert two.claim_nowait(object_id, object_id.whole) is Claim.MINE

    trio.run(main)


def test_claims_end_with_their_process_and_after_a_while(tmp_path: Path) -> None:
    object_id = named("one")

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
        with trio.fail_after(30):
            async with open_disk_tier(config, "s3/bucket") as one:
                async with open_disk_tier(config, "s3/bucket") as two:
                    await know_each_other(one, two)
                    assert two.claim_nowait(object_id, object_id.whole) is Claim.MINE
                    assert await one.wait_for_claim(object_id, object_id.whole) is Claim.THEIRS  # it hangs: go on
                assert await one.wait_for_claim(object_id, object_id.whole) is Claim.MINE

    trio.run(main)


def test_claims_are_of_blocks_also_across_segments(tmp_path: Path) -> None:
    border = 64 * MIB
    across = ByteRange(border - MIB, border + MIB)

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
        with trio.fail_after(30):
            async with open_disk_tier(config, "s3/bucket") as one, open_disk_tier(config, "s3/bucket") as two:
                await know_each_other(one, two)
                assert one.claim_nowait(LARGE, across) is Claim.MINE
                assert two.claim_nowait(LARGE, ByteRange(border - 2 * MIB, border - MIB)) is Claim.MINE
                assert two.claim_nowait(LARGE, ByteRange(border, border + 2 * MIB)) is Claim.THEIRS
                assert two.claim_nowait(LARGE, ByteRange(border - 2 * MIB, border + 3 * MIB)) is Claim.THEIRS
                one.release_nowait(LARGE, across)
                assert two.claim_nowait(LARGE, ByteRange(border, border + 2 * MIB)) is Claim.MINE
                # What could not be had as a whole was not kept in part.
                assert one.claim_nowait(LARGE, ByteRange(border + 2 * MIB, border + 3 * MIB)) is Claim.MINE

    trio.run(main)


def test_what_another_process_has_written_is_found_once_it_has_left(tmp_path: Path) -> None:
    object_id = named("one")

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
        with trio.fail_after(30):
            async with open_disk_tier(config, "s3/bucket") as one:
                async with open_disk_tier(config, "s3/bucket") as two:
                    await know_each_other(one, two)
                    assert not await check(one, object_id)
                    put(two, object_id)
                await until(lambda: not one.statistics().shared)
                assert await check(one, object_id)

    trio.run(main)


def test_alone_nothing_is_claimed(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        inode = (tmp_path / "blocks" / "fetching.lock").stat().st_ino
        assert tier.claim_nowait(LARGE, ByteRange(0, MIB)) is Claim.MINE
        assert kinds_of_locks(inode) == ["READ"]  # only that somebody is here

    run(tmp_path, case)


def test_nothing_of_a_get_that_was_given_up_half_way_stays_claimed(tmp_path: Path) -> None:
    object_id = named("one", 8 * MIB)

    class Stalling(MemoryStore):
        async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
            deliver(memoryview(content(object_id))[: 3 * MIB])
            await trio.sleep_forever()

    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE)
        with trio.fail_after(30):
            async with (
                open_disk_tier(config, "s3/bucket") as one,
                open_disk_tier(config, "s3/bucket") as two,
                trio.open_nursery() as nursery,
            ):
                await know_each_other(one, two)
                fetcher = Fetcher(Stalling(), MemoryTier(64 * MIB), one, FetchConfig(), Congestion(8), nursery)
                with trio.move_on_after(0.2):
                    await fetcher.get(object_id, object_id.whole, object_id.whole, (), 8 * MIB)
                assert await one.flush()
                assert await two.wait_for_claim(object_id, ByteRange(0, 3 * MIB)) is Claim.ON_DISK
                assert two.claim_nowait(object_id, ByteRange(3 * MIB, 8 * MIB)) is Claim.MINE
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_damaged_index_of_a_shared_folder_is_made_anew_however_much_is_fetched(tmp_path: Path) -> None:
    async def main() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE, retry_seconds=RETRY_SECONDS)
        with trio.fail_after(30):
            async with open_disk_tier(config, "s3/bucket") as one, open_disk_tier(config, "s3/bucket") as two:
                for number in range(200):
                    put(one, named(str(number)))
                assert await one.flush()
                await know_each_other(one, two)
                index = tmp_path / "blocks" / "index.sqlite"
                with closing(sqlite3.connect(index)) as db:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                with index.open("r+b") as file:
                    file.seek(4096)
                    file.write(b"\xa5" * (index.stat().st_size - 4096))
                was = index.stat().st_ino
                number = 0
                while index.stat().st_ino == was or not one.statistics().enabled:
                    object_id = named(f"more {number}")
                    await one.wait_for_claim(object_id, object_id.whole)
                    put(one, object_id)
                    await trio.sleep(RETRY_SECONDS / 10)
                    number += 1

    trio.run(main)


def kinds_of_locks(inode: int) -> list[str]:
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [words[3] for words in locks if words[5].endswith(f":{inode}")]
