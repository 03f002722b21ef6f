"""Files of the disk cache that are handed to the kernel, which then reads them in our place (FUSE passthrough)."""

from __future__ import annotations

import fcntl
import os
from struct import Struct
from typing import Final

_BACKING_MAP: Final = Struct("=iI8x")
"""fuse_backing_map: fd, flags, (padding)."""
_BACKING_ID: Final = Struct("=I")

_IOC_WRITE: Final = 1
_MAGIC: Final = 229


def _iow(number: int, nbytes: int) -> int:
    """The number of an ioctl that passes a structure to the kernel (_IOW)."""
    return _IOC_WRITE << 30 | nbytes << 16 | _MAGIC << 8 | number


_BACKING_OPEN: Final = _iow(1, _BACKING_MAP.size)
_BACKING_CLOSE: Final = _iow(2, _BACKING_ID.size)


class BackingFiles:
    """By inode, the ids under which the kernel knows files of ours. It holds them open itself."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._ids: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def open(self, number: int, fd: int) -> None:
        """Hand ``fd`` over for an inode that has no id yet. Raises OSError where the kernel refuses."""
        # The kernel reads it through a descriptor that cannot write, whatever ours can. Of a buffer that may change,
        # ioctl() returns what the kernel returns: here the id.
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._ids[number] = fcntl.ioctl(self._device, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(reading, 0)))
        finally:
            os.close(reading)

    def id_of(self, number: int) -> int:
        return self._ids[number]

    def close(self, number: int) -> None:
        """The inode is not open any more."""
        known = self._ids.pop(number, None)
        if known is not None:
            fcntl.ioctl(self._device, _BACKING_CLOSE, bytearray(_BACKING_ID.pack(known)))
