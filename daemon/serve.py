"""The composition root: builds the house from its floors, one AsyncExitStack, and takes it down in reverse.

Owns the trio run, the signals and the order of start and end. Holds no policy of its own.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from s3stream_daemon.allocator import give_memory_back, keep_memory_small
from s3stream_daemon.check import check_bucket
from s3stream_daemon.config import MountConfig
from s3stream_daemon.control import control_path, serve_control
from s3stream_daemon.descriptors import raise_descriptor_limit, shares_of
from s3stream_daemon.exits import ExitCode, ending_with, usage_error_in
from s3stream_daemon.memory import parts_nbytes
from s3stream_daemon.notify import notify
from s3stream_daemon.reclaim import keep_out_of_reclaim, waits_for_itself
from s3stream_daemon.refresh import answer_refresh
from s3stream_daemon.snapshot import open_snapshot
from s3stream_daemon.startup import startup_error
from s3stream_daemon.tuning import tune_kernel
from s3stream_daemon.warm import answer_warm
from s3stream_fs import __version__
from s3stream_fs.bindings import Session, native_binding
from s3stream_fs.bindings.device import MountOptions
from s3stream_fs.bindings.native.opening import Opening
from s3stream_fs.cache.disk.folder import BLOCKS
from s3stream_fs.cache.disk.index import NAMES
from s3stream_fs.cache.disk.opening import open_disk_tier
from s3stream_fs.cache.disk.tier import DiskTier
from s3stream_fs.cache.memory.tier import MemoryTier
from s3stream_fs.errors import StoreError, UsageError
from s3stream_fs.fetch.fetcher import Fetcher
from s3stream_fs.fetch.scheduler import FetchConfig
from s3stream_fs.filesystem.filesystem import FileSystem, FileSystemConfig
from s3stream_fs.filesystem.warming import Warming
from s3stream_fs.namespace.archive import Archive, ArchiveConfig, open_archive
from s3stream_fs.namespace.inodes import InodeTable
from s3stream_fs.namespace.scratch import Scratch
from s3stream_fs.namespace.shelf import open_shelf
from s3stream_fs.namespace.tree import Tree
from s3stream_fs.reading.reader import Reader
from s3stream_fs.reading.stream import ReadAheadConfig
from s3stream_fs.store import Bucket, Connection, ObjectStore
from s3stream_fs.store.congestion import Congestion
from s3stream_fs.store.retry import RetryingStore, RetryPolicy
from s3stream_fs.store.rooms import open_bucket
from s3stream_fs.store.snapshot.store import SnapshotStore

log = logging.getLogger(__name__)

_NAMES_NBYTES: Final = 256 * 1024**2
"""Names in memory: four million. Others lie in the cache folder until they are asked for."""

_NAMES_FRACTION: Final = 1 / 4
"""Of the cache's size, for those others: what does not fit is listed anew when somebody asks for it."""

_NAMES_AHEAD_NBYTES: Final = 16 * 1024**2
"""Room that is held free for them, since nobody may wait for it: 0.3 million names, which a second lists."""

_LEAST_ARCHIVED_SECONDS: Final = 5.0
"""With a shorter time to live no listing is of use to the next process."""

_MOST_ARCHIVED_NBYTES: Final = 1024**3
"""Of listings for the next process: 16 million names. They count as part of the cache."""

_ARCHIVED_FRACTION: Final = 1 / 8
"""Of the cache's size, for these at the most."""

_GC_THRESHOLD: Final = 5_000
"""New objects before the collector looks at them. At Python's default of 700 it took 7 % of a cold small file."""


_FROZEN_BY_TTL: Final = "names are frozen by --metadata-ttl inf; s3stream-fs refresh shows what there is now"
_FROZEN_BY_INDEX: Final = "names are those of the snapshot; take a new one with s3stream-fs index, and mount that"


def run(
    config: MountConfig, connection: Connection, on_ready: Callable[[], None], on_progress: Callable[[str], None]
) -> None:
    """Mount what ``connection`` reaches and answer the kernel until somebody unmounts or a signal says stop.

    Calls ``on_ready`` once the mount can be used, ``on_progress`` where that takes long. Raises UsageError for
    what the user can mend.
    """
    keep_memory_small()
    shares = shares_of(raise_descriptor_limit())
    config = replace(
        config,
        disk=replace(config.disk, most_open_files=shares.files),
        max_in_flight=min(config.max_in_flight, shares.connections),
    )
    kept_out = keep_out_of_reclaim()
    # What has been imported stays for ever, and a request makes no cycles: no need to look at either every 700 objects.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        trio.run(_serve, config, connection, on_ready, on_progress, kept_out)
    except BaseExceptionGroup as group:
        # A nursery wraps what ends it; the user's mistake in it is what has to be told.
        mistake = usage_error_in(group)
        if mistake is None:
            raise
        raise mistake from None


async def _serve(
    config: MountConfig,
    connection: Connection,
    on_ready: Callable[[], None],
    on_progress: Callable[[str], None],
    kept_out: bool,
) -> None:
    source = str(config.source)
    async with AsyncExitStack() as stack:
        for line in connection.warnings:
            log.warning("%s", line)
        file = None
        if config.index is not None:
            file = await stack.enter_async_context(open_snapshot(config.index, config, connection, on_progress))

        async def check(bucket: Bucket) -> None:
            await check_bucket(bucket, config.source, None if file is None else SnapshotStore(file, bucket))

        try:
            s3 = await stack.enter_async_context(open_bucket(config.source.scheme, connection, check))
        except StoreError as error:
            raise startup_error(error, config.source, connection) from None
        congestion = Congestion(config.max_in_flight)
        retrying = RetryingStore(s3, RetryPolicy(deadline_seconds=config.read_deadline_seconds))
        store: ObjectStore = retrying
        data: ObjectStore = s3
        sections: dict[str, Callable[[], object]] = {}
        if file is not None:
            # Outside of the retries: a file that is damaged is so the next time too.
            snapshot = store = SnapshotStore(file, retrying)
            data = SnapshotStore(file, s3)
            sections["snapshot"] = snapshot.statistics
        space = s3.connection.space
        with ending_with(ExitCode.CACHE):
            disk = await stack.enter_async_context(open_disk_tier(config.disk, space))

        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(s3.keep_credentials)
        memory = MemoryTier(parts_nbytes(config.memory_limit_nbytes))
        scratch = Scratch(config.disk.directory, disk.allow(_NAMES_FRACTION, _NAMES_AHEAD_NBYTES))
        shelf = await stack.enter_async_context(open_shelf(scratch, _NAMES_NBYTES))
        archive = await stack.enter_async_context(_archive(config, disk, space))
        tree = Tree(
            store,
            shelf,
            archive,
            ttl_seconds=config.metadata_ttl_seconds,
            frozen=_FROZEN_BY_TTL if config.index is None else _FROZEN_BY_INDEX,
            nursery=nursery,
        )
        fetcher = Fetcher(
            data,
            memory,
            disk,
            FetchConfig(hedging=config.hedging),
            congestion,
            nursery,
            tree.outdated_nowait,
            retrying.retries,
        )
        reader = Reader(fetcher, ReadAheadConfig(), memory.limit_nbytes)
        inodes = InodeTable(config.source.prefix)
        nursery.start_soon(give_memory_back, config.memory_limit_nbytes, lambda: inodes.forgotten)
        filesystem = FileSystem(
            tree,
            inodes,
            reader,
            disk,
            FileSystemConfig(
                attributes=config.attributes,
                metadata_ttl_seconds=config.metadata_ttl_seconds,
                deadline_seconds=config.read_deadline_seconds,
                mounted_at_ns=time.time_ns(),
            ),
        )

        sections |= {
            "filesystem": filesystem.statistics,
            "reading": reader.statistics,
            "fetch": fetcher.statistics,
            "congestion": congestion.statistics,
            "memory": memory.statistics,
            "disk": disk.statistics,
            "namespace": tree.statistics,
            "shelf": shelf.statistics,
            **({"archive": archive.statistics} if archive is not None else {}),
            "inodes": inodes.statistics,
            "retries": retrying.statistics,
            "s3": s3.statistics,
        }

        def statistics() -> dict[str, object]:
            header = {"version": __version__, "source": source, "mountpoint": str(config.mountpoint)}
            return header | {name: section() for name, section in sections.items()}

        def cache() -> dict[str, str]:
            return {"directory": str(config.disk.directory), "space": space, "prefix": config.source.prefix}

        def warming(*, dry: bool) -> Warming:
            return Warming(tree, fetcher, disk, config.source.prefix, dry=dry)

        await nursery.start(
            serve_control,
            control_path(config.mountpoint),
            {"stats": statistics, "cache": cache},
            {"warm": partial(answer_warm, warming), "refresh": partial(answer_refresh, filesystem.refresh)},
        )
        with ending_with(ExitCode.FUSE):
            session = await stack.enter_async_context(_mounted(filesystem, config, kept_out))
        sections["kernel"] = session.statistics
        answering = trio.CancelScope()
        await nursery.start(_cancel_on_signal, answering)
        with answering:
            async with trio.open_nursery() as kernel:
                kernel.start_soon(_serve_kernel, session)
                await session.wait_ready()
                tune_kernel(config.mountpoint, background=config.binding == "pyfuse3")
                log.info("mounted %s on %s", source, config.mountpoint)
                notify("READY=1")
                on_ready()
        notify("STOPPING=1")
        log.info("unmounted %s from %s", source, config.mountpoint)


def _archive(config: MountConfig, disk: DiskTier, space: str) -> AbstractAsyncContextManager[Archive | None]:
    """Listings that outlive this process, where names are valid for long enough and are not a snapshot's."""
    ttl_seconds = config.metadata_ttl_seconds
    if ttl_seconds < _LEAST_ARCHIVED_SECONDS or config.index is not None:
        return nullcontext()
    path = config.disk.directory / BLOCKS / NAMES
    limit_nbytes = min(int(config.disk.limit_nbytes * _ARCHIVED_FRACTION), _MOST_ARCHIVED_NBYTES)
    return open_archive(ArchiveConfig(path, space, limit_nbytes, disk.allow(_ARCHIVED_FRACTION).held), ttl_seconds)


async def _serve_kernel(session: Session) -> None:
    with ending_with(ExitCode.FUSE):
        await session.serve()


def _mounted(filesystem: FileSystem, config: MountConfig, kept_out: bool) -> AbstractAsyncContextManager[Session]:
    """The mount by the binding that was chosen."""
    options = MountOptions(str(config.source), config.allow_other)
    if config.binding == "native":
        frozen = math.isinf(config.metadata_ttl_seconds)
        opening = Opening(config.open_mode, unasked_is_safe=kept_out or not waits_for_itself(os.uname().release))
        return native_binding.mounted(filesystem, config.mountpoint, options, opening, frozen=frozen)
    try:
        from s3stream_fs.bindings import pyfuse3_binding  # an extra, which need not be installed
    except ImportError as error:
        raise UsageError(
            f"--binding pyfuse3 cannot be used ({error}); pip install 's3stream-fs[pyfuse3]' brings it"
        ) from None
    return pyfuse3_binding.mounted(filesystem, config.mountpoint, options)


async def _cancel_on_signal(
    answering: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """A signal ends the mount, however busy: readers that wait are let go with an error."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            answering.cancel()
