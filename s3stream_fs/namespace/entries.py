"""What a directory holds: files and directories by name."""

from __future__ import annotations

from typing import NamedTuple

from s3stream_fs.types import ObjectInfo


class FileEntry(NamedTuple):
    """A name that stands for one object. ``name`` is exactly the bytes of the key's last component."""

    name: bytes
    info: ObjectInfo


class DirectoryEntry(NamedTuple):
    """A name under which there are further keys, or whose marker (a key that ends with ``/``) exists.

    ``prefix`` is the beginning of all its keys in the bucket and ends with ``/``.
    """

    name: bytes
    prefix: str


Entry = FileEntry | DirectoryEntry
