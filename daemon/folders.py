"""Where the daemon's own files lie: configuration, cache, logs, control sockets.

Owns the places and who may look into them. Never writes a file into them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s3stream_daemon.exits import ExitCode, ExitError

_NAME: Final = "s3stream-fs"
_MAX_STEM_NBYTES: Final = 200
"""Leaves room in a file's 255 bytes for suffixes and a log's number."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The places for one user. Of ``configs`` the first file that exists counts; of ``runtimes`` the first usable."""

    configs: tuple[Path, ...]
    cache: Path
    logs: Path
    runtimes: tuple[Path, ...]


def folders_of(uid: int, home: Path, environ: Mapping[str, str]) -> Folders:
    """The places for user ``uid``. Pure.

    Root has the system's places whatever its environment says: ``sudo`` may hand it a user's, and then neither of the
    two would find what the other left.
    """
    system_config = Path("/etc") / _NAME / "config.toml"
    user_config = _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / _NAME / "config.toml"
    if uid == 0:
        return Folders(
            configs=(user_config, system_config),
            cache=Path("/var/cache") / _NAME,
            logs=Path("/var/log") / _NAME,
            runtimes=(Path("/run") / _NAME, Path(f"/tmp/{_NAME}-0")),
        )
    # A session's folder may be absent under cron or after logout, so that both sides try the same places in one order.
    session = _xdg(environ, "XDG_RUNTIME_DIR", Path(f"/run/user/{uid}"))
    return Folders(
        configs=(user_config, system_config),
        cache=_xdg(environ, "XDG_CACHE_HOME", home / ".cache") / _NAME,
        logs=_xdg(environ, "XDG_STATE_HOME", home / ".local/state") / _NAME,
        runtimes=(session / _NAME, Path(f"/tmp/{_NAME}-{uid}")),
    )


def current_folders() -> Folders:
    """The places for the user that this process runs as."""
    home = Path(os.environ.get("HOME") or "~").expanduser()
    # A container's user may have no home at all; what would lie there then has to be named by options.
    return folders_of(os.geteuid(), home if home.is_absolute() else Path("/nonexistent"), os.environ)


def _xdg(environ: Mapping[str, str], variable: str, default: Path) -> Path:
    path = Path(environ.get(variable, ""))
    return path if path.is_absolute() else default  # the XDG specification: ignore what is not absolute


def log_name(mountpoint: Path) -> str:
    """A file name that tells its mount point: ``/mnt/my-data`` has ``mnt+my-data.log``. No two share one."""
    escaped = "".join(
        f"%{byte:02X}" if byte in b"%+" or byte < 0x20 or byte >= 0x7F else chr(byte)
        for byte in os.fsencode(mountpoint).strip(b"/").replace(b"/", b"\0")
    ).replace("%00", "+")
    if len(escaped) > _MAX_STEM_NBYTES:
        escaped = f"{escaped[: _MAX_STEM_NBYTES - 17]}+{_digest(mountpoint)[:16]}"
    return f"{escaped or 'root'}.log"


def socket_name(mountpoint: Path) -> str:
    """The control socket's file name: a hash, since a socket's path holds 107 bytes at most."""
    return f"{_digest(mountpoint)[:32]}.sock"


def _digest(mountpoint: Path) -> str:
    return hashlib.blake2b(os.fsencode(mountpoint)).hexdigest()


def private_folder(path: Path, code: ExitCode) -> Path:
    """Make ``path`` with mode 0700, or check that it is a folder that only we can write to. Raises ExitError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ExitError(f"cannot make the folder {path}: {error.strerror}", code) from None
    if not stat.S_ISDIR(status.st_mode):
        raise ExitError(f"{path} is not a folder; remove it", code)
    if status.st_uid != os.geteuid():
        raise ExitError(f"the folder {path} belongs to another user (uid {status.st_uid}); remove it", code)
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


def check_cache_folder(path: Path, mountpoint: Path) -> None:
    """Make the cache folder where it is missing and try to write to it. Raises ExitError with code CACHE."""
    code, advice = ExitCode.CACHE, "choose another with --cache-dir"
    if mountpoint == path or mountpoint in path.parents:
        raise ExitError(f"the cache folder {path} would lie inside the mount; {advice}", code)
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except NotADirectoryError:
        raise ExitError(f"the cache folder {path} is not a folder; {advice}", code) from None
    except FileExistsError:
        raise ExitError(f"the cache folder {path} is a file; {advice}", code) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return  # the mount does without it, says so, and takes it into use once it can
        raise ExitError(f"cannot use the cache folder {path}: {error.strerror}; {advice}", code) from None
