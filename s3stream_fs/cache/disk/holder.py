"""Who holds a lock of a file: asked of the kernel, to be told to people. Decides nothing."""

from __future__ import annotations

import os
from pathlib import Path

_LOCKS = Path("/proc/locks")


def holder_of(path: Path) -> str:
    """The process that has locked a file to write, as people know it; without its number where that cannot be seen."""
    for pid in _writers(path):
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").partition(")")
        except OSError:  # of another container, or gone
            continue
        stopped = ", which is stopped," if rest.split()[0] in "Tt" else ""
        return f"process {pid} ({name.partition('(')[2]}){stopped}"
    return "another process"


def _writers(path: Path) -> list[int]:
    """Numbers of other processes, as far as this one may know them."""
    found = []
    try:
        status = path.stat()
        # Of btrfs the kernel names another device here than stat does; a file's number is told by all.
        devices = {f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}", f":{status.st_ino}"}
        for line in _LOCKS.read_text().splitlines():
            fields = line.split()
            if len(fields) >= 6 and fields[-5] == "WRITE" and any(fields[-3].endswith(device) for device in devices):
                found.append(int(fields[-4]))
    except (OSError, ValueError):
        pass
    return [pid for pid in found if pid > 0 and pid != os.getpid()]
