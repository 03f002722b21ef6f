"""The kernel's own settings of a mount, which not every binding can set: how far it reads ahead, and how much at once.

Both need rights that not everybody has. Where they are missing nothing changes but speed.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from s3stream_daemon.mountpoint import mount_at, read_mounts

log = logging.getLogger(__name__)

READ_AHEAD_KIB: Final = 1024
"""The largest request that FUSE carries (256 pages). Measured: 430 MiB/s at 128 KiB, 1,300 at 1 MiB, no more above."""

MAX_BACKGROUND: Final = 0xFFFF
"""Requests for pages that the kernel has under way; the others wait in it, where no deadline runs for them. At its
default of 12 it stops reading ahead as soon as 9 are waiting, and asks for 100 KB in 11 requests of 8 KiB instead of
one: 64 cold readers got half the files per second."""

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")

# System calls of Linux 5.2; the numbers are the same on all machines.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE: Final = 6
_CLOEXEC: Final = 1


def tune_kernel(mountpoint: Path, *, background: bool) -> None:
    """Raise the settings of the mount, as far as this process may. To be called after INIT, which resets them.

    ``background``: also how much is read ahead at once, which a binding may have settled in INIT.
    """
    mount = mount_at(mountpoint, read_mounts())
    if mount is None:
        return
    device = mount.device
    _write(Path("/sys/class/bdi") / device / "read_ahead_kb", READ_AHEAD_KIB)
    if not background:
        return
    minor = device.partition(":")[2]
    try:
        with _fuse_connections() as connections:
            for name in ("max_background", "congestion_threshold"):
                _write(connections / minor / name, MAX_BACKGROUND)
    except OSError as error:
        log.info("the kernel's limit of background requests stays as it is: %s", os.strerror(error.errno or 0))


def _write(setting: Path, value: int) -> None:
    try:
        setting.write_text(str(value))
    except OSError as error:
        log.info("%s stays as it is: it cannot be written (%s)", setting, os.strerror(error.errno or 0))


@contextmanager
def _fuse_connections() -> Iterator[Path]:
    """The folder with the kernel's settings of FUSE connections. Raises OSError.

    Distributions mount it; in a container it is mostly missing. Root then gets a mount of its own, which no other
    process sees and which is gone when its descriptor is closed.
    """
    if any(_CONNECTIONS.iterdir()):
        yield _CONNECTIONS
        return
    context = _call(_FSOPEN, b"fusectl", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
