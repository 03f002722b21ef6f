"""The control plane: HEAD, LIST, and the GETs that the data plane cannot make. aiobotocore on trio.

Slow per request (about 1 ms of this thread) and complete: it takes any key, signs in any way that S3 knows, by a clock
that can be corrected, and reads answers that obstore refuses.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import botocore
import botocore.auth
import botocore.exceptions
import botocore.handlers
import botocore.utils
import trio
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials

from s3stream_fs.errors import ObjectChanged, StoreError, StoreUnavailable, UsageError
from s3stream_fs.store import Deliver
from s3stream_fs.store.objects import checked_info
from s3stream_fs.store.s3.address import loader
from s3stream_fs.store.s3.conditions import conditions, is_version
from s3stream_fs.store.s3.connection import Connection
from s3stream_fs.store.s3.credentials import Keyring
from s3stream_fs.store.s3.faults import RangeIgnored, from_botocore
from s3stream_fs.store.s3.http import OriginFormSession
from s3stream_fs.store.s3.lister import Lister
from s3stream_fs.store.s3.pace import LEAST_NBYTES
from s3stream_fs.store.s3.spelling import Spelling
from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo

_CONNECT_SECONDS: Final = 10
"""A store that does not take a connection by then is tried again, perhaps at another address."""
_READ_SECONDS: Final = 20
"""A page of 1,000 keys takes 0.1 s; without a byte for this long the connection is taken for dead."""
_CONNECTIONS: Final = 64
"""Listings and lookups at once."""

_GETS: Final = 48
"""GETs at once, of those connections: more would be told that there is none, and listings have to find one too."""

_PIECE_NBYTES: Final = 64 * 1024
"""In such pieces a body comes of which nobody says how long it is."""

_UNPARSED: Final = "Unparsed"
"""Under which name a listing's body is found beside what botocore makes of an answer."""

_RESTORED: Final = re.compile(r'ongoing-request="false"')

_CORRECTED: Final = "s3stream-s3v4"
"""botocore's name of our way to sign: S3's own, by a clock that is corrected."""


class ControlPlane:
    """Requests through one aiobotocore client. All errors are StoreErrors."""

    def __init__(self, client: Any, connection: Connection) -> None:
        self._client = client
        config = connection.config
        self._bucket = config.bucket
        self._region = connection.address.region
        self._everywhere: dict[str, Any] = {"RequestPayer": "requester"} if config.requester_pays else {}
        if config.expected_bucket_owner is not None:
            self._everywhere["ExpectedBucketOwner"] = config.expected_bucket_owner
        self._objects: dict[str, Any] = {}
        if config.sse_c_key is not None:
            self._objects = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": config.sse_c_key}
        self.lists_any_prefix = not config.directory_bucket
        self.lists = 0
        """Requests sent."""
        self.skew = timedelta()
        """How far this machine's clock is behind the store's; what is signed is dated by the store's."""
        self._gets = trio.CapacityLimiter(_GETS)
        self._lister = Lister(
            self._list,
            spelling=Spelling.FORM if connection.address.amazon else None,
            directory_bucket=config.directory_bucket,
        )
        client.meta.events.register("choose-signer.s3", self._choose_signer)

    async def head(self, key: str) -> ObjectInfo:
        answer = await self._call("head_object", Key=key, **self._objects)
        restored = bool(_RESTORED.search(answer.get("Restore", "")))
        return checked_info(
            key,
            answer.get("ETag", ""),
            answer.get("ContentLength"),
            answer.get("LastModified"),
            # Only the classes that are not the standard one are named.
            answer.get("StorageClass", "STANDARD"),
            restored,
        )

    async def list_page(self, prefix: str, token: str | None, after: str, limit: int, *, flat: bool) -> ListPage:
        return await self._lister.list_page(prefix, token, after, limit, flat=flat)

    async def _list(self, operation: str, arguments: dict[str, Any]) -> bytes:
        self.lists += 1
        answer = await self._call(operation, **arguments)
        return bytes(answer[_UNPARSED])

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        """See ObjectStore.get_range. Raises RangeIgnored where the answer is the whole object and not the range."""
        span = f"bytes={byte_range.start}-{byte_range.stop - 1}"
        etag, since = conditions(object_id.etag)
        given = ({"IfMatch": etag} if etag else {}) | ({"IfUnmodifiedSince": since} if since else {})
        async with self._gets:
            answer = await self._call("get_object", Key=object_id.key, Range=span, **given, **self._objects)
            async with answer["Body"] as stream:  # leaving it ends the connection, where the body is not wanted
                self._check(object_id, byte_range, answer)
                # botocore compares a checksum, where the answer has one, with the body when all of it has come.
                checked = any(name.startswith("Checksum") for name in answer)
                piece_nbytes = len(byte_range) if checked else LEAST_NBYTES
                await _hand_over(stream, answer.get("ContentLength"), len(byte_range), deliver, piece_nbytes)

    @staticmethod
    def _check(object_id: ObjectId, span: ByteRange, answer: Any) -> None:
        """The answer is about the version and the range that were asked for."""
        modified = answer.get("LastModified")
        seconds = int(modified.timestamp()) if isinstance(modified, datetime) else None
        if not is_version(object_id.etag, answer.get("ETag", ""), seconds):
            raise ObjectChanged("the object is another version now")
        told = re.fullmatch(r"bytes ([0-9]{1,16})-([0-9]{1,16})/([0-9]{1,16}|\*)", answer.get("ContentRange") or "")
        if told is None:
            metadata = answer["ResponseMetadata"]
            if metadata["HTTPStatusCode"] != 200:
                raise StoreUnavailable("the store answers with another range than was asked for")
            if "x-goog-stored-content-encoding" in metadata.get("HTTPHeaders", {}) and "ContentLength" not in answer:
                raise StoreError("the store decompresses the object on its way, so that its bytes are not those listed")
            # RFC 9110 lets a server ignore a range; of use is that only where it is all there is.
            if len(span) != object_id.size:
                raise RangeIgnored("the store ignores Range: it sends the whole object where a part was asked for")
            return
        if told[3] != "*" and int(told[3]) != object_id.size:
            raise ObjectChanged(f"size is {told[3]} and no longer {object_id.size}")
        if (int(told[1]), int(told[2]) + 1) != (span.start, span.stop):
            raise StoreUnavailable("the store answers with another range than was asked for")

    async def get_start(self, key: str, limit: int) -> tuple[ObjectId, bytes]:
        """At most the first ``limit`` bytes of an object, and which version of it they are of."""
        async with self._gets:
            answer = await self._call("get_object", Key=key, Range=f"bytes=0-{limit - 1}", **self._objects)
            async with answer["Body"] as stream:
                return await self._read_start(answer, stream, key, limit)

    @staticmethod
    async def _read_start(answer: Any, stream: Any, key: str, limit: int) -> tuple[ObjectId, bytes]:
        told = re.fullmatch(r"bytes 0-[0-9]+/([0-9]{1,16})", answer.get("ContentRange") or "", re.ASCII)
        size = int(told[1]) if told else answer.get("ContentLength")
        if told is None and (answer["ResponseMetadata"]["HTTPStatusCode"] != 200 or not isinstance(size, int)):
            raise StoreUnavailable("the store answers with another range than was asked for")
        if told is None and size is not None and size > limit:
            raise RangeIgnored("the store ignores Range: it sends the whole object where a part was asked for")
        info = checked_info(key, answer.get("ETag", ""), size, answer.get("LastModified"), "STANDARD", False)
        return info.id, await _read(stream, answer.get("ContentLength"), min(limit, info.id.size))

    async def _call(self, operation: str, **arguments: Any) -> Any:
        try:
            return await getattr(self._client, operation)(Bucket=self._bucket, **arguments, **self._everywhere)
        except Exception as error:
            # Also what httpx raises beside botocore's own: none of it may pass this border.
            raise from_botocore(error, self._region) from None

    def _choose_signer(self, signature_version: Any, context: dict[str, Any], **_: Any) -> str | None:
        """Called by botocore before it signs."""
        # botocore calls it v4 where its endpoint rules chose it, as they always do.
        if not self.skew or signature_version not in ("v4", "s3v4"):
            return None
        context["s3stream_skew"] = self.skew
        return _CORRECTED


class _CorrectedAuth(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    """Signs with the store's time. All that is dated in a signature is dated by the context's time stamp."""

    def _modify_request_before_signing(self, request: Any) -> None:
        now = datetime.now(UTC) + request.context["s3stream_skew"]
        request.context["timestamp"] = now.strftime(botocore.auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)


botocore.auth.AUTH_TYPE_MAPS[_CORRECTED] = _CorrectedAuth


class _Signing(AioCredentials):  # type: ignore[misc]
    """A keyring in the shape in which aiobotocore asks for credentials."""

    def __init__(self, keyring: Keyring) -> None:
        super().__init__("", "", method="s3stream-fs")
        self._keyring = keyring

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        keys = await self._keyring.get()
        return ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)


async def _hand_over(stream: Any, told_nbytes: object, nbytes: int, deliver: Deliver, piece_nbytes: int) -> None:
    """Deliver a body of just so many bytes as it comes. Of one that is cut at most two pieces are lost: one that was
    not whole, and one of which it had to be seen whether the body goes on. Raises StoreUnavailable."""
    if told_nbytes not in (None, nbytes):
        raise StoreUnavailable(f"the body has {told_nbytes} bytes instead of {nbytes}")
    left, held = nbytes, b""
    try:
        async with aclosing(stream.iter_chunks(piece_nbytes)) as pieces:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    break
                if held:
                    deliver(memoryview(held))
                held = piece
    except Exception as error:
        raise from_botocore(error) from None
    if left < 0:
        raise StoreUnavailable(f"the body has more than {nbytes} bytes instead of {nbytes}")
    deliver(memoryview(held))
    if left:
        raise StoreUnavailable(f"the body has {nbytes - left} bytes instead of {nbytes}")


async def _read(stream: Any, told_nbytes: object, nbytes: int) -> bytes:
    """A body of just so many bytes; of one that is longer no more is read than shows it. Raises StoreUnavailable."""
    try:
        if told_nbytes == nbytes:
            body: bytes = await stream.read()
        else:
            pieces, left = [], nbytes + 1
            if told_nbytes is None:
                async for piece in stream.iter_chunks(_PIECE_NBYTES):
                    pieces.append(piece[:left])
                    left -= len(pieces[-1])
                    if not left:
                        break
            body = b"".join(pieces)
    except Exception as error:
        raise from_botocore(error) from None
    if len(body) != nbytes:
        shown = told_nbytes if told_nbytes is not None else f"more than {nbytes}" if len(body) > nbytes else len(body)
        raise StoreUnavailable(f"the body has {shown} bytes instead of {nbytes}")
    return body


@asynccontextmanager
async def open_control_plane(connection: Connection, keyring: Keyring | None) -> AsyncIterator[ControlPlane]:
    """A client for the bucket; without a keyring requests are not signed. Raises UsageError."""
    context: ssl.SSLContext = await trio.to_thread.run_sync(connection.trust.context)
    # It reads the profile, but all that counts of it is in the connection, and goes before it.
    session = AioSession(profile=connection.config.profile)
    session.register_component("data_loader", loader())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_or_none)
    if keyring is not None:
        session._credentials = _Signing(keyring)
    try:
        making = session.create_client(
            "s3",
            region_name=connection.region,
            endpoint_url=connection.endpoint_url,
            verify=True,
            config=AioConfig(
                http_session_cls=OriginFormSession,
                connector_args={"ssl_context": context},
                proxies={} if connection.proxy is None else dict.fromkeys(("http", "https"), connection.proxy),
                signature_version=botocore.UNSIGNED if keyring is None else None,
                ignore_configured_endpoint_urls=True,
                use_dualstack_endpoint=connection.dual_stack,
                use_fips_endpoint=connection.fips,
                retries={"total_max_attempts": 1},
                s3={
                    "addressing_style": "path" if connection.path_style else "virtual",
                    "use_arn_region": True,
                    "us_east_1_regional_endpoint": "regional",
                    "use_accelerate_endpoint": False,
                    "use_dualstack_endpoint": connection.dual_stack,
                },
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                max_pool_connections=_CONNECTIONS,
                user_agent_extra="s3stream-fs",
            ),
        )
        client = await making.__aenter__()
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise UsageError(f"AWS's settings cannot be used: {error}") from None
    try:
        for operation in ("ListObjectsV2", "ListObjects"):
            client.meta.events.register(f"before-parse.s3.{operation}", _keep_unparsed)
            # It would ask for names to be encoded where `lister` does not.
            client.meta.events.unregister(
                f"before-parameter-build.s3.{operation}", botocore.handlers.set_list_objects_encoding_type_url
            )
        # It parses each answer to see whether it is an error with status 200. Of those asked for here only a listing
        # has a body that is not streamed, and `page` sees that.
        if (look_for_errors := getattr(botocore.handlers, "_handle_200_error", None)) is not None:
            client.meta.events.unregister("before-parse.s3.*", look_for_errors)
        client.meta.events.register("before-parameter-build.s3", _follow_nowhere)
        yield ControlPlane(client, connection)
    finally:
        with trio.CancelScope(shield=True):
            await making.__aexit__(None, None, None)


def _time_or_none(text: Any) -> datetime | None:
    """One object's Last-Modified may be no time; that shall not make its answer unreadable."""
    try:
        time: datetime = botocore.utils.parse_timestamp(text)
    except (ValueError, OverflowError, RuntimeError):
        return None
    return time


def _follow_nowhere(context: dict[str, Any], **_: Any) -> None:
    """Tell botocore that it has followed to another region already: the data plane has to follow as well."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _keep_unparsed(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Before botocore parses a listing: give it nothing to do, but to say what another status means."""
    if response_dict["status_code"] == 200:
        customized_response_dict[_UNPARSED] = response_dict["body"]
        response_dict["body"] = b""
