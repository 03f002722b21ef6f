"""The data plane: ranged GETs by obstore on one I/O thread with an asyncio loop, so that trio's thread hardly notices.

Owns that thread and the hand-over: in both directions what has gathered is handed over in one batch, and bytes stay in
the buffers that Rust filled. Never retries.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import obstore
import outcome
import trio
from obstore.store import S3Store as ObstoreS3

from s3stream_fs.errors import ObjectChanged, StoreError, StoreUnavailable
from s3stream_fs.store import Deliver
from s3stream_fs.store.config import S3Config
from s3stream_fs.store.faults import from_obstore
from s3stream_fs.types import ByteRange, ObjectId

log = logging.getLogger(__name__)

_PIECE_NBYTES: Final = 1024 * 1024
"""A body comes in pieces of about this size: small enough that a waiter has its bytes before the range is complete, and
large enough that a piece costs this process 51 microseconds per MiB (measured)."""

_IDLE_SECONDS: Final = 15.0
"""A connection on which nothing has come for this long is dead: a first byte takes 0.1 s, the worst seen took 1 s."""

_REQUEST_SECONDS: Final = 120
"""A single GET that is still running then is not worth waiting for: 8 MiB at 70 kB/s."""

_CREDENTIAL_LIFE: Final = timedelta(minutes=10)
"""How long credentials are used before the chain is asked again; botocore renews its own at least 10 minutes ahead."""

Credentials = Callable[[], Awaitable[Any]]
"""Gives botocore's frozen credentials; runs under trio."""


class _Get:
    """One GET on its way between the two threads."""

    __slots__ = ("aio_task", "byte_range", "deliver", "object_id", "over", "trio_task")

    def __init__(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        self.object_id = object_id
        self.byte_range = byte_range
        self.deliver = deliver
        self.over = False
        """The trio side has its answer, or has left; touched on trio's thread only."""
        self.trio_task: trio.lowlevel.Task | None = None
        self.aio_task: asyncio.Task[None] | None = None
        """Touched on the I/O thread only."""


class DataPlane:
    """GETs of one bucket. All methods are called on trio's thread; ``_io_*`` run on the I/O thread."""

    def __init__(self, config: S3Config, endpoint_url: str, region: str, credentials: Credentials) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._credentials = credentials
        self._credential_error: StoreError | None = None
        self._loop = asyncio.new_event_loop()
        self._inbox: deque[tuple[bool, _Get]] = deque()
        """(start or cancel, request), for the I/O thread."""
        self._inbox_announced = False
        self._outbox: deque[tuple[_Get, memoryview | None, StoreError | None]] = deque()
        """A piece, or the end with or without an error, for trio's thread."""
        self._outbox_announced = False
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
                "timeout": f"{_REQUEST_SECONDS}s",
                "user_agent": "s3stream-fs",
            },
            retry_config={"max_retries": 0},
            **({} if config.anonymous else {"credential_provider": self._io_credentials}),  # type: ignore[arg-type]
        )
        self._thread = threading.Thread(target=self._io_run, name="s3stream-io", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is still under way is cancelled."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        """See ObjectStore.get_range. Cancelling it aborts the connection."""
        get = _Get(object_id, byte_range, deliver)
        get.trio_task = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:
            get.over = True
            self._post((False, get))
            return trio.lowlevel.Abort.SUCCEEDED

        self._post((True, get))
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _post(self, message: tuple[bool, _Get]) -> None:
        self._inbox.append(message)
        # Announced once per batch. The other side clears the flag before it empties the box, so nothing is left lying.
        if not self._inbox_announced:
            self._inbox_announced = True
            self._loop.call_soon_threadsafe(self._io_take)

    def _take(self) -> None:
        """Hand out what the I/O thread has put into the outbox."""
        self._outbox_announced = False
        while self._outbox:
            get, piece, error = self._outbox.popleft()
            if get.over:
                continue
            if piece is not None:
                get.deliver(piece)
                continue
            get.over = True
            assert get.trio_task is not None
            trio.lowlevel.reschedule(get.trio_task, outcome.Error(error) if error else outcome.Value(None))

    def _io_run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self._loop.close()

    def _io_take(self) -> None:
        self._inbox_announced = False
        while self._inbox:
            start, get = self._inbox.popleft()
            if start:
                get.aio_task = self._loop.create_task(self._io_get(get))
            elif get.aio_task is not None:
                get.aio_task.cancel()

    def _io_post(self, get: _Get, piece: memoryview | None, error: StoreError | None) -> None:
        self._outbox.append((get, piece, error))
        if not self._outbox_announced:
            self._outbox_announced = True
            try:
                self._token.run_sync_soon(self._take)
            except trio.RunFinishedError:
                log.debug("trio has ended before a GET did")

    async def _io_get(self, get: _Get) -> None:
        error: StoreError | None = None
        try:
            await self._io_fetch(get)
        except StoreError as store_error:
            error = store_error
        except TimeoutError:
            error = StoreUnavailable(f"no byte has come for {_IDLE_SECONDS:g} s")
        except Exception as foreign:  # the border: obstore's errors have no common root
            error = self._credential_error or from_obstore(foreign)
        self._io_post(get, None, error)

    async def _io_fetch(self, get: _Get) -> None:
        object_id, span = get.object_id, get.byte_range
        options: dict[str, Any] = {"range": (span.start, span.stop)}
        if object_id.etag:
            options["if_match"] = f'"{object_id.etag}"'
        async with asyncio.timeout(_IDLE_SECONDS) as idle:
            result = await obstore.get_async(self._store, object_id.key, options=options)  # type: ignore[arg-type]
            self._check(object_id, span, result)
            left = len(span)
            if left <= _PIECE_NBYTES:
                body = memoryview(await result.bytes_async())
                left = self._io_deliver(get, body, left)
            else:
                async for chunk in result.stream(min_chunk_size=_PIECE_NBYTES):
                    left = self._io_deliver(get, memoryview(chunk), left)
                    idle.reschedule(self._loop.time() + _IDLE_SECONDS)
        if left:
            raise StoreUnavailable(f"the body ends {left} bytes early")

    def _io_deliver(self, get: _Get, piece: memoryview, left: int) -> int:
        if len(piece) > left:
            raise StoreUnavailable("the body is longer than was asked for")
        if len(piece):
            self._io_post(get, piece, None)
        return left - len(piece)

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

    async def _io_credentials(self) -> dict[str, Any]:
        """obstore asks for credentials; the answer comes from the chain, which lives under trio."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._token.run_sync_soon(self._spawn_credentials, answer)
        try:
            frozen = await answer
        except StoreError as error:
            self._credential_error = error
            raise
        self._credential_error = None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIAL_LIFE,
        }

    def _spawn_credentials(self, answer: asyncio.Future[Any]) -> None:
        async def ask() -> None:
            try:
                frozen = await self._credentials()
            except StoreError as error:
                self._loop.call_soon_threadsafe(_settle, answer, None, error)
            except Exception:
                log.exception("bug: credentials")
                self._loop.call_soon_threadsafe(_settle, answer, None, StoreUnavailable("no credentials"))
            else:
                self._loop.call_soon_threadsafe(_settle, answer, frozen, None)

        # A system task, since it belongs to whichever GET came first and is cancelled by none.
        trio.lowlevel.spawn_system_task(ask)


def _settle(answer: asyncio.Future[Any], value: object, error: StoreError | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(value)


@asynccontextmanager
async def open_data_plane(
    config: S3Config, endpoint_url: str, region: str, credentials: Credentials
) -> AsyncIterator[DataPlane]:
    """A data plane with its thread, for the time of the context."""
    plane = DataPlane(config, endpoint_url, region, credentials)
    plane.start()
    try:
        yield plane
    finally:
        plane.stop()
