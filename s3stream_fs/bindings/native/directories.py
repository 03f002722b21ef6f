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
from s3stream_fs.errors import StoreUnavailable
from s3stream_fs.filesystem.filesystem import FileSystem
from s3stream_fs.namespace.listing import Listing
from s3stream_fs.namespace.shelf import Elsewhere

_DOTS: Final = (b".", b"..")

_MOST_WAITED_FOR: Final = 16_000
"""Entries of a directory that was listed before and is not shown before it is known as a whole, so that it need not be
shown at all if it is what it was. Of a longer one the first entries are shown at once."""

_MAX_READ_LATELY: Final = 256
"""Directories being read at once through one mount without a handle. A guess: some processes that walk a tree."""


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

    def is_worth_waiting(self, number: int, listing: Listing) -> bool:
        """Whether it will soon be known that what is being loaded is what the kernel has kept."""
        shown = self._shown.get(number)
        return listing.loading and shown is not None and shown is not listing and len(shown) <= _MOST_WAITED_FOR

    async def wait_known(self, listing: Listing) -> None:
        """Return once all of a listing is known, or so much that it is long."""
        await self._filesystem.wait_settled(listing, _MOST_WAITED_FOR)

    def open(self, number: int, listing: Listing) -> tuple[int, bool]:
        """A handle, and whether the pages that the kernel may have kept of this directory are still right."""
        handle = self._next_handle
        self._next_handle += 1
        self._opened[handle] = listing
        self._unread.add(handle)
        shown = self._shown.get(number)
        unchanged = shown is not None and shown.shows_the_same(listing)
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
                shown = self._shown.get(number)
                if shown is not None and not shown.shows_the_same(opened):
                    # The kernel may keep what it reads now, though somebody who came later was shown another listing.
                    self._shown.pop(number, None)
            return opened
        listing = self._read_lately.get(number) if offset else None
        if listing is None:
            listing = self._read_lately[number] = self._filesystem.open_directory(number)
        return listing

    async def wait(self, number: int, handle: int, listing: Listing, offset: int) -> Listing:
        """Return, as soon as ``read_nowait`` gives something, what is being read from then on."""
        found = await self._filesystem.wait_listed(number, listing, offset - len(_DOTS))
        if found is not listing:
            if self._opened.get(handle) is listing:
                self._opened[handle] = found
            if self._read_lately.get(number) is listing:
                self._read_lately[number] = found
        return found

    def read_nowait(self, number: int, listing: Listing, offset: int, size: int, plus: bool) -> bytes | None:
        """As many records as are known and fit ``size``, b"" at the end. None where the first is not known yet. Raises
        Elsewhere where it is not in memory."""
        records: list[bytes] = []
        left = min(size, MAX_REQUEST_NBYTES)
        for name in _DOTS[offset:]:
            offset += 1
            # ".." has the directory's own number: what lies above a mount is the kernel's to say.
            records.append(replies.dirent(number, stat.S_IFDIR, name, offset, plus))
            left -= len(records[-1])
            if left < 0:
                return b"".join(records[:-1])
        valid = replies.validity(self._filesystem.seconds_valid(listing.fresh_until))
        filesystem = self._filesystem
        try:
            for row in listing.rows_nowait(offset - len(_DOTS)):
                left -= replies.dirent_nbytes(row.name, plus)
                if left < 0:
                    return b"".join(records)
                if plus and not row.archived and filesystem.is_certain(listing, row):
                    records.append(replies.direntplus(filesystem.show(row), valid, row.name, offset + 1))
                else:
                    # Whether an archived object was restored, and what has taken the place of one that was replaced, is
                    # not for a listing to say: a lookup asks.
                    mode = stat.S_IFREG if row.is_file else stat.S_IFDIR
                    records.append(replies.dirent(filesystem.number_of(row), mode, row.name, offset + 1, plus))
                offset += 1
        except (Elsewhere, StoreUnavailable):
            if not records:
                raise
        if not records:
            if not listing.settled(offset - len(_DOTS)):
                return None
            listing.check(offset - len(_DOTS))
        # What is known goes out now; the kernel comes back for the rest. An error is told when it does: with one it
        # would not take what is before it.
        return b"".join(records)
