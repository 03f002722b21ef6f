"""S3 as an ObjectStore: HEAD and LIST by the control plane, data by the data plane. Counts requests.

Owns what both planes share in a request: the keys that it is signed with, what is done when the store refuses them, and
which plane makes a GET.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import trio
from cachetools import LRUCache

from s3stream_fs.errors import KeysRefused, ObjectChanged, StoreError, Throttled
from s3stream_fs.store import Deliver
from s3stream_fs.store.etags import time_of, version_of
from s3stream_fs.store.s3.checker import Checker
from s3stream_fs.store.s3.connection import Connection
from s3stream_fs.store.s3.control import ControlPlane, open_control_plane
from s3stream_fs.store.s3.credentials import Chain, CredentialStatistics, Keyring, Keys
from s3stream_fs.store.s3.data import DataPlane, suits
from s3stream_fs.store.s3.faults import Unsuited
from s3stream_fs.types import NANOSECONDS, ByteRange, ListPage, ObjectId, ObjectInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

_UNSUITED: Final = 3
"""So many answers in a row that obstore cannot take, and the control plane can, are no accident."""

_SKEW_SECONDS: Final = 60.0
"""A clock that is off by less is not what a store refuses; Amazon bears 15 minutes."""

_MOST_SKEW_SECONDS: Final = 366 * 86400.0
"""A machine without a clock may believe in its last shutdown; a store that differs by more is not believed itself."""

_SKEW: Final = "RequestTimeTooSkewed"

_EXAMINATIONS: Final = 3
"""Of objects that seem to have changed, so many are looked at closely; what a store does, it does to the first."""

_REFUSED_SECONDS: Final = 5.0
"""Where ETags were seen to be good, a version is looked at closely if it is still asked for so long after it was
refused first: all that was under way then has been refused by now."""

_MOST_REFUSED: Final = 1000
"""Versions of which it is known when they were refused first."""


@dataclass(frozen=True, slots=True)
class S3Statistics:
    """Requests sent, by kind, retries included; what came back, and how many bodies of it were seen to be damaged; what
    is under way; how the store is reached."""

    heads: int
    lists: int
    gets: int
    nbytes_received: int
    damaged: int
    errors: int
    throttled: int
    in_flight: int
    store: str
    region: str
    certificates: str
    gets_by: str
    credentials: CredentialStatistics | None


class S3Store:
    """One bucket of one S3. ``data`` is None where obstore cannot sign what the bucket takes."""

    def __init__(
        self,
        connection: Connection,
        control: ControlPlane,
        data: DataPlane | None,
        checker: Checker,
        keyring: Keyring | None,
        chain: Chain | None,
    ) -> None:
        self.connection = connection
        self._control = control
        self._checker = checker
        self._data = data
        self._keyring = keyring
        self._chain = chain
        self._heads = 0
        self._gets = 0
        self._nbytes_received = 0
        self._counting = _Counting()
        self._by_time = False
        """ETags of listings are not those of objects, so that versions are known by LastModified and size."""
        self._examinations = 0
        self._proven = False
        """An object was read by the ETag that a listing gave it."""
        self._refused: LRUCache[ObjectId, float] = LRUCache(maxsize=_MOST_REFUSED)
        self._unsuited: set[str] = set()
        """Keys of the last objects in a row that obstore could not take, and the control plane could."""

    @property
    def lists_any_prefix(self) -> bool:
        return self._control.lists_any_prefix

    @property
    def lists(self) -> int:
        return self._control.lists

    async def head(self, key: str) -> ObjectInfo:
        self._heads += 1
        with self._counting:
            return self._identified(await self._signed(lambda _: self._control.head(key)))

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        with self._counting:
            page = await self._signed(lambda _: self._control.list_page(prefix, token, after, limit, flat=flat))
        if not self._by_time:
            return page
        return replace(page, objects=tuple([self._identified(info) for info in page.objects]))

    async def get_start(self, key: str, limit: int) -> tuple[ObjectId, bytes]:
        """The first bytes of an object of which nothing but its name is known, and by that what it is: no HEAD."""
        self._gets += 1
        with self._counting:
            object_id, data = await self._signed(lambda _: self._control.get_start(key, limit))
        self._nbytes_received += len(data)
        return object_id, data

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        await self._checker.get(object_id, byte_range, deliver, self._get)

    async def _get(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        def counted(piece: memoryview) -> None:
            self._nbytes_received += len(piece)
            deliver(piece)

        async def get(keys: Keys | None) -> None:
            data = self._data
            if data is not None and _data_plane_takes(object_id.key):
                try:
                    self._gets += 1
                    await data.get_range(object_id, byte_range, counted, keys)
                    self._unsuited.clear()
                    return
                except Unsuited as error:
                    unsuited = str(error)
                except KeysRefused as error:
                    if _SKEW not in str(error) or error.store_time is not None:
                        raise
                    unsuited = ""  # by how much this clock is wrong, obstore does not tell
            else:
                unsuited = ""
            self._gets += 1
            await self._control.get_range(object_id, byte_range, counted)
            if unsuited:
                self._unsuited.add(object_id.key)
                if len(self._unsuited) >= _UNSUITED:
                    self._without_data_plane(unsuited)

        with self._counting:
            try:
                await self._signed(get)
                self._proven = True
            except ObjectChanged:
                if self._is_doubtful(object_id):
                    await self._examine(object_id)
                raise

    async def keep_credentials(self) -> None:
        """Have them renewed in good time, also while nobody reads. Runs until it is cancelled."""
        if self._keyring is not None:
            await self._keyring.keep()

    def statistics(self) -> S3Statistics:
        return S3Statistics(
            heads=self._heads,
            lists=self._control.lists,
            gets=self._gets,
            nbytes_received=self._nbytes_received,
            damaged=self._checker.damaged,
            errors=self._counting.errors,
            throttled=self._counting.throttled,
            in_flight=self._counting.in_flight,
            store=self.connection.store_name,
            region=self.connection.region,
            certificates=f"checked, by {self.connection.trust.origin}"
            if self.connection.trust.verify
            else "not checked",
            gets_by="obstore" if self._data is not None else "botocore",
            credentials=None if self._keyring is None else self._keyring.statistics(),
        )

    async def _signed(self, request: Callable[[Keys | None], Awaitable[T]]) -> T:
        """Make a request; where the store refuses the keys themselves, once more with others, if there are others."""
        if self._keyring is None:
            return await request(None)
        keys = await self._keyring.get()
        skew = self._control.skew
        try:
            return await request(keys)
        except KeysRefused as error:
            if _SKEW in str(error) and error.store_time is not None:
                # Another request may have corrected it since this one was signed.
                if self._control.skew == skew and not self._correct_clock(error.store_time):
                    raise
            elif await self._keyring.renew(keys):
                log.info("the store refused the credentials (%s); they were found anew", error)
            else:
                raise
        return await request(await self._keyring.get())

    def _is_doubtful(self, object_id: ObjectId) -> bool:
        """Whether this may be a store whose ETags are not to be believed, rather than a version that is gone."""
        now = trio.current_time()
        first = self._refused.get(object_id)
        if first is None:
            self._refused[object_id] = now
            return not self._proven
        return self._proven and now - first >= _REFUSED_SECONDS

    async def _examine(self, object_id: ObjectId) -> None:
        """An object seems to have changed: or has the store one ETag in its listings, and another one for reading?"""
        if self._by_time or self._examinations >= _EXAMINATIONS or time_of(object_id.etag) is not None:
            return
        self._examinations += 1
        key = object_id.key
        try:
            page = await self.list_page(key, limit=1, flat=True)
            listed = next((info for info in page.objects if info.id == object_id), None)
            if listed is None:
                return  # it has changed
            known = await self.head(key)
            if known.id == object_id and await self._reads(object_id):
                return  # a moment's doubt, of a store of several nodes say
        except StoreError:
            return
        if (known.id.size, known.mtime_ns // NANOSECONDS) != (listed.id.size, listed.mtime_ns // NANOSECONDS):
            return
        self._by_time = True
        log.warning(
            "the store lists other ETags than it reads by (%r has %r and %r): versions go by LastModified and size",
            key,
            listed.id.etag,
            known.id.etag,
        )

    async def _reads(self, object_id: ObjectId) -> bool:
        """Whether the first byte of this version can be read."""
        try:
            self._gets += 1
            await self._control.get_range(object_id, ByteRange(0, 1), lambda piece: None)
        except ObjectChanged:
            return False
        return True

    def _identified(self, info: ObjectInfo) -> ObjectInfo:
        if not self._by_time:
            return info
        return info._replace(id=info.id._replace(etag=version_of("", info.mtime_ns)))

    def _correct_clock(self, store_time: float) -> bool:
        """Date what is signed by the store's clock. Whether that is news."""
        skew = store_time - datetime.now(UTC).timestamp()
        if abs(skew - self._control.skew.total_seconds()) < _SKEW_SECONDS or abs(skew) > _MOST_SKEW_SECONDS:
            return False
        self._control.skew = timedelta(seconds=skew)
        if self._chain is not None:
            self._chain.skew = self._control.skew
        log.warning(
            "this machine's clock is %s by %.0f s, so that the store refuses what it signs: requests are dated by the"
            " store's clock; set the machine's",
            "behind" if skew > 0 else "ahead",
            abs(skew),
        )
        self._without_data_plane("the clock of this machine is wrong, and obstore cannot be told the time")
        return True

    def _without_data_plane(self, reason: str) -> None:
        """From now on GETs go the slower way, which has just been seen to work."""
        if self._data is not None:
            self._data = None
            log.warning("%s: data is fetched through botocore, which takes about ten times the CPU", reason)


class _Counting:
    """``with`` it around a request, any number of times at once: counts what is under way and what failed."""

    __slots__ = ("errors", "in_flight", "throttled")

    def __init__(self) -> None:
        self.in_flight = 0
        self.errors = 0
        self.throttled = 0

    def __enter__(self) -> None:
        self.in_flight += 1

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        self.in_flight -= 1
        if kind is not None and issubclass(kind, StoreError):
            self.errors += 1
            self.throttled += issubclass(kind, Throttled)


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs; both are None where nothing is signed."""

    keyring: Keyring | None
    chain: Chain | None

    def close(self) -> None:
        if self.chain is not None:
            self.chain.close()


def signing_of(connection: Connection) -> Signing:
    """Asks nobody for keys yet."""
    config = connection.config
    if config.anonymous:
        return Signing(None, None)
    chain = Chain(config.profile, connection.trust)
    return Signing(Keyring(chain), chain)


@asynccontextmanager
async def open_s3(connection: Connection, signing: Signing | None = None) -> AsyncIterator[S3Store]:
    """The bucket as ``connection`` says, for the time of the context. Sends the store no request. Raises UsageError.

    ``signing`` may be that of another connection that the same user has.
    """
    signing = signing or signing_of(connection)
    async with open_control_plane(connection, signing.keyring) as control:
        data = DataPlane(connection) if suits(connection) else None
        # TLS has checked what it brings; of what is encrypted with a customer's key the ETag is no digest.
        checking = connection.address.url.startswith("http://") and connection.config.sse_c_key is None
        with Checker(checking=checking) as checker:
            yield S3Store(connection, control, data, checker, signing.keyring, signing.chain)


def _data_plane_takes(key: str) -> bool:
    """obstore refuses keys with control characters, and with segments that are empty, '.' or '..'."""
    return not any(char < " " or char == "\x7f" for char in key) and not any(
        segment in ("", ".", "..") for segment in key.split("/")
    )
