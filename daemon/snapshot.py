"""The snapshot that a mount shows: found, fetched where it lies in a bucket, and seen to be of what is mounted."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from s3stream_daemon.config import MountConfig
from s3stream_daemon.download import open_downloader
from s3stream_daemon.exits import ExitCode, ExitError, ending_with, one_line
from s3stream_daemon.partial import partial
from s3stream_daemon.source import Object
from s3stream_fs.statistics import size_text
from s3stream_fs.store import Connection
from s3stream_fs.store.snapshot.store import SnapshotFile

log = logging.getLogger(__name__)

_TELL_SECONDS: Final = 0.5


@asynccontextmanager
async def open_snapshot(
    place: Path | Object, config: MountConfig, connection: Connection, on_progress: Callable[[str], None]
) -> AsyncIterator[SnapshotFile]:
    """Raises ExitError."""
    if isinstance(place, Path):
        with ending_with(ExitCode.SNAPSHOT):
            file = SnapshotFile(place)
    else:
        file = await _fetched(place, config, connection, on_progress)
    with file:
        _check(file, place, config)
        log.info("names are those of the snapshot %s, taken %s", place, one_line(file.info.taken))
        yield file


async def _fetched(
    place: Object, config: MountConfig, connection: Connection, on_progress: Callable[[str], None]
) -> SnapshotFile:
    """A copy without a name: it is gone when the mount is, however that ends."""
    there = connection.to_bucket(place.bucket)
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_SECONDS or done == total:
            told = time.monotonic()
            on_progress(f"{place}: {size_text(done)} of {size_text(total)}")

    try:
        with partial(config.disk.directory, "index") as path, ending_with(ExitCode.SNAPSHOT):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                async with open_downloader(there, place, config.read_deadline_seconds) as downloader:
                    await downloader.download(place, descriptor, tell)
            finally:
                os.close(descriptor)
            return SnapshotFile(path, str(place))
    except OSError as error:
        raise ExitError(
            f"cannot keep a copy of {place} in {config.disk.directory}: {error.strerror}", ExitCode.SNAPSHOT
        ) from None


def _check(file: SnapshotFile, place: Path | Object, config: MountConfig) -> None:
    """The snapshot speaks of all that is mounted. Raises ExitError."""
    of = one_line(f"s3://{file.info.bucket}/{file.info.prefix}")
    source = config.source
    if file.info.bucket != source.bucket or not source.prefix.startswith(file.info.prefix):
        raise ExitError(f"the snapshot {place} is of {of}, in which {source} does not lie", ExitCode.SNAPSHOT)
