"""Tells systemd what state the daemon is in (sd_notify), where systemd asks for it with NOTIFY_SOCKET.

Never fails and never waits: a service manager that does not listen is no reason to end a mount.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send states such as ``READY=1``, ``STOPPING=1``, ``STATUS=...`` in one message. False where nobody listens."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract name space
    message = "\n".join(state.replace("\n", " ") for state in states).encode("utf-8", "surrogateescape")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(message, os.fsencode(address))
        except OSError as error:
            log.warning("cannot tell the service manager %s: %s", states[0], error.strerror)
            return False
    return True
