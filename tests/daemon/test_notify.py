"""sd_notify against real datagram sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from s3stream_daemon.notify import notify


def test_a_state_arrives(short_path: Path) -> None:
    address = str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        assert notify("READY=1", "STATUS=two\nlines", environ={"NOTIFY_SOCKET": address})
        assert receiver.recv(1000) == b"READY=1\nSTATUS=two lines"


def test_an_abstract_address() -> None:
    name = f"s3stream-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        assert notify("STOPPING=1", environ={"NOTIFY_SOCKET": "@" + name})
        assert receiver.recv(1000) == b"STOPPING=1"


def test_nobody_listens(tmp_path: Path) -> None:
    assert not notify("READY=1", environ={})
    assert not notify("READY=1", environ={"NOTIFY_SOCKET": "vsock:2:1234"})
    assert not notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "absent")})
