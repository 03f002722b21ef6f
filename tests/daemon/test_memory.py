"""What RAM and cgroups allow, from texts as kernels write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest

from s3stream_daemon.memory import allowed_memory_nbytes, default_memory_limit_nbytes, read_text

MIB = 1024**2
MEMINFO = "MemTotal:       16384000 kB\nMemFree:        1000 kB\n"
RAM = 16384000 * 1024


def allowed(files: Mapping[str, str]) -> int | None:
    return allowed_memory_nbytes(lambda path: files.get(str(path)))


def test_ram_alone() -> None:
    assert allowed({"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/\n"}) == RAM


def test_cgroup_2_the_least_on_the_way_up_counts() -> None:
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/memory.max": "max\n",
        "/sys/fs/cgroup/a/memory.max": f"{512 * MIB}\n",
        "/sys/fs/cgroup/a/memory.high": f"{400 * MIB}\n",
    }
    assert allowed(files) == 400 * MIB


def test_cgroup_1_inside_a_container_whose_own_path_is_not_visible() -> None:
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "12:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 * MIB}\n",
    }
    assert allowed(files) == 256 * MIB


def test_cgroup_1_without_a_limit() -> None:
    files = {
        "/proc/meminfo": MEMINFO,
        "/proc/self/cgroup": "5:memory:/\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert allowed(files) == RAM


def test_a_path_above_the_visible_root_does_not_lead_out_of_it() -> None:
    seen: list[PurePosixPath] = []

    def read(path: PurePosixPath) -> str | None:
        seen.append(path)
        return "0::/../../other\n" if str(path) == "/proc/self/cgroup" else None

    assert allowed_memory_nbytes(read) is None
    assert all(".." not in path.parts for path in seen)


@pytest.mark.parametrize("text", ["", "MemTotal: many kB", "0::", ":::\n\n"])
def test_nonsense_allows_nothing_known(text: str) -> None:
    assert allowed({"/proc/meminfo": text, "/proc/self/cgroup": text}) is None


@pytest.mark.parametrize(
    ("allowed_nbytes", "limit"),
    [(None, 1024 * MIB), (64 * 1024 * MIB, 1024 * MIB), (1024 * MIB, 256 * MIB), (100 * MIB, 64 * MIB)],
)
def test_default_limit(allowed_nbytes: int | None, limit: int) -> None:
    assert default_memory_limit_nbytes(allowed_nbytes) == limit


def test_this_machine_says_something() -> None:
    nbytes = allowed_memory_nbytes(read_text)
    assert nbytes is not None
    assert nbytes > 16 * MIB
