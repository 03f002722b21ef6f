"""Small file systems of our own, for tests, and what may happen to them. Needs root."""

from __future__ import annotations

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
    with path.open("wb", buffering=0) as file, suppress(OSError):
        for nbytes in (1024 * 1024, 4096):
            with suppress(OSError):
                while file.write(bytes(nbytes)):
                    pass
            file.flush()
