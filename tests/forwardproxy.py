"""An ordinary forward proxy: CONNECT for https, whole URLs for http. Records what is asked of it.

A rig may lead names elsewhere than they point to (``route``), and no name is ever looked up without one on its list.
"""

from __future__ import annotations

import base64
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from loopback import Answer, Handler, Loopback, Request
from strict import forwarded

_LOCAL: Final = ("127.0.0.1", "localhost")

_PIECE_NBYTES: Final = 65536

Address = tuple[str, int]
Route = Callable[[str, int], Address | None]
"""Where a host and port are really reached. None: nowhere."""


def local_only(host: str, port: int) -> Address | None:
    """Loopback, and nothing outside."""
    return (host, port) if host in _LOCAL else None


@dataclass(frozen=True)
class Passed:
    """One request to the proxy: CONNECT or another method, whereto, and whether it was let through."""

    method: str
    host: str
    port: int
    passed: bool
    request: Request


class _ProxyHandler(Handler):
    def do_CONNECT(self) -> None:
        proxy = self.server.rig
        assert isinstance(proxy, ForwardProxy)
        request = self.received()
        host, _, port = self.path.rpartition(":")
        self.close_connection = True
        refused, address = proxy.admit(request, host.strip("[]"), int(port))
        if refused is not None or address is None:
            self.write(refused or Answer(502))
            return
        try:
            upstream = socket.create_connection(address, timeout=10)
        except OSError:
            self.write(Answer(502))
            return
        with upstream:
            self.send_response(200, "Connection established")
            self.end_headers()
            self._relay(upstream)

    def _relay(self, upstream: socket.socket) -> None:
        ends = {self.connection: upstream, upstream: self.connection}
        while not self.server.ending.is_set():
            for ready in select.select(list(ends), [], [], 0.1)[0]:
                piece = ready.recv(_PIECE_NBYTES)
                if not piece:
                    return
                ends[ready].sendall(piece)


class ForwardProxy(Loopback):
    """``with ForwardProxy() as proxy``. ``password`` ("user:password") has to be given with each request."""

    def __init__(self, route: Route = local_only, password: str | None = None) -> None:
        super().__init__(handler=_ProxyHandler)
        self._route = route
        self._password = password
        self._passed: list[Passed] = []
        self._lock = threading.Lock()

    @property
    def passed(self) -> list[Passed]:
        with self._lock:
            return list(self._passed)

    def clear(self) -> None:
        with self._lock:
            self._passed.clear()

    def url_with(self, password: str) -> str:
        return f"http://{password}@127.0.0.1:{self.port}"

    def admit(self, request: Request, host: str, port: int) -> tuple[Answer | None, Address | None]:
        """A refusal, or where the request goes."""
        refused, address = None, self._route(host, port)
        if self._password is not None:
            wanted = "Basic " + base64.b64encode(self._password.encode()).decode()
            if request.headers.get("proxy-authorization") != wanted:
                refused = Answer(407, b"", {"Proxy-Authenticate": 'Basic realm="tests"'})
        if refused is None and address is None:
            refused = Answer(502, b"<html>Bad Gateway</html>")
        with self._lock:
            self._passed.append(Passed(request.method, host, port, refused is None, request))
        return refused, address

    def answer(self, request: Request) -> Answer:
        parts = urlsplit(request.target)
        if not request.is_absolute or not parts.hostname:
            return Answer(400, b"<html>this is a proxy</html>")
        refused, address = self.admit(request, parts.hostname, parts.port or 80)
        if refused is not None or address is None:
            return refused or Answer(502)
        target = request.target.partition("://")[2]
        return forwarded(request, "/" + target.partition("/")[2], *address)
