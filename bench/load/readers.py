"""Threads that read files with pread and mmap, time each read and compare each byte.

Owns the clock: the comparison is outside of each read's latency and inside the load's whole time, for every contestant.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from bench import content
from bench.load.spec import Job, Load, Outcome, Via
from bench.load.tally import Tally, outcome

STACK_NBYTES: Final = 256 << 10
"""Of each reader thread; 64 default stacks would need memory that nobody uses."""

JobRunner = Callable[[Job, Tally, float], None]
"""Does one job and counts it. The float is the deadline on ``time.monotonic``, after which a long job stops short."""


def run(load: Load, job: JobRunner, go: Callable[[], None]) -> Outcome:
    """Run the load's jobs over its readers. ``go`` returns when the clock may start."""
    jobs = iter(load.jobs)
    lock = threading.Lock()
    tallies = [Tally() for _ in range(load.readers)]
    start = threading.Barrier(load.readers + 1)
    deadline = float("inf")

    def read(tally: Tally) -> None:
        start.wait()
        while time.monotonic() < deadline:
            with lock:
                following = next(jobs, None)
            if following is None:
                return
            try:
                job(following, tally, deadline)
            except OSError as error:
                tally.failed(error)

    threading.stack_size(STACK_NBYTES)
    threads = [threading.Thread(target=read, args=(tally,)) for tally in tallies]
    for thread in threads:
        thread.start()
    go()
    cpu = time.process_time()
    started = time.monotonic()
    deadline = started + load.limit_seconds
    start.wait()
    for thread in threads:
        thread.join()
    return outcome(tallies, time.monotonic() - started, time.process_time() - cpu)


class FileReader:
    """Runs jobs on the files below ``root``. Shared descriptors stay open until the process ends."""

    def __init__(self, root: Path, load: Load) -> None:
        self._root = root
        self._via = load.via
        self._compare = load.compare
        self._largest = max((nbytes for job in load.jobs for _, nbytes in job.reads), default=0)
        self._local = threading.local()
        self._shared: dict[str, int] = {}
        self._sharing = threading.Lock()
        content.pattern()  # made before the clock starts

    def __call__(self, job: Job, tally: Tally, deadline: float) -> None:
        if self._via in (Via.STAT, Via.WALK):
            self._look_at(job.key, tally)
            return
        if self._via in (Via.TREE, Via.LIST):
            (self._walk if self._via is Via.TREE else self._names)(job, tally, deadline)
            return
        began = time.perf_counter()
        with self._opened(job.key) as read:
            for number, (offset, nbytes) in enumerate(job.reads):
                data = read(offset, nbytes)
                tally.took((time.perf_counter() - began) * 1e3, first=number == 0)
                tally.nbytes += len(data)
                tally.wrong_reads += len(data) != nbytes or self._differs(job.key, offset, data)
                if time.monotonic() > deadline:
                    break
                began = time.perf_counter()
        tally.nfiles += 1

    def _differs(self, key: str, offset: int, data: memoryview | bytes) -> bool:
        return self._compare and not content.matches(key, offset, data)

    def _look_at(self, key: str, tally: Tally) -> None:
        """A stat of a file; of a walk, with a listing before the first of each folder."""
        began = time.perf_counter()
        folder, _, _ = key.rpartition("/")
        if self._via is Via.WALK and folder != getattr(self._local, "folder", None):
            self._local.folder = folder
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    entry.is_dir()
        (self._root / key).stat()
        tally.took((time.perf_counter() - began) * 1e3, first=True)
        tally.nfiles += 1

    def _walk(self, job: Job, tally: Tally, deadline: float) -> None:
        """As ImageFolder goes through a data set, but with a stat of each file. A latency is that of a folder."""
        began = time.perf_counter()
        for folder, _, names in os.walk(self._root / job.key):
            for name in names:
                os.stat(f"{folder}/{name}")  # noqa: PTH116 (a path object takes longer than the stat)
            tally.nfiles += len(names)
            tally.took((time.perf_counter() - began) * 1e3, first=True)
            if time.monotonic() > deadline:
                return
            began = time.perf_counter()
        tally.wrong_reads += tally.nfiles != job.size

    def _names(self, job: Job, tally: Tally, deadline: float) -> None:
        """A latency is that of a thousand names."""
        began = time.perf_counter()
        with os.scandir(self._root / job.key) as entries:
            for _ in entries:
                tally.nfiles += 1
                if tally.nfiles % 1000 == 0:
                    tally.took((time.perf_counter() - began) * 1e3, first=tally.nfiles == 1000)
                    if time.monotonic() > deadline:
                        return
                    began = time.perf_counter()
        tally.wrong_reads += tally.nfiles != job.size

    @contextmanager
    def _opened(self, key: str) -> Iterator[Callable[[int, int], memoryview | bytes]]:
        if self._via is Via.MMAP:
            with (self._root / key).open("rb") as file, closing(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as m:
                yield lambda offset, nbytes: m[offset : offset + nbytes]
        elif self._via is Via.SHARED_DESCRIPTOR:
            with self._sharing:
                if key not in self._shared:
                    self._shared[key] = os.open(self._root / key, os.O_RDONLY)
            yield self._pread(self._shared[key])
        else:
            fd = os.open(self._root / key, os.O_RDONLY)
            try:
                yield self._pread(fd)
            finally:
                os.close(fd)

    def _pread(self, fd: int) -> Callable[[int, int], memoryview]:
        buffer = self._buffer()

        def pread(offset: int, nbytes: int) -> memoryview:
            done = 0
            while done < nbytes:
                got = os.preadv(fd, [buffer[done:nbytes]], offset + done)
                if not got:
                    break
                done += got
            return buffer[:done]

        return pread

    def _buffer(self) -> memoryview:
        """One per thread, as a program that reads in a loop has one."""
        found: memoryview | None = getattr(self._local, "buffer", None)
        if found is None:
            found = self._local.buffer = memoryview(bytearray(self._largest))
        return found
