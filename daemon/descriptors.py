"""How many files and connections this process may have open."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

_OTHERS: Final = 48
"""Of the device, indexes, logs, locks, the control socket, listings: 28 were counted in a mount at rest."""

_MOST_FILES: Final = 512
"""More are not of use: a file that was read is mostly not read again soon."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Up to how many ``files`` of the cache are kept open, and how many ``connections`` for data there are."""

    files: int
    connections: int


def shares_of(limit: int) -> Shares:
    """Half of what may be open for each, once everything else has what it needs.

    A file takes up to three: it is read past the page cache, too, and as many may be written at the moment.
    """
    left = max(limit - _OTHERS, 16)
    return Shares(files=min(left // 6, _MOST_FILES), connections=left // 2)


def raise_descriptor_limit() -> int:
    """As many as the system allows this user: a connection per GET in flight, and a file per object in use.

    Returns how many that are.

    The usual soft limit of 1,024 is for programs that use select(2), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return _finite(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.info("the limit of open files stays at %d: %s", soft, error)
        return _finite(soft)
    return _finite(hard)


def _finite(limit: int) -> int:
    return limit if limit != resource.RLIM_INFINITY else 1 << 20
