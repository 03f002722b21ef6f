"""The loop that answers the kernel: reads requests from the device, has each answered, writes the replies.

Owns the descriptor's traffic and the tasks of requests that have to wait. Whatever a request says or a handler raises,
the kernel gets one reply and the mount goes on.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
from dataclasses import dataclass
from typing import Final

import trio

from s3stream_fs.bindings.native.interruption import is_killed
from s3stream_fs.bindings.native.negotiation import Agreement, TooOld, agree, reply_to_init
from s3stream_fs.bindings.native.operations import REFUSED, Later, Operations
from s3stream_fs.bindings.native.protocol import IN_HEADER, INTERRUPT_IN, UNANSWERED, Body, Opcode
from s3stream_fs.bindings.native.writer import GONE, LARGE_NBYTES, Writer
from s3stream_fs.errors import S3StreamError, UsageError, errno_of
from s3stream_fs.namespace.shelf import Elsewhere

log = logging.getLogger(__name__)

_REQUEST_NBYTES: Final = 64 * 1024
"""Room for one request. The kernel wants 8 KiB at least; more lets it forget 4,000 inodes at once."""

_IN_A_ROW: Final = 64
"""Requests that are answered before other tasks get their turn."""

_TURN_SECONDS: Final = 0.001
"""For so long, where nobody waits for anything else, the next request is waited for without asking the other tasks: it
comes at once from whoever makes one after another, and trio's way there and back would cost it 10 us."""

_MAX_WAITING: Final = 65_536
"""Requests that wait for S3 at once, at some 5 kB each: one for each thread that waits, which takes more itself, and
those of read-ahead, of which the kernel has a bound (see ``negotiation``). With so many no further one is read before
one has ended, as each does by its deadline; up to there, those that are interrupted, and those that need not wait, do
not wait for these."""

_GRACE_SECONDS: Final = 1.0
"""How long a request goes on whose maker got a signal that does not kill it: a timer's, a child's, Ctrl-Z. No program
expects stat() to fail for such a thing (Python says that the file does not exist), and most answers come in time."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """``open_mode`` says what becomes of an open at present, and why; ``passed_through`` files are read by the kernel
    itself. ``waited`` requests took waiting, ``interrupted`` of those were given up by whoever made them, ``refused``
    made no sense. ``notifications`` told the kernel of names that had changed."""

    binding: str
    protocol: str
    open_mode: str
    passed_through: int
    requests: int
    waited: int
    interrupted: int
    refused: int
    notifications: int


class Server:
    def __init__(self, fd: int, operations: Operations) -> None:
        self._fd = fd
        self._operations = operations
        self._writer = Writer(fd)
        self._buffer = bytearray(_REQUEST_NBYTES)
        self._view = memoryview(self._buffer)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._waiting: dict[int, tuple[trio.CancelScope, int]] = {}
        """Requests that wait, by their unique number, each with the thread that made it."""
        self._ended = trio.lowlevel.ParkingLot()
        """Where it is waited for one of them to end."""
        self._agreement: Agreement | None = None
        self._ready = trio.Event()
        self._failure: UsageError | None = None
        """Why this kernel and this side do not come together."""
        self._requests = 0
        self._waited = 0
        self._interrupted = 0
        self._refused = 0
        self._notifications = 0

    async def serve(self) -> None:
        """See Session."""
        with self._writer:
            async with trio.open_nursery() as nursery:
                await self._serve(nursery)

    async def _serve(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._notify)
        in_a_row = 0
        turn_ends = 0.0
        while True:
            try:
                nbytes = os.readv(self._fd, [self._buffer])
            except BlockingIOError:
                if self._writer.flush():
                    continue
                if not self._waiting and trio.current_time() < turn_ends and self._poll.poll(_TURN_SECONDS * 1e3):
                    continue
                await trio.lowlevel.wait_readable(self._fd)
                in_a_row, turn_ends = 0, trio.current_time() + _TURN_SECONDS
                continue
            except OSError as error:
                if error.errno in GONE:
                    break
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # the request was given up while it was being read
                if error.errno == errno.EPERM and self._agreement is None:
                    raise UsageError("the descriptor of /dev/fuse is not mounted anywhere; mount it first") from None
                raise
            if nbytes == 0:
                break  # the other end of a socket, which stands for the device in tests, was closed
            self._requests += 1
            self._answer(self._view[:nbytes], nursery)
            if self._failure is not None:
                raise self._failure
            while len(self._waiting) >= _MAX_WAITING:
                self._writer.flush()
                await self._ended.park()
            in_a_row += 1
            if in_a_row >= _IN_A_ROW:
                self._writer.flush()
                await trio.lowlevel.checkpoint()
                in_a_row, turn_ends = 0, trio.current_time() + _TURN_SECONDS
        self._ready.set()  # if only to be taken down again
        nursery.cancel_scope.cancel()

    async def wait_ready(self) -> None:
        """See Session."""
        await self._ready.wait()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            binding="native",
            protocol="" if self._agreement is None else f"7.{self._agreement.minor}",
            open_mode=self._operations.explanation(),
            passed_through=self._operations.passed_through(),
            requests=self._requests,
            waited=self._waited,
            interrupted=self._interrupted,
            refused=self._refused,
            notifications=self._notifications,
        )

    def _answer(self, request: memoryview, nursery: trio.Nursery) -> None:
        """Answer one request, now or in a task. Raises nothing."""
        if len(request) < IN_HEADER.size:
            log.error("the kernel sent a request of %d bytes", len(request))
            return
        nbytes, opcode, unique, number, thread, extension = IN_HEADER.unpack_from(request)
        if nbytes != len(request):
            log.error("the kernel sent a request of %d bytes that says %d", len(request), nbytes)
            self._writer.reply(unique, errno.EIO, b"")
            return
        body = request[IN_HEADER.size : nbytes - 8 * extension]
        try:
            if opcode == Opcode.INTERRUPT:
                self._interrupt(body)
                return
            if opcode == Opcode.INIT:
                self._writer.reply(unique, 0, self._init(body))
                if self._agreement is not None and self._failure is None:
                    self._ready.set()
                return
            handler = self._operations.handlers.get(opcode)
            if handler is None:
                if opcode not in UNANSWERED:
                    self._writer.reply(unique, REFUSED.get(opcode, errno.ENOSYS), b"")
                return
            try:
                reply = handler(number, body)
            except Elsewhere:
                reply = self._operations.answer_later(handler, number, bytes(body))
        except Exception as error:
            code = self._code_of(error, opcode)
            if opcode not in UNANSWERED:
                self._writer.reply(unique, code, b"")
            return
        if reply is None:
            return
        if isinstance(reply, bytes | memoryview):
            if len(reply) < LARGE_NBYTES:
                self._writer.reply(unique, 0, reply)
            else:
                self._writer.hold(unique, reply)
        else:
            self._waited += 1
            scope = trio.CancelScope()
            self._waiting[unique] = (scope, thread)
            nursery.start_soon(self._answer_later, unique, opcode, reply, scope)

    async def _answer_later(self, unique: int, opcode: int, reply: Later, scope: trio.CancelScope) -> None:
        code = errno.EINTR
        body: Body = b""
        try:
            with scope:
                try:
                    code, body = 0, await reply
                except Exception as error:
                    code = self._code_of(error, opcode)
        except trio.Cancelled:
            # The end. It may hold a directory's lock, for which a thread waits that tells the kernel of a name: no
            # process ends before all its threads do, and as long as the thread has the device open nobody else answers.
            self._writer.reply(unique, errno.ENOTCONN, b"")
            raise
        finally:
            del self._waiting[unique]
            self._ended.unpark()
        self._interrupted += scope.cancelled_caught
        if len(body) < LARGE_NBYTES or not self._waiting:
            self._writer.reply(unique, code, body)
        else:
            self._writer.hand_over(unique, body)  # the others that wait need this thread

    async def _notify(self) -> None:
        """Tell the kernel what it has to know."""
        await self._ready.wait()
        while True:
            message = await self._operations.next_notification()
            self._notifications += 1
            await self._writer.notify(message)

    def _init(self, body: memoryview) -> bytes:
        if self._agreement is not None:
            raise OSError(errno.EINVAL, "INIT came a second time")
        try:
            self._agreement = agree(body, privileged=os.geteuid() == 0)
        except TooOld as error:
            self._failure = UsageError(str(error))
            raise OSError(errno.EPROTO, str(error)) from None
        if self._agreement is not None:
            try:
                self._operations.agreed(self._agreement)
            except UsageError as error:
                self._failure = error
            log.debug("agreed on FUSE 7.%d, %r", self._agreement.minor, self._agreement.taken)
        return reply_to_init(self._agreement)

    def _interrupt(self, body: memoryview) -> None:
        """Whoever made a request was killed, or got a signal. One that was answered meanwhile is not there."""
        (unique,) = INTERRUPT_IN.unpack_from(body)
        scope, thread = self._waiting.get(unique, (None, 0))
        if scope is None:
            return
        if is_killed(thread):
            scope.cancel()
        else:
            scope.deadline = min(scope.deadline, trio.current_time() + _GRACE_SECONDS)

    def _code_of(self, error: Exception, opcode: int) -> int:
        if isinstance(error, S3StreamError):
            return errno_of(error)
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        self._refused += 1
        if isinstance(error, struct.error):
            log.error("the kernel sent operation %d in a form that makes no sense: %s", opcode, error)
            return errno.EINVAL
        log.error("bug: operation %d", opcode, exc_info=error)
        return errno.EIO
