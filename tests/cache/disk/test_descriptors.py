"""The data files that are open are few, each has two descriptors at most, and a lack of them costs hits only."""

from __future__ import annotations

import errno
import gc
import os
import resource
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from disktiers import MIB, NO_RESERVE, check, named, nothing, put, run
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.direct import ReadBuffers
from s3stream_fs.cache.disk.files import DataFile, Descriptors
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.lookups import Lookups, Reading
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.types import BLOCK_BYTES, ByteRange


def data_files_open(folder: Path) -> int:
    """Descriptors of this process that lead to data files."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = str((Path("/proc/self/fd") / fd).readlink())
        except FileNotFoundError:  # the one that was needed to find out
            continue
        count += path.startswith(str(folder)) and len(Path(path.removesuffix(" (deleted)")).name) == 32
    return count


def test_many_files_read_by_16_at_a_time_leave_two_descriptors_each(tmp_path: Path) -> None:
    ids = [named(str(number), 4 * MIB) for number in range(60)]

    async def fill() -> None:
        async with open_disk_tier(DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE), "s3/bucket") as tier:
            data = memoryview(bytes(4 * MIB))
            for object_id in ids:
                while not tier.put_nowait(object_id, object_id.whole, [data]):
                    await tier.flush()

    async def read() -> None:
        config = DiskTierConfig(tmp_path, 1 << 30, NO_RESERVE, most_open_files=20)
        async with open_disk_tier(config, "s3/bucket") as tier:
            for object_id in ids:
                async with trio.open_nursery() as readers:
                    for part in object_id.whole.parts(MIB // 4):
                        readers.start_soon(tier.read, object_id, part)
                # As many again may wait to be closed by the next turn of a thread.
                assert data_files_open(tmp_path) <= 2 * 20 + 2 * 16
            assert tier.statistics().hits == 16 * len(ids)
        assert data_files_open(tmp_path) == 0

    trio.run(fill)
    trio.run(read)


def test_a_file_is_opened_once_more_by_one_of_those_who_want_it(tmp_path: Path) -> None:
    descriptors = Descriptors()
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    file = DataFile(os.open(path, os.O_RDWR), descriptors)
    buffers = ReadBuffers(MIB)
    taken = [buffer for _ in range(16) if (buffer := buffers.take(MIB)) is not None]
    read = partial(file.read_direct, ByteRange(0, MIB))
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(16) as readers:
        assert [len(view) for view in readers.map(read, taken)] == [MIB] * 16
    assert len(descriptors) <= 2  # one on a file system that reads everything through the page cache
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del file, read
    descriptors.close_ended()
    assert len(descriptors) == 0


def test_an_error_of_close_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def close_and_complain(fd: int) -> None:
        close(fd)
        raise OSError(errno.EDQUOT, "what was written before has no room")

    close = os.close
    descriptors = Descriptors()
    for _ in range(3):
        DataFile(os.open("/dev/null", os.O_RDONLY), descriptors)
    monkeypatch.setattr(os, "close", close_and_complain)
    descriptors.close_ended()
    assert len(descriptors) == 0


def test_a_look_for_what_is_not_there_leaves_its_buffer_to_nobody(tmp_path: Path) -> None:
    async def case(tier: DiskTier) -> None:
        gc.collect()
        gc.disable()
        try:
            buffer = memoryview(bytearray(BLOCK_BYTES))
            gone = weakref.ref(buffer)
            object_id = named("none", BLOCK_BYTES)
            reading = Reading(object_id.whole, buffer, direct=False, once=False)
            folder = CacheFolder(tmp_path)
            found = Lookups(folder).find("0" * 32, object_id, object_id.whole, object_id.whole, reading)
            folder.close()
            assert found.checksums is None
            del buffer, reading
            assert gone() is None
        finally:
            gc.enable()

    run(tmp_path, case)


@contextmanager
def no_more() -> Iterator[None]:
    """No descriptor may be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_there_are_no_hits_and_then_there_are_again(tmp_path: Path) -> None:
    ids = [named(str(number)) for number in range(20)]

    async def fill(tier: DiskTier) -> None:
        for object_id in ids:
            put(tier, object_id)

    async def case(tier: DiskTier) -> None:
        assert await check(tier, ids[0])
        with no_more():
            for object_id in ids[1:]:
                assert not await check(tier, object_id)
            put(tier, named("new"))
            await tier.flush()
        assert tier.statistics().enabled
        assert tier.statistics().dropped_writes == 1
        while not all([await check(tier, object_id) for object_id in ids]):  # noqa: ASYNC110 after a second it tries again
            await trio.sleep(0.1)
        put(tier, named("new"))
        await tier.flush()
        assert await check(tier, named("new"))

    run(tmp_path, nothing)
    run(tmp_path, fill)
    run(tmp_path, case)
