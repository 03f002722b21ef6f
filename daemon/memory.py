"""How much memory this process may use: the least of RAM and what any cgroup above it allows.

Reads texts through a function that it is given, so that it knows no files; decides nothing about their use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

ReadText = Callable[[PurePosixPath], str | None]
"""The text of a file, or None where it cannot be read."""

MIN_MEMORY_LIMIT_NBYTES: Final = 64 * 1024**2
"""Eight parts of 8 MiB: below that no two streams can run side by side."""
_MAX_DEFAULT_NBYTES: Final = 1024**3
"""Enough for every bandwidth measured; a daemon that takes more unasked is in a training job's way."""
_DEFAULT_SHARE: Final = 4
"""A quarter: training jobs need the rest, and kernel pages hold what was read anyway."""

_QUEUE_SHARE: Final = 8
_MAX_QUEUE_NBYTES: Final = 64 * 1024**2
"""What a disk writes in 0.1 s is enough to even out bursts; more would only delay that a slow disk shows."""

_MEMINFO: Final = PurePosixPath("/proc/meminfo")
_CGROUP: Final = PurePosixPath("/proc/self/cgroup")
_CGROUP_ROOT: Final = PurePosixPath("/sys/fs/cgroup")


def read_text(path: PurePosixPath) -> str | None:
    """The text of a file of the kernel's, or None where there is none or it may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def allowed_memory_nbytes(read: ReadText) -> int | None:
    """Bytes that the kernel lets this process have, or None where nothing says so."""
    limits = [_ram_nbytes(read(_MEMINFO) or "")]
    for line in (read(_CGROUP) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            limits += _limits_upwards(read, _CGROUP_ROOT, path, ("memory.max", "memory.high"))
        elif "memory" in controllers.split(","):
            limits += _limits_upwards(read, _CGROUP_ROOT / "memory", path, ("memory.limit_in_bytes",))
    # Version 1 says "no limit" with a number near 2**63, which RAM undercuts.
    return min((limit for limit in limits if limit), default=None)


_HOLES_SHARE: Final = 16
"""Free pieces of the heap between those in use: 5 % and more of what 64 streams at once have in memory."""


def parts_nbytes(memory_limit_nbytes: int) -> int:
    """How much of the memory limit is for parts: what neither waits for the disk nor is lost between them."""
    return memory_limit_nbytes - disk_queue_nbytes(memory_limit_nbytes) - memory_limit_nbytes // _HOLES_SHARE


def disk_queue_nbytes(memory_limit_nbytes: int) -> int:
    """How much of the memory limit may wait to be written to the disk cache."""
    return min(memory_limit_nbytes // _QUEUE_SHARE, _MAX_QUEUE_NBYTES)


def default_memory_limit_nbytes(allowed_nbytes: int | None) -> int:
    """The smaller of 1 GiB and a quarter of what is allowed, at least 64 MiB."""
    if allowed_nbytes is None:
        return _MAX_DEFAULT_NBYTES
    return max(MIN_MEMORY_LIMIT_NBYTES, min(_MAX_DEFAULT_NBYTES, allowed_nbytes // _DEFAULT_SHARE))


def _ram_nbytes(meminfo: str) -> int | None:
    match = re.search(r"^MemTotal:\s+([0-9]+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _limits_upwards(read: ReadText, root: PurePosixPath, path: str, names: tuple[str, ...]) -> list[int | None]:
    """What the cgroup at ``path`` says and each one above it. Inside a container the path may lead nowhere: then
    the root of what is visible, which is the container's own cgroup, still counts."""
    own = PurePosixPath("/", *(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
    folders = [own, *own.parents]
    limits: list[int | None] = []
    for folder in folders:
        for name in names:
            text = (read(root / folder.relative_to("/") / name) or "").strip()
            limits.append(int(text) if re.fullmatch("[0-9]{1,20}", text, re.ASCII) else None)
    return limits
