"""The data plane: ranged GETs by obstore, whose own threads do the work; trio's thread hardly notices.

Bytes are handed over as they come, in the buffers that obstore filled. Never retries.
"""

from __future__ import annotations

import base64
import socket
from contextlib import suppress
from typing import Any, Final

import obstore
import trio
from obstore.store import S3Store as ObstoreS3

from s3stream_fs.errors import ObjectChanged, StoreError, StoreUnavailable, UsageError
from s3stream_fs.store import Deliver
from s3stream_fs.store.s3.conditions import conditions, is_version
from s3stream_fs.store.s3.connection import Connection
from s3stream_fs.store.s3.credentials import Keys
from s3stream_fs.store.s3.faults import from_obstore
from s3stream_fs.store.s3.guest import GuestLoop
from s3stream_fs.store.s3.pace import LEAST_NBYTES, Pace
from s3stream_fs.types import ByteRange, ObjectId

_CONNECT_SECONDS: Final = 10
"""A store that does not take a connection by then is tried again, perhaps at another address."""

_IDLE_SECONDS: Final = 15
"""A connection on which nothing has come for this long is dead: a first byte takes 0.1 s, the worst seen took 1 s."""

_REQUEST_SECONDS: Final = 120
"""A single GET that is still running then is given up: 8 MiB at 70 kB/s. What it has brought is not lost."""

_AT_ONCE_SECONDS: Final = 3
"""A body that was to come within a quarter of a second, and has not by then, is given up: the link has become slow, or
it is longer than was asked for, which nobody sees before its end. The next try takes it in pieces."""

_NO_PROXY: Final = "http://127.0.0.1:9"
"""Nothing is ever sent there: it stands where obstore would else take a proxy from the environment."""


def suits(connection: Connection) -> bool:
    """Whether obstore reaches the bucket as ``connection`` says.

    It does not sign for several regions at once (SigV4A), nor for other services than S3. Sessions of directory buckets
    it asks of the one host that it makes up itself. It follows redirects, through a proxy to anywhere, and takes a
    customer's key along.
    """
    address = connection.address
    if address.scheme == "sigv4-s3express":
        return address.url == _express_url(connection.bucket, address.region)
    if connection.proxy is not None and connection.config.sse_c_key is not None:
        return False
    return (address.scheme, address.service) == ("sigv4", "s3")


def _express_url(bucket: str, region: str) -> str:
    zone = bucket.removesuffix("--x-s3").rpartition("--")[2]
    return f"https://{bucket}.s3express-{zone}.{region}.amazonaws.com"


class DataPlane:
    """GETs of one bucket. Raises UsageError where obstore refuses its settings."""

    def __init__(self, connection: Connection) -> None:
        self._loop = GuestLoop()
        self._connection = connection
        self._keys: Keys | None = None
        self._pace = Pace()
        try:
            self._store = self._made(None)
        except Exception as error:  # obstore's own, which have no common root
            # All that counts is said; but it reads variables for writing, too, and refuses words that it does not know.
            raise UsageError(f"a variable AWS_* of the environment cannot be used: {_first_line(error)}") from None

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver, keys: Keys | None) -> None:
        """See ObjectStore.get_range. Signed with ``keys``. Cancelling it aborts the connection. Raises Unsuited."""
        store = self._store
        if keys is not self._keys:
            # With other keys come other connections: some handshakes in an hour, and no lookup in each GET.
            store, self._keys = self._made(keys), keys
            self._store = store
        options: dict[str, Any] = {}
        if byte_range != object_id.whole:
            # Without a range no store can ignore it.
            options["range"] = (byte_range.start, byte_range.stop)
        etag, since = conditions(object_id.etag)
        if etag is not None:
            options["if_match"] = etag
        elif since is not None:
            options["if_unmodified_since"] = since
        try:
            result = await self._loop.wait(obstore.get_async, store, object_id.key, options=options)
            self._check(object_id, byte_range, result)
            await self._read(result, object_id, byte_range, deliver)
        except StoreError:
            raise
        except Exception as foreign:  # the border: obstore's errors have no common root
            raise from_obstore(foreign, self._connection.address.region) from None

    async def _read(self, result: Any, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        """Hand a body over as it comes, or at once: of one that is cut little is lost (see ``Pace``)."""
        nbytes = len(byte_range)
        # Of a whole object the length that the store tells is its size, which was checked.
        if self._pace.comes_at_once(object_id, nbytes, told=byte_range == object_id.whole):
            await self._read_at_once(result, object_id, nbytes, deliver)
        else:
            await self._read_in_pieces(result, object_id, nbytes, deliver)

    async def _read_at_once(self, result: Any, object_id: ObjectId, nbytes: int, deliver: Deliver) -> None:
        """Takes a fifth less CPU for small bodies. A store may tell a length and send more all the same, of which
        nothing is seen before its end: so there is little time for it."""
        then = trio.current_time()
        body = None
        try:
            with trio.move_on_after(_AT_ONCE_SECONDS):
                body = memoryview(await self._loop.wait(result.bytes_async))
        except Exception:
            self._pace.cut(object_id)
            raise
        if body is None:
            self._pace.cut(object_id)
            raise StoreUnavailable(f"a body of {nbytes} bytes has not come within {_AT_ONCE_SECONDS:g} s")
        self._came(len(body), then)
        if len(body) > nbytes:
            raise StoreUnavailable(f"the body has {len(body)} bytes instead of {nbytes}")
        deliver(body)
        self._ended(object_id, nbytes, nbytes - len(body))

    async def _read_in_pieces(self, result: Any, object_id: ObjectId, nbytes: int, deliver: Deliver) -> None:
        wait = self._loop.wait
        # How long a body is, obstore does not tell: so no more is asked for than what shows that it is too long.
        least = min(self._pace.piece_nbytes(object_id), nbytes + 1)
        read = result.stream(min_chunk_size=least).__anext__
        left = nbytes
        while left:
            then = trio.current_time()
            try:
                piece = memoryview(await wait(read))
            except StopAsyncIteration:
                break
            except Exception:
                self._pace.cut(object_id)
                raise
            left -= len(piece)
            self._came(len(piece), then)
            ended = len(piece) < least
            if not left and not ended:
                with suppress(StopAsyncIteration):
                    left -= len(await wait(read))
            if left < 0:
                raise StoreUnavailable(f"the body has {nbytes - left} bytes or more instead of {nbytes}")
            deliver(piece)
            if ended:
                break
        self._ended(object_id, nbytes, left)

    def _came(self, nbytes: int, then: float) -> None:
        """So many bytes have been waited for since ``then``. Of few it says little how long they take."""
        if nbytes >= LEAST_NBYTES:
            self._pace.came(nbytes, trio.current_time() - then)

    def _ended(self, object_id: ObjectId, nbytes: int, left: int) -> None:
        """Raises StoreUnavailable where some of a body's bytes are ``left``."""
        if left:
            self._pace.cut(object_id)
            raise StoreUnavailable(f"the body has {nbytes - left} bytes instead of {nbytes}")
        self._pace.complete(object_id)

    @staticmethod
    def _check(object_id: ObjectId, span: ByteRange, result: Any) -> None:
        """The answer is about the version and the range that were asked for. Nothing the store says is trusted."""
        meta = result.meta
        seconds = int(meta["last_modified"].timestamp()) or None  # 1970 is obstore's for none
        if not is_version(object_id.etag, meta.get("e_tag") or "", seconds):
            raise ObjectChanged("the object is another version now")
        if meta["size"] != object_id.size:
            raise ObjectChanged(f"size is {meta['size']} and no longer {object_id.size}")
        if tuple(result.range) != (span.start, span.stop):
            raise StoreUnavailable("the store answers with another range than was asked for")

    def _made(self, keys: Keys | None) -> ObstoreS3:
        connection = self._connection
        config, address = connection.config, connection.address
        headers = {}
        if config.expected_bucket_owner is not None:
            headers["x-amz-expected-bucket-owner"] = config.expected_bucket_owner
        # obstore takes from the environment what it is not told (AWS_*, and reqwest the proxies): so it is told all.
        settings: dict[str, Any] = {
            "endpoint": address.url,
            "aws_endpoint_url_s3": address.url,
            "virtual_hosted_style_request": True,  # the address names the bucket already, wherever
            "region": address.region,
            "s3_express": address.scheme == "sigv4-s3express",
            "skip_signature": keys is None,
            "unsigned_payload": False,
            "request_payer": config.requester_pays,
            "server_side_encryption": "AES256",  # of writes; asks nothing of reads
        }
        if config.sse_c_key is not None:
            settings["server_side_encryption"] = "sse-c"
            settings["sse_customer_key_base64"] = base64.b64encode(config.sse_c_key).decode()
        client: dict[str, Any] = {
            "allow_http": address.url.startswith("http://"),
            "allow_invalid_certificates": not connection.trust.verify,
            "connect_timeout": f"{_CONNECT_SECONDS}s",
            "read_timeout": f"{_IDLE_SECONDS}s",
            "timeout": f"{_REQUEST_SECONDS}s",
            "http1_only": True,
            "user_agent": "s3stream-fs",
            "default_headers": headers,
            "proxy_url": connection.proxy or _NO_PROXY,
            "proxy_excludes": "" if connection.proxy else ",".join(_spellings(address.host)),
        }
        if connection.trust.pem:
            client["root_certificate"] = connection.trust.pem
        # Also where nothing is signed: else half a pair of keys in the environment is an error.
        found = {
            "access_key_id": "nobody" if keys is None else keys.access_key,
            "secret_access_key": "" if keys is None else keys.secret_key,
            "token": None if keys is None else keys.token,
            "expires_at": None,
        }
        return ObstoreS3(
            config.bucket,
            config=settings,  # type: ignore[arg-type]
            client_options=client,  # type: ignore[arg-type]
            retry_config={"max_retries": 0},
            credential_provider=lambda: found,  # type: ignore[arg-type]
        )


def _spellings(host: str) -> set[str]:
    """A host as it is written, and as it is understood in a URL: ``127.1`` is ``127.0.0.1``."""
    found = {host}
    with suppress(OSError, ValueError):
        found.add(socket.inet_ntoa(socket.inet_aton(host)))
    with suppress(UnicodeError):
        found.add(host.encode("idna").decode())
    return found


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
