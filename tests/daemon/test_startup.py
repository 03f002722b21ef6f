"""The line for a bucket that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3stream_daemon.config import Host, MountConfig, build
from s3stream_daemon.exits import ExitCode, code_of
from s3stream_daemon.folders import folders_of
from s3stream_daemon.settings import from_mount_options, merge
from s3stream_daemon.startup import startup_error
from s3stream_fs.errors import (
    Denied,
    KeysRefused,
    NoKeys,
    NotFound,
    StoreUnavailable,
    Throttled,
    Untrusted,
    WrongRegion,
)
from s3stream_fs.store.s3.connection import resolve


def config(options: str = "") -> MountConfig:
    environ = {"S3STREAM_FS_SOURCE": "s3://bucket/p", "S3STREAM_FS_MOUNTPOINT": "/m"}
    host = Host(1, 1, folders_of(1, Path("/h"), {}), None, lambda path: 0)
    return build(merge(from_mount_options(options), environ, None), host)


@pytest.mark.parametrize(
    ("error", "options", "said"),
    [
        (NotFound("no"), "endpoint-url=http://h:1", ["there is no bucket s3://bucket at http://h:1", "check its name"]),
        (Denied("no credentials\nfound"), "", ["s3://bucket/p was denied (no credentials found)", "--no-sign-request"]),
        (Denied("403"), "no-sign-request", ["leave --no-sign-request out"]),
        (Throttled(""), "region=eu-west-1", ["Amazon S3 in eu-west-1 is overloaded", "later"]),
        (StoreUnavailable("refused"), "", ["cannot reach s3://bucket", "(refused)", "--endpoint-url"]),
        (NoKeys("no usable credentials: x"), "", ["no usable credentials: x, so s3://bucket", "CREDENTIALS.md"]),
        (KeysRefused("403 ExpiredToken"), "", ["refuses the credentials (403 ExpiredToken)", "--profile"]),
        (Untrusted("self-signed certificate"), "endpoint-url=https://h", ["no TLS with https://h", "--ca-bundle"]),
        (WrongRegion("301", region="eu-west-3"), "", ["--region eu-west-3"]),
    ],
)
def test_one_line_says_what_is_wrong_and_what_to_do(error: Exception, options: str, said: list[str]) -> None:
    told = startup_error(error, config(options).source, resolve(config(options).store, {}))
    assert code_of(told) is ExitCode.STORE
    assert "\n" not in str(told)
    for part in said:
        assert part in str(told)
