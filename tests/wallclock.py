"""A wall clock that a test sets, for one daemon only: what Python and Rust ask of the C library is answered by it.

Owns a small shared library (``wallclock.c``), compiled at its first use. The monotonic clock is left alone.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("wallclock.c")


class WallClock:
    """Goes right until ``set``. ``environment`` makes a process use it."""

    def __init__(self, folder: Path) -> None:
        library = folder / "wallclock.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        assert compiler is not None, "takes a C compiler, which scripts/setup installs"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl"], check=True)
        self._file = folder / "wallclock"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "TEST_WALL_CLOCK": str(self._file)}

    def set(self, off: timedelta) -> None:
        """From now on it is this much ahead of the true time."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as there:
            there[:] = struct.pack("q", int(off.total_seconds()))
