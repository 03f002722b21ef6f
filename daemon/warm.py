"""``s3stream-fs warm``: has a mount's daemon fetch files into its cache before they are read, and shows how far it is.

Owns the command and the daemon's side of its session. What is fetched, and in which order, is filesystem.warming's.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from s3stream_daemon import background
from s3stream_daemon.cache import printable
from s3stream_daemon.control import Conversation, Tell
from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_daemon.folders import current_folders, log_name
from s3stream_daemon.logs import configure_logs, prepare_log_folder
from s3stream_daemon.paths import MountedPaths, by_mount
from s3stream_fs.statistics import as_dict, size_text

if TYPE_CHECKING:
    from s3stream_fs.filesystem.warming import Warming

log = logging.getLogger(__name__)

_TELL_SECONDS: Final = 0.2
"""How often the daemon says how far it is."""

_SILENCE_SECONDS: Final = 30.0
"""A daemon that says nothing for so long is taken for one that hangs."""

_PATHS_AT_ONCE: Final = 100


# The daemon's side


async def answer_warm(
    start: Callable[..., Warming], request: Mapping[str, object], lines: AsyncIterator[object], tell: Tell
) -> dict[str, Any]:
    """A session: paths come in ``lines``, relative to the mount; progress and failures are told. Returns the last."""
    warming = start(dry=request.get("dry_run") is True)
    sending, receiving = trio.open_memory_channel[bytes](_PATHS_AT_ONCE)
    failures: deque[tuple[str, str]] = deque()
    finished = trio.Event()

    def failed(path: bytes, why: str) -> None:
        failures.append((os.fsdecode(path), why))

    async def say(message: object) -> None:
        with trio.fail_after(_SILENCE_SECONDS):  # a client that was stopped shall not hold its place for ever
            await tell(message)

    async def say_all_the_time() -> None:
        while not finished.is_set():
            with trio.move_on_after(_TELL_SECONDS):
                await finished.wait()
            while failures:
                await say({"failed": failures[0]})
                failures.popleft()
            await say({"progress": as_dict(warming.progress)})

    async def receive() -> None:
        async with sending:
            async for line in lines:
                if line is None:
                    return
                await sending.send(os.fsencode(line) if isinstance(line, str) else b"\0")
        nursery.cancel_scope.cancel()  # the client went away before it had said all

    async def talk() -> None:
        try:
            await say_all_the_time()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            nursery.cancel_scope.cancel()  # it went away, and nobody else wants this

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(talk)
        await warming.run(receiving, failed)
        finished.set()
    if nursery.cancel_scope.cancelled_caught:
        raise trio.BrokenResourceError("the client went away")
    return dict(as_dict(warming.progress))


# The command's side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a file or a directory in a mount, with all below it")
    parser.add_argument(
        "--list", metavar="FILE", help="paths from a file, one on each line; - reads standard input", dest="list_file"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="fetch nothing; tell bytes, requests and what would not fit"
    )
    parser.add_argument("--background", action="store_true", help="go on in the background, and log how it went")
    parser.add_argument("--json", action="store_true", help="the result as JSON, sizes in bytes")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Raises ExitError."""
    works = list(by_mount([*arguments.paths, *_listed(arguments.list_file)]))
    if not works:
        raise ExitError("what shall be warmed? Name files or directories in a mount, or --list FILE")
    if not arguments.background:
        return _warm_all(works, arguments)
    folders = current_folders()
    log_file = folders.logs / f"warm-{log_name(works[0].mountpoint)}"
    prepare_log_folder(log_file, folders.logs)

    def daemon(pipe: background.Pipe) -> ExitCode:
        configure_logs("info", log_file, stderr=False)
        pipe.ready()
        try:
            return _warm_all(works, arguments)
        except ExitError as error:
            log.error("%s", error)
            return error.code

    background.run_in_background(daemon, waiting_for="the daemon", log_file=log_file)
    print(f"warming goes on in the background; its log is {log_file}")
    return ExitCode.OK


def _warm_all(works: list[MountedPaths], arguments: argparse.Namespace) -> ExitCode:
    code = ExitCode.OK
    for work in works:
        result, limit_nbytes = _warm(work, arguments)
        if arguments.json:
            print(json.dumps({"mountpoint": str(work.mountpoint), "dry_run": arguments.dry_run, **result}))
        else:
            told = _told(result, arguments.dry_run, limit_nbytes)
            log.info("%s: %s", work.mountpoint, told)
            print(told)
        if result["nfiles_failed"]:
            code = ExitCode.INCOMPLETE
    return code


def _warm(work: MountedPaths, arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    with Conversation(work.socket, {"command": "stats"}) as conversation:
        limit_nbytes = conversation.result(lambda _: None)["disk"]["limit_nbytes"]
    request = {"command": "warm", "dry_run": arguments.dry_run}
    with (
        Conversation(work.socket, request, timeout_seconds=_SILENCE_SECONDS) as conversation,
        _Bar("counting" if arguments.dry_run else "warming") as bar,
    ):

        def send() -> None:
            try:
                for path in work.paths:
                    conversation.send(path)
                conversation.send(None)
            except ExitError:
                pass  # whoever waits for the result is told

        sender = threading.Thread(target=send, daemon=True)
        sender.start()

        def told(message: dict[str, Any]) -> None:
            if "failed" in message:
                path, why = message["failed"]
                line = one_line(f"{printable(str(work.mountpoint / path))}: {why}")
                if arguments.background:
                    log.warning("%s", line)
                else:
                    bar.write(line)
            elif "progress" in message:
                bar.show(message["progress"])

        return conversation.result(told), limit_nbytes


class _Bar:
    """Bytes, rate and time left, on a terminal; nothing elsewhere. Failures go to standard error in any case."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> _Bar:
        from tqdm import tqdm  # 50 ms, which no other command shall wait for

        self._bar = tqdm(desc=self._what, unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def show(self, progress: Mapping[str, Any]) -> None:
        self._bar.total = progress["nbytes_found"]
        files = f"{progress['nfiles_done']:,}/{progress['nfiles_found']:,}{'' if progress['listed'] else '+'} files"
        self._bar.set_postfix_str(files, refresh=False)
        self._bar.update(progress["nbytes_done"] - self._bar.n)
        self._bar.refresh()

    def write(self, line: str) -> None:
        self._bar.write(f"s3stream-fs: {line}", file=sys.stderr)


def _told(result: Mapping[str, Any], dry: bool, limit_nbytes: int) -> str:
    found = f"{size_text(result['nbytes_found'])} in {result['nfiles_found']:,} files"
    missing = result["nbytes_found"] - result["nbytes_had"]
    if dry:
        excess = max(result["nbytes_found"] - limit_nbytes, 0)
        fits = f"{size_text(excess)} would not fit" if excess else "all of it fits"
        return (
            f"{found}, of which {size_text(result['nbytes_had'])} are cached; {size_text(missing)} would take"
            f" {result['gets']:,} requests; the cache may take {size_text(limit_nbytes)}: {fits}"
        )
    failed = f"; {result['nfiles_failed']:,} files did not come" if result["nfiles_failed"] else ""
    excess = max(result["nbytes_found"] - limit_nbytes, 0)
    evicted = f"; {result['nfiles_evicted']:,} cached files were evicted for them" if result["nfiles_evicted"] else ""
    too_small = f"; the cache takes {size_text(limit_nbytes)}: {size_text(excess)} did not fit" if excess else ""
    return (
        f"{size_text(result['nbytes_done'])} in {result['nfiles_done']:,} files are cached, of which"
        f" {size_text(result['nbytes_had'])} were before{failed}{evicted}{too_small}"
    )


def _listed(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ExitError(f"cannot read the list {file}: {error.strerror}") from None
    return [os.fsdecode(line) for line in data.splitlines() if line.strip()]
