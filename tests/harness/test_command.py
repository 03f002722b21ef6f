"""The command line, the choice of contestants, and what makes a run fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.contestants.contestant import Contestant, Mounted, Place
from bench.contestants.direct import Obstore
from bench.contestants.local import LocalFolder
from bench.contestants.ours import S3StreamFS
from bench.harness import rotated
from bench.load import readers
from bench.load.spec import Job, Load
from bench.measurement import Results
from bench.scenarios import registry
from harness.made import measured


def test_what_counts_when_nothing_is_said() -> None:
    options = command.parse([])

    assert (options.nruns, options.preset, options.scenarios, options.quick) == (3, "30ms", ("*",), False)
    assert options.results == command.ROOT / "results"


def test_quick_is_one_run_of_few_scenarios() -> None:
    options = command.parse(["--quick"])

    assert options.nruns == 1
    assert options.scenarios == registry.QUICK


def test_quick_leaves_what_is_said() -> None:
    options = command.parse(["--quick", "--runs", "2", "--scenario", "small-*", "npz", "--scenario", "parquet"])

    assert options.nruns == 2
    assert options.scenarios == ("small-*", "npz", "parquet")


def test_a_variant_is_a_contestant_of_its_own(tmp_path: Path) -> None:
    options = command.parse(["--mount-option=--a=1", "--variant", "lean=--memory-limit 64MiB"])
    first, second = command.contestants(options, tmp_path)[:2]

    assert first == S3StreamFS(options=("--a=1",))
    assert second == S3StreamFS("s3stream-fs-lean", ("--a=1", "--memory-limit", "64MiB"))


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--variant", "lean"], ["--preset", "fast"], ["--nonsense"]])
def test_nonsense_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parse(arguments)

    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_contestants_are_chosen_by_name(tmp_path: Path) -> None:
    chosen = command.contestants(command.parse(["--contestant", "local", "s3stream-fs"]), tmp_path)

    assert [one.name for one in chosen] == ["s3stream-fs", "local"]


def test_an_unknown_contestant_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no contestant 'nfs'; there are s3stream-fs, rclone"):
        command.contestants(command.parse(["--contestant", "nfs"]), tmp_path)


def test_a_wrong_byte_of_anyone_and_any_trouble_of_ours_are_faults() -> None:
    unmounted = replace(measured("c", "rclone"), outcome=None, failure="does not mount")
    results = Results(
        [
            measured("a"),
            measured("b", nerrors=1),
            unmounted,
            measured("d", "rclone", nerrors=1),
            measured("e", "rclone", wrong_reads=1),
        ]
    )

    assert [fault.split(":")[0] for fault in command.faults(results)] == ["b", "e"]


@dataclass(frozen=True)
class _Named:
    name: str

    def found(self) -> bool:
        return True

    def version(self) -> str:
        return "0"

    def takes(self, load: Load, *, warm: bool) -> bool:
        return True

    def mount(self, place: Place) -> Mounted:
        raise NotImplementedError


def test_another_contestant_goes_first_in_each_run() -> None:
    three: list[Contestant] = [_Named("a"), _Named("b"), _Named("c")]
    orders = ["".join(one.name for one in rotated(three, run)) for run in range(4)]

    assert orders == ["abc", "bca", "cab", "abc"]


def test_obstore_takes_cold_streams_alone() -> None:
    stream = Load((Job("a", 30, ((0, 10), (10, 10), (20, 10))),))
    strided = Load((Job("a", 30, ((0, 10), (20, 10))),))

    assert Obstore().takes(stream, warm=False)
    assert not Obstore().takes(stream, warm=True)
    assert not Obstore().takes(strided, warm=False)
    assert not Obstore().takes(replace(stream, jobs=stream.jobs * 2), warm=False)


def test_the_local_folder_holds_what_the_load_reads_and_is_as_long_as_the_object(tmp_path: Path) -> None:
    mib = 1 << 20
    size = 9 * mib + 5
    load = Load((Job("t/a.bin", size, ((3 * mib - 10, 20), (size - 5, 5))), Job("t/b.bin", 7, ((0, 7),))))
    local = LocalFolder(tmp_path / "local")
    mounted = local.mount(Place("http://127.0.0.1:1", tmp_path / "place", load))

    done = readers.run(load, readers.FileReader(Path(mounted.root), load), lambda: None)

    assert (done.nreads, done.wrong_reads, done.nerrors) == (3, 0, 0)
    assert (Path(mounted.root) / "t/a.bin").stat().st_size == size
    local.clear()
    assert not (tmp_path / "local").exists()
