"""A server that reads requests as most do: a path as the target, never a whole URL. And a record of what came."""

from __future__ import annotations

import http.client
import threading
from typing import Final
from urllib.parse import urlsplit

from loopback import Answer, Loopback, Request

PATIENCE_SECONDS: Final = 30.0

_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "transfer-encoding", "upgrade"}
)
"""Headers about one connection, which nobody passes on."""


class StrictServer(Loopback):
    """Stands before another server. Refuses the absolute form with 400, as small servers and strict rules do."""

    def __init__(self, behind: str) -> None:
        super().__init__()
        self._behind = urlsplit(behind)
        self.seen: list[Request] = []
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.seen.append(request)
        if request.is_absolute:
            return Answer(400, b"<html>Bad Request</html>", {"Content-Type": "text/html"})
        return forwarded(request, request.target, self._behind.hostname or "", self._behind.port or 80)


def forwarded(request: Request, target: str, host: str, port: int) -> Answer:
    """The same request, sent on under ``target``, and what comes back; 502 where nobody is there."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    try:
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name not in _HOP_BY_HOP:
                connection.putheader(name, value)
        connection.endheaders(request.body or None)
        came = connection.getresponse()
        body = came.read()
        headers = {name: value for name, value in came.getheaders() if name.lower() not in _HOP_BY_HOP}
        return Answer(came.status, body, headers)
    except OSError:
        return Answer(502, b"<html>Bad Gateway</html>")
    finally:
        connection.close()
