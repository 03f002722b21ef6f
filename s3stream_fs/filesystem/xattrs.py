"""Extended attributes: what S3 knows of a file, and how much of it is cached. Pure."""

from __future__ import annotations

from s3stream_fs.namespace.inodes import DirectoryInode, FileInode


def extended_attributes(inode: FileInode | DirectoryInode, cached_nbytes: int) -> dict[bytes, bytes]:
    """All attributes of ``inode`` by name. ``cached_nbytes`` counts the file's bytes on disk."""
    if isinstance(inode, DirectoryInode):
        return {b"user.s3.key": inode.prefix.encode()} if inode.prefix else {}
    info = inode.info
    attributes = {
        b"user.s3.key": info.id.key.encode(),
        b"user.s3.etag": info.id.etag.encode(),
        b"user.s3.storage_class": info.storage_class.encode(),
        b"user.s3stream.cached": b"%d" % cached_nbytes,
    }
    if info.version_id is not None:
        attributes[b"user.s3.version_id"] = info.version_id.encode()
    return attributes
