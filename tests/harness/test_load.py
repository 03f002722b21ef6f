"""The load: what it reads, what it counts, and that no wrong byte passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import content
from bench.load import readers
from bench.load.spec import Job, Load, Outcome, Via

KEYS = ("tree/a.bin", "tree/b.bin")
SIZE = 300_000
READS = ((0, 100_000), (200_000, 100_000))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    for key in KEYS:
        content.fill(key, tmp_path / key, SIZE)
    return tmp_path


def _load(via: Via = Via.PREAD, limit_seconds: float = 60.0, nreaders: int = 2) -> Load:
    return Load(tuple(Job(key, SIZE, READS) for key in KEYS), nreaders, via, limit_seconds=limit_seconds)


def _run(root: Path, load: Load) -> Outcome:
    return readers.run(load, readers.FileReader(root, load), lambda: None)


@pytest.mark.parametrize("via", [Via.PREAD, Via.MMAP, Via.SHARED_DESCRIPTOR])
def test_it_reads_what_was_asked(root: Path, via: Via) -> None:
    done = _run(root, _load(via))

    assert (done.nbytes, done.nfiles, done.nreads) == (400_000, 2, 4)
    assert (done.wrong_reads, done.nerrors) == (0, 0)
    assert 0 < done.p50_ms <= done.p99_ms
    assert done.first_read_ms > 0


@pytest.mark.parametrize("via", [Via.PREAD, Via.MMAP, Via.SHARED_DESCRIPTOR])
def test_one_wrong_byte_is_one_wrong_read(root: Path, via: Via) -> None:
    with (root / KEYS[0]).open("r+b") as file:
        file.seek(250_000)
        byte = file.read(1)
        file.seek(250_000)
        file.write(bytes([byte[0] ^ 1]))

    assert _run(root, _load(via)).wrong_reads == 1


def test_a_file_that_is_too_short_is_a_wrong_read(root: Path) -> None:
    with (root / KEYS[1]).open("r+b") as file:
        file.truncate(299_999)

    assert _run(root, _load()).wrong_reads == 1


def test_another_objects_bytes_are_wrong(root: Path) -> None:
    (root / KEYS[0]).write_bytes((root / KEYS[1]).read_bytes())

    assert _run(root, _load()).wrong_reads == 2


def test_a_missing_file_is_an_error_and_the_others_are_read(root: Path) -> None:
    (root / KEYS[0]).unlink()

    done = _run(root, _load())

    assert (done.nfiles, done.nerrors) == (1, 1)
    assert "FileNotFoundError" in done.errors[0]


def test_no_job_is_taken_behind_the_limit(root: Path) -> None:
    assert _run(root, _load(limit_seconds=0.0)).nfiles == 0


def test_a_load_travels_as_json() -> None:
    load = Load((Job("a", 5, ((0, 3), (3, 2))),), 4, Via.MMAP, ("x", "x/y"), 2.5, ("c",), "/originals")

    assert Load.from_json(json.loads(json.dumps(load.as_json()))) == load


def test_the_part_that_was_done() -> None:
    several = _load()
    single = Load((Job("a", SIZE, READS),))

    assert several.first(nfiles=1, nreads=2).jobs == several.jobs[:1]
    assert single.first(nfiles=1, nreads=1).jobs == (Job("a", SIZE, READS[:1]),)
    assert several.first(nfiles=2, nreads=4) == several


@pytest.mark.parametrize("via", [Via.TREE, Via.LIST])
def test_all_names_are_found_and_one_that_is_missing_is_noticed(tmp_path: Path, via: Via) -> None:
    folder = tmp_path / "names" / "below" if via is Via.TREE else tmp_path / "names"
    folder.mkdir(parents=True)
    for number in range(2_500):
        (folder / f"{number:05}").touch()
    load = Load((Job("names", 2_500, ()),), via=via)
    done = _run(tmp_path, load)
    assert (done.nfiles, done.wrong_reads, done.nerrors) == (2_500, 0, 0)
    assert done.p50_ms > 0
    (folder / "01234").unlink()
    assert _run(tmp_path, load).wrong_reads == 1
