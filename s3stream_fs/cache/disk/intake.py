"""Whether the cache takes in what is new, and why not: said once when that begins, and once when it is over."""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 60.0
"""A cache that takes now something and now nothing says so this often."""

NO_DESCRIPTORS: Final = "this process may open no more files"


class Intake:
    """The writer's; ``why_not`` may be read from any thread."""

    def __init__(self) -> None:
        self.why_not = ""
        """Why nothing is taken; nothing where it is."""
        self._said = False
        self._quiet_until = 0.0

    def stop(self, why: str, level: int = logging.WARNING) -> None:
        """Nothing of what came could be taken."""
        self.why_not = why
        if not self._said and time.monotonic() >= self._quiet_until:
            self._said = True
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
            log.log(level, "the disk cache takes nothing new: %s; what it has is read", why)

    def resume(self) -> None:
        """All of what came was taken."""
        if not self.why_not:
            return
        self.why_not = ""
        if self._said:
            self._said = False
            log.warning("the disk cache takes what is new again")


def no_room(error: Exception) -> str:
    """Why nothing is taken by a disk that refuses it, though files have gone for it."""
    said = error.strerror if isinstance(error, OSError) else None
    return f"its disk has no room, whatever goes ({said or str(error) or type(error).__name__})"
