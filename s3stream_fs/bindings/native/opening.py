"""What becomes of an open: nobody is asked, the kernel keeps pages, or it reads the cached file by itself. Pure.

A file that is open twice at a time has to be open in the same way both times: the kernel refuses one with pages and one
without. Once nobody is asked, nobody is ever asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum, auto
from typing import Final

from s3stream_fs.errors import UsageError

_ENOUGH_OPENS: Final = 64
"""Opens before ``auto`` says what kind of files these are. A guess: a few files of metadata come first."""

_SMALL_NBYTES: Final = 4 * 1024 * 1024
"""Files that are smaller on average are better off when nobody is asked: an OPEN and a RELEASE take 30 us of this
process, in which a disk brings 100 kB, and their pages are kept either way (docs/BENCHMARKS.md)."""


class OpenMode(StrEnum):
    """``--open-mode``."""

    AUTO = "auto"
    KERNEL = "kernel"
    PASSTHROUGH = "passthrough"
    DAEMON = "daemon"


class Way(Enum):
    """How one open goes on."""

    UNASKED = auto()
    """From now on the kernel opens all files by itself."""
    PAGES = auto()
    """Reads come here, and the kernel keeps what they bring."""
    PASSTHROUGH = auto()
    """The kernel reads a file of the disk cache in our place."""


class Opening:
    """Decides for each open, and knows what is open in which way."""

    def __init__(self, mode: OpenMode, *, unasked_is_safe: bool = True) -> None:
        """``unasked_is_safe``: this kernel serves well where opens are left to it; ``auto`` leaves them to no other."""
        self._mode = mode
        self._unasked_is_safe = unasked_is_safe
        self._may_be_unasked = False
        self._may_pass_through = False
        self._unasked = False
        self._open: dict[int, tuple[Way, int]] = {}
        """Inodes that are open: how, and how often."""
        self._passing = 0
        self._opens = 0
        self._opened_nbytes = 0

    def agreed(self, *, unasked: bool, passthrough: bool) -> None:
        """What INIT came to: whether opens may be left to the kernel, and whether it takes files of ours.

        Raises UsageError where the mode that was asked for cannot be had.
        """
        if self._mode is OpenMode.PASSTHROUGH and not passthrough:
            raise UsageError("--open-mode passthrough needs root and Linux 6.9 with CONFIG_FUSE_PASSTHROUGH; use auto")
        self._may_be_unasked = unasked and (
            self._mode is OpenMode.KERNEL or (self._mode is OpenMode.AUTO and self._unasked_is_safe)
        )
        self._may_pass_through = passthrough and self._mode in (OpenMode.AUTO, OpenMode.PASSTHROUGH)
        self._unasked = self._may_be_unasked and not self._may_pass_through

    def no_passthrough(self) -> None:
        """The kernel refused a file of ours; it would refuse the next one too."""
        self._may_pass_through = False

    @property
    def prefers_memory(self) -> bool:
        """Whether a file that memory holds is not handed over: pages of it that the kernel has would not count."""
        return self._mode is not OpenMode.PASSTHROUGH

    @property
    def unasked(self) -> bool:
        return self._unasked

    def open(self, number: int, size: int, hand_over: Callable[[], bool]) -> Way:
        """How to open an inode. ``hand_over`` gives the kernel its cached file; False where that cannot be had.

        It is called for the first of several opens at a time only: the others go the same way, whatever has become of
        the cached file meanwhile.
        """
        self._opens += 1
        self._opened_nbytes += size
        if self._may_be_unasked and not self._unasked and not self._passing and self._opens > _ENOUGH_OPENS:
            self._unasked = self._opened_nbytes < _SMALL_NBYTES * self._opens
        if self._unasked:
            return Way.UNASKED
        way, count = self._open.get(number, (None, 0))
        if way is None:
            way = Way.PASSTHROUGH if self._may_pass_through and hand_over() else Way.PAGES
            self._passing += way is Way.PASSTHROUGH
        self._open[number] = (way, count + 1)
        return way

    def release(self, number: int) -> bool:
        """One open less. True where it was the last of its inode."""
        way, count = self._open.get(number, (Way.PAGES, 0))
        if count > 1:
            self._open[number] = (way, count - 1)
            return False
        if self._open.pop(number, None) is not None:
            self._passing -= way is Way.PASSTHROUGH
        return True

    def explanation(self) -> str:
        """What opens cost at present, and why, for people."""
        if self._unasked:
            if self._opens > _ENOUGH_OPENS and self._mode is OpenMode.AUTO and self._may_pass_through:
                return "kernel: the files that were opened first are small"
            return "kernel: opening a file asks nobody"
        if self._may_pass_through:
            return "passthrough: the kernel reads complete cached files itself"
        if self._mode is OpenMode.DAEMON:
            return "daemon: as was asked for"
        return "daemon: this kernel or this user allows nothing else"
