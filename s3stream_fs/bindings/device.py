"""/dev/fuse: a descriptor through which the kernel asks, mounted somewhere and taken down again.

Root mounts by mount(2), everybody else through fusermount3, which is root's. Never reads or writes the descriptor.
"""

from __future__ import annotations

import array
import ctypes
import logging
import os
import re
import select
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s3stream_fs.bindings import SUBTYPE

log = logging.getLogger(__name__)

DEVICE: Final = Path("/dev/fuse")

_DEVICE_NUMBER: Final = os.makedev(10, 229)

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_FUSERMOUNT: Final = "fusermount3"
_FUSERMOUNT_SECONDS: Final = 30
"""It answers at once unless the kernel hangs; a process that hangs with it would help nobody."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class NoFusermount(Exception):
    """It takes fusermount3, and there is none."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """``source`` is what mount tables show. ``allow_other``: other users may use the mount too."""

    source: str
    allow_other: bool


def escaped(text: str) -> str:
    """A value among mount options, which are cut at commas and in which backslashes are read."""
    return text.replace("\\", r"\\").replace(",", r"\,")


def descriptor_of(mountpoint: Path) -> int | None:
    """N of ``/dev/fd/N``: a descriptor of a mount that somebody with more rights has made. None for other paths."""
    match = re.fullmatch(r"/dev/fd/([0-9]{1,9})", str(mountpoint), re.ASCII)
    return None if match is None else int(match[1])


def is_fuse_device(fd: int) -> bool:
    """Whether a descriptor is open and one of the device."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE_NUMBER


@contextmanager
def mounted_device(mountpoint: Path, options: MountOptions) -> Iterator[int]:
    """A non-blocking descriptor of a mount at ``mountpoint``, for the time of the context.

    Raises OSError, NoFusermount, and subprocess.TimeoutExpired where fusermount3 does not answer.
    At its end the mount is taken away, even a busy one; whoever has files open on it gets ENOTCONN from then on. Of a
    mount that was made by somebody else the descriptor is closed, with the same effect; the mount is theirs.
    """
    given = descriptor_of(mountpoint)
    if given is not None:
        os.set_blocking(given, False)
        try:
            yield given
        finally:
            os.close(given)
        return
    as_root = os.geteuid() == 0
    fd = _mount_as_root(mountpoint, options) if as_root else _mount_by_fusermount(mountpoint, options)
    try:
        os.set_blocking(fd, False)
        yield fd
    finally:
        # Somebody may have unmounted it, and even mounted something else there: then it is not ours to take away.
        try:
            if not _is_disconnected(fd):
                detach(mountpoint, lazy=True)
        except (OSError, NoFusermount, subprocess.TimeoutExpired) as error:
            log.warning("cannot unmount %s: %s", mountpoint, error)
        finally:
            os.close(fd)


def detach(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount; ``lazy``: also while it is in use.

    Raises OSError, whose ``errno`` is None where it is fusermount3 that refuses, NoFusermount, and
    subprocess.TimeoutExpired where fusermount3 does not answer.
    """
    if os.geteuid() == 0:
        if _LIBC.umount2(os.fsencode(mountpoint), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return
    done = _fusermount("-u", *(["-z"] if lazy else []), "--", str(mountpoint))
    if done.returncode != 0:
        raise OSError(os.fsdecode(done.stderr).strip() or f"{_FUSERMOUNT} ended with {done.returncode}")


def _is_disconnected(fd: int) -> bool:
    """Whether the mount of this descriptor is gone."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _mount_as_root(mountpoint: Path, options: MountOptions) -> int:
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    words = [f"fd={fd}", f"rootmode={stat.S_IFDIR:o}", "user_id=0", "group_id=0", "default_permissions"]
    if options.allow_other:
        words.append("allow_other")
    failed = _LIBC.mount(
        options.source.encode("utf-8", "surrogateescape"),
        os.fsencode(mountpoint),
        f"fuse.{SUBTYPE}".encode(),
        _MS_RDONLY | _MS_NOSUID | _MS_NODEV,
        ",".join(words).encode(),
    )
    if failed:
        code = ctypes.get_errno()
        os.close(fd)
        raise OSError(code, os.strerror(code))
    return fd


def _mount_by_fusermount(mountpoint: Path, options: MountOptions) -> int:
    """fusermount3 mounts, and sends the descriptor through the socket whose number it finds in its environment."""
    words = ["ro", "nosuid", "nodev", "default_permissions", f"subtype={SUBTYPE}"]
    words.append(f"fsname={escaped(options.source)}")
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = _fusermount("-o", ",".join(words), "--", str(mountpoint), pass_fd=theirs.fileno())
        if done.returncode != 0:
            reason = os.fsdecode(done.stderr).strip() or f"it ended with {done.returncode}"
            raise OSError(f"{_FUSERMOUNT}: {reason}")
        ours.settimeout(_FUSERMOUNT_SECONDS)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i", [0]).itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fd = array.array("i", data)[0]
            os.set_inheritable(fd, False)
            return fd
    raise OSError(f"{_FUSERMOUNT} sent no descriptor")


def _fusermount(*arguments: str, pass_fd: int | None = None) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which(_FUSERMOUNT)
    if program is None:
        raise NoFusermount(f"{_FUSERMOUNT} is missing")
    environment = {"LC_ALL": "C"}
    if pass_fd is not None:
        environment["_FUSE_COMMFD"] = str(pass_fd)
    return subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        pass_fds=() if pass_fd is None else (pass_fd,),
        timeout=_FUSERMOUNT_SECONDS,
        check=False,
    )
