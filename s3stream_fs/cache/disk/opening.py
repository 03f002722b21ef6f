"""Opens the disk tier, puts its parts together, and closes it: in which order, and how long that may take."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from s3stream_fs.cache.disk.claimant import Claimant
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.direct import ReadBuffers
from s3stream_fs.cache.disk.faults import Faults
from s3stream_fs.cache.disk.files import Descriptors
from s3stream_fs.cache.disk.folder import CacheFolder, is_fault
from s3stream_fs.cache.disk.knowledge import Knowledge
from s3stream_fs.cache.disk.learner import Learner
from s3stream_fs.cache.disk.leftovers import Leftovers
from s3stream_fs.cache.disk.readers import ReadThreads
from s3stream_fs.cache.disk.reads import READ_NBYTES, Reads
from s3stream_fs.cache.disk.records import Records
from s3stream_fs.cache.disk.tier import FLUSH_SECONDS, DiskTier
from s3stream_fs.cache.disk.whole_files import WholeFiles
from s3stream_fs.cache.disk.writer import Writer
from s3stream_fs.errors import UsageError

_READ_THREADS: Final = 16
"""Reads from the disk at once; an NVMe needs about that many to be busy."""


@asynccontextmanager
async def open_disk_tier(config: DiskTierConfig, space: str) -> AsyncIterator[DiskTier]:
    """The disk tier in ``config.directory``, for the time of the context.

    ``space`` names the store and bucket, so that several share a folder; so may several processes, under one limit.
    Opens at once, however much is in it. Raises UsageError for a folder that cannot be used; where that is the disk's
    fault, or it is full and nothing can go, the tier is off until the folder can be opened.
    """
    descriptors = Descriptors(config.most_descriptors)
    records = Records(config.most_open_files)
    folder, fault = _open_folder(config, descriptors)
    writer = Writer(config, space, folder, descriptors, records)
    if fault is not None:
        writer.fail(fault)
    leftovers = Leftovers(descriptors)
    threads = ReadThreads(_READ_THREADS, leftovers.tidy_up)
    faults = Faults(records)
    knowledge = Knowledge(space, writer, records, threads, faults, off=config.limit_nbytes == 0)
    buffers = ReadBuffers(READ_NBYTES)
    verify_always = config.verify_always
    reads = Reads(
        threads,
        lambda: knowledge.lookups,
        buffers,
        records,
        writer.now_ms,
        faults,
        leftovers,
        verify_always=verify_always,
    )
    whole_files = WholeFiles(threads, buffers, records, writer.now_ms, faults, verify_always=verify_always)
    learner = Learner(knowledge, reads, threads, faults, writer.fail)
    claimant = Claimant(knowledge, learner, writer)
    token = trio.lowlevel.current_trio_token()

    def wake_reader() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(knowledge.catch_up, idempotent=True)

    def close_folder() -> None:
        descriptors.close_ended()
        knowledge.lookups.close()

    writer.start(wake_reader)
    if config.limit_nbytes:
        knowledge.catch_up()  # begins to load the filter
    try:
        yield DiskTier(config.limit_nbytes, writer, knowledge, reads, whole_files, learner, claimant, faults)
    finally:
        with trio.CancelScope(shield=True):
            stopped = await trio.to_thread.run_sync(writer.stop, FLUSH_SECONDS)
            if stopped:  # else the disk hangs, and what it is given up with is closed by the end of the process
                threads.close()
                knowledge.forget_all()
                with trio.move_on_after(FLUSH_SECONDS):
                    await trio.to_thread.run_sync(close_folder, abandon_on_cancel=True)


def _open_folder(
    config: DiskTierConfig, descriptors: Descriptors
) -> tuple[CacheFolder | None, OSError | sqlite3.Error | None]:
    """The folder, or why its disk does not let it be opened now. Raises UsageError where it cannot be used at all."""
    try:
        return CacheFolder(config.directory, descriptors), None
    except OSError as error:
        if is_fault(error):
            return None, error
        raise UsageError(
            f"cache folder {config.directory} cannot be used: {error.strerror}; choose another --cache-dir"
        ) from None
    except sqlite3.Error as error:
        if is_fault(error):
            return None, error
        raise UsageError(
            f"the index in cache folder {config.directory} cannot be used: {error}; choose another --cache-dir"
        ) from None
