"""Mount points: what the kernel's mount table says, whether a mount can be made, and how one is taken down.

Owns the checks before a mount and the unmount. Never mounts: a binding does.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_fs.bindings import SUBTYPE
from s3stream_fs.bindings.device import DEVICE, NoFusermount, detach, is_fuse_device

FILESYSTEM_TYPES: Final = (f"fuse.{SUBTYPE}",)
"""How the kernel's mount table calls our mounts: FUSE's subtype, which the binding sets."""

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_FUSE_CONF: Final = Path("/etc/fuse.conf")
_OCTAL_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_CAP_SYS_ADMIN: Final = 21


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table. ``device`` is ``major:minor``, ``source`` what was mounted."""

    path: Path
    device: str
    filesystem_type: str
    source: str

    @property
    def ours(self) -> bool:
        return self.filesystem_type in FILESYSTEM_TYPES


def parse_mountinfo(raw: bytes) -> list[Mount]:
    """The mounts in ``/proc/*/mountinfo``, oldest first. Lines that make no sense are left out."""
    mounts = []
    for line in raw.splitlines():
        left, separator, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        if not separator or len(fields) < 6 or len(rest) < 2:
            continue
        mounts.append(
            Mount(
                path=Path(os.fsdecode(_unescaped(fields[4]))),
                device=fields[2].decode("ascii", "replace"),
                filesystem_type=os.fsdecode(_unescaped(rest[0])),
                source=os.fsdecode(_unescaped(rest[1])),
            )
        )
    return mounts


def _unescaped(field: bytes) -> bytes:
    # The kernel writes space, tab, newline, backslash and # as octal numbers.
    return _OCTAL_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def read_mounts() -> list[Mount]:
    """The mounts that this process sees, oldest first."""
    return parse_mountinfo(_MOUNTINFO.read_bytes())


def mount_at(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """What is mounted at ``path``: the newest, where several lie over one another."""
    return next((mount for mount in reversed(mounts) if mount.path == path), None)


def is_dead(path: Path) -> bool:
    """Whether the daemon of the FUSE mount at ``path`` is gone: the kernel then answers ENOTCONN to everything."""
    try:
        # statfs, for the kernel keeps the attributes of a dead mount's root and goes on to answer stat with them.
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check_mountpoint(path: Path, mounts: Sequence[Mount]) -> None:
    """Raise ExitError unless ``path`` is an empty directory on which nothing of ours is mounted yet."""
    code = ExitCode.MOUNTPOINT
    mount = mount_at(path, mounts)
    if mount is not None and mount.filesystem_type.startswith("fuse"):
        if is_dead(path):
            raise ExitError(f"{path} holds a dead mount of {mount.source}; run: s3stream-fs umount {path}", code)
        if mount.ours:
            raise ExitError(f"{mount.source} is already mounted on {path}; unmount it first or choose another", code)
    try:
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise ExitError(f"the mount point {path} does not exist; make it: mkdir -p {path}", code) from None
    except NotADirectoryError:
        raise ExitError(f"the mount point {path} is not a directory; choose one that is", code) from None
    except OSError as error:
        raise ExitError(f"cannot look into the mount point {path}: {error.strerror}", code) from None
    if not empty:
        raise ExitError(f"the mount point {path} is not empty; choose an empty directory", code)
    if not os.access(path, os.W_OK):
        raise ExitError(f"FUSE needs write permission on the mount point {path}; choose a directory of yours", code)


def check_fuse(allow_other: bool, *, uid: int, device: Path = DEVICE, fuse_conf: Path = _FUSE_CONF) -> None:
    """Raise ExitError unless this process, running as ``uid``, can mount with FUSE."""
    code = ExitCode.FUSE
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        # A user's mount is made by fusermount3, which opens the device as root; EPERM is a container's ban.
        if error.errno != errno.EACCES or uid == 0:
            advice = "load the kernel module (modprobe fuse), or give the container --device /dev/fuse"
            raise ExitError(f"FUSE is not available: {device}: {error.strerror}; {advice}", code) from None
    if uid == 0:
        if not _has_sys_admin():
            raise ExitError("root lacks CAP_SYS_ADMIN here; give the container --cap-add SYS_ADMIN", code)
        return
    if shutil.which("fusermount3") is None:
        raise ExitError("fusermount3 is missing; install fuse3 (Debian, Ubuntu: apt-get install fuse3)", code)
    if allow_other and not _user_allow_other(fuse_conf):
        raise ExitError(
            f"--allow-other needs the line user_allow_other in {fuse_conf}; add it or leave the option out", code
        )


def check_descriptor(fd: int) -> None:
    """Raise ExitError unless ``fd`` is open, one of /dev/fuse, and none of the three that a daemon gives up."""
    if fd < 3:
        raise ExitError(f"/dev/fd/{fd} is standard input or output; pass the descriptor as 3 or more", ExitCode.FUSE)
    if not is_fuse_device(fd):
        raise ExitError(
            f"/dev/fd/{fd} is no open descriptor of {DEVICE}; whoever starts this has to open it, mount with fd={fd}, "
            "and pass it on",
            ExitCode.FUSE,
        )


def _has_sys_admin() -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return match is None or bool(int(match[1], 16) >> _CAP_SYS_ADMIN & 1)


def _user_allow_other(fuse_conf: Path) -> bool:
    try:
        lines = fuse_conf.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split("#")[0].strip() == "user_allow_other" for line in lines)


def unmount(path: Path, *, lazy: bool) -> None:
    """Take the mount at ``path`` down, with or without a daemon behind it. ``lazy``: also while it is in use.

    Root needs no fusermount3. Raises ExitError.
    """
    try:
        detach(path, lazy=lazy)
        return
    except NoFusermount:
        raise ExitError("fusermount3 is missing; install fuse3, or unmount as root", ExitCode.FUSE) from None
    except subprocess.TimeoutExpired:
        raise ExitError(f"fusermount3 does not answer for {path}; try --lazy", ExitCode.MOUNTPOINT) from None
    except OSError as error:
        # fusermount3 tells no errno; being in use is what it refuses for, other than another user's mount.
        reason = error.strerror or one_line(str(error))
        in_use = error.errno in (None, errno.EBUSY)
    advice = f"; close what uses it (fuser -vm {path} lists it) or run: s3stream-fs umount --lazy {path}"
    raise ExitError(f"cannot unmount {path}: {reason}{advice if in_use else ''}", ExitCode.MOUNTPOINT)
