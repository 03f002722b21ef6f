"""``python -m bench``: choose, run, report. Owns the command line, the terminal and the exit code."""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import machine, report
from bench.contestants import peers
from bench.contestants.contestant import Contestant
from bench.contestants.direct import Obstore
from bench.contestants.local import LocalFolder
from bench.contestants.ours import NAME as OURS
from bench.contestants.ours import S3StreamFS
from bench.harness import Harness
from bench.measurement import Results
from bench.scenarios import formats, registry
from bench.scenarios.scenario import Scenario
from bench.simulated import SimulatedS3
from bench.simulator.behaviour import PRESETS
from bench.targets import TARGETS, evaluate

ROOT: Final = Path(__file__).parents[1]
WORK: Final = ROOT / "build" / "bench"
"""Caches, mounts, local copies. On the disk: a cache in a tmpfs would be no cache on disk."""


@dataclass(frozen=True, slots=True)
class Options:
    quick: bool
    scenarios: tuple[str, ...]
    contestants: tuple[str, ...]
    nruns: int
    limit_seconds: float | None
    preset: str
    results: Path
    only_list: bool
    mount_options: tuple[str, ...]
    variants: tuple[tuple[str, tuple[str, ...]], ...]
    """Further mounts of ours: what is added to the name, and to the command line."""


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure this mount and its peers against a simulated S3. Needs root."
    )
    parser.add_argument("--quick", action="store_true", help="two minutes: few scenarios, small sizes, one run")
    parser.add_argument(
        "--scenario", nargs="+", action="extend", metavar="NAME", help="only these; patterns as small-*"
    )
    parser.add_argument(
        "--contestant", nargs="+", action="extend", metavar="NAME", help="only these; ours is s3stream-fs"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="of each, the median counts (default: 3, with --quick 1)")
    parser.add_argument("--preset", choices=PRESETS, default="30ms", help="the server's latency (default: 30ms)")
    parser.add_argument(
        "--limit", type=float, metavar="SECONDS", help="per load; what was done by then counts (default: 20)"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="default: results/")
    parser.add_argument("--list", action="store_true", help="name scenarios and contestants, measure nothing")
    parser.add_argument(
        "--mount-option",
        action="append",
        default=[],
        metavar="WORD",
        help="a further word for `s3stream-fs mount`, as in --mount-option=--memory-limit=256MiB",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        type=_variant,
        metavar="NAME=WORDS",
        help="measure `s3stream-fs mount` with these further words too, as a contestant s3stream-fs-NAME",
    )
    chosen = parser.parse_args(arguments)
    if chosen.runs is not None and chosen.runs < 1:
        parser.error("--runs takes a number from 1 on")
    if chosen.limit is not None and not chosen.limit > 0:
        parser.error("--limit takes a number of seconds above 0")
    return Options(
        quick=chosen.quick,
        scenarios=tuple(chosen.scenario or (registry.QUICK if chosen.quick else ("*",))),
        contestants=tuple(chosen.contestant or ()),
        nruns=chosen.runs or (1 if chosen.quick else 3),
        preset=chosen.preset,
        limit_seconds=chosen.limit,
        results=chosen.results,
        only_list=chosen.list,
        mount_options=tuple(chosen.mount_option),
        variants=tuple(chosen.variant),
    )


def _variant(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, words = text.partition("=")
    if not name or not words:
        raise argparse.ArgumentTypeError(f"not NAME=WORDS: {text!r}")
    return name, tuple(shlex.split(words))


def contestants(options: Options, work: Path) -> list[Contestant]:
    """Those that were asked for and are there. Raises ValueError for a name that nobody has or that is not there."""
    ours = [S3StreamFS(options=options.mount_options)]
    ours += [S3StreamFS(f"{OURS}-{name}", (*options.mount_options, *words)) for name, words in options.variants]
    known: list[Contestant] = [*ours, *peers.ALL, Obstore(), LocalFolder(work / "local")]
    names = [one.name for one in known]
    for name in options.contestants:
        if name not in names:
            raise ValueError(f"no contestant {name!r}; there are {', '.join(names)}")
        if not known[names.index(name)].found():
            raise ValueError(f"{name} is not installed")
    wanted = options.contestants or names
    return [one for one in known if one.name in wanted and one.found()]


def measure(options: Options, scenarios: Sequence[Scenario], chosen: Sequence[Contestant], work: Path) -> Results:
    note = _note if sys.stderr.isatty() else _silence
    note("making files")
    files = {key: formats.make(key, WORK / "originals") for one in scenarios for key in one.files}
    trees = dict.fromkeys(tree for one in scenarios for tree in one.trees)
    with SimulatedS3(list(trees), files) as server:
        results = Results(
            Harness(server, work, options.results / "logs", options.preset, note).run(scenarios, chosen, options.nruns)
        )
    note("")
    return results


def write(
    options: Options, scenarios: Sequence[Scenario], chosen: Sequence[Contestant], results: Results
) -> list[Path]:
    from bench import plots  # matplotlib takes a second, and --list does without

    header = report.Header(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine.describe(),
        preset=options.preset,
        nruns=options.nruns,
        quick=options.quick,
        versions={one.name: one.version() for one in chosen},
    )
    evaluations = evaluate(results, TARGETS)
    folder = options.results
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(report.as_json(header, results, evaluations))
    (folder / "results.md").write_text(report.as_markdown(header, scenarios, results, evaluations))
    return [folder / "results.json", folder / "results.md", *plots.draw(results, folder)]


def faults(results: Results) -> list[str]:
    """What makes the run fail: a wrong byte of anyone, and any trouble of ours."""
    return [
        f"{one.row}: {one.contestant}: {one.trouble}"
        for one in results.measurements
        if one.trouble and (one.contestant.startswith(OURS) or (one.outcome is not None and one.outcome.wrong_reads))
    ]


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts and daemons are taken down
    try:
        known = registry.scenarios(options.quick, WORK / "originals", options.limit_seconds)
        scenarios = registry.choose(known, options.scenarios)
        WORK.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
        try:
            chosen = contestants(options, work)
            if options.only_list:
                _print_list(scenarios, chosen)
                return 0
            if os.geteuid() != 0:
                raise ValueError("needs root, to drop the page cache between measurements")
            results = measure(options, scenarios, chosen, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for path in write(options, scenarios, chosen, results):
        print(path)
    found = faults(results)
    for fault in found:
        print(f"bench: {fault}", file=sys.stderr)
    return 1 if found else 0


def _print_list(scenarios: Sequence[Scenario], chosen: Sequence[Contestant]) -> None:
    for one in scenarios:
        print(f"{one.name:<18} {one.summary}")
        for row in one.rows[1:]:
            print(f"  {row}")
    print("contestants: " + ", ".join(f"{one.name} ({one.version()})" for one in chosen))


def _note(text: str) -> None:
    """One line that stays where it is."""
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _silence(text: str) -> None:
    return


if __name__ == "__main__":
    sys.exit(main())
