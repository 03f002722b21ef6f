"""A plain folder with the same files, on the disk that holds the others' caches: the physical limit, no daemon.

Only the stretches that the load reads are written, the rest of each file is a hole: large objects of which little is
read would take minutes to write and show nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Final

from bench import content
from bench.contestants.contestant import Mounted, Place
from bench.load.spec import Job, Load, Via

_PIECE_NBYTES: Final = 1 << 20
"""Stretches are widened to whole pieces, so that the kernel's read-ahead behind a read finds data too."""


class LocalFolder:
    """Keeps the files of one load, so that its runs and variants share them."""

    name = "local"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: Load | None = None

    def found(self) -> bool:
        return True

    def version(self) -> str:
        return f"Linux {platform.release()}"

    def takes(self, load: Load, *, warm: bool) -> bool:
        """Not a million files, which would have to be written."""
        return load.via not in (Via.TREE, Via.LIST)

    def mount(self, place: Place) -> Mounted:
        if self._made != place.load:
            self.clear()
            for job in place.load.jobs:
                path = self._folder / job.key
                path.parent.mkdir(parents=True, exist_ok=True)
                if place.load.originals:
                    shutil.copyfile(Path(place.load.originals) / job.key, path)
                else:
                    _write(job, path)
            self._made = place.load
        return LocalFiles(self._folder)

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._made = None


class LocalFiles:
    pid = None

    def __init__(self, path: Path) -> None:
        self.root = str(path)

    def remount(self) -> None:
        return

    def unmount(self) -> None:
        return


def _write(job: Job, path: Path) -> None:
    """Make the file at its full length, and add the pieces that this job reads to those that it has."""
    pieces: set[int] = set()
    for offset, nbytes in job.reads:
        pieces.update(range(offset // _PIECE_NBYTES, -(-(offset + nbytes) // _PIECE_NBYTES)))
    pattern = memoryview(content.pattern())
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(fd, job.size)
        for piece in sorted(pieces):
            offset = piece * _PIECE_NBYTES
            start = content.place(job.key, offset)
            os.pwrite(fd, pattern[start : start + min(_PIECE_NBYTES, job.size - offset)], offset)
    finally:
        os.close(fd)
