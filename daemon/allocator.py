"""The C allocator's settings, so that buffers are used again and memory that is given back stays small.

Buffers of GETs are 64 KiB to 1 MiB. Mapped one by one, each costs a page fault per 4 KiB and is zeroed by the kernel;
glibc's own settings keep them in one heap per thread, none of which shrinks. Measured over 2 GiB in one stream with a
limit of 256 MiB, resident memory at most and processor time of the daemon: mapped from 128 KiB on 395 MiB and
3.4 ms/MiB, glibc's own settings 540 MiB and 2.1, these 440 MiB and 1.7.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

log = logging.getLogger(__name__)

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_MAP_FROM_NBYTES: Final = 4 * 1024 * 1024
"""Pieces of a GET are smaller and come from the heap. Setting it also stops glibc from moving it."""

_ARENAS: Final = 2
"""Heaps that threads share: a piece is filled on one thread and freed on another, wherever it came from."""


_OVERHEAD_NBYTES: Final = 100 * 1024 * 1024
"""What this process needs beside its data: 75 MiB for Python and its libraries, some for connections and names."""

_LOOK_SECONDS: Final = 0.25
"""How often resident memory is looked at, in 20 us. A busy daemon fetches 200 MiB meanwhile, most of it into memory
that it has already."""

_MANY_NAMES: Final = 100_000
"""They took 10 MiB."""

_WORTH_NBYTES: Final = 8 * 1024 * 1024
_VAIN_SECONDS: Final = 10.0
"""After a look through the heap that found less, the next one waits so long: the memory is in use, by names perhaps."""

_PAGE_NBYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_nbytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_NBYTES


async def give_memory_back(limit_nbytes: int, forgotten: Callable[[], int]) -> None:
    """Return free memory to the system whenever more is resident than the limit for data and what else is needed.

    The heap keeps the pieces of bodies on their way, in holes too small for a whole part: without this a process that
    has had 100 MiB in flight stays so much above its limit. It also keeps what names took: they are given back when
    many were ``forgotten``, which counts them.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    pause = _LOOK_SECONDS
    forgotten_before = 0
    while malloc_trim is not None:
        await trio.sleep(pause)
        try:
            before = resident_nbytes()
            many_forgotten = forgotten() - forgotten_before >= _MANY_NAMES
            if before <= limit_nbytes + _OVERHEAD_NBYTES and not many_forgotten:
                continue
            forgotten_before = forgotten()
            # In a thread: it takes some milliseconds, and the interpreter's lock is free meanwhile.
            await trio.to_thread.run_sync(malloc_trim, 0)
            worth_it = before - resident_nbytes() >= _WORTH_NBYTES
        except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is left: not worth ending for
            log.debug("resident memory cannot be looked at: %s", error)
            worth_it = False
        pause = _LOOK_SECONDS if worth_it else _VAIN_SECONDS


def keep_memory_small() -> None:
    """Set this process's allocator up. Without effect where it is not glibc's."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        log.debug("the C library has no mallopt; resident memory may grow beyond the limit")
        return
    mallopt(_M_MMAP_THRESHOLD, _MAP_FROM_NBYTES)
    mallopt(_M_ARENA_MAX, _ARENAS)
