"""Disk tiers for tests: opened, filled, looked at, damaged."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.files import file_name
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.policy import Policy, Reserve
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.types import ByteRange, ObjectId

MIB = 1024 * 1024
NO_RESERVE = Reserve(0.0)
RETRY_SECONDS = 0.2
LOCK_SECONDS = 0.5
Case = Callable[[DiskTier], Awaitable[None]]


def content(object_id: ObjectId) -> bytes:
    return random.Random(object_id.key + object_id.etag).randbytes(object_id.size)


def named(key: str, size: int = 100_000) -> ObjectId:
    return ObjectId(key, "etag", size)


async def nothing(tier: DiskTier) -> None:
    """Open and close."""


def run(
    folder: Path,
    *cases: Case,
    limit: int = 1 << 30,
    space: str = "s3/bucket",
    reserve: Reserve = NO_RESERVE,
    policy: Policy = Policy.LRU,
    verify_always: bool = False,
) -> None:
    """Each case in a newly opened tier."""
    config = DiskTierConfig(
        folder,
        limit,
        reserve,
        policy=policy,
        verify_always=verify_always,
        retry_seconds=RETRY_SECONDS,
        lock_seconds=LOCK_SECONDS,
    )

    async def main(case: Case) -> None:
        with trio.fail_after(60):
            async with open_disk_tier(config, space) as tier:
                await case(tier)

    for case in cases:
        trio.run(main, case)


def put(tier: DiskTier, object_id: ObjectId, byte_range: ByteRange | None = None, pieces: int = 3) -> bool:
    byte_range = byte_range or object_id.whole
    data = memoryview(content(object_id))[byte_range.start : byte_range.stop]
    step = -(-len(data) // pieces)
    return tier.put_nowait(object_id, byte_range, [data[at : at + step] for at in range(0, len(data), step)])


async def missing(tier: DiskTier, object_id: ObjectId, byte_range: ByteRange) -> tuple[ByteRange, ...]:
    """What is not on disk, whatever is known of it in memory."""
    await tier.learn(object_id, byte_range)
    return tier.missing_nowait(object_id, byte_range)


async def check(tier: DiskTier, object_id: ObjectId, byte_range: ByteRange | None = None) -> bool:
    """Whether it is there; whatever is there must be right."""
    byte_range = byte_range or object_id.whole
    found = tier.read_nowait(object_id, byte_range)
    if found is None:
        found = await tier.read(object_id, byte_range)
    assert found is None or found == content(object_id)[byte_range.start : byte_range.stop]
    return found is not None


def on_disk(folder: Path) -> int:
    """Bytes of everything in the folder, the index among them."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("blocks/**/*") if path.is_file())


def data_file(folder: Path, object_id: ObjectId) -> Path:
    name = file_name("s3/bucket", object_id, object_id.whole)
    return folder / "blocks" / name[:2] / name


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 the tier's thread tells nobody
        await trio.sleep(0.01)


async def off(tier: DiskTier) -> None:
    await until(lambda: not tier.statistics().enabled)


async def back(tier: DiskTier) -> None:
    await until(lambda: tier.statistics().enabled)
