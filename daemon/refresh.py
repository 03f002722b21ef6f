"""``s3stream-fs refresh``: has a mount's daemon ask again for names that it knows, before their time to live is over.

Owns the command and the daemon's side of its session. What is asked for is namespace.refresh's.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from s3stream_daemon.cache import printable
from s3stream_daemon.control import Conversation, Tell
from s3stream_daemon.exits import ExitCode
from s3stream_daemon.paths import MountedPaths, by_mount
from s3stream_fs.statistics import as_dict

if TYPE_CHECKING:
    from s3stream_fs.namespace.refresh import RefreshProgress

_TELL_SECONDS: Final = 0.2
"""How often the daemon says how far it is."""

_SILENCE_SECONDS: Final = 30.0
"""A daemon that says nothing for so long is taken for one that hangs."""

Run = Callable[[bytes, Callable[["RefreshProgress"], None]], Awaitable[None]]


# The daemon's side


async def answer_refresh(
    run: Run, request: Mapping[str, object], lines: AsyncIterator[object], tell: Tell
) -> dict[str, Any]:
    """A session: ``path``, relative to the mount, is refreshed, and the progress told. Returns the last of it."""
    path = request.get("path")
    progress: list[RefreshProgress] = []

    async def say() -> None:
        with suppress(OSError, trio.BrokenResourceError):  # it went away, but what was begun is of use to others
            while True:
                await trio.sleep(_TELL_SECONDS)
                await tell({"progress": as_dict(progress[0])})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        await run(os.fsencode(path) if isinstance(path, str) else b"", progress.append)
        nursery.cancel_scope.cancel()
    return dict(as_dict(progress[0]))


# The command's side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file or a directory in a mount, with all below it")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Raises ExitError."""
    code = ExitCode.OK
    for mounted in list(by_mount(arguments.paths)):
        for path in mounted.paths:
            result = _refresh(mounted, path)
            name = os.fspath(mounted.mountpoint / path)
            print(json.dumps({"path": name, **result}) if arguments.json else f"{printable(name)}: {_told(result)}")
            if result["ndirectories_failed"]:
                code = ExitCode.INCOMPLETE
    return code


def _refresh(mounted: MountedPaths, path: str) -> dict[str, Any]:
    from tqdm import tqdm  # 50 ms, which no other command shall wait for

    with (
        Conversation(
            mounted.socket, {"command": "refresh", "path": path}, timeout_seconds=_SILENCE_SECONDS
        ) as conversation,
        tqdm(desc="listing", unit=" directories", disable=None, leave=False) as bar,
    ):

        def told(message: dict[str, Any]) -> None:
            progress = message["progress"]
            bar.total = progress["ndirectories_found"]
            bar.update(progress["ndirectories_done"] - bar.n)

        result: dict[str, Any] = conversation.result(told)
        return result


def _told(result: Mapping[str, Any]) -> str:
    failed = result["ndirectories_failed"]
    return (
        f"{result['ndirectories_done']:,} directories listed again; {result['nadded']:,} names added,"
        f" {result['nremoved']:,} removed, {result['nreplaced']:,} replaced"
        + (f"; {failed:,} directories could not be listed" if failed else "")
    )
