"""What the disk tier is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s3stream_fs.cache.disk.policy import TENTH, Policy, Reserve


@dataclass(frozen=True, slots=True)
class DiskTierConfig:
    """``limit_nbytes`` on disk, index included (0: no disk tier); ``reserve`` of the file system is always left free.

    ``queue_nbytes`` are taken at once; more have to wait in the memory tier, so that a slow disk never holds a reader.
    At most ``most_open_files`` data files stay open, each with two descriptors where there are enough.
    ``verify_always``: blocks are checked each time they are read, and not only the first time since the start. A disk
    that fails is tried again every ``retry_seconds``. Another process that keeps the folder's lock, or the index's, is
    waited for ``lock_seconds`` at a time: a batch of 32 MiB takes that at 6 MiB/s.
    """

    directory: Path
    limit_nbytes: int
    reserve: Reserve = TENTH
    queue_nbytes: int = 64 * 1024 * 1024
    policy: Policy = Policy.LRU
    verify_always: bool = False
    retry_seconds: float = 10.0
    lock_seconds: float = 5.0
    most_open_files: int = 512

    @property
    def most_descriptors(self) -> int:
        """Of data files; as many again may come on top for a moment, of those that are just being written."""
        return 2 * self.most_open_files
