"""The fork: a daemon that outlives the command, and a command that waits until it is usable.

Owns the child's detachment and the pipe between the two. Must run before any loop or thread does. Never reads
configuration and never mounts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from s3stream_daemon.exits import ExitCode, ExitError, one_line

_PROGRESS_AFTER_SECONDS: Final = 2.0
"""A mount takes well under a second; who waits longer wants to know what for."""
_READY_WITHIN_SECONDS: Final = 120.0
"""Far more than the start's own deadlines: only a daemon that hangs takes longer."""
_END_WITHIN_SECONDS: Final = 10.0
"""For a daemon that was told to stop before it was ready; then it is killed."""
_MAX_MESSAGE_NBYTES: Final = 65536

_PATH_VARIABLES: Final = (
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_DATA_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Variables whose relative paths would mean something else once the daemon has left for ``/``."""


@dataclass(slots=True)
class Pipe:
    """The child's way to tell its parent how the start went. Only the first message that is no progress counts."""

    _descriptor: int

    def progress(self, text: str) -> None:
        """The start goes on: ``text`` says how far it is."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, json.dumps({"progress": one_line(text)}).encode() + b"\n")

    def ready(self) -> None:
        self._send({})

    def failed(self, code: ExitCode, line: str) -> None:
        self._send({"code": int(code), "line": one_line(line)})

    def _send(self, message: dict[str, object]) -> None:
        if self._descriptor >= 0:
            # The parent may have been killed; the daemon goes on all the same.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")
            os.close(self._descriptor)
            self._descriptor = -1


def run_in_background(
    daemon: Callable[[Pipe], ExitCode], *, waiting_for: str, log_file: Path | None, keep: Sequence[int] = ()
) -> None:
    """Fork; the child runs ``daemon``, which tells through its Pipe how the start went, and ends with what it returns.

    ``keep`` are descriptors that stay open in the child.
    Returns in the parent once the child is ready. Raises ExitError with the child's own line where it is not, and
    KeyboardInterrupt, the child being gone, for Ctrl-C.
    """
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = ExitCode.BUG
        try:
            _detach(keep={sending, *keep})
            code = daemon(Pipe(sending))
        except BaseException:
            # ``daemon`` has its own net; what falls through is told by the silence of the pipe.
            logging.getLogger(__name__).critical("bug: the daemon failed", exc_info=True)
        finally:
            logging.shutdown()
            os._exit(code)  # never back into the caller, which is another process's code now
    os.close(sending)
    try:
        with _ended_on_error(child), _progress(sys.stderr, waiting_for) as tick:
            message = _receive(receiving, tick)
            if message is None:
                raise ExitError(
                    f"the mount was not ready within {_READY_WITHIN_SECONDS:g} s{_see(log_file)}", ExitCode.BUG
                )
    finally:
        os.close(receiving)
    if message == b"":
        _, status = os.waitpid(child, 0)
        raise ExitError(f"the daemon {_how_it_ended(status)} before the mount was ready{_see(log_file)}", ExitCode.BUG)
    told = json.loads(message)
    if "code" in told:
        os.waitpid(child, 0)
        raise ExitError(told["line"], ExitCode(told["code"]))


def _detach(keep: Set[int]) -> None:
    """Leave the terminal, the folder, and all descriptors of the command, whose reader would wait for their end."""
    os.setsid()
    os.umask(0o077)
    for variable in _PATH_VARIABLES:
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().absolute())
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))
    # What a command started with "nohup" or "&" ignores, a daemon must not.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _receive(descriptor: int, tick: Callable[[str], None]) -> bytes | None:
    """What the child says, ``b""`` where it ended without a word, None where nothing has come for too long."""
    deadline = time.monotonic() + _READY_WITHIN_SECONDS
    received = b""
    while True:
        line, newline, rest = received.partition(b"\n")
        if newline:
            progress = json.loads(line).get("progress")
            if progress is None:
                return line
            tick(f": {progress}")
            deadline = time.monotonic() + _READY_WITHIN_SECONDS
            received = rest
            continue
        if time.monotonic() > deadline:
            return None
        readable, _, _ = select.select([descriptor], [], [], _PROGRESS_AFTER_SECONDS)
        if not readable:
            tick("")
            continue
        piece = os.read(descriptor, _MAX_MESSAGE_NBYTES)
        if not piece:
            return b""
        received += piece


@contextlib.contextmanager
def _progress(terminal: TextIO, waiting_for: str) -> Iterator[Callable[[str], None]]:
    """On a terminal a line that says what is waited for, and that goes again."""
    shown = False

    def tick(progress: str) -> None:
        nonlocal shown
        if terminal.isatty():
            terminal.write(f"\r\x1b[Ks3stream-fs: waiting for {waiting_for}{progress} ...")
            terminal.flush()
            shown = True

    try:
        yield tick
    finally:
        if shown:
            terminal.write("\r\x1b[K")
            terminal.flush()


@contextlib.contextmanager
def _ended_on_error(child: int) -> Iterator[None]:
    """Take the child along when the parent gives up: nobody would know of it."""
    try:
        yield
    except BaseException:
        os.kill(child, signal.SIGTERM)
        if not _ended(child, _END_WITHIN_SECONDS):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise


def _ended(child: int, within_seconds: float) -> bool:
    pidfd = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(within_seconds * 1000):
            return False
    finally:
        os.close(pidfd)
    os.waitpid(child, 0)
    return True


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with code {os.waitstatus_to_exitcode(status)}"


def _see(log_file: Path | None) -> str:
    return "" if log_file is None else f"; its log may say why: {log_file}"
