"""The options that were given, from four sources: command line over environment over TOML file over defaults.

Owns precedence and says where each value came from. Never decides what a value means for the mount: ``config`` does.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s3stream_daemon.exits import ExitError, one_line
from s3stream_daemon.options import BY_KEY, BY_NAME, ENVIRONMENT_PREFIX, OPTIONS, SHORTHANDS, Option

CONFIG_VARIABLE: Final = f"{ENVIRONMENT_PREFIX}CONFIG"

_MAX_CONFIG_NBYTES: Final = 1024**2  # a few dozen lines are usual; this keeps /dev/zero out

_GENERIC_MOUNT_OPTIONS: Final = frozenset(
    """
    ro defaults auto noauto nofail _netdev user nouser users owner group
    dev nodev suid nosuid exec noexec async sync atime noatime diratime nodiratime relatime norelatime strictatime
    nostrictatime lazytime nolazytime default_permissions
    """.split()  # noqa: SIM905 - thirty quoted words are harder to read
)
"""What fstab lines hold for every file system. All that concerns this mount is always so (ro, nodev, nosuid), or means
something to mount(8) and systemd only."""


@dataclass(frozen=True, slots=True)
class Given:
    """One option as text, and how the user wrote it (for messages)."""

    option: Option
    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What counts for one option. ``origin`` is empty for a default; at None the machine decides."""

    value: object
    origin: str = ""


Settings = Mapping[str, Setting]
"""Every option of the table, by its key."""


def merge(given: Iterable[Given], environ: Mapping[str, str], config_file: Path | None) -> dict[str, Setting]:
    """All settings. Raises ExitError with one line that names the origin of what is wrong."""
    settings = {option.key: Setting(option.value) for option in OPTIONS}
    from_file = [] if config_file is None else read_config_file(config_file)
    for source in (from_file, from_environment(environ), given):  # later ones win
        for one in source:
            settings[one.option.key] = Setting(_parse(one), one.origin)
    return settings


def find_config_file(wanted: str | None, environ: Mapping[str, str], places: Sequence[Path]) -> Path | None:
    """The one file that is read: ``--config``, else the environment's, else the first that exists in ``places``."""
    text = wanted or environ.get(CONFIG_VARIABLE)
    if text:
        return Path(text).absolute()
    for path in places:
        try:
            if path.is_file():
                return path
        except OSError:  # a home that may not be entered, as under sudo on NFS
            continue
    return None


def from_environment(environ: Mapping[str, str]) -> list[Given]:
    """The options in the environment. An empty variable counts as unset.

    Other names with our prefix are left alone: Kubernetes sets ``S3STREAM_FS_PORT`` where a service is called so.
    """
    return [
        Given(option, environ[option.variable], option.variable) for option in OPTIONS if environ.get(option.variable)
    ]


def read_config_file(path: Path) -> list[Given]:
    """The options in a TOML file, which holds plain keys and no tables."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_CONFIG_NBYTES + 1)
    except FileNotFoundError:
        raise ExitError(f"there is no configuration file {path}") from None
    except OSError as error:
        raise ExitError(f"cannot read the configuration file {path}: {error.strerror}") from None
    if len(raw) > _MAX_CONFIG_NBYTES:
        raise ExitError(f"{path} is too large for a configuration file")
    try:
        table = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExitError(f"{path} is not TOML: {one_line(str(error))}") from None
    return [_from_toml(key, value, path) for key, value in table.items()]


def from_mount_options(text: str) -> list[Given]:
    """The options of ``-o OPT[,OPT]``, as in /etc/fstab; ``_`` and ``-`` are the same in names."""
    given = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, has_value, value = item.partition("=")
        if name in _GENERIC_MOUNT_OPTIONS or name.startswith(("x-", "X-")) or name == "comment":
            continue
        if name == "rw":
            raise ExitError("-o rw: the mount is read-only; leave rw out")
        name = name.replace("_", "-")
        if name in SHORTHANDS:
            option, value = SHORTHANDS[name]
            given.append(Given(option, value, f"-o {item}"))
            continue
        if name not in BY_NAME or BY_NAME[name].positional:
            names = [key for key, option in BY_NAME.items() if not option.positional]
            raise ExitError(f"-o {one_line(name)}: no such option{_suggestion(name, [*names, *SHORTHANDS])}")
        option = BY_NAME[name]
        if not has_value and not option.is_switch:
            raise ExitError(f"-o {name} needs a value: -o {name}={option.metavar}")
        given.append(Given(option, value if has_value else "true", f"-o {name}"))
    return given


def _from_toml(key: str, value: object, path: Path) -> Given:
    option = BY_KEY.get(key)
    if option is None:
        raise ExitError(f"{path}: no such key {one_line(key)!r}{_suggestion(key, list(BY_KEY))}")
    # A bool is an int for Python, but not for people.
    if type(value) not in option.kind.toml:
        names = {str: "a string", int: "a number", float: "a number", bool: "true or false"}
        allowed = " or ".join(dict.fromkeys(names[kind] for kind in option.kind.toml))
        raise ExitError(f"{path}: {key} must be {allowed}")
    return Given(option, str(value), f"{path}: {key}")


def _parse(given: Given) -> object:
    try:
        return given.option.kind.parse(given.text)
    except ValueError as error:
        # A URL with a password in it must not be repeated.
        shown = "" if given.option.key == "endpoint_url" else f" not {one_line(given.text)!r}"
        raise ExitError(f"{given.origin} must be {error}{',' if shown else ''}{shown}") from None


def _suggestion(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
