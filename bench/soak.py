"""A mount under mixed load and faults for a long time: what it holds has to stay level. Needs root.

``scripts/soak``. Readers of several kinds compare every byte while the store slows down, cuts, stalls and changes its
objects, and the cache has room for a part of them. Ends with 1 where a byte was wrong, a read failed for any other
reason than a replaced object, or memory, descriptors, threads or the cache grew.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import machine
from bench.content import matches
from bench.contestants.contestant import Place
from bench.contestants.ours import S3StreamFS
from bench.load.spec import Load
from bench.simulated import SimulatedS3

mpl.use("Agg")

MIB: Final = 1 << 20
_KB: Final = 1000

_SMALL: Final = 20_000
_MEDIUM: Final = 120
_LARGE: Final = 2
_TREES: Final = (f"small:{_SMALL}:100KB:500", f"medium:{_MEDIUM}:8MiB:20", f"large:{_LARGE}:1GiB")
"""3.9 GB in all, four times what the cache holds."""

_TTL_SECONDS: Final = 10.0
_TTL_SLACK_SECONDS: Final = 2.0
"""Between the moment in which an object is counted as replaced, and the store's knowing it."""

_OPTIONS: Final = (
    *("--cache-size", "1GiB"),
    *("--cache-reserve", "256MiB"),
    *("--memory-limit", "256MiB"),
    *("--metadata-ttl", f"{_TTL_SECONDS:g}s"),
)

_WEATHER: Final[tuple[Mapping[str, object], ...]] = (
    {"preset": "hot", "max_rate": None, "faults": {}},
    {"preset": "hot", "max_rate": None, "faults": {"reset": 0.02, "truncate": 0.05}},
    {"preset": "far", "max_rate": 150.0, "faults": {}},
    {"preset": "hot", "max_rate": None, "faults": {"503": 0.2, "stall": 0.002}},
    {"preset": "none", "max_rate": None, "faults": {"reset": 0.1, "503": 0.1, "truncate": 0.1}},
)
"""What the store does, in turn."""

_WEATHER_SECONDS: Final = 20.0
_LEAST_SECONDS: Final = 5 * _WEATHER_SECONDS
"""Each weather once. What is held swings within seconds, and shorter quarters would be compared by chance."""

_REPLACE_SECONDS: Final = 2.0
_SAMPLE_SECONDS: Final = 1.0

_WARM_SHARE: Final = 0.25
"""Of the time: what is held by then is what it should be held to."""

_GROWTH: Final = 0.10
"""By so much the last quarter's median may be above that of the quarter after the first."""

_SLACK: Final = {"rss_mib": 24.0, "descriptors": 24.0, "threads": 12.0, "cache_mib": 64.0}
"""And by so much in any case: a burst of connections, or of readers' threads."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon holds, ``seconds`` after the start. ``cache_mib`` is what its folder takes on the disk."""

    seconds: float
    rss_mib: float
    descriptors: float
    threads: float
    cache_mib: float


HELD: Final = tuple(field.name for field in fields(Sample) if field.name != "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=1800.0, metavar="N", help="how long (default: 1800)")
    parser.add_argument("--readers", type=int, default=8, metavar="N", help="threads that read (default: 8)")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="of a reader between two files")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where it is drawn, as PNG")
    arguments = parser.parse_args()
    if not arguments.seconds >= _LEAST_SECONDS:
        parser.error(f"--seconds takes a number from {_LEAST_SECONDS:g} on: the cache has to fill up first")
    if arguments.plot is not None and not arguments.plot.parent.is_dir():
        parser.error(f"there is no folder {arguments.plot.parent}")
    print(f"- {machine.describe()}\n")
    build = Path(__file__).parents[1] / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build, prefix="soak-") as folder, SimulatedS3(_TREES, {}) as server:
        place = Place(server.url, Path(folder), Load(()))
        mounted = S3StreamFS("s3stream-fs", _OPTIONS).mount(place)
        try:
            assert mounted.pid is not None
            soak = Soak(Path(mounted.root), server, arguments.seconds, arguments.pause)
            with _sampled(mounted.pid, place.cache_dir) as samples:
                soak.run(arguments.readers)
            print_statistics(place)
        finally:
            mounted.unmount()
        log = place.log.read_text() if place.log.exists() else ""
    return report(soak, samples, log, arguments.plot)


class Replaced:
    """When objects were replaced. Added to by one thread, before the store is told."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[float, ...]] = {}

    def add(self, key: str, now: float) -> None:
        self._times[key] = (*self._times.get(key, ()), now)

    def current(self, key: str, at: float) -> int:
        """The version that the store may have had at a time, at the least; versions count from 0."""
        return sum(time <= at for time in self._times.get(key, ()))


class Soak:
    """The load: its readers, the store's weather, and what was seen."""

    def __init__(self, root: Path, server: SimulatedS3, seconds: float, pause: float) -> None:
        self._root = root
        self._server = server
        self._until = time.monotonic() + seconds
        self._began = time.monotonic()
        self._seconds = seconds
        self._pause = pause
        self._replaced = Replaced()
        self.seen: Counter[str] = Counter()
        """Reads, bytes and errors, by name; each reader adds its own at its end."""
        self._adding = threading.Lock()

    def run(self, nreaders: int) -> None:
        kinds: tuple[Callable[[random.Random, Counter[str]], None], ...] = (
            self._small_file,
            self._small_file,
            self._medium_file,
            self._stream,
            self._at_random,
            self._walk,
        )
        threads = [
            threading.Thread(target=self._read, args=(kinds[number % len(kinds)], number))
            for number in range(max(nreaders, len(kinds)))
        ]
        threads.append(threading.Thread(target=self._change_weather))
        threads.append(threading.Thread(target=self._replace))
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(1.0)
                    self._tell()
        finally:
            self._until = 0.0  # Ctrl-C ends it, too
            for thread in threads:
                thread.join()
        if sys.stderr.isatty():
            print(file=sys.stderr)

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self._until

    def _tell(self) -> None:
        if sys.stderr.isatty():
            passed = min(time.monotonic() - self._began, self._seconds)
            print(f"\r{passed:,.0f} of {self._seconds:,.0f} s", end="", file=sys.stderr)

    def _read(self, kind: Callable[[random.Random, Counter[str]], None], number: int) -> None:
        rng = random.Random(number)
        seen: Counter[str] = Counter()
        while not self._over:
            try:
                kind(rng, seen)
            except OSError as error:
                seen[errno.errorcode.get(error.errno or 0, str(error))] += 1
            if self._pause:
                time.sleep(self._pause)
        with self._adding:
            self.seen.update(seen)

    def _small_file(self, rng: random.Random, seen: Counter[str]) -> None:
        index = rng.randrange(_SMALL)
        self._whole(f"small/{index // 500:04d}/{index:07d}.bin", 100 * _KB, seen)

    def _medium_file(self, rng: random.Random, seen: Counter[str]) -> None:
        index = rng.randrange(_MEDIUM)
        self._whole(f"medium/{index // 20:04d}/{index:07d}.bin", 8 * MIB, seen)

    def _stream(self, rng: random.Random, seen: Counter[str]) -> None:
        """A part of a large object from anywhere on, in sequence; closed before its end."""
        self._some(f"large/{rng.randrange(_LARGE):07d}.bin", [rng.randrange(900) * MIB], 64, MIB, seen)

    def _at_random(self, rng: random.Random, seen: Counter[str]) -> None:
        starts = [rng.randrange(1023 * MIB) for _ in range(32)]
        self._some(f"large/{rng.randrange(_LARGE):07d}.bin", starts, 1, 200 * _KB, seen)

    def _walk(self, rng: random.Random, seen: Counter[str]) -> None:
        with os.scandir(self._root / "small" / f"{rng.randrange(_SMALL // 500):04d}") as entries:
            sizes = [entry.stat().st_size for entry in entries]
        if sizes != [100 * _KB] * 500:
            seen["wrong"] += 1
        seen["listings"] += 1

    def _whole(self, key: str, size: int, seen: Counter[str]) -> None:
        self._some(key, [0], -(-size // MIB), MIB, seen, size)

    def _some(
        self, key: str, starts: list[int], runs: int, nbytes: int, seen: Counter[str], size: int = 1024 * MIB
    ) -> None:
        """Reads of ``nbytes``, ``runs`` in sequence from each start; every byte has to be of one version."""
        oldest = self._replaced.current(key, time.monotonic() - _TTL_SECONDS - _TTL_SLACK_SECONDS)
        fd = os.open(self._root / key, os.O_RDONLY)
        try:
            possible: set[int] | None = None
            for offset in (start + run * nbytes for start in starts for run in range(runs)):
                data = pread(fd, min(nbytes, size - offset), offset)
                if possible is None:  # what was replaced by now may have been read
                    possible = set(range(self._replaced.current(key, time.monotonic()) + 1))
                before, possible = possible, {one for one in possible if matches(key, offset, data, one)}
                if not possible or len(data) != min(nbytes, size - offset):
                    seen["wrong"] += 1
                    print(f"wrong bytes: {key} at {offset}: {len(data)} bytes, of none of {sorted(before)}", flush=True)
                    return
                if max(possible) < oldest:
                    seen["stale"] += 1
                    print(f"older than the time to live: {key}", flush=True)
                    return
                seen["reads"] += 1
                seen["nbytes"] += len(data)
                if self._over:
                    return
        finally:
            os.close(fd)

    def _change_weather(self) -> None:
        number = 0
        while not self._over:
            self._server.change(_WEATHER[number % len(_WEATHER)])
            machine.drop_page_cache()  # or the kernel would answer for good
            number += 1
            until = min(time.monotonic() + _WEATHER_SECONDS, self._until)
            while time.monotonic() < until:
                time.sleep(0.2)
        self._server.change({"preset": "none", "max_rate": None, "faults": {}})

    def _replace(self) -> None:
        """Objects become others, now and then."""
        rng = random.Random(-1)
        while not self._over:
            index = rng.randrange(_MEDIUM)
            small = rng.randrange(_SMALL)
            for key in (f"medium/{index // 20:04d}/{index:07d}.bin", f"small/{small // 500:04d}/{small:07d}.bin"):
                self._replaced.add(key, time.monotonic())
                query = urllib.parse.urlencode({"key": key})
                request = urllib.request.Request(f"{self._server.url}/-/overwrite?{query}", data=b"", method="POST")
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
            time.sleep(_REPLACE_SECONDS)


def pread(fd: int, nbytes: int, offset: int) -> bytes:
    """As many bytes as that, fewer only at the end: what comes before an error is a short read, and the error next."""
    data = os.pread(fd, nbytes, offset)
    while len(data) < nbytes and (more := os.pread(fd, nbytes - len(data), offset + len(data))):
        data += more
    return data


@contextmanager
def _sampled(pid: int, cache_dir: Path) -> Iterator[list[Sample]]:
    samples: list[Sample] = []
    over = threading.Event()
    began = time.monotonic()

    def sample() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            samples.append(sampled(pid, cache_dir, time.monotonic() - began))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def sampled(pid: int, cache_dir: Path, seconds: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in status.splitlines())
        if name in ("VmRSS", "Threads")
    }
    taken = 0
    for folder, _, names in os.walk(cache_dir):
        for name in names:
            try:
                taken += os.lstat(Path(folder) / name).st_blocks * 512
            except FileNotFoundError:
                continue  # evicted meanwhile
    return Sample(
        seconds,
        numbers["VmRSS"] / 1024,
        float(len(os.listdir(f"/proc/{pid}/fd"))),
        float(numbers["Threads"]),
        taken / MIB,
    )


def grown(samples: list[Sample], what: str) -> tuple[float, float, bool]:
    """The medians of the second and of the last quarter of the time, and whether that is more than it may be."""
    end = samples[-1].seconds
    quarters = [
        [getattr(sample, what) for sample in samples if first <= sample.seconds / end <= last]
        for first, last in ((_WARM_SHARE, 2 * _WARM_SHARE), (1 - _WARM_SHARE, 1.0))
    ]
    before, after = (statistics.median(quarter) for quarter in quarters)
    return before, after, after > before * (1 + _GROWTH) + _SLACK[what]


def report(soak: Soak, samples: list[Sample], log: str, plot: Path | None) -> int:
    if plot is not None:
        draw(samples, plot)
    seen = dict(soak.seen)
    failed = seen.pop("wrong", 0) > 0
    reads, nbytes, listings = (seen.pop(name, 0) for name in ("reads", "nbytes", "listings"))
    print("\n| what | second quarter | last quarter | most |\n|---|---|---|---|")
    for what in HELD:
        before, after, more = grown(samples, what)
        most = max(getattr(sample, what) for sample in samples)
        print(
            f"| {what.replace('_', ', ')} | {before:,.0f} | {after:,.0f}{' **grown**' if more else ''} | {most:,.0f} |"
        )
        failed |= more
    replaced = seen.pop("ESTALE", 0)
    print(f"\n{reads:,} reads, {nbytes / 2**30:,.1f} GiB, all compared; {listings:,} listings; {replaced} ESTALE")
    if seen:
        failed = True
        print(f"errors: {', '.join(f'{name} {count}' for name, count in sorted(seen.items()))}")
    tracebacks = log.count("Traceback (most recent call last)")
    if tracebacks:
        failed = True
        print(f"{tracebacks} tracebacks in the log; the last lines of it:")
        print("\n".join(log.splitlines()[-40:]))
    print("failed" if failed else "level, and right")
    return int(failed)


def print_statistics(place: Place) -> None:
    """What the mount says of itself, at the end."""
    done = subprocess.run(
        [Path(sys.executable).parent / "s3stream-fs", "stats", "--json", str(place.mountpoint)],
        env={**os.environ, "HOME": str(place.home), "XDG_RUNTIME_DIR": str(place.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        print(json.dumps(json.loads(done.stdout), indent=None))


def draw(samples: list[Sample], path: Path) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    all_axes = figure.subplots(len(HELD), 1, sharex=True)
    for axes, what in zip(all_axes, HELD, strict=True):
        values = [getattr(sample, what) for sample in samples]
        axes.plot([sample.seconds for sample in samples], values, color="#0072B2", linewidth=0.9)
        axes.set(ylabel=what.replace("_", ", "), ylim=(0, 1.1 * max(values)))
    all_axes[0].set(title="The daemon under mixed load and faults")
    all_axes[-1].set(xlabel="seconds")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
