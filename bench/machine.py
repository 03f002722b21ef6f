"""The machine that the figures come from: what it is, and how it is made ready to be measured. Needs root."""

from __future__ import annotations

import mmap
import os
import platform
import re
from pathlib import Path
from typing import Final

GIB: Final = 1 << 30


def describe() -> str:
    """One line."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = _meminfo_nbytes("MemTotal") / GIB
    name = cpu[1] if cpu else platform.machine()
    software = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({name}), {memory:.0f} GiB, {software}"


def touch_memory(nbytes: int) -> None:
    """Use so much memory and free it at once: a virtual machine's first touch of a page is several times slower, and
    some hand pages that are free for seconds back to their host."""
    nbytes = min(_meminfo_nbytes("MemAvailable") // 2, nbytes)
    mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def drop_page_cache() -> None:
    """Forget file data that the kernel keeps, this mount's too; names and inodes stay."""
    os.sync()  # dirty pages cannot be dropped
    Path("/proc/sys/vm/drop_caches").write_text("1")


def drop_names() -> None:
    """Forget names and inodes that the kernel keeps and nobody uses, this mount's too."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def _meminfo_nbytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/meminfo has no {name}")
    return int(found[1]) * 1024
