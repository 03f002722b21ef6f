"""Pieces that do not fit memory lie in a file, and nobody sees the difference but in time."""

from __future__ import annotations

import gc
import random
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.errors import StoreUnavailable
from s3stream_fs.namespace.shelf import Shelf, Shelved

LIMIT = 100_000


def pieces(shelf: Shelf, count: int, seed: int = 0) -> list[tuple[Shelved, bytes]]:
    choice = random.Random(seed)
    made = [choice.randbytes(choice.randrange(1, 10_000)) for _ in range(count)]
    found = [(Shelved(data), data) for data in made]
    for piece, _ in found:
        shelf.put(piece)
    return found


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def test_what_was_put_comes_back_within_the_limit(folder: Path) -> None:
    shelf = Shelf(folder, LIMIT)
    made = pieces(shelf, 200)
    random.Random(1).shuffle(made)
    for piece, data in made * 2:
        assert piece.data == data
        assert shelf.statistics().nbytes_in_memory <= LIMIT
    assert shelf.statistics().nbytes_on_disk >= sum(len(data) for _, data in made) - LIMIT
    assert shelf.statistics().reads > 200
    assert not list(folder.iterdir())
    shelf.close()


def test_what_is_used_stays_in_memory(folder: Path) -> None:
    shelf = Shelf(folder, LIMIT)
    ((used, data),) = pieces(shelf, 1)
    for seed in range(100):
        pieces(shelf, 1, seed)
        pieces(shelf, 3, seed)
        before = shelf.statistics().reads
        assert used.data == data
        assert shelf.statistics().reads == before
    shelf.close()


def test_what_nobody_refers_to_takes_no_room(folder: Path) -> None:
    shelf = Shelf(folder, LIMIT)
    sizes = []
    for seed in range(30):
        made = pieces(shelf, 100, seed)
        assert all(piece.data == data for piece, data in made)
        del made
        gc.collect()
        statistics = shelf.statistics()
        assert statistics.nbytes_in_memory == statistics.nbytes_on_disk == 0
        sizes.append(file_of_shelf().stat().st_size)
    assert sizes[-1] < 3 * sizes[0]
    shelf.close()


def test_a_damaged_file_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(folder, LIMIT)
    made = pieces(shelf, 100)
    size = file_of_shelf().stat().st_size
    with file_of_shelf().open("r+b") as file:
        file.write(bytes(size))
    damaged = 0
    for piece, data in made:
        try:
            assert piece.data == data
        except StoreUnavailable:
            damaged += 1
    assert damaged > 50
    assert shelf.statistics().errors == damaged
    assert len(caplog.records) == 1
    shelf.close()


def test_without_a_disk_it_says_that_it_is_full(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for directory, logged in ((None, 0), (folder / "gone", 1)):
        shelf = Shelf(directory, LIMIT)
        made = pieces(shelf, 100)
        assert shelf.is_full
        assert all(piece.data == data for piece, data in made)
        del made[2:]
        gc.collect()
        assert not shelf.is_full
        assert len(caplog.records) == logged


def test_the_file_stays_within_what_it_may_take(folder: Path) -> None:
    asked = []
    allowance = Allowance(200_000, 0, lambda: asked.append(1))
    shelf = Shelf(folder, LIMIT, allowance)
    made = pieces(shelf, 100)
    assert shelf.statistics().nbytes_on_disk == 0
    assert shelf.is_full
    assert len(asked) == 1
    allowance.grant(100_000)
    made += pieces(shelf, 100, seed=1)
    assert 50_000 < shelf.statistics().nbytes_on_disk <= 100_000
    assert file_of_shelf().stat().st_size <= 100_000
    assert all(piece.data == data for piece, data in made)
    shelf.close()
    assert allowance.unused_nbytes == 100_000


def test_a_disk_that_was_full_is_used_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was with a limit of sizes of files, which needs no disk of its own."""
    shelf = Shelf(folder, LIMIT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        made = pieces(shelf, 100)
        assert shelf.is_full
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    made += pieces(shelf, 10, seed=1)
    assert not shelf.is_full
    assert shelf.statistics().errors == 1
    assert all(piece.data == data for piece, data in made)
    shelf.close()
