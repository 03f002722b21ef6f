"""Pieces that do not fit memory lie in a file, and nobody sees the difference but in time."""

from __future__ import annotations

import gc
import random
from contextlib import suppress
from pathlib import Path

import pytest

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
