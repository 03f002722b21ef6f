"""Paths that a command is given, by the mount in which they lie, with whom to ask about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from s3stream_daemon.cache import mount_above
from s3stream_daemon.config import canonical
from s3stream_daemon.control import find_control
from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_daemon.folders import current_folders


@dataclass(frozen=True, slots=True)
class MountedPaths:
    """``paths`` are relative to ``mountpoint``, whose daemon listens at ``socket``."""

    mountpoint: Path
    socket: Path
    paths: tuple[str, ...]


def by_mount(paths: list[str]) -> Iterator[MountedPaths]:
    """Raises ExitError for a path that is in no mount."""
    by_folder: dict[str, tuple[Path, str] | None] = {}
    found: dict[Path, list[str]] = {}
    for text in paths:
        # One question to the mount table for each folder, and none to the mount: a list may hold millions of files.
        folder, _, name = text.rstrip("/").rpartition("/")
        if folder not in by_folder:
            by_folder[folder] = _mounted_folder(folder or ("/" if text.startswith("/") else "."))
        at = by_folder[folder]
        if at is None or name in ("", ".", ".."):
            path = canonical(text)
            mount = mount_above(path)
            if mount is None:
                raise ExitError(f"{one_line(text)!r} is not in a mount of s3stream-fs")
            found.setdefault(mount.path, []).append(os.fspath(path.relative_to(mount.path)))
        else:
            mountpoint, below = at
            found.setdefault(mountpoint, []).append(f"{below}/{name}")
    for mountpoint, below_it in found.items():
        socket = find_control(mountpoint, current_folders())
        if socket is None:
            raise ExitError(f"the daemon of {mountpoint} has no control socket for this user", ExitCode.NOT_MOUNTED)
        yield MountedPaths(mountpoint, socket, tuple(below_it))


def _mounted_folder(folder: str) -> tuple[Path, str] | None:
    """The mount in which a folder lies, and where in it; None for one that lies in none."""
    path = canonical(folder)
    mount = mount_above(path)
    return None if mount is None else (mount.path, os.fspath(path.relative_to(mount.path)))
