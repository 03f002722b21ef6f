"""Whether ETags are the MD5s of objects, and what it means where a body has another one. Pure.

Of an object that was put whole the ETag is its MD5 in most stores, and 32 random digits in some (SSE-KMS, SSE-C,
copies). Which of both it is, two bodies of the same object tell: what is damaged on its way is not damaged twice alike.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from s3stream_fs.types import ByteRange, ObjectId

_MD5: Final = re.compile(r"[0-9a-fA-F]{32}")
"""An ETag of several parts ends with ``-`` and their number."""

_LEAST: Final = 4
"""So many ETags that are no digests are no accident."""

_ONE_OF: Final = 8
"""Where one ETag of so many is no digest, checking costs an eighth more GETs; with more of them nothing is checked."""


class Verdict(Enum):
    RIGHT = auto()
    AGAIN = auto()
    """Damaged, or its ETag is no digest: a second body will tell."""
    NO_DIGEST = auto()
    """The same body came twice: it is right as it is."""
    DAMAGED = auto()
    """Two different bodies came, neither of them the right one."""


class Digests:
    """What one store's ETags have been. While it is not ``checking``, bodies are taken as they are."""

    def __init__(self, *, checking: bool) -> None:
        self.checking = checking
        self.damaged = 0
        """Bodies that were seen to be wrong."""
        self._right = 0
        self._no_digests = 0

    def expected(self, object_id: ObjectId, byte_range: ByteRange) -> str | None:
        """The MD5 that these bytes should have; None where it is not known."""
        if not self.checking or len(byte_range) != object_id.size or _MD5.fullmatch(object_id.etag) is None:
            return None
        return object_id.etag.lower()

    @property
    def proven(self) -> bool:
        """An ETag was seen to be a digest."""
        return self._right > 0

    def judge(self, expected: str, found: str, before: str | None = None) -> Verdict:
        """What a body is whose MD5 is ``found``; ``before`` was that of another one, which was not right."""
        if found == expected:
            self._right += 1
            self.damaged += before is not None
            return Verdict.RIGHT
        if before is None:
            return Verdict.AGAIN
        if found != before:
            self.damaged += 2
            return Verdict.DAMAGED
        self._no_digests += 1
        if self._no_digests >= _LEAST and self._no_digests * _ONE_OF > self._right:
            self.checking = False
        return Verdict.NO_DIGEST
