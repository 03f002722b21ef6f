"""The data plane: ranged GETs by obstore, whose own threads do the work; trio's thread hardly notices.

Bytes stay in the buffers that Rust filled. Never retries.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import obstore
import trio
from obstore.store import S3Store as ObstoreS3

from s3stream_fs.errors import ObjectChanged, StoreError, StoreUnavailable
from s3stream_fs.store import Deliver
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.faults import from_obstore
from s3stream_fs.store.s3.guest import GuestLoop
from s3stream_fs.types import ByteRange, ObjectId

log = logging.getLogger(__name__)

_IDLE_SECONDS: Final = 15
"""A connection on which nothing has come for this long is dead: a first byte takes 0.1 s, the worst seen took 1 s."""

_REQUEST_SECONDS: Final = 120
"""A single GET that is still running then is not worth waiting for: 8 MiB at 70 kB/s."""

_CREDENTIAL_LIFE: Final = timedelta(minutes=10)
"""How long credentials are used before the chain is asked again; botocore renews its own at least 10 minutes ahead."""

_CREDENTIAL_RENEWAL: Final = timedelta(minutes=5)
"""So long before the end of that life they are asked for anew, so that obstore never finds expired ones."""

Credentials = Callable[[], Awaitable[Any]]
"""Gives botocore's frozen credentials."""


class DataPlane:
    """GETs of one bucket."""

    def __init__(self, config: S3Config, endpoint_url: str, region: str, credentials: Credentials) -> None:
        self._loop = GuestLoop()
        self._ask_credentials = None if config.anonymous else credentials
        self._credentials: dict[str, Any] = {}
        """What obstore signs with; read on its threads, replaced as a whole on trio's."""
        self._renew_at = datetime.min.replace(tzinfo=UTC)
        self._renewing = trio.Lock()
        settings: dict[str, Any] = {
            "endpoint": endpoint_url,
            "region": region,
            "virtual_hosted_style_request": config.virtual_hosted,
            "skip_signature": config.anonymous,
        }
        if config.requester_pays:
            settings["request_payer"] = True
        self._store = ObstoreS3(
            config.bucket,
            config=settings,  # type: ignore[arg-type]
            client_options={
                "allow_http": endpoint_url.startswith("http://"),
                "connect_timeout": "10s",
                "read_timeout": f"{_IDLE_SECONDS}s",
                "timeout": f"{_REQUEST_SECONDS}s",
                "user_agent": "s3stream-fs",
            },
            retry_config={"max_retries": 0},
            **({} if config.anonymous else {"credential_provider": lambda: self._credentials}),  # type: ignore[arg-type]
        )

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        """See ObjectStore.get_range. Cancelling it aborts the connection."""
        if self._ask_credentials is not None and datetime.now(UTC) >= self._renew_at:
            await self._renew_credentials(self._ask_credentials)
        options: dict[str, Any] = {"range": (byte_range.start, byte_range.stop)}
        if object_id.etag:
            options["if_match"] = f'"{object_id.etag}"'
        wait = self._loop.wait
        try:
            result = await wait(obstore.get_async, self._store, object_id.key, options=options)
            self._check(object_id, byte_range, result)
            body = memoryview(await wait(result.bytes_async))
        except StoreError:
            raise
        except Exception as foreign:  # the border: obstore's errors have no common root
            raise from_obstore(foreign) from None
        if len(body) != len(byte_range):
            raise StoreUnavailable(f"the body has {len(body)} bytes instead of {len(byte_range)}")
        # In one piece: a reader's 1 MiB then mostly lies in one buffer and goes to the kernel without a copy. In pieces
        # of 1 MiB as they came, one cold stream reached 550-650 MiB/s instead of 720-850.
        deliver(body)

    @staticmethod
    def _check(object_id: ObjectId, span: ByteRange, result: Any) -> None:
        """The answer is about the version and the range that were asked for. Nothing the store says is trusted."""
        meta = result.meta
        etag = (meta.get("e_tag") or "").removeprefix("W/").strip('"')
        if object_id.etag and etag and etag != object_id.etag:
            raise ObjectChanged(f"ETag is {etag} and no longer {object_id.etag}")
        if meta["size"] != object_id.size:
            raise ObjectChanged(f"size is {meta['size']} and no longer {object_id.size}")
        if tuple(result.range) != (span.start, span.stop):
            raise StoreUnavailable("the store answers with another range than was asked for")

    async def _renew_credentials(self, ask: Credentials) -> None:
        """One at a time; who comes meanwhile waits for it. Raises StoreError."""
        async with self._renewing:
            now = datetime.now(UTC)
            if now < self._renew_at:
                return
            frozen = await ask()
            self._credentials = {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": now + _CREDENTIAL_LIFE,
            }
            self._renew_at = now + _CREDENTIAL_LIFE - _CREDENTIAL_RENEWAL
