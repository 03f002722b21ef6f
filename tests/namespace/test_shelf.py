"""Pieces that do not fit memory lie in a file, and nobody sees the difference but in time."""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from diskcalls import disk_calls_of_this_thread
from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.errors import StoreUnavailable
from s3stream_fs.namespace.scratch import Scratch
from s3stream_fs.namespace.shelf import Elsewhere, Shelf, Shelved, having, open_shelf
from scratches import HangingScratch

LIMIT = 100_000


def run(
    case: Callable[[Shelf], Awaitable[None]],
    directory: Path | None,
    limit: int = LIMIT,
    allowance: Allowance | None = None,
) -> None:
    async def main() -> None:
        scratch = None if directory is None else Scratch(directory, allowance)
        async with open_shelf(scratch, limit) as shelf:
            with trio.fail_after(60):
                await case(shelf)

    trio.run(main)


def pieces(shelf: Shelf, count: int, seed: int = 0) -> list[tuple[Shelved, bytes]]:
    choice = random.Random(seed)
    made = [choice.randbytes(choice.randrange(1, 10_000)) for _ in range(count)]
    found = [(Shelved(data), data) for data in made]
    for piece, _ in found:
        shelf.put(piece)
    return found


def slightly_too_many(shelf: Shelf) -> list[tuple[Shelved, bytes]]:
    made: list[tuple[Shelved, bytes]] = []
    while shelf.statistics().nbytes_in_memory <= LIMIT:
        made += pieces(shelf, 1, len(made))
    return made


async def data_of(piece: Shelved) -> bytes:
    return await having(lambda: piece.data)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.lowlevel.checkpoint()


async def until_within(shelf: Shelf, limit: int = LIMIT) -> None:
    await until(lambda: shelf.statistics().nbytes_in_memory <= limit)


def file_of_shelf() -> Path:
    """The shelf's file, which has no name."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one by which these are being read
            name = str(path.readlink())
            if "shelf/" in name and "(deleted)" in name:
                found.append(path)
    (file,) = found
    return file


def run_hanging(case: Callable[[Shelf, HangingScratch], Awaitable[None]], folder: Path) -> None:
    """On a disk that can hang. It goes on at the end, so that no thread is left."""

    async def main() -> None:
        scratch = HangingScratch(folder)
        async with open_shelf(scratch, LIMIT) as shelf:
            try:
                with trio.fail_after(60):
                    await case(shelf, scratch)
            finally:
                scratch.answer()

    trio.run(main)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def test_what_was_put_comes_back_within_the_limit(folder: Path) -> None:
    async def case(shelf: Shelf) -> None:
        made = pieces(shelf, 200)
        await until_within(shelf)
        random.Random(1).shuffle(made)
        for piece, data in made * 2:
            assert await data_of(piece) == data
            await until_within(shelf)
        assert shelf.statistics().nbytes_on_disk >= sum(len(data) for _, data in made) - LIMIT
        assert shelf.statistics().reads > 200
        assert file_of_shelf()

    run(case, folder)
    assert not list(folder.iterdir())


def test_trios_thread_asks_no_disk(folder: Path) -> None:
    async def main(scratch: Scratch) -> None:
        with disk_calls_of_this_thread() as calls:
            async with open_shelf(scratch, LIMIT) as shelf:
                made = pieces(shelf, 100)
                await until_within(shelf)
                for piece, data in made:
                    assert await data_of(piece) == data
                assert shelf.statistics().reads > 50
        assert calls == {}

    for scratch in (Scratch(folder), HangingScratch(folder)):
        trio.run(main, scratch)


def test_what_is_used_stays_in_memory(folder: Path) -> None:
    async def case(shelf: Shelf) -> None:
        ((used, data),) = pieces(shelf, 1)
        for seed in range(100):
            pieces(shelf, 1, seed)
            pieces(shelf, 3, seed)
            await until_within(shelf)
            assert used.data == data

    run(case, folder)


def test_what_nobody_refers_to_takes_no_room(folder: Path) -> None:
    async def case(shelf: Shelf) -> None:
        sizes = []
        for seed in range(30):
            made = pieces(shelf, 100, seed)
            await until_within(shelf)
            for piece, data in made:
                assert await data_of(piece) == data
            await until_within(shelf)
            del made, piece
            gc.collect()
            statistics = shelf.statistics()
            assert statistics.nbytes_in_memory == statistics.nbytes_on_disk == 0
            sizes.append(file_of_shelf().stat().st_size)
        assert sizes[-1] < 3 * sizes[0]

    run(case, folder)


def test_a_damaged_file_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(shelf: Shelf) -> None:
        made = pieces(shelf, 100)
        await until_within(shelf)
        size = file_of_shelf().stat().st_size
        with file_of_shelf().open("r+b") as file:
            file.write(bytes(size))
        damaged = 0
        for piece, data in made * 2:  # the second time nobody is sent to look
            try:
                assert await data_of(piece) == data
            except StoreUnavailable:
                damaged += 1
        assert damaged > 100
        assert shelf.statistics().errors == shelf.statistics().reads == damaged / 2
        assert len(caplog.records) == 1

    run(case, folder)


def test_without_a_disk_it_says_that_it_is_full(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(shelf: Shelf, nerrors: int) -> None:
        made = pieces(shelf, 100)
        assert shelf.is_full
        await until(lambda: shelf.statistics().errors == nerrors)
        assert shelf.is_full
        assert all(piece.data == data for piece, data in made)
        del made[2:]
        gc.collect()
        assert not shelf.is_full
        assert len(caplog.records) == nerrors

    run(partial(case, nerrors=0), None)
    run(partial(case, nerrors=1), folder / "gone")


def test_the_file_stays_within_what_it_may_take(folder: Path) -> None:
    asked = []
    allowance = Allowance(200_000, 0, lambda: asked.append(1))

    async def case(shelf: Shelf) -> None:
        made = pieces(shelf, 100)
        assert shelf.statistics().nbytes_on_disk == 0
        assert shelf.is_full
        assert len(asked) == 1
        allowance.grant(100_000)
        made += pieces(shelf, 100, seed=1)
        await until(lambda: shelf.statistics().nbytes_on_disk > 50_000)
        assert shelf.is_full
        assert shelf.statistics().nbytes_on_disk <= 100_000
        assert file_of_shelf().stat().st_size <= 100_000
        for piece, data in made:
            assert await data_of(piece) == data

    run(case, folder, allowance=allowance)
    assert allowance.unused_nbytes == 100_000


def test_a_disk_that_was_full_is_used_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was with a limit of sizes of files, which needs no disk of its own."""

    async def case(shelf: Shelf) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            made = pieces(shelf, 100)
            await until(lambda: shelf.statistics().errors == 1)
            made += pieces(shelf, 10)
            assert shelf.is_full
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 60)
        made += pieces(shelf, 10, seed=1)
        await until_within(shelf)
        assert not shelf.is_full
        assert shelf.statistics().errors == 1
        for piece, data in made:
            assert await data_of(piece) == data

    run(case, folder)


def on_disk(made: list[tuple[Shelved, bytes]]) -> list[tuple[Shelved, bytes]]:
    return [(piece, data) for piece, data in made if not piece.in_memory]


def test_a_piece_is_read_once_for_all_who_wait_and_for_them_all_though_the_first_goes(folder: Path) -> None:
    async def case(shelf: Shelf, scratch: HangingScratch) -> None:
        made = pieces(shelf, 100)
        await until_within(shelf)
        piece, data = on_disk(made)[0]
        with pytest.raises(Elsewhere):
            _ = piece.data
        scratch.reads_go_on.clear()
        given: list[bytes] = []

        async def wait() -> None:
            given.append(await data_of(piece))

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def wait_in_vain() -> None:
                with first:
                    await wait()

            nursery.start_soon(wait_in_vain)
            await until(lambda: len(scratch.places_read) == 1)
            for _ in range(20):
                nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert len(scratch.places_read) == 1
            first.cancel()
            await until(lambda: len(scratch.places_read) == 2)
            await wait_all_tasks_blocked()
            assert len(scratch.places_read) == 2
            scratch.reads_go_on.set()
        assert given == [data] * 20
        assert shelf.statistics().errors == 0

    run_hanging(case, folder)


def test_a_disk_that_hangs_is_waited_for_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def case(shelf: Shelf, scratch: HangingScratch) -> None:
        made = pieces(shelf, 100)
        await until_within(shelf)
        lost = on_disk(made)
        scratch.reads_go_on.clear()
        began = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await data_of(lost[0][0])
        assert 2 < trio.current_time() - began < 20
        began = trio.current_time()
        for piece, data in made:  # what is in memory is as it was
            if piece.in_memory:
                assert piece.data == data
            else:
                with pytest.raises(StoreUnavailable):
                    await data_of(piece)
        assert trio.current_time() - began < 1
        assert len(scratch.places_read) == 1
        scratch.reads_go_on.set()
        await until(lambda: not lost[1][0].is_lost)
        assert await data_of(lost[1][0]) == lost[1][1]

    run_hanging(case, folder)
    assert len(caplog.records) == 1


def test_a_disk_that_takes_nothing_holds_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def case(shelf: Shelf, scratch: HangingScratch) -> None:
        scratch.writes_go_on.clear()
        made = slightly_too_many(shelf)
        await trio.to_thread.run_sync(scratch.writing.wait)
        assert not shelf.is_full  # a disk that is slow makes nobody go
        assert all(piece.data == data for piece, data in made)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 5)
        assert shelf.is_full
        made += pieces(shelf, 100, seed=1)
        began = trio.current_time()
        await shelf.wait_written()
        assert trio.current_time() - began < 1
        assert all(piece.data == data for piece, data in made)
        for piece, _ in made:
            piece.used = False
        scratch.writes_go_on.set()
        await until_within(shelf)
        assert not shelf.is_full
        for piece, data in made:
            assert await data_of(piece) == data

    run_hanging(case, folder)


def test_who_brings_many_names_waits_for_the_disk(folder: Path) -> None:
    async def case(shelf: Shelf, scratch: HangingScratch) -> None:
        scratch.writes_go_on.clear()
        made = pieces(shelf, 100)
        waited = False

        async def wait() -> None:
            nonlocal waited
            await shelf.wait_written()
            waited = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.to_thread.run_sync(scratch.writing.wait)
            await wait_all_tasks_blocked()
            assert not waited
            scratch.writes_go_on.set()
        assert waited
        assert shelf.statistics().nbytes_in_memory < 1.2 * LIMIT
        assert made

    run_hanging(case, folder)


def test_the_place_of_a_piece_that_goes_while_it_is_written_is_nobodys_until_then(folder: Path) -> None:
    async def case(shelf: Shelf, scratch: HangingScratch) -> None:
        scratch.writes_go_on.clear()
        gone = pieces(shelf, 100)
        await trio.to_thread.run_sync(scratch.writing.wait)
        gone.clear()
        gc.collect()
        assert shelf.statistics().nbytes_in_memory == 0
        made = pieces(shelf, 100, seed=1)
        await wait_all_tasks_blocked()
        scratch.writes_go_on.set()
        await until_within(shelf)
        assert len(on_disk(made)) > 50
        for piece, data in made:
            assert await data_of(piece) == data
        del made, piece
        gc.collect()
        statistics = shelf.statistics()
        assert statistics.nbytes_in_memory == statistics.nbytes_on_disk == 0

    run_hanging(case, folder)


def test_what_is_used_while_it_is_written_stays_in_memory(folder: Path) -> None:
    async def case(shelf: Shelf, scratch: HangingScratch) -> None:
        scratch.writes_go_on.clear()
        made = slightly_too_many(shelf)
        await trio.to_thread.run_sync(scratch.writing.wait)
        assert all(piece.data == data for piece, data in made)
        scratch.writes_go_on.set()
        await until(lambda: shelf.statistics().nbytes_on_disk > 0)
        assert all(piece.in_memory for piece, _ in made[:3])

    run_hanging(case, folder)


def test_two_pieces_at_once_where_memory_has_room_for_none(folder: Path) -> None:
    async def case(shelf: Shelf) -> None:
        made = pieces(shelf, 20)
        await until_within(shelf, 1000)

        async def both(one: tuple[Shelved, bytes], other: tuple[Shelved, bytes]) -> None:
            for _ in range(20):
                assert await having(lambda: one[0].data + other[0].data) == one[1] + other[1]
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for number in range(19):
                nursery.start_soon(both, made[number], made[number + 1])

    run(case, folder, limit=1000)


def test_an_end_does_not_wait_for_a_disk_that_hangs(folder: Path) -> None:
    scratch = HangingScratch(folder)

    async def main() -> None:
        async with open_shelf(scratch, LIMIT) as shelf:
            made = pieces(shelf, 100)
            await until_within(shelf)
            scratch.writes_go_on.clear()
            scratch.reads_go_on.clear()
            made += pieces(shelf, 10)
            with trio.move_on_after(0.1):
                await data_of(on_disk(made)[0][0])
        with pytest.raises(StoreUnavailable):
            await data_of(on_disk(made)[0][0])

    began = time.monotonic()
    trio.run(main)
    assert time.monotonic() - began < 20
    scratch.answer()


def test_nobody_writes_to_a_file_that_is_closed(folder: Path) -> None:
    """Its number may be another file's by then. Whoever still reads has it until the end."""
    scratch = Scratch(folder)
    where = scratch.take_nowait(5)
    assert where is not None
    (checksum,) = scratch.write([(where, b"bytes")])
    with scratch._opened():
        scratch.close()
        assert file_of_shelf().exists()
    with pytest.raises(ValueError, match="not enough values"):
        file_of_shelf()
    for use in (partial(scratch.write, [(where, b"other")]), partial(scratch.read, where, 5, checksum)):
        with pytest.raises(OSError, match="closed"):
            use()


def test_what_the_kernel_has_in_its_pages_needs_no_thread(folder: Path) -> None:
    async def case(shelf: Shelf) -> None:
        made = pieces(shelf, 100)
        await until_within(shelf)
        assert [piece.data for piece, _ in made] == [data for _, data in made]
        await until_within(shelf)
        with file_of_shelf().open("r+b") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        away = [piece for piece, _ in made if not piece._data]
        assert len(away) > 50
        with pytest.raises(Elsewhere):
            _ = [piece.data for piece in away]
        for piece, data in made:
            assert await data_of(piece) == data

    run(case, folder)
