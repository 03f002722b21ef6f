"""Extended attributes: what S3 knows of a file, and how much of it is cached. Pure."""

from __future__ import annotations

from typing import Final

from s3stream_fs.namespace.inodes import DirectoryInode, FileInode

CACHED: Final = b"user.s3stream.cached"
"""How many bytes of a file are on disk. It changes, and is worked out when it is asked for."""


def s3_attributes(inode: FileInode | DirectoryInode) -> dict[bytes, bytes]:
    """The attributes of ``inode`` that come from S3, by name."""
    if isinstance(inode, DirectoryInode):
        return {b"user.s3.key": inode.prefix.encode()} if inode.prefix else {}
    info = inode.info
    return {
        b"user.s3.key": info.id.key.encode(),
        **({b"user.s3.etag": info.id.etag.encode()} if info.id.has_etag else {}),
        b"user.s3.storage_class": info.storage_class.encode(),
    }
