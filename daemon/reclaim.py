"""Keeps this process out of the kernel's search for memory in file systems, of which its own mount is one.

A process that is short of memory may be made to wait until pages are free; where those belong to a file that is being
read ahead on the mount that this very process serves, it waits for itself. Kernels from 6.9 on, where opens are left to
the kernel, can come to that for a file that was closed meanwhile ("fuse: fix readahead reclaim deadlock", 6.18.3).
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from typing import Final

log = logging.getLogger(__name__)

_PR_SET_IO_FLUSHER: Final = 57

_FIRST_AFFECTED: Final = (6, 9, 0)
_FIXED: Final = (6, 18, 3)


def keep_out_of_reclaim() -> bool:
    """To be called before any thread starts, for threads inherit it. False where it is not allowed (it takes root)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0:
        return True
    log.debug("PR_SET_IO_FLUSHER: %s", os.strerror(ctypes.get_errno()))
    return False


def waits_for_itself(release: str) -> bool:
    """Whether a kernel of this release may make a process wait for its own mount when opens are left to the kernel."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release, re.ASCII)
    if match is None:
        return True
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    return _FIRST_AFFECTED <= version < _FIXED
