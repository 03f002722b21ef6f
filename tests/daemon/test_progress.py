"""On a terminal a command that takes long shows how far it is, and leaves nothing of that behind."""

from __future__ import annotations

import os
import subprocess
import termios
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from mounting import COMMAND, PATIENCE_SECONDS, Mount
from s3server import S3Server

Mounted = Callable[..., Mount]


def on_terminal(mount: Mount, *words: str) -> tuple[str, str]:
    """What a command says on standard output, and what is drawn on the terminal that is its standard error."""
    with ExitStack() as stack:
        ours, theirs = os.openpty()
        stack.callback(os.close, ours)
        termios.tcsetwinsize(theirs, (24, 120))  # on one without a size nothing is drawn
        with os.fdopen(theirs, "wb", buffering=0) as terminal:
            done = subprocess.run(
                [*COMMAND, *words],
                env=mount.cli.environment | {"TERM": "xterm"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=terminal,
                timeout=PATIENCE_SECONDS,
                check=True,
            )
        drawn = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other end open any more
                break
            if not more:
                break
            drawn += more
        return done.stdout.decode(), drawn.decode()


@pytest.mark.parametrize(
    ("command", "shown"), [("warm", ["warming", "3/3 files", "3.00k"]), ("refresh", ["listing", "directories"])]
)
def test_a_bar_is_drawn_and_taken_away(server: S3Server, mounted: Mounted, command: str, shown: list[str]) -> None:
    server.create_bucket("bucket")
    for number in range(3):
        server.put("bucket", f"d/{number}", bytes(1024))
    mount = mounted(server, "bucket")
    os.listdir(mount.path / "d")
    told, drawn = on_terminal(mount, command, str(mount.path))
    assert told.count("\n") == 1
    assert [part for part in shown if part not in drawn] == []
    assert drawn.rstrip("\r").rpartition("\r")[2].strip() == "", "the bar is still there at the end"
