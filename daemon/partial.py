"""A file that is being made beside the place where it belongs: it gets its name as a whole, or leaves nothing.

Owns temporary names, who may read them, and what others have left that were killed. Knows nothing of the contents.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_SUFFIX: Final = ".partial"


@contextmanager
def partial(folder: Path, name: str) -> Iterator[Path]:
    """A new empty file in ``folder`` that nobody else may read. At the end it is removed, unless it was renamed.

    Raises OSError. Those of the same ``name`` that a killed process has left are removed.
    """
    prefix = f".{name}."
    _remove_orphans(folder, prefix)
    descriptor, path = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # whoever looks for orphans sees that this is none
        yield Path(path)
    finally:
        with suppress(FileNotFoundError):
            Path(path).unlink()
        os.close(descriptor)


def publish(path: Path, to: Path) -> None:
    """Give a finished file its name and the mode that any new file has, so that it survives a loss of power."""
    umask = os.umask(0)
    os.umask(umask)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o666 & ~umask)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.replace(to)
    folder = os.open(to.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_orphans(folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        if not (path.name.startswith(prefix) and path.name.endswith(_SUFFIX)):
            continue
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
