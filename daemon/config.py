"""What one mount does, as a frozen value: the settings made whole by what the machine says.

Never reads argv or the environment, and of files none but a customer's key: ``settings`` and ``Host`` bring the rest.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from s3stream_daemon.exits import ExitError
from s3stream_daemon.folders import Folders, log_name
from s3stream_daemon.memory import default_memory_limit_nbytes, disk_queue_nbytes
from s3stream_daemon.options import MIN_CACHE_NBYTES
from s3stream_daemon.settings import Settings
from s3stream_daemon.source import Object, Source, is_url, parse_object, parse_source
from s3stream_fs.bindings.device import descriptor_of
from s3stream_fs.bindings.native.opening import OpenMode
from s3stream_fs.cache.disk.config import DiskTierConfig
from s3stream_fs.cache.disk.policy import Policy, Reserve
from s3stream_fs.filesystem.attributes import AttributeConfig
from s3stream_fs.store.s3.config import SSE_C_KEY_NBYTES, S3Config

_MAX_DEFAULT_CACHE_NBYTES: Final = 20 * 1024**3
"""Room for a working set, and an amount that nobody misses on a disk that has ten times as much free."""
_MAX_KEY_NBYTES: Final = 4096
"""A customer's key takes 45 at the most."""
_DEFAULT_CACHE_SHARE: Final = 10
"""A tenth of what is free: whatever else the disk is for goes on as before."""


@dataclass(frozen=True, slots=True)
class MountConfig:
    """All that ``serve.run`` needs. Paths are absolute, since the daemon leaves the folder it was started in.

    ``descriptor`` is N where the mount point is ``/dev/fd/N``: a mount that somebody else has made.
    ``log_file`` is None where only standard error gets the log.
    """

    source: Source
    mountpoint: Path
    descriptor: int | None
    store: S3Config
    disk: DiskTierConfig
    memory_limit_nbytes: int
    metadata_ttl_seconds: float
    index: Path | Object | None
    read_deadline_seconds: float
    max_in_flight: int
    hedging: bool
    binding: Literal["native", "pyfuse3"]
    open_mode: OpenMode
    attributes: AttributeConfig
    allow_other: bool
    foreground: bool
    log_file: Path | None
    log_level: str


@dataclass(frozen=True, slots=True)
class Host:
    """What the machine and the user bring. ``free_nbytes`` tells how much a folder's disk has free for us."""

    uid: int
    gid: int
    folders: Folders
    allowed_memory_nbytes: int | None
    free_nbytes: Callable[[Path], int]


def build(settings: Settings, host: Host) -> MountConfig:
    """The mount that ``settings`` ask for. Raises ExitError where they cannot be."""
    value = {key: setting.value for key, setting in settings.items()}
    if value["source"] is None:
        raise ExitError("what shall be mounted? Write: s3stream-fs mount s3://BUCKET[/PREFIX] MOUNTPOINT")
    source = parse_source(_text(value["source"]))
    index = _place(value["index"])
    metadata_ttl_seconds = _seconds(value["metadata_ttl"])
    if index is not None:
        if settings["metadata_ttl"].origin and not math.isinf(metadata_ttl_seconds):
            raise ExitError(
                f"{settings['metadata_ttl'].origin} and {settings['index'].origin}: the names of a snapshot never"
                " change; leave one of them out"
            )
        metadata_ttl_seconds = math.inf
    mountpoint = mountpoint_of(settings)
    descriptor = descriptor_of(mountpoint)
    if descriptor is not None and value["binding"] != "native":
        raise ExitError(f"{mountpoint} is a descriptor, which only --binding native takes")
    foreground = bool(value["foreground"])
    cache_folder = _path(value["cache_dir"]) or host.folders.cache
    log_file = _path(value["log_file"])
    if log_file is None and not foreground:
        log_file = host.folders.logs / log_name(mountpoint)
    if log_file is not None and mountpoint in log_file.parents:
        raise ExitError(f"the log {log_file} would lie inside the mount; choose another with --log-file")
    memory_limit_nbytes = _number(
        value["memory_limit"], lambda: default_memory_limit_nbytes(host.allowed_memory_nbytes)
    )
    return MountConfig(
        source=source,
        mountpoint=mountpoint,
        descriptor=descriptor,
        store=store_of(settings, source.bucket),
        disk=DiskTierConfig(
            directory=cache_folder,
            limit_nbytes=_number(value["cache_size"], lambda: default_cache_nbytes(host.free_nbytes(cache_folder))),
            reserve=_reserve(value["cache_reserve"]),
            queue_nbytes=disk_queue_nbytes(memory_limit_nbytes),
            policy=Policy(_text(value["cache_policy"])),
            verify_always=value["cache_verify"] == "always",
        ),
        memory_limit_nbytes=memory_limit_nbytes,
        metadata_ttl_seconds=metadata_ttl_seconds,
        index=index,
        read_deadline_seconds=_seconds(value["read_deadline"]),
        hedging=not value["no_hedging"],
        max_in_flight=_number(value["max_in_flight"], lambda: 256),
        binding=_binding(value["binding"]),
        open_mode=OpenMode(_text(value["open_mode"])),
        attributes=AttributeConfig(
            uid=_number(value["uid"], lambda: host.uid),
            gid=_number(value["gid"], lambda: host.gid),
            file_mode=_number(value["file_mode"], lambda: 0o444),
            dir_mode=_number(value["dir_mode"], lambda: 0o555),
        ),
        allow_other=bool(value["allow_other"]),
        foreground=foreground,
        log_file=log_file,
        log_level=_text(value["log_level"]),
    )


def store_of(settings: Settings, bucket: str) -> S3Config:
    """What the user says of a bucket and the way to it. Reads the customer's key. Raises ExitError."""
    value = {key: setting.value for key, setting in settings.items()}
    if value["no_sign_request"] and value["profile"] is not None:
        raise ExitError(
            "--no-sign-request sends no credentials, so that --profile means nothing; leave one of them out"
        )
    return S3Config(
        bucket=bucket,
        endpoint_url=_optional_text(value["endpoint_url"]),
        region=_optional_text(value["region"]),
        profile=_optional_text(value["profile"]),
        anonymous=bool(value["no_sign_request"]),
        requester_pays=bool(value["requester_pays"]),
        addressing=_addressing(value["addressing"]),
        ca_bundle=_path(value["ca_bundle"]),
        verify_tls=not value["no_verify_tls"],
        dual_stack=bool(value["dual_stack"]),
        fips=bool(value["fips"]),
        expected_bucket_owner=_optional_text(value["expected_bucket_owner"]),
        sse_c_key=_key(_path(value["sse_c_key_file"])),
    )


def _key(path: Path | None) -> bytes | None:
    """A customer's key: 32 bytes as they are, or in Base64. Raises ExitError, which never shows what is in the file."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_NBYTES)
    except OSError as error:
        raise ExitError(f"cannot read the customer's key {path}: {error.strerror}") from None
    if len(data) != SSE_C_KEY_NBYTES:
        try:
            data = base64.b64decode(data.strip(), validate=True)
        except ValueError:
            data = b""
    if len(data) != SSE_C_KEY_NBYTES:
        raise ExitError(f"{path} is no customer's key: it takes {SSE_C_KEY_NBYTES} bytes, or their Base64")
    return data


def mountpoint_of(settings: Settings) -> Path:
    """The mount point as an absolute path without links. Asks nothing of the mount itself, which may be dead."""
    text = settings["mountpoint"].value
    if text is None:
        raise ExitError("the mount point is missing: name an empty directory")
    return canonical(_text(text))


def canonical(text: str) -> Path:
    """``text`` as an absolute path without links, as the kernel's mount table has it.

    Never stats the last component: where that is a mount whose daemon hangs, the answer would not come.
    """
    path = Path(text).expanduser().absolute()
    if descriptor_of(path) is not None:
        return path
    if path == Path("/") or path.name == "..":
        return Path(os.path.realpath(path))
    try:
        path.readlink()  # answered by the kernel alone
    except OSError:
        return Path(os.path.realpath(path.parent), path.name)
    return Path(os.path.realpath(path))


def default_cache_nbytes(free_nbytes: int) -> int:
    """The smaller of 20 GiB and a tenth of what is free."""
    return max(MIN_CACHE_NBYTES, min(_MAX_DEFAULT_CACHE_NBYTES, free_nbytes // _DEFAULT_CACHE_SHARE))


def free_nbytes(folder: Path) -> int:
    """Bytes that we may still write on the disk of ``folder``, which need not exist yet; 0 where nobody can tell."""
    for path in (folder, *folder.parents):
        try:
            status = os.statvfs(path)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize
    return 0


def _path(value: object) -> Path | None:
    return None if value is None else Path(os.path.realpath(Path(_text(value)).expanduser()))


def _place(value: object) -> Path | Object | None:
    return parse_object(_text(value)) if value is not None and is_url(_text(value)) else _path(value)


def _text(value: object) -> str:
    assert isinstance(value, str)
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object, default: Callable[[], int]) -> int:
    assert value is None or isinstance(value, int)
    return default() if value is None else value


def _reserve(value: object) -> Reserve:
    assert isinstance(value, Reserve)
    return value


def _seconds(value: object) -> float:
    assert isinstance(value, float)
    return value


def _addressing(value: object) -> Literal["auto", "path", "virtual"]:
    assert value in ("auto", "path", "virtual")
    return value


def _binding(value: object) -> Literal["native", "pyfuse3"]:
    assert value in ("native", "pyfuse3")
    return value
