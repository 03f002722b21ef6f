"""Exit codes, and the errors that carry one.

Owns what each code means. Never prints and never exits: only ``cli.main`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

from s3stream_fs.errors import UsageError


class ExitCode(IntEnum):
    """What the command ends with. Scripts rely on the numbers: one that was released never changes its meaning."""

    OK = 0
    BUG = 1
    USAGE = 2
    STORE = 3
    MOUNTPOINT = 4
    CACHE = 5
    FUSE = 6
    NOT_MOUNTED = 7
    INCOMPLETE = 8
    SNAPSHOT = 9
    INTERRUPTED = 130


EXIT_MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done: the mount is usable, is unmounted, or was answered",
    ExitCode.BUG: "a bug in s3stream-fs; the traceback is in the log",
    ExitCode.USAGE: "a wrong option, configuration file or environment variable",
    ExitCode.STORE: "the bucket cannot be listed: no such bucket, access denied, no credentials, or no connection",
    ExitCode.MOUNTPOINT: "the mount point is missing, not an empty directory, already mounted, or busy",
    ExitCode.CACHE: "the cache folder cannot be used; cache verify: something in it was damaged",
    ExitCode.FUSE: "FUSE is not available or refuses the mount",
    ExitCode.NOT_MOUNTED: "umount, stats, cache, warm, refresh: there is no mount of s3stream-fs, or no daemon answers",
    ExitCode.INCOMPLETE: "warm: some files did not come; which ones, and why, was told;"
    " refresh: a directory could not be listed",
    ExitCode.SNAPSHOT: "a snapshot or inventory is missing, damaged, of another bucket, or cannot be written",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


class ExitError(UsageError):
    """A user's mistake that ends the command with ``code``. The message is one line."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def ending_with(code: ExitCode) -> Iterator[None]:
    """Give ``code`` to the UsageErrors of lower floors, which know no exit codes. One that has a code keeps it."""
    try:
        yield
    except ExitError:
        raise
    except UsageError as error:
        raise ExitError(str(error), code) from error


def usage_error_in(error: BaseException) -> UsageError | None:
    """The user's mistake that ``error`` is, or that a nursery wrapped; None where anything else failed as well."""
    if isinstance(error, UsageError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [usage_error_in(inner) for inner in error.exceptions]
        if None not in found:
            return found[0]
    return None


def is_interrupt(error: BaseException) -> bool:
    """True for Ctrl-C, also where a nursery wrapped it and whatever else went wrong on the way out."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def code_of(error: UsageError) -> ExitCode:
    """The code that ``error`` ends the command with."""
    return error.code if isinstance(error, ExitError) else ExitCode.USAGE


def one_line(text: str) -> str:
    """``text`` without line breaks and other control characters, which foreign messages and keys may hold."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
