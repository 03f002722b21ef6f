"""HTTP/1.1 servers on loopback, of the standard library alone, out of which the tests' rigs are made.

Owns sockets, threads and TLS. What is answered is the rig's own: it gives a function from Request to Answer.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote

_IDLE_SECONDS: Final = 60
"""A connection without a request for so long is ended."""


@dataclass(frozen=True)
class Request:
    """One request as it came. ``headers`` have lower-case names; ``sni`` is the name asked for in TLS."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    sni: str | None = None
    tls: bool = False
    at: float = field(default_factory=time.monotonic)

    @property
    def is_absolute(self) -> bool:
        """Whether the target is a whole URL, as for proxies."""
        return "://" in self.target.partition("?")[0]

    @property
    def host(self) -> str:
        """Without the port, in lower case."""
        host = self.headers.get("host", "")
        return (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()

    @property
    def raw_path(self) -> str:
        target = self.target.partition("?")[0]
        return "/" + target.partition("://")[2].partition("/")[2] if self.is_absolute else target

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @cached_property
    def _scope(self) -> list[str]:
        said = self.headers.get("authorization", "").partition("Credential=")[2]
        return [*said.partition(",")[0].split("/"), "", "", "", ""]

    @property
    def access_key(self) -> str:
        """Whose signature it bears; empty where it bears none."""
        return self._scope[0]

    @property
    def region(self) -> str:
        """The one that it was signed for."""
        return self._scope[2]

    @property
    def service(self) -> str:
        """The one that it was signed for."""
        return self._scope[3]

    @property
    def token(self) -> str:
        return self.headers.get("x-amz-security-token", "")


@dataclass(frozen=True)
class Answer:
    """``after``: the answer comes once this is set, or the server ends.

    ``pieces`` come in the place of ``body``, for as long as the client takes them; as chunks, where ``headers`` do not
    tell a Content-Length.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: threading.Event | None = None
    pieces: Iterable[bytes] | None = None


class Handler(BaseHTTPRequestHandler):
    """Reads requests and writes what the rig answers. A rig that speaks more than requests derives from it."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True

    def received(self) -> Request:
        length = int(self.headers.get("Content-Length") or 0)
        return Request(
            self.command,
            self.path,
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length) if length else b"",
            self.server.names.get(self.connection),
            isinstance(self.connection, ssl.SSLSocket),
        )

    def do_GET(self) -> None:
        self.write(self.server.rig.answer(self.received()))

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def write(self, answer: Answer) -> None:
        if answer.after is not None:
            self.server.wait(answer.after)
        self.send_response_only(answer.status)
        names = {name.lower() for name in answer.headers}
        if "date" not in names:
            self.send_header("Date", self.date_time_string())
        for name, value in answer.headers.items():
            self.send_header(name, value)
        chunked = answer.pieces is not None and "content-length" not in names
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "content-length" not in names:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.pieces is None:
            self.wfile.write(answer.body)
            return
        for piece in filter(None, answer.pieces):  # a chunk without bytes would be the end
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A started server with the functions that a Handler needs."""

    daemon_threads = False  # all end with the server, so that none is left that still holds a socket
    request_queue_size = 128

    def __init__(self, rig: Loopback, tls: ssl.SSLContext | None, handler: type[Handler]) -> None:
        self.rig = rig
        self.names: weakref.WeakKeyDictionary[socket.socket, str] = weakref.WeakKeyDictionary()
        """Which name each TLS connection was asked for."""
        self.nconnections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.ending = threading.Event()
        self.faults: list[str] = []
        super().__init__(("127.0.0.1", 0), handler)
        self._tls = tls

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, peer = super().get_request()
        connection.settimeout(_IDLE_SECONDS)
        if self._tls is not None:
            # The handshake is left to the connection's own thread: one client that is slow or refuses stops no other.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self.nconnections += 1
            self._open.add(connection)
        return connection, peer

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def wait(self, event: threading.Event) -> None:
        """Until the event is set or the server ends."""
        while not event.wait(0.05) and not self.ending.is_set():
            pass

    def end(self) -> None:
        self.ending.set()
        self.shutdown()
        with self._lock:
            for connection in self._open:
                try:
                    # Not the TLS object's own: it would take the object apart under the thread that reads from it.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                except OSError:
                    continue  # its client was quicker
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Clients that go away or refuse a certificate are part of the tests; all else is a fault of the rig."""
        if not isinstance(sys.exception(), OSError):
            self.faults.append(traceback.format_exc())


class Loopback:
    """``with Rig() as rig``: a rig that is one server. Derived classes say what is answered."""

    def __init__(self, tls: ssl.SSLContext | None = None, handler: type[Handler] = Handler) -> None:
        self._tls = tls
        self._handler = handler
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._server = Server(self, self._tls, self._handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.end()
        self._thread.join()
        assert not self._server.faults, self._server.faults[0]

    @property
    def server(self) -> Server:
        assert self._server is not None, "not started"
        return self._server

    @property
    def port(self) -> int:
        return int(self.server.server_port)

    @property
    def url(self) -> str:
        return self.url_at("127.0.0.1")

    def url_at(self, host: str) -> str:
        """Its URL by another name of this machine."""
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"
