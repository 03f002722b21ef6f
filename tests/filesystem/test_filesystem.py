"""The file system without a kernel."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import trio

from filesystems import Rig, run_filesystem
from s3stream_fs.errors import Archived, NameTooLong, NotFound, ObjectChanged, StoreUnavailable, errno_of
from s3stream_fs.filesystem.filesystem import FOREVER_SECONDS
from s3stream_fs.namespace.inodes import ROOT
from s3stream_fs.namespace.refresh import RefreshProgress
from scratches import HangingScratch


def test_lookup_stat_read(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("p/d/file", b"content")
        rig.store.put("outside", b"x")
        found = await rig.walk("d/file")
        assert found.mode == stat.S_IFREG | 0o444
        assert (found.size, found.nblocks, found.uid, found.gid) == (7, 1, 1, 2)
        assert rig.filesystem.getattr(found.inode).attributes == found
        rig.filesystem.open(found.inode)
        assert bytes(await rig.filesystem.read(found.inode, 2, 100)) == b"ntent"
        assert len(await rig.filesystem.read(found.inode, 7, 100)) == 0
        directory = await rig.walk("d")
        assert (directory.mode, directory.mtime_ns) == (stat.S_IFDIR | 0o555, 7)
        with pytest.raises(NotFound):
            await rig.walk("outside")
        with pytest.raises(NotFound):
            await rig.filesystem.read(directory.inode, 0, 10)
        with pytest.raises(NameTooLong):
            await rig.filesystem.lookup(ROOT, b"n" * 256)

    run_filesystem(tmp_path, case, prefix="p/")


def test_readdir_and_lookup_say_the_same(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        for key in ("a", "b/c", "d"):
            rig.store.put(key, b"x")
        listing = rig.filesystem.open_directory(ROOT)
        await rig.filesystem.wait_settled(listing, 3)
        rows = list(listing.rows_nowait(0))
        for row in rows:
            listed = rig.filesystem.show(row)
            assert listed.inode == rig.filesystem.number_of(row)
            assert (await rig.filesystem.lookup(ROOT, row.name)).attributes == listed
        assert len(rows) == 3

    run_filesystem(tmp_path, case)


@pytest.mark.parametrize(("ttl", "valid"), [(0.0, 0.0), (60.0, 60.0), (float("inf"), FOREVER_SECONDS)])
def test_kernel_may_keep_names_for_the_time_to_live(tmp_path: Path, ttl: float, valid: float) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("a", b"x")
        assert (await rig.filesystem.lookup(ROOT, b"a")).valid_seconds == valid
        assert (await rig.filesystem.lookup(ROOT, b"missing")).valid_seconds == valid
        await trio.sleep(45)
        assert (await rig.filesystem.lookup(ROOT, b"a")).valid_seconds == (15 if ttl == 60 else valid)

    run_filesystem(tmp_path, case, ttl=ttl)


def test_forgotten_inodes_are_gone_and_come_back_the_same(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("a", b"x")
        number = (await rig.walk("a")).inode
        rig.filesystem.forget(number, 1)
        with pytest.raises(NotFound):
            rig.filesystem.getattr(number)
        assert (await rig.walk("a")).inode == number
        assert rig.inodes.statistics().remembered == 2

    run_filesystem(tmp_path, case)


def test_archived(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("cold", b"x", storage_class="DEEP_ARCHIVE")
        found = await rig.walk("cold")
        assert stat.S_IMODE(found.mode) == 0
        with pytest.raises(Archived) as caught:
            rig.filesystem.open(found.inode)
        assert errno_of(caught.value) == 13

    run_filesystem(tmp_path, case)


def test_no_operation_outlasts_its_deadline(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("a", b"x" * 100)
        number = (await rig.walk("a")).inode
        rig.store.gate = trio.Event()
        started = trio.current_time()
        with pytest.raises(StoreUnavailable, match="longer than 30 s"):
            await rig.filesystem.read(number, 0, 10)
        with pytest.raises(StoreUnavailable):
            await rig.filesystem.lookup(ROOT, b"b")
        with pytest.raises(StoreUnavailable):
            await rig.filesystem.wait_settled(rig.filesystem.open_directory(ROOT), 0)
        assert trio.current_time() - started == 90
        rig.store.gate.set()
        assert await rig.filesystem.read(number, 0, 10) == b"x" * 10

    run_filesystem(tmp_path, case)


def test_extended_attributes(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        object_id = rig.store.put("é", b"x")
        number = (await rig.walk("é")).inode
        assert {name: await rig.filesystem.xattr(number, name) for name in rig.filesystem.xattr_names(number)} == {
            b"user.s3.key": "é".encode(),
            b"user.s3.etag": object_id.etag.encode(),
            b"user.s3.storage_class": b"STANDARD",
            b"user.s3stream.cached": b"0",
        }
        assert rig.filesystem.xattr_names(ROOT) == []
        for inode in (number, ROOT):
            assert rig.filesystem.xattr_nowait(inode, b"security.capability") is None
        assert await rig.filesystem.xattr(ROOT, b"user.s3stream.cached") is None

    run_filesystem(tmp_path, case)


def test_a_version_that_was_replaced_is_not_opened_again(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("d/a", b"old")
        rig.store.put("d/b", b"x")
        listing = rig.filesystem.open_directory((await rig.walk("d")).inode)
        old = (await rig.walk("d/a")).inode
        rig.filesystem.open(old)
        rig.store.put("d/a", b"newer")
        heard: list[tuple[int, bytes]] = []

        async def hear() -> None:
            while True:
                heard.append(await rig.filesystem.next_change())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            with pytest.raises(ObjectChanged):
                await rig.filesystem.read(old, 0, 10)
            assert heard == [((await rig.walk("d")).inode, b"a")]  # before the reader has
            nursery.cancel_scope.cancel()
        with pytest.raises(ObjectChanged):
            rig.filesystem.open(old)
        assert rig.filesystem.getattr(old).attributes is not None
        assert [rig.filesystem.is_certain(listing, row) for row in listing.rows_nowait(0)] == [False, True]
        new = await rig.walk("d/a")
        assert (new.inode != old, rig.filesystem.open(new.inode)) == (True, 5)
        assert bytes(await rig.filesystem.read(new.inode, 0, 10)) == b"newer"
        rig.store.put("d/a", b"old")  # back again: what the name stands for now may be opened
        await trio.sleep(60)
        assert (await rig.walk("d/a")).inode == old
        assert rig.filesystem.open(old) == 3
        assert bytes(await rig.filesystem.read(old, 0, 10)) == b"old"

    run_filesystem(tmp_path, case)


def test_a_kernel_that_takes_no_word_keeps_no_reader_waiting(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        rig.store.put("a", b"old")
        old = (await rig.walk("a")).inode
        rig.store.delete("a")
        started = trio.current_time()
        with pytest.raises(NotFound):
            await rig.filesystem.read(old, 0, 10)
        assert trio.current_time() - started < 1

    run_filesystem(tmp_path, case)


def test_a_refresh_compares_names_that_lie_on_the_disk(tmp_path: Path) -> None:
    """Two listings of which memory holds less than a piece each, none of it in the kernel's pages."""
    count = 9000

    async def case(rig: Rig) -> None:
        for number in range(count):
            rig.store.put(f"{number:05}", b"old")
        listing = rig.filesystem.open_directory(ROOT)
        await listing.wait_complete()
        for number in range(0, 600, 2):
            rig.store.put(f"{number:05}", b"newer")
        for number in range(8000, 8100):
            rig.store.delete(f"{number:05}")
        for number in range(50):
            rig.store.put(f"{number:05}-added", b"new")
        told: list[RefreshProgress] = []
        heard: set[bytes] = set()

        async def hear() -> None:
            while True:
                heard.add((await rig.filesystem.next_change())[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await rig.filesystem.refresh(b"", told.append)
            nursery.cancel_scope.cancel()
        (progress,) = told
        assert (progress.nreplaced, progress.nremoved, progress.nadded) == (300, 100, 50)
        assert (progress.ndirectories_done, progress.ndirectories_failed) == (1, 0)
        assert len(heard) == 300 + 100 + 50 + 1
        assert rig.shelf.statistics().reads > 10
        assert rig.shelf.statistics().errors == 0

    (tmp_path / "names").mkdir()
    scratch = HangingScratch(tmp_path / "names")
    run_filesystem(tmp_path, case, real_time=True, scratch=scratch, names_nbytes=20_000)
