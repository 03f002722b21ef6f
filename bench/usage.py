"""What a daemon costs: CPU time and peak memory, as the kernel counts them in /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu_seconds`` is user and system time of all threads, ``peak_rss_nbytes`` the most resident memory."""

    cpu_seconds: float = 0.0
    peak_rss_nbytes: int = 0


def parse_cpu_seconds(stat: str) -> float:
    """Of the text of /proc/PID/stat. The command's name, in brackets, may hold spaces and brackets of its own."""
    fields = stat.rpartition(")")[2].split()
    utime, stime = int(fields[11]), int(fields[12])  # fields 14 and 15 of proc(5), which counts from 1
    return (utime + stime) / _TICKS_PER_SECOND


def parse_peak_rss_nbytes(status: str) -> int:
    """Of the text of /proc/PID/status; 0 for a process that has no memory any more."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Meter:
    """Measures one process from now on."""

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc") / str(pid)
        (self._folder / "clear_refs").write_text("5")  # sets the peak back to what is resident now
        self._before = self._cpu_seconds()

    def usage(self) -> Usage:
        """Since the meter was made. Raises OSError when the process is gone."""
        peak = parse_peak_rss_nbytes((self._folder / "status").read_text())
        return Usage(self._cpu_seconds() - self._before, peak)

    def _cpu_seconds(self) -> float:
        return parse_cpu_seconds((self._folder / "stat").read_text())
