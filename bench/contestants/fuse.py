"""FUSE mounts as processes: started, waited for, unmounted, ended. Owns every daemon that the benchmarks start.

Nothing here knows one program from another but by the command line that it is given.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.contestants.contestant import ContestantFailed, Place

PATIENCE_SECONDS: Final = 30.0
"""How long a mount, an unmount or a daemon's end may take."""

_POLL_SECONDS: Final = 0.01


def environment(place: Place) -> dict[str, str]:
    """Credentials that the simulated S3 takes, and nothing of the user's own settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "S3STREAM_", "XDG_", "RCLONE_", "PYTHON"))
        and name.lower() not in ("http_proxy", "https_proxy", "all_proxy")
    }
    return inherited | {
        "HOME": str(place.home),
        "XDG_RUNTIME_DIR": str(place.home),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench-secret",
        "AWSACCESSKEYID": "bench",  # s3fs reads these two
        "AWSSECRETACCESSKEY": "bench-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(place.home / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(place.home / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def is_mounted(path: Path) -> bool:
    """Also right where the daemon is dead; never blocks."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Space, tab, newline and backslash stand there as octal escapes.
        if re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4]) == str(path):
            return True
    return False


def last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no word in its log"


def lazily_unmount(path: Path) -> None:
    """Take a mount away whatever its daemon does; who waits in it gets an error."""
    subprocess.run(["fusermount3", "-u", "-z", path], capture_output=True, check=False)


def wait_ended(pidfd: int) -> None:
    """Wait for a daemon whose mount is gone; kill it when it stays."""
    if not select.select([pidfd], [], [], PATIENCE_SECONDS)[0]:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], PATIENCE_SECONDS)


class ForegroundMount:
    """A daemon that stays in the foreground, so that its process is the one that was started."""

    def __init__(self, command: Sequence[str], place: Place) -> None:
        self._command = list(command)
        self._place = place
        for folder in (place.mountpoint, place.cache_dir, place.home):
            folder.mkdir(parents=True, exist_ok=True)
        self._process = self._mount()

    @property
    def root(self) -> str:
        return str(self._place.mountpoint)

    @property
    def pid(self) -> int:
        return self._process.pid

    def remount(self) -> None:
        self.unmount()
        self._process = self._mount()

    def unmount(self) -> None:
        done = subprocess.run(["fusermount3", "-u", self._place.mountpoint], capture_output=True, check=False)
        if done.returncode != 0:
            lazily_unmount(self._place.mountpoint)
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _mount(self) -> subprocess.Popen[bytes]:
        with self._place.log.open("ab") as log:
            process = subprocess.Popen(
                self._command, env=environment(self._place), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_mounted(self._place.mountpoint):
            if process.poll() is not None:
                raise ContestantFailed(f"does not mount: {last_words(self._place.log)}")
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise ContestantFailed(f"does not mount within {PATIENCE_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
        return process
