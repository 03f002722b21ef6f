"""The server: requests to answers, each after its time.

Owns the listening socket, the counters and the way of a request; the bucket says what is there, the behaviour how slow
and how faulty it is.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
from typing import Any, Final
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

from bench.content import PERIOD_NBYTES, pattern, place
from bench.simulator import xml
from bench.simulator.behaviour import Behaviour, Fault, RequestRate
from bench.simulator.bucket import Bucket, Item
from bench.simulator.connection import Answer, Connection, Request
from bench.simulator.counters import Counters
from bench.simulator.loop import Loop

BUCKET: Final = "bench"
"""The only bucket. Control requests go to ``/-/``, which no bucket's name can be."""

_COPIED_NBYTES: Final = 128 * 1024
"""A body up to this size goes out with its head in one call; a larger one by sendfile, without a copy."""

_FLIP_STEP: Final = 7919
"""From one flipped byte to the next; a prime."""

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")

_REASONS: Final = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    412: "Precondition Failed",
    416: "Requested Range Not Satisfiable",
    501: "Not Implemented",
    503: "Slow Down",
}


class Server:
    def __init__(self, bucket: Bucket, behaviour: Behaviour, host: str = "127.0.0.1", port: int = 0) -> None:
        self._bucket = bucket
        self._behaviour = behaviour
        self._rate = RequestRate()
        self._counters = Counters()
        self._loop = Loop()
        self._kinds: dict[Connection, str] = {}
        """The kind of each connection's request in flight."""
        self._pattern = memoryview(pattern())
        self._pattern_fd = os.memfd_create("pattern")
        os.truncate(self._pattern_fd, len(self._pattern))
        os.pwrite(self._pattern_fd, self._pattern, 0)
        self._listener = socket.create_server((host, port), backlog=1024)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), select.EPOLLIN, self._accept)

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until ``stop``."""
        self._loop.run()

    def stop(self) -> None:
        self._loop.stop()

    def _accept(self, _: int) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._counters.connections += 1
            self._counters.connections_open += 1
            Connection(self._loop, sock, self._on_request, self._on_answered, self._on_closed)

    def _on_answered(self, connection: Connection) -> None:
        if self._kinds.pop(connection, None) is not None:
            self._counters.in_flight -= 1

    def _on_closed(self, connection: Connection) -> None:
        self._counters.connections_open -= 1
        self._on_answered(connection)

    def _on_request(self, connection: Connection, request: Request) -> None:
        target = request.target
        if target.startswith("http://"):  # the absolute form, as to a proxy; servers have to take it too
            target = "/" + target.removeprefix("http://").partition("/")[2]
        if target.startswith("/-/"):
            connection.send(self._control(request.method, target, request.body))
            return
        path, _, query_text = target.partition("?")
        bucket, _, quoted = path[1:].partition("/")
        key = unquote(quoted) if "%" in quoted else quoted
        head = request.method == "HEAD"
        kind = request.method if request.method in ("GET", "HEAD") else "OTHER"
        query: dict[str, str] = {}
        if not key and kind != "OTHER":
            query = {name: values[-1] for name, values in parse_qs(query_text, keep_blank_values=True).items()}
            kind = "LIST" if kind == "GET" and query.keys() <= _LIST_PARAMETERS else "OTHER"
        self._counters.began(kind)
        self._kinds[connection] = kind
        rate = self._behaviour.max_rate
        if rate is not None and not self._rate.admits(key.partition("/")[0], rate, self._loop.now):
            self._counters.faults[Fault.SLOW_DOWN] += 1
            answer = self._error(503, "SlowDown", "Please reduce your request rate.")
        elif bucket != BUCKET:
            answer = self._error(404, "NoSuchBucket", "The specified bucket does not exist")
        elif kind == "LIST":
            answer = self._list(query)
        elif kind in ("GET", "HEAD"):
            answer = self._object(kind, key, request)
        elif request.method in ("GET", "HEAD"):  # not of an object
            answer = self._about_bucket(query)
        else:
            answer = self._error(405, "MethodNotAllowed", "This bucket is only read.")
        if head and answer.body:
            answer.body = b""  # its length is told, as for a GET
        self._counters.statuses[answer.status] += 1
        delay = self._behaviour.delay(kind)
        if delay:
            self._loop.at(self._loop.now + delay, lambda: connection.send(answer))
        else:
            connection.send(answer)

    def _list(self, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        try:
            limit = min(int(query.get("max-keys") or 1000), 1000)
            start = bytes.fromhex(query.get("continuation-token", "")).decode()
        except ValueError:
            limit = -1
        if limit < 0:
            return self._error(400, "InvalidArgument", "max-keys or continuation-token")
        if not start:
            after = query.get("start-after" if query.get("list-type") == "2" else "marker", "")
            if delimiter and after.endswith(delimiter) and after.startswith(prefix) and after != prefix:
                start = after[:-1] + chr(ord(after[-1]) + 1)  # behind all that was rolled up into it
            else:
                start = after + "\0" if after else ""
        body = xml.listing(BUCKET, self._bucket.page(prefix, delimiter, start, limit), query)
        self._counters.sent("LIST", "", len(body))
        return self._answer(200, body, "Content-Type: application/xml\r\n")

    def _object(self, kind: str, key: str, request: Request) -> Answer:
        item = self._bucket.find(key)
        if item is None:
            return self._error(404, "NoSuchKey", "The specified key does not exist.", key)
        wanted_etag = request.header("if-match").strip('"')
        if wanted_etag and wanted_etag not in ("*", item.etag):
            return self._error(412, "PreconditionFailed", "At least one of the preconditions did not hold.", key)
        start, stop, status, extra = 0, item.size, 200, ""
        wanted_range = _RANGE.fullmatch(request.header("range"))
        if wanted_range is not None and (wanted_range[1] or wanted_range[2]):
            if wanted_range[1]:
                start = int(wanted_range[1])
                stop = min(int(wanted_range[2]) + 1, item.size) if wanted_range[2] else item.size
            else:
                start = max(0, item.size - int(wanted_range[2]))
            if start >= stop:
                return self._error(416, "InvalidRange", "The requested range is not satisfiable", key)
            status, extra = 206, f"Content-Range: bytes {start}-{stop - 1}/{item.size}\r\n"
        etag = item.etag
        fault = self._behaviour.fault() if kind == "GET" else None
        if fault is not None:
            self._counters.faults[fault] += 1
            if fault is Fault.SLOW_DOWN:
                return self._error(503, "SlowDown", "Please reduce your request rate.")
            if fault is Fault.RESET:
                return Answer(0, b"", then="reset")
            if fault is Fault.ETAG:
                etag = etag[::-1]
        head = (
            f'HTTP/1.1 {status} {_REASONS[status]}\r\nETag: "{etag}"\r\nContent-Length: {stop - start}\r\n{extra}'
            "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n"
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        answer = Answer(status, head)
        if kind == "GET":
            self._give_body(answer, item, start, stop, fault)
        return answer

    def _give_body(self, answer: Answer, item: Item, start: int, stop: int, fault: Fault | None) -> None:
        if fault in (Fault.STALL, Fault.TRUNCATE):
            answer.then = "stall" if fault is Fault.STALL else "close"
            stop = start + (stop - start) // 2
        nbytes = stop - start
        self._counters.sent("GET", item.key, nbytes)
        if nbytes == 0:
            return
        at = start if item.fd is not None else place(item.key, start, item.version)
        if fault is Fault.FLIP or (item.fd is None and nbytes > PERIOD_NBYTES):
            body = self._whole(item, start, stop)
            if fault is Fault.FLIP:
                # Another one each time: who fetches it again gets another wrong body, and not the same.
                body[(nbytes // 2 + _FLIP_STEP * self._counters.faults[Fault.FLIP]) % nbytes] ^= 0xFF
            answer.body = body
        elif item.fd is None and nbytes <= _COPIED_NBYTES:
            answer.body = self._pattern[at : at + nbytes]
        else:
            answer.fd = self._pattern_fd if item.fd is None else item.fd
            answer.offset, answer.nbytes, answer.bandwidth = at, nbytes, self._behaviour.bandwidth

    def _whole(self, item: Item, start: int, stop: int) -> bytearray:
        """The bytes put together in memory, for what cannot be sent as it lies."""
        if item.fd is not None:
            return bytearray(os.pread(item.fd, stop - start, start))
        whole = bytearray()
        for offset in range(start, stop, PERIOD_NBYTES):
            at = place(item.key, offset, item.version)
            whole += self._pattern[at : at + min(PERIOD_NBYTES, stop - offset)]
        return whole

    def _about_bucket(self, query: dict[str, str]) -> Answer:
        """What clients ask before they trust a bucket."""
        if "location" in query:
            return self._answer(200, b"<LocationConstraint/>", "Content-Type: application/xml\r\n")
        if "versioning" in query:
            return self._answer(200, b"<VersioningConfiguration/>", "Content-Type: application/xml\r\n")
        if not query:
            return self._answer(200, b"")
        return self._error(501, "NotImplemented", "Not simulated.")

    def _error(self, status: int, code: str, message: str, key: str = "") -> Answer:
        return self._answer(status, xml.error(code, message, key))

    def _answer(self, status: int, body: bytes, headers: str = "") -> Answer:
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
        return Answer(status, head, body)

    def _control(self, method: str, target: str, body: bytes) -> Answer:
        parts = urlsplit(target)
        answer: Any = {}
        try:
            match method, parts.path:
                case "GET", "/-/counters":
                    answer = self._counters.as_json()
                case "GET", "/-/keys":
                    prefix = unquote_plus(parts.query.partition("prefix=")[2])
                    seen = self._counters.by_key
                    answer = {key: counts for key, counts in seen.items() if key.startswith(prefix)}
                case "POST", "/-/reset":
                    self._counters.reset()
                case "POST", "/-/settings":
                    self._behaviour.change(json.loads(body or b"{}"))
                case "POST", "/-/overwrite":
                    answer = {"overwritten": self._bucket.overwrite(unquote_plus(parts.query.partition("key=")[2]))}
                case _:
                    return self._answer(404, b"")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._answer(400, f"{type(error).__name__}: {error}\n".encode())
        return self._answer(200, json.dumps(answer).encode(), "Content-Type: application/json\r\n")


_LIST_PARAMETERS: Final = {
    "list-type",
    "prefix",
    "delimiter",
    "marker",
    "start-after",
    "continuation-token",
    "max-keys",
    "encoding-type",
    "fetch-owner",
}
