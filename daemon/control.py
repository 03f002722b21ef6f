"""The control socket: a mount's daemon answers its owner's questions on it.

A client sends one line of JSON, ``{"command": "stats"}``, and gets one line back, ``{"result": ...}`` or
``{"error": "..."}``. Owns the socket file and the protocol. Never decides what a command answers, and never lets a
client hold up the mount: their number, their bytes and their time are bounded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.folders import Folders, current_folders, private_folder, socket_name
from s3stream_fs.statistics import as_dict

log = logging.getLogger(__name__)

Handlers = Mapping[str, Callable[[], object]]
"""What answers each command. Called on trio's thread; must not block."""

_MAX_CLIENTS: Final = 8
"""A person and a few monitors. More are turned away at once, so that no descriptors run out."""
_CLIENT_SECONDS: Final = 5.0
"""For one request, from connect to the end of the answer. An honest client needs milliseconds."""
_MAX_REQUEST_NBYTES: Final = 4096
_MAX_RESPONSE_NBYTES: Final = 4 * 1024**2
"""Statistics are a few KiB; what is more comes from something that is not our daemon."""
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
    path: Path, handlers: Handlers, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
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
                with trio.move_on_after(_CLIENT_SECONDS):
                    await _answer(stream, handlers)
            except (OSError, trio.BrokenResourceError):
                pass  # the client went away; nobody is left to tell
            finally:
                free.release()
                await trio.aclose_forcefully(stream)

        await trio.serve_listeners(answer, [trio.SocketListener(listener)], task_status=_Started(task_status))


class _Started:
    """Our caller needs no listeners: they would keep the socket beyond its time."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status

    def started(self, value: object = None) -> None:
        self._task_status.started()


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


async def _answer(stream: trio.SocketStream, handlers: Handlers) -> None:
    _, uid, _ = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (0, os.geteuid()):  # the file's mode says so already; root passes that too
        log.warning("control socket: refused user %d", uid)
        return
    request = bytearray()
    while b"\n" not in request:
        piece = await stream.receive_some(_MAX_REQUEST_NBYTES)
        request += piece
        if not piece or len(request) > _MAX_REQUEST_NBYTES:
            return
    await stream.send_all(json.dumps(_response(bytes(request), handlers)).encode() + b"\n")


def _response(line: bytes, handlers: Handlers) -> dict[str, object]:
    try:
        request = json.loads(line.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return {"error": "a request is one line of JSON"}
    command = request.get("command") if isinstance(request, dict) else None
    handler = handlers.get(command) if isinstance(command, str) else None
    if handler is None:
        return {"error": f"no such command; there are {', '.join(sorted(handlers))}"}
    try:
        return {"result": as_dict(handler())}
    except Exception:
        log.exception("bug: control command %s", command)
        return {"error": "the daemon failed to answer; its log says why"}


# The command's side


def request(path: Path, command: str, *, timeout_seconds: float = _CLIENT_SECONDS) -> Any:
    """Ask the daemon at ``path``. Returns what its handler answered, as plain JSON types. Raises ExitError."""
    deadline = time.monotonic() + timeout_seconds
    silent = ExitError(f"the daemon does not answer within {timeout_seconds:g} s; try again", ExitCode.NOT_MOUNTED)
    received = bytearray()
    with _connected(path, timeout_seconds) as client:
        try:
            client.sendall(json.dumps({"command": command}).encode() + b"\n")
            while not received.endswith(b"\n"):
                client.settimeout(max(deadline - time.monotonic(), 0.001))
                piece = client.recv(65536)
                received += piece
                if not piece or len(received) > _MAX_RESPONSE_NBYTES:
                    raise ExitError("the daemon broke off its answer; try again", ExitCode.NOT_MOUNTED)
        except TimeoutError:
            raise silent from None
        except OSError as error:
            raise ExitError(f"the daemon went away: {error.strerror}", ExitCode.NOT_MOUNTED) from None
    try:
        response = json.loads(received)
        if "error" in response:
            raise ExitError(f"the daemon answers: {response['error']}", ExitCode.NOT_MOUNTED)
        return response["result"]
    except (ValueError, KeyError, TypeError):
        raise ExitError(f"what answers at {path} is no daemon of ours", ExitCode.NOT_MOUNTED) from None


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
