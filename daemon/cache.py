"""``s3stream-fs cache``: looks at a cache folder, and changes it by hand. No daemon need run, and all may.

Owns where a target leads and what is printed. Knows no file and no table of the cache: that is cache.catalog's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3stream_daemon.config import canonical
from s3stream_daemon.control import find_control, request
from s3stream_daemon.exits import ExitCode, ExitError, ending_with, one_line
from s3stream_daemon.folders import current_folders
from s3stream_daemon.mountpoint import Mount, read_mounts
from s3stream_daemon.source import parse_source
from s3stream_fs.cache.disk.catalog import Catalog, is_pinned
from s3stream_fs.cache.disk.folder import BLOCKS, INDEX
from s3stream_fs.cache.disk.rows import CachedObject, Selection
from s3stream_fs.statistics import as_dict, size_text
from s3stream_fs.store.s3.config import AWS
from s3stream_fs.types import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Target:
    """A cache folder, and what of it is meant. ``space`` may be the end of its name: ``/BUCKET``; "" means all."""

    directory: Path
    space: str = ""
    prefix: str = ""

    def means(self, space: str) -> bool:
        return space.endswith(self.space) if self.space.startswith("/") else self.space in ("", space)

    def __str__(self) -> str:
        if not self.space:
            return str(self.directory)
        return shown(self.space, self.prefix)


def shown(space: str, key: str) -> str:
    """A key, or a prefix, as people write it."""
    return f"s3://{space.rpartition('/')[2]}/{key}"


def add_parsers(commands: Any, add: Any) -> None:
    """``add`` makes one command, as in ``cli``."""
    info = add(commands, "info", _info, "tell what a cache holds")
    ls = add(commands, "ls", _ls, "list the objects of which something is cached")
    clear = add(commands, "clear", _clear, "remove what is cached, what is pinned too")
    verify = add(commands, "verify", _verify, "read everything, and drop what is not what was written")
    pin = add(commands, "pin", _pin, "never evict what begins with a prefix, whether it is cached already or will be")
    unpin = add(commands, "unpin", _unpin, "let what was pinned be evicted again")
    for command in (info, ls, clear, verify, pin, unpin):
        command.add_argument(
            "target",
            metavar="TARGET",
            nargs=None if command in (pin, unpin) else "?",
            help="s3://BUCKET/PREFIX, a path in a mount, or a cache folder"
            + ("" if command in (pin, unpin) else " (default: all of the cache)"),
        )
        command.add_argument("--cache-dir", metavar="DIR", help="the cache folder (default: the one that mount takes)")
        command.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")
    clear.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _info(arguments: argparse.Namespace) -> ExitCode:
    with _opened(arguments) as (catalog, _, _):
        summary = catalog.summary()
    if arguments.json:
        print(json.dumps(as_dict(summary), indent=2))
        return ExitCode.OK
    rows = {
        "cache folder": str(summary.directory),
        "on disk": f"{size_text(summary.nbytes)} in {summary.nfiles:,} files; the index takes "
        f"{size_text(summary.index_nbytes)} of it",
        "limit": f"{size_text(summary.limit_nbytes)} at the last mount" if summary.limit_nbytes else "none so far",
        "free on its disk": f"{size_text(summary.disk_free_nbytes)} of {size_text(summary.disk_nbytes)}",
        "pinned": f"{size_text(summary.pinned_nbytes)} in {summary.pinned_nfiles:,} files",
    }
    print("\n".join(f"{name:<17} {value}" for name, value in rows.items()))
    for space, (nfiles, nbytes) in summary.spaces.items():
        store, _, bucket = space.rpartition("/")
        bucket, store = printable(bucket), printable(store)
        print(f"s3://{bucket:<12} {size_text(nbytes)} in {nfiles:,} files" + ("" if store == AWS else f"; {store}"))
    for space, prefix in summary.pins:
        print(f"{'pinned':<17} {printable(shown(space, prefix))}")
    return ExitCode.OK


def _ls(arguments: argparse.Namespace) -> ExitCode:
    with _opened(arguments) as (catalog, selection, _):
        if arguments.json:
            print("[", end="")
            for number, cached in enumerate(catalog.objects(selection)):
                print(",\n " if number else "\n ", json.dumps(_as_json(cached)), sep="", end="")
            print("\n]")
        else:
            for cached in catalog.objects(selection):
                print(_line(cached))
    return ExitCode.OK


def _clear(arguments: argparse.Namespace) -> ExitCode:
    with _opened(arguments) as (catalog, selection, target):
        nfiles, nbytes = catalog.count(selection)
        if nfiles and not arguments.yes:
            _agree(f"Remove {size_text(nbytes)} in {nfiles:,} files of {printable(str(target))} from the cache?")
        with _progress("removing", nbytes) as bar:
            removed = catalog.remove(selection, bar.update)
    text = f"removed {size_text(removed.nbytes)} in {removed.nfiles:,} files"
    print(json.dumps(as_dict(removed)) if arguments.json else text)
    return ExitCode.OK


def _verify(arguments: argparse.Namespace) -> ExitCode:
    with _opened(arguments) as (catalog, selection, _):
        _, nbytes = catalog.count(selection)
        with _progress("verifying", nbytes) as bar:
            verified = catalog.verify(selection, bar.update)
    if arguments.json:
        print(json.dumps(as_dict(verified)))
    else:
        print(f"verified {size_text(verified.nbytes)}: {verified.nblocks:,} blocks in {verified.nfiles:,} files")
        if verified.bad_blocks or verified.missing_files:
            print(
                f"dropped {verified.bad_blocks:,} blocks that were not what was written, and {verified.missing_files:,}"
                " files that were not there; they are fetched again when they are read"
            )
    return ExitCode.CACHE if verified.bad_blocks or verified.missing_files else ExitCode.OK


def _pin(arguments: argparse.Namespace) -> ExitCode:
    with _opened(arguments, to_pin=True) as (catalog, selection, target):
        nfiles, nbytes = catalog.pin(selection)
        summary = catalog.summary()
    if arguments.json:
        print(json.dumps({"nfiles": nfiles, "nbytes": nbytes}))
        return ExitCode.OK
    print(f"pinned {printable(str(target))}: {size_text(nbytes)} in {nfiles:,} files are cached so far")
    if summary.limit_nbytes:
        print(f"{size_text(summary.pinned_nbytes)} of {size_text(summary.limit_nbytes)} are pinned in all")
    return ExitCode.OK


def _unpin(arguments: argparse.Namespace) -> ExitCode:
    with _opened(arguments, to_pin=True) as (catalog, selection, target):
        count = catalog.unpin(selection)
    if arguments.json:
        print(json.dumps({"pins": count}))
    else:
        print(f"{count} pins taken back" if count != 1 else "1 pin taken back")
    if not count:
        raise ExitError(f"nothing below {printable(str(target))} is pinned; see: s3stream-fs cache info")
    return ExitCode.OK


# Where a target leads


def locate(text: str | None, cache_dir: str | None) -> Target:
    """What ``text`` means: all of a cache (None), a bucket and prefix, a path in a mount, or a cache folder."""
    directory = Path(cache_dir).expanduser().absolute() if cache_dir is not None else current_folders().cache
    if text is None:
        return Target(directory)
    if "://" in text:
        # Not parse_source's own prefix: what is cached may be one object, and s3://b/img is to find img-0001 too.
        source = parse_source(text)
        return Target(directory, f"/{source.bucket}", text.partition("://")[2].partition("/")[2])
    path = canonical(text)
    mount = mount_above(path)
    if mount is not None:
        return _in_mount(path, mount)
    try:
        if (path / BLOCKS / INDEX).is_file():
            return Target(path)
    except OSError as error:  # another user's
        raise ExitError(f"cache folder {one_line(text)!r} cannot be used: {error.strerror}", ExitCode.CACHE) from None
    raise ExitError(
        f"{one_line(text)!r} is neither s3://BUCKET/PREFIX, nor in a mount of s3stream-fs, nor a cache folder"
    )


def mount_above(path: Path) -> Mount | None:
    """The mount of ours in which ``path`` lies."""
    mounts = [mount for mount in read_mounts() if mount.path == path or mount.path in path.parents]
    deepest = max(mounts, key=lambda mount: len(mount.path.parts), default=None)
    return deepest if deepest is not None and deepest.ours else None


def _in_mount(path: Path, mount: Mount) -> Target:
    socket = find_control(mount.path, current_folders())
    if socket is None:
        raise ExitError(f"the daemon of {mount.path} has no control socket for this user", ExitCode.NOT_MOUNTED)
    cache = request(socket, "cache")
    relative = "" if path == mount.path else os.fspath(path.relative_to(mount.path))
    directory = relative and path.is_dir()
    return Target(Path(cache["directory"]), cache["space"], cache["prefix"] + relative + ("/" if directory else ""))


@contextmanager
def _opened(arguments: argparse.Namespace, *, to_pin: bool = False) -> Iterator[tuple[Catalog, Selection, Target]]:
    target = locate(arguments.target, arguments.cache_dir)
    if to_pin and not target.space:
        raise ExitError("name what is to be pinned: s3://BUCKET/PREFIX, or a path in a mount")
    with ending_with(ExitCode.CACHE), Catalog(target.directory) as catalog:
        spaces = {name: number for name, number in catalog.spaces().items() if target.means(name)}
        if not spaces and to_pin:
            raise ExitError(
                f"nothing of {printable(str(target))} was ever cached in {target.directory}; mount it first"
            )
        selection = Selection(tuple(spaces.values()), target.prefix.encode("utf-8", "surrogateescape"))
        yield catalog, selection if target.space else Selection(), target


# What is shown


def _as_json(cached: CachedObject) -> dict[str, object]:
    store, _, bucket = cached.space.rpartition("/")
    return {
        "store": store,
        "bucket": bucket,
        "key": cached.key.decode("utf-8", "replace"),
        "etag": cached.etag,
        "nbytes": cached.size,
        "nbytes_cached": _nbytes_cached(cached),
        "nbytes_on_disk": cached.nbytes_on_disk,
        "pinned": is_pinned(cached),
        "used": None if is_pinned(cached) else cached.used_ms / 1000,
    }


def _nbytes_cached(cached: CachedObject) -> int:
    return min(cached.nblocks * BLOCK_BYTES, cached.size)


def _line(cached: CachedObject) -> str:
    share = _nbytes_cached(cached) / cached.size if cached.size else 1.0
    used = "pinned" if is_pinned(cached) else time.strftime("%Y-%m-%d %H:%M", time.localtime(cached.used_ms / 1000))
    key = printable(shown(cached.space, cached.key.decode("utf-8", "replace")))
    return f"{size_text(cached.size):>10} {share:>4.0%}  {used:<16}  {key}"


def printable(text: str) -> str:
    """Keys may hold anything; a terminal shall not obey it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _agree(question: str) -> None:
    if not sys.stdin.isatty():
        raise ExitError("there is nobody to ask; add --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise ExitError("nothing was removed", ExitCode.INTERRUPTED)


def _progress(what: str, nbytes: int) -> Any:
    """A bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm  # 50 ms, which no other command shall wait for

    return tqdm(desc=what, total=nbytes, unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False)
