"""Room for what is new: what the cache's size, the reserve and the disk leave, and files that go so that it suffices.

The writer's, under the folder's lock. Decides neither what is written nor which files go (``eviction``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from s3stream_fs.cache.disk.allowance import Allowance
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.eviction import Eviction
from s3stream_fs.cache.disk.files import Descriptors
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.policy import Amount, Victim

_INDEX_NBYTES: Final = 2 * 1024 * 1024
"""Free space that is left in any case, for the index and its log to grow into."""

_MARGIN_PARTS: Final = 32
"""Blocks leave that much, or this part of the cache's size if it is less, so that no file goes for the index."""

_INDEX_NFILES: Final = 16
"""The same of inodes: logs come and go."""

_EVICTED_PAUSES_SECONDS: Final = (0.0, 0.01, 0.05, 0.25)
"""Between the eviction of files and the next try of what had no room: who still has one open closes it meanwhile."""

Outcome = TypeVar("Outcome")


class Room:
    """Raises OSError and sqlite3.Error wherever the disk and SQLite do."""

    def __init__(
        self,
        config: DiskTierConfig,
        folder: Callable[[], CacheFolder],
        descriptors: Descriptors,
        now_ms: Callable[[], int],
        allowances: Sequence[Allowance],
        write_last_uses: Callable[[], None],
        on_evicted: Callable[[list[Victim]], None],
    ) -> None:
        """``folder`` gives the one that is open. ``allowances`` are others', and count. ``write_last_uses`` before it
        is chosen what goes; ``on_evicted`` is told what went."""
        self._config = config
        self._folder = folder
        self._descriptors = descriptors
        self._now_ms = now_ms
        self._allowances = allowances
        self._write_last_uses = write_last_uses
        self._on_evicted = on_evicted
        self._counted = False
        """Whether the index's total was looked at in this process."""
        self._rows_left: list[Victim] = []
        """Of files that went when there was no room to write so."""
        self._force_again_at = 0.0
        """When files may go again for what has no room though there seems to be some: the last time it did not help."""
        self.short_of = ""
        """What there was too little of when ``make`` gave less than was wanted."""

    def make(self, wanted: Amount, spare: Collection[str], eviction: Eviction) -> Amount:
        """Evict until blocks that are ``wanted`` fit, but none of ``spare``, which is in use. Returns how much may be
        written."""
        return self._make(wanted, self._margin_nbytes, spare, eviction)

    def keep(self, spare: Collection[str], eviction: Eviction) -> None:
        """Evict until the cache is within its size, and the reserve is free."""
        self._make(Amount(0, 0), 0, spare, eviction)

    def _make(self, wanted: Amount, margin_nbytes: int, spare: Collection[str], eviction: Eviction) -> Amount:
        index = self._folder().writing
        # Asked once: a file that somebody still has open takes its room until that is closed, and to evict more would
        # not help.
        free_nbytes, free_nfiles = self._free()
        folded = False
        while self._config.limit_nbytes:
            left_nbytes = self._left_nbytes() - margin_nbytes
            room = Amount(min(left_nbytes, free_nbytes), free_nfiles)
            if room.nbytes >= wanted.nbytes and room.nfiles >= wanted.nfiles:
                return wanted
            if left_nbytes < wanted.nbytes and not self._counted:
                # Before the first file goes: a total that was damaged would have all of them go.
                index.recount()
                self._counted = True
                continue
            if room.nbytes < wanted.nbytes and not folded:
                folded = True
                index.fold()  # the index's log counts, and no file shall go for it
                continue
            short = Amount(wanted.nbytes - room.nbytes, wanted.nfiles - room.nfiles)
            evicted = self._evict(short, spare, eviction)
            if not evicted:
                self.short_of = _named(room, wanted, left_nbytes <= free_nbytes)
                return Amount(max(min(room.nbytes, wanted.nbytes), 0), max(min(room.nfiles, wanted.nfiles), 0))
            free_nbytes += sum(victim.nbytes for victim in evicted)
            free_nfiles += len(evicted)
        return Amount(0, 0)

    def has(self, wanted: Amount, spare: Collection[str], eviction: Eviction) -> bool:
        """Whether ``make`` would have so much to give. Evicts nothing."""
        nbytes, nfiles = self._free()
        nbytes = min(nbytes, self._left_nbytes() - self._margin_nbytes)
        short = Amount(wanted.nbytes - nbytes, wanted.nfiles - nfiles)
        if short.nbytes <= 0 and short.nfiles <= 0:
            return True
        return bool(eviction.victims(self._folder().writing, short, spare, self._now_ms()))

    def fitted(self, step: Callable[[], Outcome], nbytes: int, spare: Collection[str], eviction: Eviction) -> Outcome:
        """What ``step`` comes to. Where the disk has no room for it, files go and it is tried again.

        How full a disk is does not say whether there is room: there are quotas, and others who write. Raises what
        ``step`` raises.
        """
        nfiles = 1
        for pause in _EVICTED_PAUSES_SECONDS:
            try:
                return step()
            except (OSError, sqlite3.Error) as error:
                if time.monotonic() < self._force_again_at or not self._folder().is_full(error):
                    raise
            if not self._evict(Amount(nbytes, nfiles), spare, eviction):
                break
            nfiles *= 2
            time.sleep(pause)
            self._descriptors.close_ended()
        try:
            return step()
        except (OSError, sqlite3.Error):
            self._force_again_at = time.monotonic() + self._config.retry_seconds
            raise

    def grant(self, spare: Collection[str], eviction: Eviction) -> None:
        """Make room for what others may use."""
        for allowance in self._allowances:
            missing_nbytes = allowance.missing_nbytes()
            if missing_nbytes > 0:
                missing_nbytes = self._make(Amount(missing_nbytes, 0), 0, spare, eviction).nbytes
            allowance.grant(missing_nbytes)

    @property
    def _margin_nbytes(self) -> int:
        return min(_INDEX_NBYTES, self._config.limit_nbytes // _MARGIN_PARTS)

    def _left_nbytes(self) -> int:
        """What the cache's size leaves."""
        granted_nbytes = sum(allowance.granted_nbytes for allowance in self._allowances)
        return self._config.limit_nbytes - self._folder().writing.nbytes() - granted_nbytes

    def _evict(self, wanted: Amount, spare: Collection[str], eviction: Eviction) -> list[Victim]:
        """Files that are gone now, as far as there were any that may go."""
        index, files = self._folder().writing, self._folder().files
        self._write_last_uses()
        try:
            if self._rows_left:
                with index.transaction():
                    index.remove(self._rows_left)
                self._rows_left = []
            victims = eviction.victims(index, wanted, spare, self._now_ms())
            if victims:
                with index.transaction():
                    victims = index.remove(victims)
        except sqlite3.Error as error:
            if not self._folder().is_full(error):
                raise
            # Not even the index's log has room. A file that goes before its row costs whoever asks for it a look.
            spare = {*spare, *(victim.name for victim in self._rows_left)}
            victims = eviction.victims(index, wanted, spare, self._now_ms())
            self._rows_left += victims
        for victim in victims:
            files.remove(victim.name)
        if victims:
            self._on_evicted(victims)
        return victims

    def _free(self) -> tuple[int, int]:
        """What the disk has beyond the reserve, and what the index needs."""
        free, whole = self._folder().files.free()
        reserve = self._config.reserve
        nfiles = free.nfiles - reserve.of_files(whole.nfiles) - _INDEX_NFILES if whole.nfiles else _UNCOUNTED
        unused_nbytes = sum(allowance.unused_nbytes for allowance in self._allowances)
        return free.nbytes - reserve.of(whole.nbytes) - _INDEX_NBYTES - unused_nbytes, nfiles


_UNCOUNTED: Final = 1 << 62
"""Of a file system that makes inodes as they are needed."""


def _named(room: Amount, wanted: Amount, by_limit: bool) -> str:
    if room.nbytes >= wanted.nbytes:
        return "its disk has no inodes beyond the reserve"
    return "its size is used up" if by_limit else "its disk has no room beyond the reserve"
