"""The control socket: a mount's daemon answers its owner's questions on it.

A client sends one line of JSON, ``{"command": "stats"}``, and gets one line back, ``{"result": ...}`` or
``{"error": "..."}``. A command that takes long is a session: lines go both ways until its result comes.

Owns the socket file and the protocol. Never decides what a command answers, and never lets a client hold up the mount:
their number, their bytes and their time are bounded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import select
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import trio

from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.folders import Folders, current_folders, private_folder, socket_name
from s3stream_fs.statistics import as_dict

log = logging.getLogger(__name__)

Handlers = Mapping[str, Callable[[], object]]
"""What answers each command. Called on trio's thread; must not block."""

Tell = Callable[[object], Awaitable[None]]
Session = Callable[[Mapping[str, object], AsyncIterator[object], Tell], Awaitable[object]]
"""Answers a command that takes long: gets the request, what the client sends on, and a way to tell it something before
the result. Cancelled when the client goes away."""

_MAX_CLIENTS: Final = 8
"""A person and a few monitors. More are turned away at once, so that no descriptors run out."""
_CLIENT_SECONDS: Final = 5.0
"""For one request, from connect to the end of the answer. An honest client needs milliseconds."""
_MAX_REQUEST_NBYTES: Final = 16384
"""A path of 4,096 bytes takes four times that in JSON at worst."""
_MAX_RESPONSE_NBYTES: Final = 4 * 1024**2
"""Statistics are a few KiB; what is more comes from something that is not our daemon."""
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What accept() says where there is no room for one more connection."""
_WAIT_SECONDS: Final = 0.5
"""A client waits 5 s for its answer."""
_NONSENSE: Final = object()
"""Stands for a line that is no JSON."""
_END: Final = object()
"""Stands for the end of what a client sends."""
_PEER: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


def control_path(mountpoint: Path) -> Path:
    """Where the daemon of ``mountpoint`` listens. Makes the folder, owner-only, in the first place where that works."""
    failure: ExitError | None = None
    for folder in current_folders().runtimes:
        try:
            return private_folder(folder, ExitCode.USAGE) / socket_name(mountpoint)
        except ExitError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def find_control(mountpoint: Path, folders: Folders) -> Path | None:
    """The socket file of ``mountpoint``, where there is one. It may be a stale one."""
    paths = (folder / socket_name(mountpoint) for folder in folders.runtimes)
    return next((path for path in paths if path.is_socket()), None)


def remove_stale(path: Path) -> None:
    """Remove a socket file whose daemon was killed. One that answers stays."""
    if not _answers(path):
        with contextlib.suppress(OSError):
            path.unlink()


# The daemon's side


async def serve_control(
    path: Path,
    handlers: Handlers,
    sessions: Mapping[str, Session] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer clients until cancelled; the socket file goes with it. Replaces a stale file.

    Raises ExitError where another daemon answers at ``path`` already.
    """
    with _listening(path) as listener:
        free = trio.CapacityLimiter(_MAX_CLIENTS)

        async def answer(stream: trio.SocketStream) -> None:
            try:
                free.acquire_nowait()
            except trio.WouldBlock:
                await trio.aclose_forcefully(stream)
                return
            try:
                with trio.move_on_after(_CLIENT_SECONDS) as hurry:
                    await _answer(stream, handlers, sessions or {}, hurry)
            except (OSError, trio.BrokenResourceError):
                pass  # the client went away; nobody is left to tell
            finally:
                free.release()
                await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                nursery.start_soon(answer, await _accepted(listener))


async def _accepted(listener: trio.socket.SocketType) -> trio.SocketStream:
    """The next client. Where the process has no descriptor left for one, it waits until there is: readers, whose
    connections they are, go before it. Said once each time."""
    said = False
    while True:
        try:
            client, _ = await listener.accept()
        except OSError as error:
            if error.errno == errno.ECONNABORTED:
                continue
            if error.errno not in _NO_ROOM:
                raise
            if not said:
                log.warning("the control socket waits: %s", error.strerror)
            said = True
            await trio.sleep(_WAIT_SECONDS)
        else:
            return trio.SocketStream(client)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """A socket that listens at ``path`` with mode 0600. It gets its name by a rename: whole or not at all."""
    if _answers(path):
        raise ExitError(f"another daemon already answers at {path}; unmount its mount first", ExitCode.MOUNTPOINT)
    with _short_path(path) as (short, folder):
        draft = f".{path.name}.{os.getpid()}"
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)
            raw.bind(os.fspath(short.parent / draft))
            os.chmod(draft, 0o600, dir_fd=folder)
            raw.listen(_MAX_CLIENTS)
            os.rename(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            own = os.stat(path.name, dir_fd=folder).st_ino
        except OSError as error:
            raw.close()
            raise ExitError(f"cannot listen at {path}: {error.strerror}", ExitCode.MOUNTPOINT) from None
        listener = trio.socket.from_stdlib_socket(raw)
        try:
            yield listener
        finally:
            listener.close()
            with contextlib.suppress(OSError):  # the folder may be gone, as after logout
                if os.stat(path.name, dir_fd=folder).st_ino == own:
                    os.unlink(path.name, dir_fd=folder)


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[tuple[Path, int]]:
    """``path`` through an open folder: a socket's path holds 107 bytes, and folders may be deeper than that."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{folder}", path.name), folder
    finally:
        os.close(folder)


async def _answer(
    stream: trio.SocketStream, handlers: Handlers, sessions: Mapping[str, Session], hurry: trio.CancelScope
) -> None:
    _, uid, _ = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (0, os.geteuid()):  # the file's mode says so already; root passes that too
        log.warning("control socket: refused user %d", uid)
        return

    async def tell(message: object) -> None:
        await stream.send_all(json.dumps(message).encode() + b"\n")

    lines = _lines(stream)
    async with aclosing(lines):
        request = await anext(lines, _END)
        if request is _END:
            return
        command = request.get("command") if isinstance(request, dict) else None
        session = sessions.get(command) if isinstance(command, str) else None
        if session is None:
            await tell(_response(request, command, handlers, sessions))
            return
        hurry.deadline = math.inf
        assert isinstance(request, dict)
        try:
            result = {"result": as_dict(await session(request, lines, tell))}
        except (OSError, trio.BrokenResourceError):
            raise
        except Exception:
            log.exception("bug: control command %s", command)
            result = {"error": "the daemon failed to answer; its log says why"}
        await tell(result)


async def _lines(stream: trio.SocketStream) -> AsyncGenerator[object, None]:
    """What a client sends, each line of JSON; None for one that is none. Ends with the client, or a line too long."""
    received = bytearray()
    while True:
        line, newline, rest = received.partition(b"\n")
        if newline:
            received = rest
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield _NONSENSE
            continue
        if len(received) > _MAX_REQUEST_NBYTES:
            return
        piece = await stream.receive_some(65536)
        if not piece:
            return
        received += piece


def _response(
    request: object, command: object, handlers: Handlers, sessions: Mapping[str, Session]
) -> dict[str, object]:
    if request is _NONSENSE:
        return {"error": "a request is one line of JSON"}
    handler = handlers.get(command) if isinstance(command, str) else None
    if handler is None:
        return {"error": f"no such command; there are {', '.join(sorted([*handlers, *sessions]))}"}
    try:
        return {"result": as_dict(handler())}
    except Exception:
        log.exception("bug: control command %s", command)
        return {"error": "the daemon failed to answer; its log says why"}


# The command's side


def request(path: Path, command: str, *, timeout_seconds: float = _CLIENT_SECONDS) -> Any:
    """Ask the daemon at ``path``. Returns what its handler answered, as plain JSON types. Raises ExitError."""
    with Conversation(path, {"command": command}, timeout_seconds=timeout_seconds) as conversation:
        return conversation.result(lambda _: None)


class Conversation:
    """A command to the daemon at ``path``, and all that it answers. ``with`` it. Raises ExitError.

    ``timeout_seconds`` is for each answer; a session tells something all the time.
    """

    def __init__(self, path: Path, request: Mapping[str, object], *, timeout_seconds: float = _CLIENT_SECONDS) -> None:
        self._path = path
        self._request = request
        self._seconds = timeout_seconds
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Conversation:
        self._client = self._stack.enter_context(_connected(self._path, self._seconds))
        self._client.settimeout(None)  # what is sent may wait for the daemon, in another thread than what is received
        self._poll = select.poll()
        self._poll.register(self._client, select.POLLIN)
        self.send(self._request)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def send(self, message: object) -> None:
        """One more line. Blocks while the daemon has enough to do."""
        try:
            self._client.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ExitError(f"the daemon went away: {error.strerror}", ExitCode.NOT_MOUNTED) from None

    def no_more(self) -> None:
        """There is nothing more to send."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def result(self, told: Callable[[dict[str, Any]], None]) -> Any:
        """What the command answers in the end; ``told`` gets what it says before."""
        received = bytearray()
        deadline = time.monotonic() + self._seconds
        while True:
            line, newline, rest = received.partition(b"\n")
            if not newline:
                received += self._receive(deadline)
                if len(received) > _MAX_RESPONSE_NBYTES:
                    raise ExitError("the daemon broke off its answer; try again", ExitCode.NOT_MOUNTED)
                continue
            received = rest
            deadline = time.monotonic() + self._seconds
            try:
                response = json.loads(line)
                if "error" in response:
                    raise ExitError(f"the daemon answers: {response['error']}", ExitCode.NOT_MOUNTED)
                if "result" in response:
                    return response["result"]
            except (ValueError, TypeError):
                raise ExitError(f"what answers at {self._path} is no daemon of ours", ExitCode.NOT_MOUNTED) from None
            told(response)

    def _receive(self, deadline: float) -> bytes:
        if not self._poll.poll(max(deadline - time.monotonic(), 0.001) * 1000):
            raise ExitError(f"the daemon does not answer within {self._seconds:g} s; try again", ExitCode.NOT_MOUNTED)
        try:
            piece = self._client.recv(65536)
        except OSError as error:
            raise ExitError(f"the daemon went away: {error.strerror}", ExitCode.NOT_MOUNTED) from None
        if not piece:
            raise ExitError("the daemon broke off its answer; try again", ExitCode.NOT_MOUNTED)
        return piece


class DaemonExit:
    """Sees the end of the daemon that listens at a control socket, by a pidfd, so that no other process is meant."""

    def __init__(self, path: Path | None) -> None:
        self._pidfd: int | None = None
        if path is None:
            return
        with contextlib.suppress(ExitError, OSError), _connected(path, 1.0) as client:
            pid, _, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            self._pidfd = os.pidfd_open(pid)

    def __enter__(self) -> DaemonExit:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def wait(self, timeout_seconds: float) -> bool:
        """True when the daemon has ended, or was not there to begin with."""
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout_seconds * 1000))


@contextlib.contextmanager
def _connected(path: Path, timeout_seconds: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(timeout_seconds)
        try:
            with _short_path(path) as (short, _):
                client.connect(os.fspath(short))
        except TimeoutError:
            raise ExitError(f"the daemon at {path} does not answer; try again", ExitCode.NOT_MOUNTED) from None
        except OSError as error:
            raise ExitError(f"no daemon answers at {path}: {error.strerror}", ExitCode.NOT_MOUNTED) from None
        yield client


def _answers(path: Path) -> bool:
    """Whether somebody listens at ``path``. One whose queue is full does."""
    try:
        with _short_path(path) as (short, _), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect(os.fspath(short))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True
