"""INIT: what the kernel offers in, what both sides then do out. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from s3stream_fs.bindings.native.protocol import (
    INIT_IN,
    INIT_IN_EXT,
    INIT_OUT,
    LEAST_MINOR,
    MAJOR,
    MINOR,
    Init,
)

_WANTED: Final = (
    Init.ASYNC_READ  # several reads of one file at once
    | Init.ASYNC_DIO  # with O_DIRECT too
    | Init.PARALLEL_DIROPS  # several lookups in one directory at once
    | Init.DO_READDIRPLUS  # a listing brings attributes, so that no LOOKUP follows for each name
    | Init.EXPORT_SUPPORT  # "." and "..", for a mount that is exported by NFS
    | Init.EXPLICIT_INVAL_DATA  # pages stay, whatever attributes say: an inode's bytes never change
    | Init.ABORT_ERROR  # a read of the device tells that the mount is gone
    | Init.MAX_PAGES
)

_MAX_STACK_DEPTH: Final = 1
"""File systems below a file that is handed over: the cache folder's own, and no other that lies over one."""

MAX_REQUEST_NBYTES: Final = 1024 * 1024
"""The largest READ; more needs a kernel setting (fs.fuse.max_pages_limit) and brought nothing."""

_PAGE_NBYTES: Final = 4096
"""The least page there is; where pages are larger the kernel lowers the number of them itself."""

MAX_BACKGROUND: Final = 0xFFFF
"""Reads of pages that the kernel has under way, those that a program waits for as well; the others wait in the kernel,
where no deadline runs for them: of 512 at a time 188 of 700 reads took twice ``--read-deadline``. At its default of 12
it stops reading ahead as soon as 9 are waiting. It allows an unprivileged mount less (fs.fuse.max_user_bgreq)."""

_MAX_WRITE_NBYTES: Final = 4096
"""The least that the kernel takes. Nothing is ever written."""


class TooOld(Exception):
    """The kernel's protocol is older than what this side was written for. ``str()`` says which both are."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What INIT came to: the protocol's minor version and the flags that both sides have."""

    minor: int
    offered: Init
    taken: Init
    max_readahead: int


def agree(body: memoryview, *, privileged: bool) -> Agreement | None:
    """Answer an INIT request's body. None where the kernel speaks a newer major version: it then asks again.

    ``privileged``: this process may hand files over to the kernel (CAP_SYS_ADMIN).

    Raises TooOld, and struct.error for a body that is too short.
    """
    major, minor, max_readahead, low = INIT_IN.unpack_from(body)
    if major > MAJOR:
        return None
    if (major, minor) < (MAJOR, LEAST_MINOR):
        raise TooOld(f"the kernel speaks FUSE {major}.{minor}, and this needs {MAJOR}.{LEAST_MINOR} (Linux 5.4)")
    offered = Init(low)
    if offered & Init.INIT_EXT:
        if len(body) < INIT_IN_EXT.size:
            raise struct.error("an extended INIT without its extension")
        offered |= Init(INIT_IN_EXT.unpack_from(body)[4] << 32)
    taken = offered & (_WANTED | Init.INIT_EXT | (Init.PASSTHROUGH if privileged else Init(0)))
    return Agreement(min(minor, MINOR), offered, taken, max_readahead)


def reply_to_init(agreement: Agreement | None) -> bytes:
    """The body of the reply to INIT."""
    if agreement is None:
        return INIT_OUT.pack(MAJOR, MINOR, *[0] * 10)
    return INIT_OUT.pack(
        MAJOR,
        agreement.minor,
        agreement.max_readahead,
        agreement.taken & 0xFFFF_FFFF,
        MAX_BACKGROUND,
        MAX_BACKGROUND,  # at which the kernel calls the mount congested
        _MAX_WRITE_NBYTES,
        1,  # times have nanoseconds
        MAX_REQUEST_NBYTES // _PAGE_NBYTES,
        0,
        agreement.taken >> 32,
        _MAX_STACK_DEPTH if Init.PASSTHROUGH in agreement.taken else 0,
    )
