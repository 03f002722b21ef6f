"""Programs that nobody here wrote, as processes of the battery: started, watched, ended at once.

Owns ports and processes; knows nothing of S3. Output goes to a file, of which a failed start tells the last lines.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 60.0
"""How long a server may take to start. A bound on a hang, not a speed."""

PORTS: Final = range(20_000, 32_000)
"""Below the ports that systems give to connections: a client that asks a stopped server again and again would sooner or
later be given the server's own port, and be connected with itself."""


class ServerFailed(Exception):
    """A server did not start, or ended by itself."""


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Ports on which nobody listens at this moment, all different."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise ServerFailed(f"no {number} free ports on {host}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll: servers tell nobody when they are ready."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ServerFailed(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


class Process:
    """One program that runs until it is stopped."""

    def __init__(self, words: Sequence[str | Path], folder: Path) -> None:
        self._name = Path(words[0]).name
        self._output = folder / f"{self._name}-{time.monotonic_ns()}.out"
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises ServerFailed if the program has ended by itself."""
        if self._process.poll() is not None:
            said = self._output.read_text(errors="replace").splitlines()[-5:]
            raise ServerFailed(f"{self._name} ended with {self._process.returncode}: {' | '.join(said)}")

    def stop(self) -> None:
        """End it at once, as a crash does: asked kindly, some wait until a mount gives up its connections."""
        self._process.kill()
        self._process.wait()


def beside_python(name: str) -> Path:
    """A program that a wheel has installed."""
    return Path(sys.executable).with_name(name)


def in_sbin(name: str) -> str:
    """A program of Debian's that may lie where an ordinary user's PATH does not look."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin") or name
