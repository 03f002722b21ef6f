"""What is told when the bucket cannot be used at start: one line, what is wrong and what to do. Pure."""

from __future__ import annotations

from s3stream_daemon.config import MountConfig
from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_fs.errors import Denied, NotFound, Throttled, UsageError


def startup_error(error: Exception, config: MountConfig) -> UsageError:
    """The line for what the first LIST raised: a StoreError, or a time-out (trio.TooSlowError)."""
    said = one_line(str(error))
    detail = f" ({said})" if said else ""
    bucket = f"s3://{config.source.bucket}"
    match error:
        case NotFound():
            line = (
                f"there is no bucket {bucket} at {_where(config)}{detail}; check its name, --endpoint-url and --region"
            )
        case Denied():
            line = f"listing {config.source} was denied{detail}; {_credentials_advice(config)}"
        case Throttled():
            line = f"{_where(config)} is overloaded{detail}; try again later"
        case _:
            line = f"cannot reach {bucket} at {_where(config)}{detail}; check --endpoint-url, --region and the network"
    return ExitError(line, ExitCode.STORE)


def _where(config: MountConfig) -> str:
    if config.store.endpoint_url is not None:
        return config.store.endpoint_url
    return "the store that AWS's settings name" if config.store.region is None else f"region {config.store.region}"


def _credentials_advice(config: MountConfig) -> str:
    if config.store.anonymous:
        return "the bucket does not let everybody list: leave --no-sign-request out and give credentials"
    return (
        "give credentials that may s3:ListBucket (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --profile, an instance's"
        " role) and the bucket's --region, or --no-sign-request for a public bucket"
    )
