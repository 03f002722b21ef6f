"""S3 as an ObjectStore: HEAD and LIST by the control plane, data by the data plane. Counts requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from s3stream_fs.errors import StoreError, Throttled
from s3stream_fs.store import Deliver
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.control import ControlPlane, open_control_plane
from s3stream_fs.store.s3.data import DataPlane
from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo


@dataclass(frozen=True, slots=True)
class S3Statistics:
    """Requests sent, by kind, retries included; what came back; and what is under way."""

    heads: int
    lists: int
    gets: int
    nbytes_received: int
    errors: int
    throttled: int
    in_flight: int


class S3Store:
    """One bucket of one S3."""

    def __init__(self, control: ControlPlane, data: DataPlane | None) -> None:
        self._control = control
        self._data = data
        self._heads = 0
        self._gets = 0
        self._nbytes_received = 0
        self._counting = _Counting()

    @property
    def lists_any_prefix(self) -> bool:
        return self._control.lists_any_prefix

    async def head(self, key: str) -> ObjectInfo:
        self._heads += 1
        with self._counting:
            return await self._control.head(key)

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        with self._counting:
            return await self._control.list_page(prefix, token, after, limit, flat=flat)

    async def get_start(self, key: str, limit: int) -> tuple[ObjectId, bytes]:
        """The first bytes of an object of which nothing but its name is known, and by that what it is: no HEAD."""
        self._gets += 1
        with self._counting:
            object_id, data = await self._control.get_start(key, limit)
        self._nbytes_received += len(data)
        return object_id, data

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        def counted(piece: memoryview) -> None:
            self._nbytes_received += len(piece)
            deliver(piece)

        self._gets += 1
        plane = self._data if self._data is not None and _data_plane_takes(object_id.key) else self._control
        with self._counting:
            await plane.get_range(object_id, byte_range, counted)

    def statistics(self) -> S3Statistics:
        return S3Statistics(
            heads=self._heads,
            lists=self._control.lists,
            gets=self._gets,
            nbytes_received=self._nbytes_received,
            errors=self._counting.errors,
            throttled=self._counting.throttled,
            in_flight=self._counting.in_flight,
        )


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


@asynccontextmanager
async def open_s3(config: S3Config) -> AsyncIterator[S3Store]:
    """The bucket, for the time of the context. Sends the store no request. Raises UsageError and StoreError."""
    async with open_control_plane(config) as control:
        if config.bucket.startswith("arn:") or (config.directory_bucket and config.endpoint_url is None):
            # obstore knows no access points by ARN, nor the zonal endpoints of directory buckets; botocore does.
            yield S3Store(control, None)
            return
        endpoint = control.endpoint_url
        if config.virtual_hosted:
            parts = urlsplit(endpoint)
            endpoint = parts._replace(netloc=f"{config.bucket}.{parts.netloc}").geturl()
        yield S3Store(control, DataPlane(config, endpoint, control.region, control.credentials))


def _data_plane_takes(key: str) -> bool:
    """obstore refuses keys with control characters, and with segments that are empty, '.' or '..'."""
    return not any(char < " " or char == "\x7f" for char in key) and not any(
        segment in ("", ".", "..") for segment in key.split("/")
    )
