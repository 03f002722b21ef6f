"""This project's own mount, through its command line, in the background as its users run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.contestants import fuse
from bench.contestants.contestant import BUCKET, CACHE_SIZE_GIB, MEMORY_MIB, ContestantFailed, Mounted, Place
from bench.load.spec import Load

NAME = "s3stream-fs"


def _command() -> str | None:
    beside = Path(sys.executable).parent / NAME
    return str(beside) if beside.exists() else shutil.which(NAME)


@dataclass(frozen=True, slots=True)
class S3StreamFS:
    """``options`` are further words for ``mount``: two instances that differ in one option compare it."""

    name: str = NAME
    options: tuple[str, ...] = ()

    def found(self) -> bool:
        return _command() is not None

    def version(self) -> str:
        tag = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        return f"commit {tag.stdout.strip()}" if tag.returncode == 0 else "no commit"

    def takes(self, load: Load, *, warm: bool) -> bool:
        return True

    def mount(self, place: Place) -> Mounted:
        return BackgroundMount(place, self.options)


class BackgroundMount:
    def __init__(self, place: Place, options: tuple[str, ...]) -> None:
        self._place = place
        self._options = options
        for folder in (place.mountpoint, place.home):
            folder.mkdir(parents=True, exist_ok=True)
        self._pid = self._mount()

    @property
    def root(self) -> str:
        return str(self._place.mountpoint)

    @property
    def pid(self) -> int:
        return self._pid

    def remount(self) -> None:
        self.unmount()
        self._pid = self._mount()

    def unmount(self) -> None:
        try:
            pidfd = os.pidfd_open(self._pid)
        except ProcessLookupError:
            fuse.lazily_unmount(self._place.mountpoint)
            return
        try:
            try:
                self._run("umount", str(self._place.mountpoint))
            except ContestantFailed:
                fuse.lazily_unmount(self._place.mountpoint)
            fuse.wait_ended(pidfd)
        finally:
            os.close(pidfd)

    def _mount(self) -> int:
        place = self._place
        self._run(
            "mount",
            f"s3://{BUCKET}",
            str(place.mountpoint),
            *("--endpoint-url", place.server_url),
            *("--cache-dir", str(place.cache_dir)),
            *("--cache-size", f"{CACHE_SIZE_GIB}GiB"),
            *("--memory-limit", f"{MEMORY_MIB}MiB"),
            *("--metadata-ttl", "inf"),
            *("--log-file", str(place.log)),
            *self._options,
        )
        return _daemon_of(place.mountpoint)

    def _run(self, *arguments: str) -> None:
        try:
            done = subprocess.run(
                [_command() or NAME, *arguments],
                env=fuse.environment(self._place),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=fuse.PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ContestantFailed(f"{arguments[0]} does not end within {fuse.PATIENCE_SECONDS:.0f} s") from error
        if done.returncode != 0:
            words = done.stderr.strip().splitlines() or ["without a word"]
            raise ContestantFailed(f"{arguments[0]} ended with {done.returncode}: {words[-1]}")


def _daemon_of(mountpoint: Path) -> int:
    """The process that has the mount point among its arguments. Raises ContestantFailed when there is none."""
    wanted = os.fsencode(mountpoint)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if wanted in words:
            return int(folder.name)
    raise ContestantFailed("is mounted, but its daemon is gone")
