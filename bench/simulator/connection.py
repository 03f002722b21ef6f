"""One client's connection: bytes in, requests out; an answer in, bytes out, no faster than the bandwidth allows.

Owns the socket. Knows HTTP/1.1 framing and nothing of S3.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from bench.simulator.loop import EARLY_SECONDS, Loop

_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_READ_WRITE: Final = _READ | select.EPOLLOUT

_MAX_HEAD_NBYTES: Final = 64 * 1024
_MAX_BODY_NBYTES: Final = 1024 * 1024
"""Requests with a longer body are uploads; nobody uploads here."""

_SLICE_NBYTES: Final = 1024 * 1024
"""The most that one connection sends before others have their turn."""

_BURST_NBYTES: Final = 128 * 1024
"""What a connection sends at once before its bandwidth counts: about one congestion window of a warm connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """``head`` is the request as it came, up to the empty line; ``lowered`` the same in lower case, for names."""

    method: str
    target: str
    head: str
    lowered: str
    body: bytes = b""

    def header(self, name: str) -> str:
        """A header's value, empty where it is absent. ``name`` in lower case."""
        start = self.lowered.find(f"\r\n{name}:")
        if start < 0:
            return ""
        start += len(name) + 3
        stop = self.head.find("\r\n", start)
        return self.head[start : stop if stop >= 0 else None].strip()


@dataclass(slots=True)
class Answer:
    """``head`` holds status line and headers; the body is ``body``, or ``nbytes`` of ``fd`` from ``offset`` on.

    ``then`` says what follows: ``"next"`` request, ``"close"``, ``"reset"``, or ``"stall"`` (nothing, for ever).
    """

    status: int
    head: bytes
    body: bytes | bytearray | memoryview = b""
    fd: int = -1
    offset: int = 0
    nbytes: int = 0
    bandwidth: float | None = None
    then: str = "next"


class Connection:
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_request: Callable[[Connection, Request], None],
        on_answered: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._on_request = on_request
        self._on_answered = on_answered
        self._on_closed = on_closed
        self._inbox = b""
        self._busy = False
        """A request waits for its answer, or its answer is being sent; the next one waits in the inbox."""
        self._answer: Answer | None = None
        self._unsent = memoryview(b"")
        self._started = 0.0
        self._sent_nbytes = 0
        self.closed = False
        loop.watch(self._fd, _READ, self._on_event)

    def send(self, answer: Answer) -> None:
        """Answer the request that was announced last."""
        if self.closed:
            return
        self._answer = answer
        self._started = self._loop.now
        self._sent_nbytes = 0
        if answer.nbytes:
            self._unsent = memoryview(answer.head)
        elif answer.body:
            try:
                sent = self._sock.sendmsg((answer.head, answer.body))
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent < len(answer.head) + len(answer.body):
                self._unsent = memoryview(answer.head + bytes(answer.body))[sent:]
        else:
            self._unsent = memoryview(answer.head)
        self._pump()

    def close(self, reset: bool = False) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.forget(self._fd)
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._sock.close()
        self._on_closed(self)

    def _on_event(self, events: int) -> None:
        if events & select.EPOLLIN:
            try:
                data: bytes | None = self._sock.recv(_MAX_HEAD_NBYTES)
            except BlockingIOError:
                data = None
            except OSError:
                data = b""
            if data == b"":
                self.close()
                return
            if data:
                self._inbox += data
                self._take_request()
        elif events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP):
            self.close()
            return
        if events & select.EPOLLOUT and not self.closed:
            self._loop.watch(self._fd, _READ, self._on_event)
            self._pump()

    def _take_request(self) -> None:
        if self._busy or self.closed:
            return
        stop = self._inbox.find(b"\r\n\r\n") + 4
        if stop < 4:
            if len(self._inbox) > _MAX_HEAD_NBYTES:
                self.close()
            return
        head = self._inbox[: stop - 4].decode("latin-1")
        words = head.partition("\r\n")[0].split(" ")
        if len(words) != 3:
            self.close()
            return
        request = Request(words[0], words[1], head, head.lower())
        if words[0] not in ("GET", "HEAD"):
            length = request.header("content-length")
            nbytes = int(length) if length.isdecimal() else 0
            if nbytes > _MAX_BODY_NBYTES:
                self.close()
                return
            if len(self._inbox) < stop + nbytes:
                return
            request = replace(request, body=self._inbox[stop : stop + nbytes])
            stop += nbytes
        self._inbox = self._inbox[stop:]
        self._busy = True
        self._on_request(self, request)

    def _pump(self) -> None:
        """Send what the socket takes and the bandwidth allows."""
        answer = self._answer
        if answer is None or self.closed:
            return
        try:
            if self._unsent:
                more = socket.MSG_MORE if answer.nbytes else 0
                sent = self._sock.send(self._unsent, more)
                self._unsent = self._unsent[sent:]
                if self._unsent:
                    self._when_writable()
                    return
            while answer.nbytes:
                wanted = min(answer.nbytes, _SLICE_NBYTES)
                if answer.bandwidth is not None:
                    # Timers may run early by as much as EARLY_SECONDS, and find the bytes due that they were set for.
                    elapsed = self._loop.now + EARLY_SECONDS - self._started
                    due = _BURST_NBYTES + int(elapsed * answer.bandwidth) + 1 - self._sent_nbytes
                    least = min(wanted, _BURST_NBYTES)
                    if due < least:
                        self._loop.at(self._loop.now + (least - due) / answer.bandwidth + EARLY_SECONDS, self._pump)
                        return
                    wanted = min(wanted, due)
                sent = os.sendfile(self._fd, answer.fd, answer.offset, wanted)
                if not sent:
                    self.close()  # a real file that has become shorter
                    return
                answer.offset += sent
                answer.nbytes -= sent
                self._sent_nbytes += sent
                if answer.nbytes and (answer.bandwidth is None or sent < wanted):
                    self._when_writable()
                    return
        except BlockingIOError:
            self._when_writable()
            return
        except OSError:
            self.close()
            return
        self._answer = None
        self._end(answer.then)

    def _end(self, then: str) -> None:
        if then == "stall":
            return
        self._busy = False
        self._on_answered(self)
        if then != "next":
            self.close(reset=then == "reset")
        elif self._inbox:
            # By way of the loop: a client that sends many requests ahead must not nest them here.
            self._loop.at(self._loop.now, self._take_request)

    def _when_writable(self) -> None:
        self._loop.watch(self._fd, _READ_WRITE, self._on_event)
