"""The one narrow interface to an object store. Everything above knows only this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo

Deliver = Callable[[memoryview], None]
"""Takes the next bytes of a GET, in order. Called on trio's thread; must not block. The buffer is the receiver's."""


class ObjectStore(Protocol):
    """A bucket that can be read. All methods run under trio and may be cancelled at any time.

    Every method raises ``errors.StoreError`` or one of its kinds and nothing else (bugs aside). Nothing that the store
    says is trusted: a method returns only what it has checked.
    """

    async def head(self, key: str) -> ObjectInfo:
        """What the store knows of one key. Raises NotFound, Denied, Transient."""
        ...

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        """One page of the keys that begin with ``prefix``, rolled up at the next ``/``; all of them where ``flat``.

        ``token`` is the ``next_token`` of the page before; without one the page begins with the first key, or the first
        prefix that has a key, beyond ``after``, which has no ``/`` behind ``prefix`` unless ``flat``. Raises NotFound
        (no such bucket), Denied, Transient.
        """
        ...

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        """Fetch ``byte_range`` of exactly this version (If-Match) and hand it over piece by piece, in order.

        Returns when exactly ``len(byte_range)`` bytes were delivered. On an error some bytes may have been delivered
        already; those are right, and a repeat may begin after them. Raises NotFound, Denied, Archived, ObjectChanged,
        Transient (which includes a body that is too short or too long).
        """
        ...
