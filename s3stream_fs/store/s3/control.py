"""The control plane: credentials, HEAD, LIST, and the GETs that the data plane cannot name. aiobotocore on trio.

Slow per request (about 1 ms of this thread) and complete: it knows every credential source of the AWS chain and takes
any key.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import botocore
import botocore.exceptions
import botocore.handlers
from aiobotocore.config import AioConfig
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession

from s3stream_fs.errors import Denied, ObjectChanged, StoreUnavailable, UsageError
from s3stream_fs.store import Deliver
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.faults import from_botocore
from s3stream_fs.store.s3.lister import Lister
from s3stream_fs.store.s3.page import bare, checked_info
from s3stream_fs.store.s3.spelling import Spelling
from s3stream_fs.types import ByteRange, ListPage, ObjectId, ObjectInfo

_CONNECT_SECONDS: Final = 10
"""A store that does not take a connection by then is tried again, perhaps at another address."""
_READ_SECONDS: Final = 20
"""A page of 1,000 keys takes 0.1 s; without a byte for this long the connection is taken for dead."""
_CONNECTIONS: Final = 64
"""Listings and lookups at once."""

_UNPARSED: Final = "Unparsed"
"""Under which name a listing's body is found beside what botocore makes of an answer."""

_SETTINGS_ERRORS: Final = (
    botocore.exceptions.ConfigNotFound,
    botocore.exceptions.ConfigParseError,
    botocore.exceptions.InvalidConfigError,
    botocore.exceptions.InvalidRegionError,
    botocore.exceptions.UnknownServiceError,
)

_RESTORED: Final = re.compile(r'ongoing-request="false"')


class ControlPlane:
    """Requests through one aiobotocore client. All errors are StoreErrors."""

    def __init__(self, client: Any, session: AioSession, config: S3Config, region: str) -> None:
        self._client = client
        self._session = session
        self._bucket = config.bucket
        self._payer = {"RequestPayer": "requester"} if config.requester_pays else {}
        self.region = region
        self.lists_any_prefix = not config.directory_bucket
        self.lists = 0
        """Requests sent."""
        # What directory buckets have is said by all of their listings, and they know no such parameter.
        self._list_arguments = {} if config.directory_bucket else {"OptionalObjectAttributes": ["RestoreStatus"]}
        self.endpoint_url = str(client.meta.endpoint_url)
        self._lister = Lister(
            self._list,
            spelling=Spelling.FORM if _is_amazon(self.endpoint_url) else None,
            directory_bucket=config.directory_bucket,
        )

    async def credentials(self) -> Any:
        """The chain's credentials at this moment, refreshed where they were about to expire. Raises Denied."""
        try:
            credentials = await self._session.get_credentials()
            if credentials is None:
                raise Denied("no usable credentials were found")
            return await credentials.get_frozen_credentials()
        except botocore.exceptions.BotoCoreError as error:
            raise from_botocore(error) from None

    async def head(self, key: str) -> ObjectInfo:
        answer = await self._call("head_object", Key=key)
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
        answer = await self._call(operation, **arguments, **self._list_arguments)
        return bytes(answer[_UNPARSED])

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        match = {"IfMatch": f'"{object_id.etag}"'} if object_id.etag else {}
        span = f"bytes={byte_range.start}-{byte_range.stop - 1}"
        answer = await self._call("get_object", Key=object_id.key, Range=span, **match)
        etag = bare(answer.get("ETag", ""))
        if object_id.etag and etag and etag != object_id.etag:
            raise ObjectChanged(f"ETag is {etag} and no longer {object_id.etag}")
        if answer.get("ContentRange", "") != f"{span.replace('=', ' ')}/{object_id.size}":
            raise StoreUnavailable("the store answers with another range than was asked for")
        deliver(memoryview(await _body(answer, len(byte_range))))

    async def get_start(self, key: str, limit: int) -> tuple[ObjectId, bytes]:
        """At most the first ``limit`` bytes of an object, and which version of it they are of."""
        answer = await self._call("get_object", Key=key, Range=f"bytes=0-{limit - 1}")
        size = re.fullmatch(r"bytes 0-[0-9]+/([0-9]{1,16})", answer.get("ContentRange", ""), re.ASCII)
        if size is None:
            raise StoreUnavailable("the store answers with another range than was asked for")
        info = checked_info(key, answer.get("ETag", ""), int(size[1]), None, "STANDARD", False)
        return info.id, await _body(answer, min(limit, info.id.size))

    async def _call(self, operation: str, **arguments: Any) -> Any:
        try:
            return await getattr(self._client, operation)(Bucket=self._bucket, **arguments, **self._payer)
        except Exception as error:
            # Also what httpx raises beside botocore's own: none of it may pass this border.
            raise from_botocore(error) from None


async def _body(answer: Any, nbytes: int) -> bytes:
    try:
        async with answer["Body"] as stream:
            body: bytes = await stream.read()
    except Exception as error:
        raise from_botocore(error) from None
    if len(body) != nbytes:
        raise StoreUnavailable(f"the body has {len(body)} bytes instead of {nbytes}")
    return body


@asynccontextmanager
async def open_control_plane(config: S3Config) -> AsyncIterator[ControlPlane]:
    """A client for the bucket, with the chain's credentials.

    Raises UsageError for settings that cannot be used, and StoreError where a source of credentials fails.
    """
    async with AsyncExitStack() as stack:
        try:
            session = AioSession(profile=config.profile)
            # For the requests of the credential chain itself too (instance and container roles, STS, SSO).
            session.set_default_client_config(AioConfig(http_session_cls=HttpxSession))
            region = config.region or session.get_config_variable("region") or "us-east-1"
            client = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=region,
                    endpoint_url=config.endpoint_url,
                    config=AioConfig(
                        http_session_cls=HttpxSession,  # runs on trio
                        signature_version=botocore.UNSIGNED if config.anonymous else None,
                        retries={"total_max_attempts": 1},
                        s3={"addressing_style": "virtual" if config.virtual_hosted else "path"},
                        connect_timeout=_CONNECT_SECONDS,
                        read_timeout=_READ_SECONDS,
                        max_pool_connections=_CONNECTIONS,
                        user_agent_extra="s3stream-fs",
                    ),
                )
            )
        except botocore.exceptions.ProfileNotFound:
            raise UsageError(f"there is no AWS profile {config.profile!r}; see ~/.aws/config") from None
        except (*_SETTINGS_ERRORS, ValueError) as error:
            raise UsageError(f"AWS's settings cannot be used: {error}") from None
        except botocore.exceptions.BotoCoreError as error:
            # A source of credentials did not answer, or with something else.
            raise from_botocore(error) from None
        for operation in ("ListObjectsV2", "ListObjects"):
            client.meta.events.register(f"before-parse.s3.{operation}", _keep_unparsed)
        # It parses each answer to see whether it is an error with status 200. Of those asked for here only a listing
        # has a body that is not streamed, and `page` sees that.
        if (look_for_errors := getattr(botocore.handlers, "_handle_200_error", None)) is not None:
            client.meta.events.unregister("before-parse.s3.*", look_for_errors)
        control = ControlPlane(client, session, config, region)
        yield control


def _is_amazon(endpoint_url: str) -> bool:
    return (urlsplit(endpoint_url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _keep_unparsed(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Before botocore parses a listing: give it nothing to do, but to say what another status means."""
    if response_dict["status_code"] == 200:
        customized_response_dict[_UNPARSED] = response_dict["body"]
        response_dict["body"] = b""
