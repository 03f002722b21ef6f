"""Which kind of store the scheme of a URL means. The one place that names them all; each has a room of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from s3stream_fs.store import Bucket, Connection, Probe
    from s3stream_fs.store.s3.config import S3Config

_ROOMS: Final = {"s3": "s3stream_fs.store.s3.room"}
"""Imported when they are needed: they take libraries along for which no other command shall wait."""


def connect(scheme: str, config: S3Config, environ: Mapping[str, str]) -> Connection:
    """How to speak to a bucket: all that the user, the environment and files say, in one value. Raises UsageError."""
    return _room(scheme).connect(config, environ)  # type: ignore[no-any-return]


def open_bucket(scheme: str, connection: Connection, probe: Probe) -> AbstractAsyncContextManager[Bucket]:
    """A bucket that ``probe`` has seen to be usable. Raises StoreError, UsageError."""
    return _room(scheme).open_bucket(connection, probe)  # type: ignore[no-any-return]


def _room(scheme: str) -> Any:
    return import_module(_ROOMS[scheme])
