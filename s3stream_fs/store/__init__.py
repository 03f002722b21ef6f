"""The narrow interfaces to an object store. Everything above knows only these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo

Deliver = Callable[[memoryview], None]
"""Takes the next bytes of a GET, in order. Called on trio's thread; must not block. The buffer is the receiver's."""


class ObjectStore(Protocol):
    """A bucket that can be read. All methods run under trio and may be cancelled at any time.

    Every method raises ``errors.StoreError`` or one of its kinds and nothing else (bugs aside). Nothing that the store
    says is trusted: a method returns only what it has checked.
    """

    @property
    def lists_any_prefix(self) -> bool:
        """Whether ``list_page`` takes any prefix, and lists in the order of keys.

        Directory buckets (S3 Express One Zone) do not: a prefix is empty or ends in ``/``, the names below it come in
        no order, and there is no ``after``.
        """
        ...

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
        """Fetch ``byte_range`` of exactly this version (If-Match) and hand it over as it comes, in pieces, in order.

        Returns when exactly ``len(byte_range)`` bytes were delivered. On an error some bytes may have been delivered
        already, of a large body most of those that came; they are right, and a repeat may begin after them. Raises
        NotFound, Denied, Archived, ObjectChanged, Transient (which includes a body that is too short or too long, or
        was seen to be damaged).
        """
        ...


class Connection(Protocol):
    """How to speak to one bucket: resolved once, frozen. Each kind of store has its own; this much all have."""

    @property
    def bucket(self) -> str: ...

    @property
    def endpoint_url(self) -> str | None:
        """The store's address, None where it is the kind's own (Amazon S3)."""
        ...

    @property
    def space(self) -> str:
        """The store and the bucket, as a cache keeps them apart: what has one name here has one meaning."""
        ...

    @property
    def where(self) -> str:
        """The store, for messages."""
        ...

    @property
    def anonymous(self) -> bool:
        """Nothing is signed."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of what was asked for, a line each."""
        ...

    def to_bucket(self, bucket: str) -> Connection:
        """Another bucket of the same store. Raises UsageError."""
        ...


class Bucket(ObjectStore, Protocol):
    """An ObjectStore as a process opens it: it knows how it is reached, and what it has done."""

    @property
    def connection(self) -> Connection:
        """With all that was found out on the way: the region, say."""
        ...

    async def get_start(self, key: str, limit: int) -> tuple[ObjectId, bytes]:
        """The first bytes of an object of which nothing but its name is known. Raises what ``get_range`` does."""
        ...

    async def keep_credentials(self) -> None:
        """Have them renewed in good time, also while nobody reads. Runs until it is cancelled."""
        ...

    @property
    def lists(self) -> int:
        """How many LISTs were sent."""
        ...

    def statistics(self) -> object: ...


Probe = Callable[[Bucket], Awaitable[object]]
"""Makes requests that show whether a bucket can be used as its connection says. Raises StoreError where not."""
