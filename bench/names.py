"""Names by the million through a mount: how fast they are walked twice, what they take in memory, what is given back.

``scripts/bench-names``. Needs root. Draws memory over time. How others do in one walk is measured by ``scripts/bench``.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import machine
from bench.contestants.contestant import Place
from bench.contestants.ours import S3StreamFS
from bench.load.spec import Load
from bench.simulated import SimulatedS3
from bench.simulator.bucket import Tree

mpl.use("Agg")

MIB: Final = 1 << 20
_FILES_EACH: Final = 1000
_LOOKUPS: Final = 20_000
_READERS: Final = 8
_SAMPLE_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--files", type=int, default=10_000_000, metavar="N", help="in directories of 1,000")
    parser.add_argument("--preset", default="none", help="of the simulated S3; 30ms takes 60 ms for a page")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where memory over time is drawn, as PNG")
    arguments = parser.parse_args()
    print(f"- {machine.describe()}, preset `{arguments.preset}`\n")
    print("| what | measured |\n|---|---|")
    build = Path(__file__).parents[1] / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=build, prefix="names-") as folder,
        SimulatedS3([f"tree:{arguments.files}:100KB:{_FILES_EACH}"], {}) as server,
    ):
        server.behave(arguments.preset)
        mounted = S3StreamFS("s3stream-fs", ("--metadata-ttl", "inf")).mount(
            Place(server.url, Path(folder) / "mounted", Load(()))
        )
        try:
            assert mounted.pid is not None
            with _sampled(mounted.pid) as samples:
                measure(Path(mounted.root), mounted.pid, server, arguments.files, samples)
        finally:
            mounted.unmount()
        if arguments.plot is not None:
            draw(samples, arguments.files, arguments.plot)


class Samples:
    """The daemon's memory in MiB, by seconds since the start, and what was done when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.memory: list[tuple[float, float]] = []
        self.steps: list[tuple[float, str]] = []

    def step(self, what: str) -> None:
        self.steps.append((time.monotonic() - self.began, what))


def measure(root: Path, pid: int, server: SimulatedS3, count: int, samples: Samples) -> None:
    before = memory_mib(pid)
    row("memory before", f"{before:.0f} MiB")
    for which in ("first", "second"):
        samples.step(f"{which} walk")
        server.reset()
        began, cpu = time.perf_counter(), cpu_seconds(pid)
        found = walk(root / "tree")
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
        assert found == count, f"{found:,} files instead of {count:,}"
        traffic = server.traffic()
        now = memory_mib(pid)
        row(
            f"{which} walk of {count:,} files, with a stat of each",
            f"{seconds:.1f} s, {cpu / count * 1e6:.1f} µs of CPU each, {traffic.lists:,} LIST, {traffic.heads} HEAD",
        )
        row(f"memory after the {which} walk", f"{now:.0f} MiB, {(now - before) * MIB / count:.0f} bytes for each file")
    samples.step("lookups")
    lookups(root, pid, count)
    samples.step("forgotten")
    row("memory once the kernel has forgotten what it can", f"{forgotten_mib(pid):.0f} MiB")


def walk(folder: Path) -> int:
    """As os.walk and os.stat, which make more objects than this reader needs."""
    found = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found += walk(Path(entry.path))
                if sys.stderr.isatty():
                    print(f"\r{entry.path}", end="", file=sys.stderr)
            else:
                entry.stat()
                found += 1
    return found


def lookups(root: Path, pid: int, count: int) -> None:
    """Stat of files that the kernel has forgotten, in no order, by eight readers."""
    tree = Tree("tree", count, 100_000, _FILES_EACH)
    chosen = random.Random(1).sample(range(count), min(_LOOKUPS, count))
    paths = [root / tree.item(number).key for number in chosen]
    drop_names()
    for folder in {path.parent for path in paths}:
        folder.stat()
    cpu = cpu_seconds(pid)
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = set(pool.map(lambda path: path.stat().st_size, paths, chunksize=100))
    assert sizes == {100_000}
    used = (cpu_seconds(pid) - cpu) / len(paths) * 1e6
    row(f"lookups in no order, {_READERS} readers", f"{used:.0f} µs of the daemon's CPU each")


def forgotten_mib(pid: int) -> float:
    """Memory once it has not become less for a while."""
    least, until = memory_mib(pid), time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < until:
        drop_names()
        now = memory_mib(pid)
        if now < least - 1:
            least, until = now, time.monotonic() + _SETTLE_SECONDS
    return least


def drop_names() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("2")


@contextmanager
def _sampled(pid: int) -> Iterator[Samples]:
    samples, over = Samples(), threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            samples.memory.append((time.monotonic() - samples.began, memory_mib(pid)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def draw(samples: Samples, count: int, path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([at for at, _ in samples.memory], [mib for _, mib in samples.memory], color="#0072B2")
    axes.axhline(1024, color="#999999", linestyle="--", linewidth=0.8)
    top = axes.get_ylim()[1]
    for at, what in samples.steps:
        axes.axvline(at, color="#D55E00", linewidth=0.8)
        axes.text(at, top, f" {what}", rotation=90, va="top", ha="left", fontsize=8)
    axes.set(title=f"{count:,} files: memory of the daemon", xlabel="seconds", ylabel="MiB", ylim=(0, top))
    figure.savefig(path, dpi=100)


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(what: str, measured: str) -> None:
    print(f"| {what} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
