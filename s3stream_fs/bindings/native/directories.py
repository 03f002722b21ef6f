"""READDIR and READDIRPLUS: a listing cut into replies, each resumed where the last one ended.

Offsets are 1 for what comes after ".", 2 after "..", and from there on one more than the entry's position.
"""

from __future__ import annotations

import errno
import stat
from typing import Final

from cachetools import LRUCache

from s3stream_fs.bindings.native import replies
from s3stream_fs.bindings.native.negotiation import MAX_REQUEST_NBYTES
from s3stream_fs.errors import StoreError
from s3stream_fs.filesystem.filesystem import FileSystem, Found
from s3stream_fs.namespace.listing import Listing

_DOTS: Final = (b".", b"..")

_MAX_READ_LATELY: Final = 256
"""Directories being read at once through one mount without a handle. A guess: some processes that walk a tree."""

_NOTHING: Final = Found(None, 0.0)


class Directories:
    """The listings that the kernel is reading, by handle where it opens directories, by inode where it does not."""

    def __init__(self, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self._opened: dict[int, Listing] = {}
        self._unread: set[int] = set()
        """Handles through which nothing was read yet."""
        self._next_handle = 1
        self._read_lately: LRUCache[int, Listing] = LRUCache(maxsize=_MAX_READ_LATELY)
        self._shown: LRUCache[int, Listing] = LRUCache(maxsize=_MAX_READ_LATELY)
        """The listing of which the kernel may have kept pages."""

    def open(self, number: int) -> tuple[int, bool]:
        """A handle, and whether the pages that the kernel may have kept of this directory are still right."""
        listing = self._filesystem.open_directory(number)
        handle = self._next_handle
        self._next_handle += 1
        self._opened[handle] = listing
        self._unread.add(handle)
        unchanged = self._shown.get(number) is listing
        self._shown[number] = listing
        return handle, unchanged

    def release(self, handle: int) -> None:
        self._opened.pop(handle, None)
        self._unread.discard(handle)

    def listing(self, number: int, handle: int, offset: int) -> Listing:
        """What is being read. Whoever goes on in the middle gets the listing in which the offset was given.

        Raises OSError for a handle that is not open.
        """
        if handle:
            opened = self._opened.get(handle)
            if opened is None:
                raise OSError(errno.EBADF, "a directory handle that was never given out")
            if offset == 0:
                if handle in self._unread:
                    self._unread.discard(handle)
                else:  # rewound: it shall see the directory as it is now
                    opened = self._opened[handle] = self._filesystem.open_directory(number)
                if self._shown.get(number) is not opened:
                    # The kernel may keep what it reads now, though somebody who came later was shown another listing.
                    self._shown.pop(number, None)
            return opened
        listing = self._read_lately.get(number) if offset else None
        if listing is None:
            listing = self._read_lately[number] = self._filesystem.open_directory(number)
        return listing

    async def wait(self, listing: Listing, offset: int) -> None:
        """Return as soon as ``read_nowait`` gives something."""
        await self._filesystem.wait_settled(listing, offset - len(_DOTS))

    def read_nowait(self, number: int, listing: Listing, offset: int, size: int, plus: bool) -> bytes | None:
        """As many records as are known and fit ``size``, b"" at the end. None where the first is not known yet."""
        records: list[bytes] = []
        valid_seconds = self._filesystem.seconds_valid(listing.fresh_until)
        left = min(size, MAX_REQUEST_NBYTES)
        while True:
            if offset < len(_DOTS):
                name = _DOTS[offset]
                # ".." has the directory's own number: what lies above a mount is the kernel's to say.
                inode, mode, found = number, stat.S_IFDIR, _NOTHING
                left -= replies.dirent_nbytes(name, plus)
                if left < 0:
                    break
            else:
                position = offset - len(_DOTS)
                if not listing.settled(position):
                    if not records:
                        return None
                    break  # what is known goes out now; the kernel comes back for the rest
                try:
                    place = listing.place_nowait(position)
                except StoreError:
                    if records:
                        break  # told when the kernel comes back: with the error it would not take what is before it
                    raise
                if place is None:
                    break
                name, is_file, archived, _, _ = place.rows.glance(place.at)
                left -= replies.dirent_nbytes(name, plus)
                if left < 0:
                    break
                if plus and not archived:
                    attributes = self._filesystem.show(place)
                    inode, mode, found = attributes.inode, attributes.mode, Found(attributes, valid_seconds)
                else:
                    # Whether an archived object was restored is not for a listing to say: a lookup asks.
                    found = _NOTHING
                    inode = self._filesystem.number_of(place)
                    mode = stat.S_IFREG if is_file else stat.S_IFDIR
            offset += 1
            if plus:
                records.append(replies.direntplus(found, inode, mode, name, offset))
            else:
                records.append(replies.dirent(inode, mode, name, offset))
        return b"".join(records)
