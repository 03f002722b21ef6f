"""The other mounts of S3, each tuned for a bucket that does not change, as far as its own options go.

Owns their command lines. Common to all: read only, names and attributes kept for an hour, a cache on disk where there
is one, path-style requests, 16 requests at once or more. The kernel's read-ahead is left as each program sets it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contestants.contestant import BUCKET, CACHE_SIZE_GIB, MEMORY_MIB, Mounted, Place
from bench.contestants.fuse import ForegroundMount
from bench.load.spec import Load


@dataclass(frozen=True, slots=True)
class Peer:
    """A program with a command line for a place. ``version_argument`` makes it print its version."""

    name: str
    arguments: Callable[[Place], list[str]]
    version_argument: str = "--version"

    def found(self) -> bool:
        return self._program() is not None

    def version(self) -> str:
        done = subprocess.run(
            [self._program() or self.name, self.version_argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return found[0] if found else "unknown version"

    def takes(self, load: Load, *, warm: bool) -> bool:
        return True

    def mount(self, place: Place) -> Mounted:
        return ForegroundMount([self._program() or self.name, *self.arguments(place)], place)

    def _program(self) -> str | None:
        beside = Path(sys.executable).parent / self.name
        return str(beside) if beside.exists() else shutil.which(self.name)


def rclone(place: Place) -> list[str]:
    remote = f":s3,provider=Other,env_auth=true,region=us-east-1,endpoint='{place.server_url}',force_path_style=true"
    return [
        "mount",
        f"{remote}:{BUCKET}",
        str(place.mountpoint),
        "--read-only",
        *("--config", str(place.home / "rclone.conf")),
        *("--cache-dir", str(place.cache_dir)),
        *("--vfs-cache-mode", "full"),
        *("--vfs-cache-max-size", f"{CACHE_SIZE_GIB}Gi"),
        *("--vfs-cache-max-age", "24h"),
        # What a file's cache holds is written down so long after its close (default 5s): an earlier remount forgets it.
        *("--vfs-handle-caching", "1s"),
        *("--vfs-read-chunk-streams", "16"),
        *("--vfs-read-chunk-size", "8Mi"),
        "--vfs-fast-fingerprint",
        # Without these two: a HEAD for each file's modification time, and one before each GET.
        "--use-server-modtime",
        "--s3-no-head-object",
        *("--dir-cache-time", "1h"),
        *("--attr-timeout", "1h"),
        *("--poll-interval", "0"),
        *("--max-read-ahead", "1Mi"),
    ]


def s3fs(place: Place) -> list[str]:
    options = [
        f"url={place.server_url}",
        "use_path_request_style",
        f"use_cache={place.cache_dir}",
        "parallel_count=16",
        "multipart_size=8",
        "multireq_max=64",
        "max_stat_cache_size=1000000",
        "stat_cache_expire=3600",
        "enable_noobj_cache",
        "complement_stat",
        "umask=0222",
        "mp_umask=0222",
        "ro",
        "kernel_cache",
        "entry_timeout=3600",
        "attr_timeout=3600",
    ]
    return [BUCKET, str(place.mountpoint), "-f", "-o", ",".join(options)]


def mount_s3(place: Place) -> list[str]:
    """Untried where this was written: the program was not at hand."""
    return [
        BUCKET,
        str(place.mountpoint),
        "--foreground",
        "--read-only",
        *("--endpoint-url", place.server_url),
        "--force-path-style",
        *("--region", "us-east-1"),
        *("--cache", str(place.cache_dir)),
        *("--max-cache-size", str(CACHE_SIZE_GIB * 1024)),
        *("--metadata-ttl", "indefinite"),
        *("--maximum-throughput-gbps", "25"),
    ]


def geesefs(place: Place) -> list[str]:
    """Untried where this was written: the program was not at hand."""
    return [
        "-f",
        *("--endpoint", place.server_url),
        *("--region", "us-east-1"),
        *("--cache", str(place.cache_dir)),
        *("--cache-to-disk-hits", "1"),
        *("--memory-limit", str(MEMORY_MIB)),
        *("--stat-cache-ttl", "1h"),
        *("-o", "ro"),
        BUCKET,
        str(place.mountpoint),
    ]


def goofys(place: Place) -> list[str]:
    """Untried where this was written: the program was not at hand. It has no disk cache of its own."""
    return [
        "-f",
        *("--endpoint", place.server_url),
        *("--region", "us-east-1"),
        *("--stat-cache-ttl", "1h"),
        *("--type-cache-ttl", "1h"),
        *("-o", "ro"),
        BUCKET,
        str(place.mountpoint),
    ]


ALL: Final = (
    Peer("rclone", rclone, "version"),
    Peer("s3fs", s3fs),
    Peer("mount-s3", mount_s3),
    Peer("geesefs", geesefs),
    Peer("goofys", goofys),
)
