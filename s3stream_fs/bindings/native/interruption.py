"""Whether whoever made a request is being killed, or only got a signal: INTERRUPT does not say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_SIGKILL: Final = 9
"""See signal(7); the same on every architecture."""

_SIGKILL_BIT: Final = 1 << (_SIGKILL - 1)
"""Every signal that ends a process becomes this one, pending for each of its threads."""


def is_killed(thread: int) -> bool:
    """False too where nobody can tell: the thread is in a namespace that is not seen from here, or gone."""
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return False
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", status, re.MULTILINE)
    return any(int(mask, 16) & _SIGKILL_BIT for mask in pending)
