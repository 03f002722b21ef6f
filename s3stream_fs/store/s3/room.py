"""The door of this room: a connection is made of what the user said, and a bucket is opened where it really is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from s3stream_fs.errors import Denied, NotFound, StoreError, Transient, WrongRegion
from s3stream_fs.store import Probe
from s3stream_fs.store.s3.connection import Connection, resolve
from s3stream_fs.store.s3.store import S3Store, Signing, open_s3, signing_of

__all__ = ["connect", "open_bucket"]

log = logging.getLogger(__name__)

connect = resolve

_STYLE_SECONDS: Final = 5.0
"""For the other place of the bucket's name: a host of that name may not exist."""

_MOST_REGIONS: Final = 3
"""A store may name another region, and be asked there; one that names ever others is not followed."""

_NO_PATH_STYLE: Final = ("SecondLevelDomainForbidden", "PathStyleDomainForbidden")
"""How Alibaba Cloud and Tencent Cloud refuse a bucket in the path, with status 403."""


@asynccontextmanager
async def open_bucket(connection: Connection, probe: Probe) -> AsyncIterator[S3Store]:
    """The bucket, seen by ``probe`` to be usable; in another region or named in another place where the store says so.

    Raises what ``probe`` raised first of what cannot be mended like that, and UsageError.
    """
    async with AsyncExitStack() as stack:
        yield await _opened(stack, connection, probe)


async def _opened(stack: AsyncExitStack, connection: Connection, probe: Probe) -> S3Store:
    signing = signing_of(connection)
    stack.callback(signing.close)
    regions = {connection.region}
    while True:
        try:
            return await _tried(stack, connection, signing, probe)
        except WrongRegion as error:
            if error.region in regions or len(regions) >= _MOST_REGIONS:
                raise
            log.info("s3://%s is in region %s, not in %s", connection.bucket, error.region, connection.region)
            regions.add(error.region)
            connection = connection.moved(region=error.region)
        except StoreError as error:
            if not (connection.any_style and connection.path_style and _may_want_other_style(error)):
                raise
            other = connection.moved(path_style=False)
            if other.address.url == connection.address.url:  # an IP address, say
                raise
            with trio.move_on_after(_STYLE_SECONDS):
                try:
                    store = await _tried(stack, other, signing, probe)
                except StoreError:
                    raise error from None
                log.info("the store wants the bucket's name in the host: %s", other.address.host)
                return store
            raise


async def _tried(stack: AsyncExitStack, connection: Connection, signing: Signing, probe: Probe) -> S3Store:
    async with AsyncExitStack() as attempt:
        store = await attempt.enter_async_context(open_s3(connection, signing))
        await probe(store)
        stack.push_async_exit(attempt.pop_all().__aexit__)
        return store


def _may_want_other_style(error: StoreError) -> bool:
    if isinstance(error, Denied):
        return any(code in str(error) for code in _NO_PATH_STYLE)
    return not isinstance(error, Transient) and (isinstance(error, NotFound) or type(error) is StoreError)
