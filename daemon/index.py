"""``s3stream-fs index``: writes a snapshot, from a bucket's listing or from an S3 Inventory report of it.

Owns the command: what may be replaced, progress, signals, the result. How a bucket is walked is namespace.survey's,
what a snapshot is store.snapshot's.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import signal
import stat
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import trio

from s3stream_daemon.config import store_of
from s3stream_daemon.exits import ExitCode, ExitError, ending_with, one_line, usage_error_in
from s3stream_daemon.folders import current_folders
from s3stream_daemon.partial import partial, publish
from s3stream_daemon.settings import CONFIG_VARIABLE, Settings, find_config_file, merge
from s3stream_daemon.source import Object, Source, is_url, parse_object, parse_source
from s3stream_fs.statistics import size_text
from s3stream_fs.store.snapshot.store import HEADER_NBYTES, SnapshotInfo, is_snapshot

if TYPE_CHECKING:
    from s3stream_fs.store import Bucket
    from s3stream_fs.store.snapshot.draft import SnapshotDraft
    from s3stream_fs.store.snapshot.inventory import Inventory, InventoryFile

OPTIONS: Final = (
    "source",
    "endpoint-url",
    "region",
    "profile",
    "no-sign-request",
    "requester-pays",
    "addressing",
    "ca-bundle",
    "no-verify-tls",
    "dual-stack",
    "fips",
    "expected-bucket-owner",
    "read-deadline",
)
"""Those of the mount's options that say how a bucket is reached."""

EPILOG: Final = """\
FILE is replaced if it is a snapshot, and only once the new one is whole; docs/SNAPSHOTS.md describes the format.

"""

_FIRST_SECONDS: Final = 15.0
"""How long the bucket is tried to be reached; what comes later is tried for as long as a read is."""

_BATCH: Final = 1000


@dataclass(slots=True)
class _Told:
    """What the bar shows."""

    nobjects: int = 0
    requests: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the snapshot to write")
    parser.add_argument(
        "--inventory",
        metavar="MANIFEST",
        help="list nothing, take what this manifest.json of an S3 Inventory report (CSV) names: a file or s3://BUCKET/KEY;"
        " SOURCE may be left out, or choose a part of it",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE also where it is no snapshot")
    parser.add_argument("--json", action="store_true", help="the result as JSON, sizes in bytes")
    parser.add_argument("--config", metavar="FILE", help=f"TOML file with options (environment: {CONFIG_VARIABLE})")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Raises ExitError."""
    config_file = find_config_file(arguments.config, os.environ, current_folders().configs)
    settings = merge(arguments.given, os.environ, config_file)
    text = settings["source"].value
    source = parse_source(text) if isinstance(text, str) else None
    if source is None and arguments.inventory is None:
        raise ExitError("of what? Write: s3stream-fs index s3://BUCKET[/PREFIX] -o FILE")
    output = Path(os.path.realpath(Path(arguments.output).expanduser()))
    _check_replaceable(output, force=arguments.force)
    # SQLite sorts in files of its own; beside FILE there is room for them, where /tmp may be memory.
    os.environ.setdefault("SQLITE_TMPDIR", str(output.parent))
    started = time.monotonic()
    with _Bar() as bar:
        info, told = _written(output, settings, source, arguments.inventory, bar)
    seconds = time.monotonic() - started
    if arguments.json:
        row = {name: value for name, value in dataclasses.asdict(info).items() if name not in ("nobjects", "nbytes")}
        result = {"file": str(output), **row, "objects": info.nobjects, "bytes": info.nbytes}
        print(json.dumps(result | {"requests": told.requests, "seconds": round(seconds, 3)}))
    else:
        of = one_line(f"s3://{info.bucket}/{info.prefix}")
        print(
            f"{output}: {info.nobjects:,} objects of {of}, {size_text(info.nbytes)};"
            f" {told.requests:,} requests, {seconds:.1f} s"
        )
    return ExitCode.OK


def _check_replaceable(output: Path, *, force: bool) -> None:
    try:
        status = output.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ExitError(f"{output} is not a file")
        with output.open("rb") as file:
            header = file.read(HEADER_NBYTES)
    except FileNotFoundError:
        if not output.parent.is_dir():
            raise ExitError(f"there is no folder {output.parent}", ExitCode.SNAPSHOT) from None
        return
    except OSError as error:
        raise ExitError(f"cannot write {output}: {error.strerror}", ExitCode.SNAPSHOT) from None
    if header and not force and not is_snapshot(header):
        raise ExitError(f"{output} is there already and is no snapshot; --force replaces it")


def _written(
    output: Path, settings: Settings, source: Source | None, inventory: str | None, bar: _Bar
) -> tuple[SnapshotInfo, _Told]:
    from s3stream_fs.store.snapshot.draft import SnapshotDraft

    async def write() -> tuple[SnapshotInfo, _Told]:
        name = output.name[:100]
        with partial(output.parent, name) as path, partial(output.parent, f"{name}.stage") as stage:
            draft = SnapshotDraft(path, stage)
            try:
                if inventory is None:
                    assert source is not None
                    result = await _survey(draft, settings, source, bar)
                else:
                    result = await _take_inventory(draft, settings, source, inventory, stage.parent, bar)
            finally:
                draft.close()
            publish(path, output)
        return result

    try:
        with ending_with(ExitCode.SNAPSHOT):
            return trio.run(_until_stopped, write)
    except BaseExceptionGroup as group:
        mistake = usage_error_in(group)
        if mistake is not None:
            raise ExitError(str(mistake), getattr(mistake, "code", ExitCode.SNAPSHOT)) from None
        _, others = group.split(OSError)
        if others is not None:
            raise
        raise ExitError(f"cannot write {output}: {_reason(group)}", ExitCode.SNAPSHOT) from None
    except OSError as error:
        raise ExitError(f"cannot write {output}: {error.strerror}", ExitCode.SNAPSHOT) from None


def _reason(error: BaseException) -> str:
    """What the first error of the system in a group says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)


async def _until_stopped(work: Callable[[], Awaitable[tuple[SnapshotInfo, _Told]]]) -> tuple[SnapshotInfo, _Told]:
    """Raises KeyboardInterrupt where a signal says stop, once ``work`` has cleaned up."""
    result = None

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        result = await work()
        nursery.cancel_scope.cancel()
    if result is None:
        raise KeyboardInterrupt
    return result


# From a listing


async def _survey(draft: SnapshotDraft, settings: Settings, source: Source, bar: _Bar) -> tuple[SnapshotInfo, _Told]:
    # Here and not above: they take half a second, for which no other command shall wait.
    from s3stream_daemon.startup import startup_error
    from s3stream_fs.errors import StoreError
    from s3stream_fs.namespace.survey import Survey
    from s3stream_fs.store.retry import RetryingStore, RetryPolicy
    from s3stream_fs.store.rooms import connect, open_bucket
    from s3stream_fs.types import ListPage, ObjectInfo

    connection = connect(source.scheme, store_of(settings, source.bucket), os.environ)
    told = _Told()
    taken_ns = time.time_ns()

    async def probe(bucket: Bucket) -> None:
        first = RetryingStore(bucket, RetryPolicy(deadline_seconds=_FIRST_SECONDS))
        await first.list_page(source.prefix, limit=1)

    try:
        async with open_bucket(source.scheme, connection, probe) as s3:
            store = RetryingStore(s3, RetryPolicy(deadline_seconds=_seconds(settings)))

            async def list_page(prefix: str, *, token: str | None, after: str, flat: bool) -> ListPage:
                page = await store.list_page(prefix, token=token, after=after, flat=flat)
                told.requests = s3.lists
                return page

            def take(infos: tuple[ObjectInfo, ...]) -> None:
                draft.add(infos)
                told.nobjects = draft.nobjects
                bar.show(told)

            await Survey(source.prefix, list_page, take).run()
    except StoreError as error:
        raise startup_error(error, source, connection) from None
    bar.sorting(told)
    endpoint = connection.endpoint_url or ""
    return await draft.finish(source.bucket, source.prefix, endpoint, taken_ns), told


# From an inventory


async def _take_inventory(
    draft: SnapshotDraft, settings: Settings, source: Source | None, place: str, folder: Path, bar: _Bar
) -> tuple[SnapshotInfo, _Told]:
    from s3stream_daemon.download import open_downloader
    from s3stream_fs.store.rooms import connect
    from s3stream_fs.store.snapshot.inventory import MAX_MANIFEST_NBYTES, parse_manifest

    told = _Told()
    async with AsyncExitStack() as stack:
        downloader = None
        manifest: Path | Object
        if is_url(place):
            manifest = parse_object(place)
            there = connect(manifest.scheme, store_of(settings, manifest.bucket), os.environ)
            downloader = await stack.enter_async_context(open_downloader(there, manifest, _seconds(settings)))
            told.requests += 1
            data = await downloader.read(manifest, MAX_MANIFEST_NBYTES)
        else:
            manifest, data = _local_manifest(place)
        with ending_with(ExitCode.SNAPSHOT):
            inventory = parse_manifest(data)
        prefix = "" if source is None else source.prefix
        if source is not None and source.bucket != inventory.bucket:
            raise ExitError(
                f"the inventory {place} is of s3://{one_line(inventory.bucket)}, not of {source}", ExitCode.SNAPSHOT
            )
        for listed in inventory.files:
            if downloader is None:
                assert isinstance(manifest, Path)
                local = _beside(manifest, listed)
                with _reading(local), local.open("rb") as file:
                    await _take_file(draft, inventory, listed, file, prefix, told, bar)
                continue
            assert isinstance(manifest, Object)
            with partial(folder, "inventory") as path, path.open("r+b") as file:
                where = Object(manifest.bucket, listed.key)
                await downloader.download(where, file.fileno(), lambda done, total: None)
                told.requests += 1
                await _take_file(draft, inventory, listed, file, prefix, told, bar)
    bar.sorting(told)
    endpoint = connect("s3", store_of(settings, inventory.bucket), os.environ).endpoint_url or ""
    return await draft.finish(inventory.bucket, prefix, endpoint, inventory.created_ns), told


async def _take_file(
    draft: SnapshotDraft,
    inventory: Inventory,
    listed: InventoryFile,
    file: BinaryIO,
    prefix: str,
    told: _Told,
    bar: _Bar,
) -> None:
    from s3stream_fs.store.snapshot.inventory import read_objects

    def work() -> None:
        # The file's bytes are the report's before one row of them counts.
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1024**2):
            digest.update(piece)
            trio.from_thread.check_cancelled()
        if digest.hexdigest() != listed.md5:
            raise ExitError(
                f"the inventory's file {one_line(listed.key)} is damaged: its MD5 is not the manifest's",
                ExitCode.SNAPSHOT,
            )
        file.seek(0)
        infos = (info for info in read_objects(inventory, file) if info.id.key.startswith(prefix))
        while batch := list(islice(infos, _BATCH)):
            draft.add(batch)
            told.nobjects = draft.nobjects
            trio.from_thread.check_cancelled()
            trio.from_thread.run_sync(bar.show, told)

    await trio.to_thread.run_sync(work)


def _local_manifest(place: str) -> tuple[Path, bytes]:
    from s3stream_fs.store.snapshot.inventory import MAX_MANIFEST_NBYTES

    path = Path(place).expanduser()
    with _reading(path), path.open("rb") as file:
        return path, file.read(MAX_MANIFEST_NBYTES)


def _beside(manifest: Path, listed: InventoryFile) -> Path:
    """Where a report that was copied has its files: as in the bucket (.../data/), or beside the manifest."""
    name = listed.key.rpartition("/")[2]
    for folder in (manifest.parent.parent / "data", manifest.parent / "data", manifest.parent):
        if name not in ("", ".", "..") and (folder / name).is_file():
            return folder / name
    raise ExitError(
        f"the inventory's file {one_line(name)} is neither beside {manifest} nor in a folder data there or above",
        ExitCode.SNAPSHOT,
    )


@contextmanager
def _reading(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise ExitError(f"cannot read {path}: {error.strerror}", ExitCode.SNAPSHOT) from None


def _seconds(settings: Settings) -> float:
    value = settings["read_deadline"].value
    assert isinstance(value, float)
    return value


class _Bar:
    """Objects, rate and requests, on a terminal; nothing elsewhere."""

    def __enter__(self) -> _Bar:
        from tqdm import tqdm  # 50 ms, which no other command shall wait for

        self._bar = tqdm(desc="indexing", unit=" objects", unit_scale=True, disable=None, leave=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def show(self, told: _Told) -> None:
        self._bar.set_postfix_str(f"{told.requests:,} requests", refresh=False)
        self._bar.update(told.nobjects - self._bar.n)

    def sorting(self, told: _Told) -> None:
        self._bar.set_description_str("sorting")
        self._bar.set_postfix_str(f"{told.requests:,} requests")
