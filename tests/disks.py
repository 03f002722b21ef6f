"""Small file systems of our own, for tests, and what may happen to them. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def ext4_at(folder: Path) -> Iterator[None]:
    """An ext4 of 32 MiB in a file beside ``folder``, which turns read-only when it sees an error."""
    image = folder.with_name(f"{folder.name}.image")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, folder], check=True)
    try:
        folder.chmod(0o700)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def break_ext4(folder: Path) -> None:
    """Have it see an error."""
    device = subprocess.run(["findmnt", "-no", "SOURCE", folder], capture_output=True, text=True, check=True).stdout
    (Path("/sys/fs/ext4") / Path(device.strip()).name / "trigger_fs_error").write_text("1")


_THROTTLE = Path("/sys/fs/cgroup/blkio")
"""The only way, on kernels without device-mapper, to make a disk hang and let it go on: a byte a second."""


def can_hang() -> bool:
    """Whether ``hanging_disk_at`` can be used here."""
    return os.geteuid() == 0 and (_THROTTLE / "blkio.throttle.read_bps_device").exists()


class HangingDisk:
    """An ext4 of 256 MiB of our own, which hangs on demand, for some processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image = folder.with_name(f"{folder.name}.image")
        self._group = _THROTTLE / f"s3stream-test-{os.getpid()}-{folder.name}"
        self._image.touch()
        os.truncate(self._image, 256 * 1024 * 1024)
        self._device = _output("losetup", "--find", "--show", "--direct-io=off", self._image)
        _output("mkfs.ext4", "-q", self._device)
        self._number = (Path("/sys/block") / Path(self._device).name / "dev").read_text().strip()
        self._group.mkdir()
        folder.mkdir()
        self.mount()

    def mount(self) -> None:
        _output("mount", self._device, self._folder)
        self._folder.chmod(0o700)

    def remount(self) -> None:
        """So that nothing of it is in the page cache."""
        _output("umount", self._folder)
        self.mount()

    def hang(self, pid: int) -> None:
        """From now on it answers that process, the threads that it has and will have, with a byte a second."""
        for what in ("read", "write"):
            (self._group / f"blkio.throttle.{what}_bps_device").write_text(f"{self._number} 1")
        (self._group / "cgroup.procs").write_text(str(pid))

    def answer(self) -> None:
        """It works again."""
        for what in ("read", "write"):
            (self._group / f"blkio.throttle.{what}_bps_device").write_text(f"{self._number} 0")
        for pid in (self._group / "cgroup.procs").read_text().split():
            (_THROTTLE / "cgroup.procs").write_text(pid)

    def close(self) -> None:
        self.answer()
        _output("umount", "-l", self._folder)
        _output("losetup", "--detach", self._device)
        self._group.rmdir()


@contextmanager
def hanging_disk_at(folder: Path) -> Iterator[HangingDisk]:
    disk = HangingDisk(folder)
    try:
        yield disk
    finally:
        disk.close()


def _output(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def btrfs_at(folder: Path, nbytes: int = 256 * 1024 * 1024) -> Iterator[None]:
    """A btrfs in a file beside ``folder``."""
    image = folder.with_name(f"{folder.name}.image")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(nbytes)
    subprocess.run(["mkfs.btrfs", "-q", "--mixed", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        folder.chmod(0o700)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill_up(path: Path) -> None:
    """A file that takes all the room there is, to the last block."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for nbytes in (1024 * 1024, 4096):
            with suppress(OSError):
                while file.write(bytes(nbytes)):
                    pass
            file.flush()
