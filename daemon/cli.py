"""The command line: ``s3stream-fs mount | umount | stats | cache | warm | index | version``.

Owns argv, the order of what a command does, and its end: one line on standard error and an exit code. Holds no
knowledge of S3 or FUSE.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from s3stream_daemon import background, cache, index, refresh, warm
from s3stream_daemon.config import Host, MountConfig, build, canonical, free_nbytes, mountpoint_of
from s3stream_daemon.control import DaemonExit, find_control, remove_stale, request
from s3stream_daemon.exits import (
    EXIT_MEANINGS,
    ExitCode,
    ExitError,
    code_of,
    is_interrupt,
    one_line,
    usage_error_in,
)
from s3stream_daemon.folders import check_cache_folder, current_folders
from s3stream_daemon.logs import configure_logs, prepare_log_folder
from s3stream_daemon.memory import allowed_memory_nbytes, read_text
from s3stream_daemon.mountpoint import (
    check_descriptor,
    check_fuse,
    check_mountpoint,
    is_dead,
    mount_at,
    read_mounts,
    unmount,
)
from s3stream_daemon.options import BY_NAME, OPTIONS, Option
from s3stream_daemon.settings import CONFIG_VARIABLE, Given, find_config_file, from_mount_options, merge
from s3stream_fs import __version__
from s3stream_fs.statistics import as_text
from s3stream_fs.store.rooms import connect

if TYPE_CHECKING:
    from s3stream_fs.store import Connection

log = logging.getLogger(__name__)

PROGRAM: Final = "s3stream-fs"

_DAEMON_END_SECONDS: Final = 30.0
"""How long ``umount`` waits for the daemon to write down what it holds; the mount itself is gone by then."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; prints one line for whatever went wrong."""
    # What goes wrong ends in one line; only a mount has a log.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        arguments = _parser().parse_args(argv)
        run: Callable[[argparse.Namespace], ExitCode] = arguments.run
        code = run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Who read our output has seen enough. The interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.OK
    except SystemExit as ending:  # argparse: --help, or a wrong option, which it has told
        return ending.code if isinstance(ending.code, int) else ExitCode.USAGE
    except BaseException as error:
        code, line = _told(error)
        if line:
            print(f"{PROGRAM}: {line}", file=sys.stderr)
        return code


def _told(error: BaseException, log_file: Path | None = None) -> tuple[ExitCode, str]:
    """What ``error`` ends the command with. A bug leaves its traceback in the log."""
    mistake = usage_error_in(error)
    if mistake is not None:
        return code_of(mistake), one_line(str(mistake))
    if is_interrupt(error):
        return ExitCode.INTERRUPTED, ""
    log.critical("bug", exc_info=error)
    place = f"; the traceback is in {log_file}" if log_file else ""
    return ExitCode.BUG, one_line(f"bug: {type(error).__name__}: {error}{place}")


# The commands


def _mount(arguments: argparse.Namespace) -> ExitCode:
    folders = current_folders()
    config_file = find_config_file(arguments.config, os.environ, folders.configs)
    host = Host(os.getuid(), os.getgid(), folders, allowed_memory_nbytes(read_text), free_nbytes)
    config = build(merge(arguments.given, os.environ, config_file), host)
    if config.descriptor is None:
        check_mountpoint(config.mountpoint, read_mounts())
        check_fuse(config.allow_other, uid=os.geteuid())
    else:
        check_descriptor(config.descriptor)
    check_cache_folder(config.disk.directory, config.mountpoint)
    connection = connect(config.source.scheme, config.store, os.environ)
    prepare_log_folder(config.log_file, folders.logs)
    if config.foreground:
        configure_logs(config.log_level, config.log_file, stderr=True)
        os.umask(0o077)
        _serve(config, connection, lambda: None, lambda text: log.info("%s", text))
        return ExitCode.OK

    def daemon(pipe: background.Pipe) -> ExitCode:
        try:
            configure_logs(config.log_level, config.log_file, stderr=False)
            _serve(config, connection, pipe.ready, pipe.progress)
        except BaseException as error:
            code, line = _told(error, config.log_file)
            if code is not ExitCode.BUG:
                log.error("%s", line)
            pipe.failed(code, line)
            return code
        return ExitCode.OK

    keep = () if config.descriptor is None else (config.descriptor,)
    background.run_in_background(daemon, waiting_for=str(config.source), log_file=config.log_file, keep=keep)
    return ExitCode.OK


def _serve(
    config: MountConfig, connection: Connection, on_ready: Callable[[], None], on_progress: Callable[[str], None]
) -> None:
    # Here and not above: the loops and libraries of the daemon must not be alive in the process that forks.
    try:
        serve: Any = import_module("s3stream_daemon.serve")
    except ImportError as error:
        raise ExitError(f"a library is missing or broken: {error}; install {PROGRAM} again", ExitCode.FUSE) from error
    serve.run(config, connection, on_ready, on_progress)


def _umount(arguments: argparse.Namespace) -> ExitCode:
    folders = current_folders()
    path = _mountpoint(arguments)
    mount = mount_at(path, read_mounts())
    if mount is None:
        raise ExitError(f"nothing is mounted on {path}", ExitCode.NOT_MOUNTED)
    if not mount.ours:
        raise ExitError(
            f"{path} holds another file system ({mount.filesystem_type}), not ours; use umount", ExitCode.NOT_MOUNTED
        )
    socket = find_control(path, folders)
    with DaemonExit(socket) as daemon:
        unmount(path, lazy=arguments.lazy)
        # Detached from a mount in use, the daemon serves who is left until they are gone.
        if not arguments.lazy and not daemon.wait(_DAEMON_END_SECONDS):
            raise ExitError(f"{path} is unmounted, but its daemon still runs; see its log", ExitCode.MOUNTPOINT)
    if socket is not None:
        remove_stale(socket)
    return ExitCode.OK


def _stats(arguments: argparse.Namespace) -> ExitCode:
    path = _mountpoint(arguments)
    socket = find_control(path, current_folders())
    try:
        # Before any look at the mount: a daemon that hangs would let that look hang too.
        if socket is None:
            raise ExitError(f"the daemon of {path} has no control socket for this user", ExitCode.NOT_MOUNTED)
        statistics = request(socket, "stats")
    except ExitError:
        mount = mount_at(path, read_mounts())
        if mount is None or not mount.ours:
            raise ExitError(f"no {PROGRAM} mount is on {path}", ExitCode.NOT_MOUNTED) from None
        if is_dead(path):
            raise ExitError(
                f"the daemon of {path} is gone; run: {PROGRAM} umount {path}", ExitCode.NOT_MOUNTED
            ) from None
        raise
    print(json.dumps(statistics, indent=2) if arguments.json else as_text(statistics))
    return ExitCode.OK


def _version(arguments: argparse.Namespace) -> ExitCode:
    print(f"{PROGRAM} {__version__}")
    return ExitCode.OK


def _mountpoint(arguments: argparse.Namespace) -> Path:
    """MOUNTPOINT, or the one that the file of ``--config`` names, as a systemd unit has it."""
    if arguments.mountpoint is not None:
        return canonical(arguments.mountpoint)
    if arguments.config is None:
        raise ExitError("which mount? Name its MOUNTPOINT, or the configuration file that does: --config FILE")
    return mountpoint_of(merge([], {}, find_config_file(arguments.config, {}, ())))


# The parser


class _Parser(argparse.ArgumentParser):
    """argparse, with one line for a mistake."""

    def error(self, message: str) -> NoReturn:
        raise ExitError(f"{one_line(message)}; see {self.prog} --help")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, but names of options and files are not cut at their hyphens."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class _Give(argparse.Action):
    """Collects options as text in the order in which they were written, so that the last one wins."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values is None:
            return
        option: Option = BY_NAME[self.dest]
        text = self.const if self.const is not None else values
        namespace.given = [*namespace.given, Given(option, text, option_string or option.metavar)]


class _GiveMountOptions(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.given = [*namespace.given, *from_mount_options(values)]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="An S3 bucket as a read-only tree of files.",
        epilog=_exit_codes(),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    mount = _command(commands, "mount", _mount, "mount a bucket; returns when it can be used", _mount_epilog())
    mount.set_defaults(given=[])
    for option in OPTIONS:
        _add(mount, option)
    mount.add_argument(
        "-o",
        action=_GiveMountOptions,
        metavar="OPT[,OPT]",
        help="the same options as in /etc/fstab: -o cache-size=20GiB,allow-other; what concerns every file system (ro,"
        " nofail, _netdev, x-systemd.*) is ignored, rw is refused",
    )
    mount.add_argument("--config", metavar="FILE", help=f"TOML file with options (environment: {CONFIG_VARIABLE})")

    umount = _command(commands, "umount", _umount, "unmount; also when the daemon is gone", _exit_codes())
    umount.add_argument(
        "--lazy",
        "-z",
        action="store_true",
        help="detach at once, also while programs use it; they get errors from then on",
    )
    stats = _command(commands, "stats", _stats, "tell what a mount has done", _exit_codes())
    stats.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")
    for command in (umount, stats):
        command.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?")
        command.add_argument("--config", metavar="FILE", help="take the mount point from this configuration file")

    cache_commands = _command(commands, "cache", None, "look at a cache, and change it by hand", _exit_codes())
    cache.add_parsers(
        cache_commands.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser),
        lambda commands, name, run, summary: _command(commands, name, run, summary, _exit_codes()),
    )

    warm_command = _command(
        commands,
        "warm",
        warm.run,
        "fetch files into the cache before they are read, at the lowest priority",
        _exit_codes(),
    )
    warm.add_arguments(warm_command)

    refresh_command = _command(
        commands,
        "refresh",
        refresh.run,
        "show what has changed in the bucket now, and not after --metadata-ttl",
        _exit_codes(),
    )
    refresh.add_arguments(refresh_command)

    index_command = _command(
        commands,
        "index",
        index.run,
        "write a snapshot of a bucket's listing, for mount --index",
        index.EPILOG + _exit_codes(),
    )
    index_command.set_defaults(given=[])
    for name in index.OPTIONS:
        _add(index_command, BY_NAME[name])
    index.add_arguments(index_command)

    _command(commands, "version", _version, "print the version", None)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], ExitCode] | None, summary: str, epilog: str | None
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    default = "" if option.positional or option.is_switch else f" (default: {option.default})"
    text, default = option.help.replace("%", "%%"), default.replace("%", "%%")
    if option.positional:
        parser.add_argument(option.name, metavar=option.metavar, nargs="?", action=_Give, help=text)
    elif option.is_switch:
        parser.add_argument(option.flag, dest=option.name, action=_Give, nargs=0, const="true", help=text)
    else:
        parser.add_argument(option.flag, dest=option.name, metavar=option.metavar, action=_Give, help=text + default)
    for name, value in option.shorthands.items():
        parser.add_argument(
            f"--{name}", dest=option.name, action=_Give, nargs=0, const=value, help=f"the same as {option.flag} {value}"
        )


def _exit_codes() -> str:
    return "\n".join(["exit codes:", *(f"  {int(code):<4} {meaning}" for code, meaning in EXIT_MEANINGS.items())])


def _mount_epilog() -> str:
    return f"""\
sizes:     20GiB, 512M (both 1024 based), 10GB (1000 based), or bytes
durations: 90s, 5m, 1h, 0, inf, or seconds

precedence: command line, environment (S3STREAM_FS_CACHE_SIZE for --cache-size), configuration file, default
configuration file: the first of --config, {CONFIG_VARIABLE}, ~/.config/s3stream-fs/config.toml,
  /etc/s3stream-fs/config.toml; keys are the options' names with _ for -, and source and mountpoint
log of a mount in the background: ~/.local/state/s3stream-fs/NAME.log, root: /var/log/s3stream-fs/NAME.log, where
  NAME is the mount point with + for /: /mnt/data logs to mnt+data.log; --log-file FILE chooses another place
credentials: AWS's own environment variables, files and roles

{_exit_codes()}"""
