"""The native binding as the daemon sees it: a mount, and the server that answers for it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from s3stream_fs.bindings import Session
from s3stream_fs.bindings.device import MountOptions, NoFusermount, mounted_device
from s3stream_fs.bindings.native.backing import BackingFiles
from s3stream_fs.bindings.native.opening import Opening
from s3stream_fs.bindings.native.operations import Operations
from s3stream_fs.bindings.native.server import Server
from s3stream_fs.errors import UsageError
from s3stream_fs.filesystem.filesystem import FileSystem


@asynccontextmanager
async def mounted(
    filesystem: FileSystem, mountpoint: Path, options: MountOptions, opening: Opening, *, frozen: bool
) -> AsyncIterator[Session]:
    """Mount for the time of the context.

    ``frozen``: names are valid for ever. Raises UsageError where the kernel or fusermount3 refuses.
    """
    with ExitStack() as stack:
        try:
            fd = stack.enter_context(mounted_device(mountpoint, options))
        except NoFusermount:
            raise UsageError(
                "fusermount3 is missing; install fuse3 (Debian, Ubuntu: apt-get install fuse3), or mount as root"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot mount on {mountpoint}: {reason}; dmesg may say more") from None
        yield Server(fd, Operations(filesystem, opening, BackingFiles(fd), frozen=frozen))
