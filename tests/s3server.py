"""The S3 of the tests: moto over HTTP on loopback, with every request counted and faults on demand.

Runs in a thread of the test process. Puts and deletes go to moto directly and are not counted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

import boto3
from botocore.config import Config
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server import werkzeug_app
from moto.moto_server.utilities import RegexConverter
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from authority import Identity
from oddstores import Layer

Kind = Literal["HEAD", "LIST", "GET", "other"]

_DIRECT: Final = "x-test-direct"
"""A request with this header comes from the test itself: neither counted nor made to fail."""


@dataclass(frozen=True)
class Request:
    """One request as the server saw it. ``key`` is the prefix of a LIST; ``byte_range`` is the Range header's text."""

    kind: Kind
    key: str
    byte_range: str
    nbytes_sent: int
    status: int


@dataclass
class Fault:
    """What happens to the next request of a kind. ``apply`` gets the WSGI answer and may change it."""

    kind: Kind
    times: int
    status: int | None = None
    code: str = ""
    cut_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    arrived: threading.Event = field(default_factory=threading.Event)


class _AnyKey(RegexConverter):
    """moto's URL pattern for keys, made to match keys with newlines too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.regex = f"(?s:{self.regex})"


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as S3 does
    timeout = 60

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class S3Server:
    """``with S3Server() as server``: a started server with no buckets.

    ``layer`` makes it another store than Amazon S3 (``oddstores``). With ``tls`` it shows this identity.
    """

    def __init__(self, layer: Layer | None = None, tls: Identity | None = None) -> None:
        self._layer = layer
        self._tls = tls
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._client: Any = None

    def __enter__(self) -> S3Server:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        vars(werkzeug_app)["RegexConverter"] = _AnyKey
        self._app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        self._served = self._layer(self._app) if self._layer is not None else self._app
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        if self._tls is not None:
            # The handshake is left to the connection's own thread: a client that is slow or refuses stops no other.
            context = self._server.ssl_context = self._tls.context()
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self._client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            verify=None if self._tls is None else str(self._tls.trust),
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )
        self._client.meta.events.register("before-send.s3", self._mark_direct)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release_all()
        assert self._server is not None
        assert self._thread is not None
        self._client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._server.server_port}"

    @property
    def client(self) -> Any:
        """A boto3 client whose requests are not counted and never fail."""
        return self._client

    def create_bucket(self, bucket: str) -> None:
        # Past HTTP: for directory buckets boto3 would open a session with what is not there yet.
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")

    def put(self, bucket: str, key: str, data: bytes = b"", **kwargs: Any) -> str:
        """Store an object. Returns its ETag, without quotes. ``kwargs`` are those of boto3's put_object."""
        if not kwargs:
            # Past HTTP: faster, and Flask would merge the slashes of some keys.
            return str(s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, data).etag).strip('"')
        answer = self._client.put_object(Bucket=bucket, Key=key, Body=data, **kwargs)
        return str(answer["ETag"]).strip('"')

    def delete(self, bucket: str, key: str) -> None:
        self._client.delete_object(Bucket=bucket, Key=key)

    def count(self, kind: Kind) -> int:
        """How many requests of a kind have come since the last ``clear``."""
        with self._lock:
            return sum(request.kind == kind for request in self.requests)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {kind: sum(r.kind == kind for r in self.requests) for kind in ("HEAD", "LIST", "GET", "other")}

    def clear(self) -> None:
        with self._lock:
            self.requests.clear()

    def fail_next(self, kind: Kind, status: int = 503, code: str = "SlowDown", times: int = 1) -> None:
        """Answer the next ``times`` requests of a kind with an error."""
        self._faults.append(Fault(kind, times, status=status, code=code))

    def cut_next(self, kind: Kind, after_bytes: int, times: int = 1) -> None:
        """End the connection after so many bytes of the body."""
        self._faults.append(Fault(kind, times, cut_after=after_bytes))

    def alter_next(self, kind: Kind, headers: dict[str, str], times: int = 1) -> None:
        """Answer with other headers than are true, ``{"ETag": '"x"'}``."""
        self._faults.append(Fault(kind, times, headers=headers))

    def stall_next(self, kind: Kind, times: int = 1) -> Fault:
        """Hold the next requests back until ``release_all``. The fault's ``arrived`` is set when one is held."""
        fault = Fault(kind, times, gate=threading.Event())
        self._faults.append(fault)
        return fault

    def release_all(self) -> None:
        """Drop all faults and let what is stalled go on."""
        for fault in self._faults:
            if fault.gate is not None:
                fault.gate.set()
        self._faults = []

    def _mark_direct(self, request: Any, **_: Any) -> None:
        request.headers[_DIRECT] = "1"

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.pop("HTTP_X_TEST_DIRECT", None):
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        kind, key = _kind(environ)
        fault = self._next_fault(kind)
        captured: dict[str, Any] = {}

        def capture(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            captured.update(status=status, headers=headers)

        if fault is not None and fault.gate is not None:
            fault.arrived.set()
            fault.gate.wait()
        if fault is not None and fault.status is not None:
            body = b"" if kind == "HEAD" else f"<Error><Code>{fault.code}</Code><Message>m</Message></Error>".encode()
            capture(f"{fault.status} Fault", [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
        else:
            body = b"".join(self._served(environ, capture))
        headers = dict(captured["headers"])
        if fault is not None and fault.headers:
            altered = {name.lower() for name in fault.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in altered} | fault.headers
        # Every answer has a length, so that a connection can be kept and a cut be noticed.
        if kind != "HEAD":
            headers.pop("content-length", None)
            headers["Content-Length"] = str(len(body))
            headers.pop("Transfer-Encoding", None)
        cut = fault is not None and fault.cut_after is not None
        if fault is not None and fault.cut_after is not None:
            body = body[: fault.cut_after]
        with self._lock:
            self.requests.append(
                Request(kind, key, environ.get("HTTP_RANGE", ""), len(body), int(captured["status"].split()[0]))
            )
        start_response(captured["status"], list(headers.items()))
        return _cut(body) if cut else [body]

    def _next_fault(self, kind: Kind) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


def _cut(body: bytes) -> Iterator[bytes]:
    yield body
    raise ConnectionResetError  # makes the server end the connection in the middle of the body


def _kind(environ: dict[str, Any]) -> tuple[Kind, str]:
    # The raw path, since a decoded one cannot tell %2F from a slash.
    path = str(environ.get("RAW_URI") or environ["PATH_INFO"]).partition("?")[0]
    if path.startswith("http://"):
        path = path.removeprefix("http://").partition("/")[2]  # the absolute form, which httpx sends
    key = unquote(path.lstrip("/").partition("/")[2])
    if environ["REQUEST_METHOD"] == "HEAD":
        return "HEAD", key
    if environ["REQUEST_METHOD"] != "GET":
        return "other", key
    if key:
        return "GET", key
    query = parse_qs(environ.get("QUERY_STRING", ""))
    return "LIST", query.get("prefix", [""])[0]
