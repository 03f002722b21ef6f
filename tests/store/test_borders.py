"""Canaries: what this package takes from asyncio, botocore and obstore though none of them promises it.

Each says in one line what has changed. The upper bounds in pyproject.toml are there for what is tested here: raise one
when these tests are green with the new release. Nothing here goes through the planes, so that what fails is the border.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import botocore
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import botocore.handlers
import botocore.session
import obstore
import pytest
import trio
from aiobotocore.config import AioConfig
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from obstore.store import S3Store

from s3stream_fs.errors import Denied, KeysRefused, NotFound, ObjectChanged, StoreError, StoreUnavailable, Throttled
from s3stream_fs.store.s3.faults import from_obstore
from s3stream_fs.store.s3.guest import GuestLoop

PATIENCE_SECONDS = 20
REQUEST_ID = "4442587FB7D0A2F9"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"

T = TypeVar("T")

Speak = Callable[[socket.socket], None]
"""What a server does on a connection from which it has read one request."""


class Server(socketserver.ThreadingTCPServer):
    """Speaks on each connection after one request, then ends it."""

    def __init__(self, speak: Speak, tls: ssl.SSLContext | None) -> None:
        self.speak = speak
        self.tls = tls
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        # Clients that refuse the certificate or leave are part of the tests.
        with contextlib.suppress(OSError):
            self.request.settimeout(PATIENCE_SECONDS)
            tls = self.server.tls
            connection = tls.wrap_socket(self.request, server_side=True) if tls else self.request
            with connection:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    if not (more := connection.recv(65536)):
                        return
                    request += more
                self.server.speak(connection)


@contextmanager
def serving(speak: Speak, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of a server."""
    with Server(speak, tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port that takes no connection, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def answer(status: int, body: bytes = b"", *headers: str, nbytes: int | None = None) -> Speak:
    """``nbytes`` is how many the answer claims to have."""
    lines = (
        f"HTTP/1.1 {status} Said",
        f"Content-Length: {len(body) if nbytes is None else nbytes}",
        "Connection: close",
        *headers,
    )
    said = "\r\n".join((*lines, "", "")).encode() + body
    return lambda connection: connection.sendall(said)


def refusal(status: int, code: str, *headers: str) -> Speak:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><RequestId>{REQUEST_ID}</RequestId></Error>"
    return answer(status, body.encode(), *headers)


def part(body: bytes, *, nbytes: int = 10) -> Speak:
    """A GET's first ten bytes of a hundred."""
    headers = ('ETag: "e"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT", "Content-Range: bytes 0-9/100")
    return answer(206, body, *headers, nbytes=nbytes)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hold(connection: socket.socket) -> None:
    """Says nothing for as long as the client stays."""
    connection.recv(1)


def store_at(url: str, **client_options: Any) -> S3Store:
    return S3Store(
        "bucket",
        config={
            "endpoint": url,
            "region": "us-east-1",
            "access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "secret_access_key": SECRET,
            "virtual_hosted_style_request": False,
        },
        client_options={"allow_http": True, "timeout": f"{PATIENCE_SECONDS}s"} | client_options,  # type: ignore[arg-type]
        retry_config={"max_retries": 0},
    )


async def get(store: S3Store) -> bytes:
    loop = GuestLoop()
    options: Any = {"range": (0, 10), "if_match": '"e"'}
    result = await loop.wait(obstore.get_async, store, "key", options=options)
    return bytes(await loop.wait(result.bytes_async))


def run(case: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        with trio.fail_after(PATIENCE_SECONDS):
            return await case()

    return trio.run(main)


# asyncio's running loop


def test_python_lets_any_object_be_the_running_loop() -> None:
    assert hasattr(asyncio, "_set_running_loop"), "Python has no asyncio._set_running_loop any more: see guest"
    loop = cast(asyncio.AbstractEventLoop, object())
    asyncio._set_running_loop(loop)
    try:
        assert asyncio.get_running_loop() is loop, "asyncio.get_running_loop() is not what was set: see guest"
    finally:
        asyncio._set_running_loop(None)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


class WatchedLoop(GuestLoop):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "asked_for":
            self.asked_for.add(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"asyncio or obstore now asks a loop for {name!r}, which GuestLoop has not: see guest")


OF_A_LOOP = {"create_future", "call_soon_threadsafe", "call_soon", "get_debug"}


def test_obstore_asks_no_more_of_a_loop_than_the_guest_has() -> None:
    asked: set[str] = set()

    async def case() -> None:
        loop = WatchedLoop()
        wait = loop.wait
        with serving(part(b"0123456789")) as url:
            result = await wait(obstore.get_async, store_at(url), "key", options=cast(Any, {"range": (0, 10)}))
            assert bytes(await wait(result.bytes_async)) == b"0123456789"
        with serving(refusal(503, "SlowDown")) as url, pytest.raises(obstore.exceptions.BaseError):
            await wait(obstore.get_async, store_at(url), "key")
        asked.update(loop.asked_for - {"wait"})

    run(case)
    assert asked <= OF_A_LOOP, f"obstore's futures use more of a loop now: {asked - OF_A_LOOP}; see guest"
    assert "call_soon_threadsafe" in asked, "obstore completes its futures in another way now: see guest"


def test_obstore_gives_out_asyncios_futures_of_the_running_loop() -> None:
    given: list[Any] = []

    async def case() -> None:
        loop = GuestLoop()
        with serving(part(b"0123456789")) as url:

            def start() -> Awaitable[Any]:
                given.append(obstore.get_async(store_at(url), "key", options=cast(Any, {"range": (0, 10)})))
                return cast("Awaitable[Any]", given[0])

            await loop.wait(start)
        assert isinstance(given[0], asyncio.Future), f"obstore gives out {type(given[0])} now: see guest"
        assert id(given[0].get_loop()) == id(loop)

    run(case)


def test_what_obstore_says_of_an_answer_and_its_buffer_are_as_data_takes_them() -> None:
    async def case() -> None:
        loop = GuestLoop()
        with serving(part(b"0123456789")) as url:
            result = await loop.wait(
                obstore.get_async, store_at(url), "key", options=cast(Any, {"range": (0, 10), "if_match": '"e"'})
            )
            assert tuple(result.range) == (0, 10)
            assert result.meta["e_tag"] == '"e"'
            assert result.meta["size"] == 100
            body = memoryview(await loop.wait(result.bytes_async))
            assert (body.format, body.contiguous, body.readonly) == ("B", True, True)

    run(case)


def test_a_cancelled_future_ends_obstores_request_at_once() -> None:
    arrived, gone = threading.Event(), threading.Event()

    def speak(connection: socket.socket) -> None:
        arrived.set()
        if connection.recv(1) == b"":
            gone.set()

    async def case() -> None:
        with serving(speak) as url:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, store_at(url))
                assert await trio.to_thread.run_sync(arrived.wait, PATIENCE_SECONDS)
                nursery.cancel_scope.cancel()
            ended = await trio.to_thread.run_sync(gone.wait, PATIENCE_SECONDS / 2)
            assert ended, "obstore keeps the connection of a GET whose future was cancelled: see guest and data"

    run(case)


# obstore's errors


@dataclass(frozen=True)
class Said:
    """What obstore makes of something, by ``faults``' own words, and the parts of its text that are read for that."""

    server: Callable[[], AbstractContextManager[str]]
    kind: type[StoreError]
    parts: tuple[str, ...] = ()
    request_id: str = ""


def refused(status: int, code: str, kind: type[StoreError]) -> Said:
    parts = (f"Server returned non-2xx status code: {status}", f"<Code>{code}</Code>")
    return Said(lambda: serving(refusal(status, code)), kind, parts, REQUEST_ID)


SAID = {
    "400": refused(400, "ExpiredToken", KeysRefused),
    "401": refused(401, "Unauthorized", Denied),
    "403": refused(403, "AccessDenied", Denied),
    "404": refused(404, "NoSuchKey", NotFound),
    "404 without a body": Said(lambda: serving(answer(404)), NotFound, ("non-2xx status code: 404",)),
    "409": refused(409, "OperationAborted", StoreError),
    "412": refused(412, "PreconditionFailed", ObjectChanged),
    "416": refused(416, "InvalidRange", ObjectChanged),
    "429": refused(429, "TooManyRequests", Throttled),
    "500": refused(500, "InternalError", StoreUnavailable),
    "503": refused(503, "SlowDown", Throttled),
    "503 without a body": Said(lambda: serving(answer(503)), Throttled, ("non-2xx status code: 503",)),
    "301 without Location": Said(lambda: serving(refusal(301, "PermanentRedirect")), StoreError, ("BareRedirect",)),
    "200 for a range": Said(lambda: serving(answer(200, b"x" * 100, 'ETag: "e"')), StoreError, ()),
    "reset": Said(lambda: serving(reset), StoreUnavailable, ("kind: Interrupted",)),
    "end without an answer": Said(lambda: serving(lambda _: None), StoreUnavailable, ("kind: Request",)),
    "cut body": Said(lambda: serving(part(b"012")), StoreUnavailable, ("kind: Interrupted",)),
    "no HTTP": Said(lambda: serving(lambda c: c.sendall(b"220 mail\r\n\r\n")), StoreUnavailable, ("kind: Unknown",)),
    "connection refused": Said(nobody, StoreUnavailable, ("kind: Connect", "ConnectionRefused")),
    "silence": Said(lambda: serving(hold), StoreUnavailable, ("kind: Timeout",)),
}


def raised(url: str, **client_options: Any) -> Exception:
    """What a GET raises."""

    async def case() -> Exception:
        try:
            await get(store_at(url, **client_options))
        except Exception as error:
            return error
        raise AssertionError("the GET came to something")

    return run(case)


@pytest.mark.parametrize("name", SAID)
def test_obstore_tells_apart_what_faults_reads_in_its_texts(name: str) -> None:
    said = SAID[name]
    with said.server() as url:
        error = raised(url, read_timeout="1s" if name == "silence" else f"{PATIENCE_SECONDS}s")
    for wanted in said.parts:
        assert wanted in str(error), f"obstore no longer says {wanted!r}, which faults reads:\n{error}"
    found = from_obstore(error)
    if said.kind is StoreError:
        assert isinstance(found, StoreError)
    else:
        assert type(found) is said.kind, f"faults takes it for {found!r}:\n{error}"
    assert found.request_id == said.request_id, f"the request id is no longer found:\n{error}"
    told = str(found)
    assert not any(secret in told for secret in (SECRET, "AKIA", "http://", "\n")), told


def certificate(folder: Path) -> tuple[str, ssl.SSLContext]:
    """One that nobody trusts, for 127.0.0.1, as PEM, and a server's use of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "s3stream-fs test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return pem.decode(), context


def test_obstore_says_that_a_certificate_is_why(tmp_path: Path) -> None:
    _, context = certificate(tmp_path)
    with serving(part(b"0123456789"), context) as url:
        error = raised(url)
    assert "kind: Connect" in str(error)
    assert "InvalidCertificate(" in str(error), f"obstore no longer says that it refuses a certificate:\n{error}"
    assert isinstance(from_obstore(error), StoreError)


def test_obstore_trusts_each_of_several_root_certificates(tmp_path: Path) -> None:
    """``root_certificate`` is what raised the lower bound, with ``read_timeout`` and ``proxy_excludes``."""
    other, _ = certificate(tmp_path)
    pem, context = certificate(tmp_path)
    with serving(part(b"0123456789"), context) as url:
        for trusted in (pem, other + pem, pem + other):
            store = store_at(url, root_certificate=trusted, read_timeout="10s", connect_timeout="10s")
            assert run(lambda store=store: get(store)) == b"0123456789"  # type: ignore[misc]
        store = store_at(url, allow_invalid_certificates=True)
        assert run(lambda: get(store)) == b"0123456789"


def test_obstore_goes_past_its_proxy_where_it_was_told() -> None:
    with nobody() as proxy, serving(part(b"0123456789")) as url:
        store = store_at(url, proxy_url=proxy, proxy_excludes="10.0.0.0/8,127.0.0.0/8")
        assert run(lambda: get(store)) == b"0123456789"
        assert "kind: Connect" in str(raised(url, proxy_url=proxy, proxy_excludes="10.0.0.0/8"))


# botocore and aiobotocore


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and settings of this test alone."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def client_of(url: str) -> Any:
    """A client as the control plane makes it."""
    session = AioSession()
    config = AioConfig(
        http_session_cls=HttpxSession, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
    )
    async with session.create_client("s3", region_name="us-east-1", endpoint_url=url, config=config) as client:
        yield client


ERROR_WITH_200 = b"<Error><Code>InternalError</Code><Message>m</Message></Error>"


def test_botocore_has_the_handler_that_looks_for_errors_with_status_200() -> None:
    handler = getattr(botocore.handlers, "_handle_200_error", None)
    assert handler is not None, "botocore.handlers._handle_200_error is gone: listings are parsed twice; see control"
    registered = [entry[0] for entry in botocore.handlers.BUILTIN_HANDLERS if entry[1] is handler]
    assert registered == ["before-parse.s3.*"], f"botocore registers it for {registered} now: see control"


@pytest.mark.usefixtures("chain")
def test_that_handler_can_be_taken_from_a_client() -> None:
    async def case() -> None:
        with serving(answer(200, ERROR_WITH_200)) as url:
            async with client_of(url) as client:
                with pytest.raises(botocore.exceptions.ClientError):
                    await client.list_objects_v2(Bucket="bucket")
            async with client_of(url) as client:
                client.meta.events.unregister("before-parse.s3.*", botocore.handlers._handle_200_error)
                # Not seen any more; what the answer is, `page` finds out.
                found = await client.list_objects_v2(Bucket="bucket")
                assert found["ResponseMetadata"]["HTTPStatusCode"] == 200

    run(case)


@pytest.mark.usefixtures("chain")
def test_an_answer_can_be_kept_from_botocores_parser() -> None:
    asked: list[set[str]] = []

    def keep(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **others: Any) -> None:
        asked.append({"body", "status_code", "headers"} - response_dict.keys())
        customized_response_dict["Kept"] = response_dict["body"]
        response_dict["body"] = b""

    async def case() -> None:
        # No XML at all: a parser that saw it would fail.
        with serving(answer(200, b"as it came")) as url:
            async with client_of(url) as client:
                client.meta.events.unregister("before-parse.s3.*", botocore.handlers._handle_200_error)
                for operation in ("ListObjectsV2", "ListObjects"):
                    client.meta.events.register(f"before-parse.s3.{operation}", keep)
                for operation in ("list_objects_v2", "list_objects"):
                    found = await getattr(client, operation)(Bucket="bucket")
                    assert found["Kept"] == b"as it came", (
                        f"botocore parses {operation} before the handler: see control"
                    )

    run(case)
    assert asked == [set(), set()], "botocore gives its handlers another kind of answer now: see control"


@pytest.mark.usefixtures("chain")
def test_aiobotocores_session_and_client_have_what_control_uses() -> None:
    async def case() -> None:
        session = AioSession(profile=None)
        session.set_default_client_config(AioConfig(http_session_cls=HttpxSession))
        assert session.get_config_variable("region") is None
        found = await session.get_credentials()
        assert found is not None
        frozen = await found.get_frozen_credentials()
        assert (frozen.access_key, frozen.secret_key, frozen.token) == ("testing", SECRET, "token")
        with serving(part(b"0123456789")) as url:
            async with client_of(url) as client:
                assert client.meta.endpoint_url == url
                got = await client.get_object(Bucket="bucket", Key="control\x01", Range="bytes=0-9")
                assert (got["ETag"], got["ContentRange"]) == ('"e"', "bytes 0-9/100")
                async with got["Body"] as stream:
                    assert await stream.read() == b"0123456789"

    run(case)


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize(
    ("status", "code", "region"), [(404, "NoSuchBucket", ""), (301, "PermanentRedirect", "eu-west-1")]
)
def test_a_client_error_holds_what_faults_takes_from_it(status: int, code: str, region: str) -> None:
    async def case() -> None:
        with serving(refusal(status, code, f"x-amz-request-id: {REQUEST_ID}", f"x-amz-bucket-region: {region}")) as url:
            async with client_of(url) as client:
                with pytest.raises(botocore.exceptions.ClientError) as raised:
                    await client.get_object(Bucket="bucket", Key="key")
        told = raised.value.response
        metadata = told["ResponseMetadata"]
        assert told["Error"]["Code"] == code
        assert (metadata["HTTPStatusCode"], metadata["RequestId"]) == (status, REQUEST_ID)
        assert metadata["HTTPHeaders"]["x-amz-bucket-region"] == region

    run(case)


def test_botocores_sources_have_what_is_set_in_them() -> None:
    """``credentials`` sets these. Where nothing reads them any more that would do nothing, and nobody would see it."""
    chain = botocore.session.Session().get_component("credential_provider")
    providers = {type(provider).__name__: provider for provider in chain.providers}
    assert callable(providers["ProcessProvider"]._popen)
    assert callable(providers["AssumeRoleProvider"]._prompter)
    assert callable(providers["InstanceMetadataProvider"]._role_fetcher._evaluate_expiration)
    ends = datetime.now(UTC) + timedelta(hours=1)
    keys = botocore.credentials.RefreshableCredentials("a", "b", "c", ends, lambda: {}, "test")
    assert keys._expiry_time == ends
    for name in ("_advisory_refresh_timeout", "_mandatory_refresh_timeout", "_time_fetcher"):
        assert hasattr(keys, name)
    assert keys.get_frozen_credentials().access_key == "a"


def test_botocore_signs_by_what_control_overrides() -> None:
    """A clock is corrected by a signer of our own, whose one method dates a request before it is signed."""
    assert "s3v4" in botocore.auth.AUTH_TYPE_MAPS
    seen = []

    class Dated(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
        def _modify_request_before_signing(self, request: Any) -> None:
            request.context["timestamp"] = "20200102T030405Z"
            super()._modify_request_before_signing(request)

    request = botocore.awsrequest.AWSRequest(method="GET", url="http://h/k", headers={})
    Dated(botocore.credentials.ReadOnlyCredentials("a", "b", None), "s3", "r").add_auth(request)
    seen += [request.headers["X-Amz-Date"], request.headers["Authorization"]]
    assert seen[0] == "20200102T030405Z"
    assert "Credential=a/20200102/r/s3/aws4_request" in seen[1]


def test_botocore_asks_for_encoded_names_by_a_handler_that_is_taken_out() -> None:
    assert callable(botocore.handlers.set_list_objects_encoding_type_url)
    registered = [
        event
        for event, handler, *_ in botocore.handlers.BUILTIN_HANDLERS
        if handler is botocore.handlers.set_list_objects_encoding_type_url
    ]
    assert {"before-parameter-build.s3.ListObjectsV2", "before-parameter-build.s3.ListObjects"} <= set(registered)
