"""What is told when the bucket cannot be used at start: one line, what is wrong and what to do. Pure."""

from __future__ import annotations

from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_daemon.source import Object, Source
from s3stream_fs.errors import Denied, NotFound, Throttled, UsageError
from s3stream_fs.store.s3.config import S3Config


def startup_error(error: Exception, source: Source, store: S3Config) -> UsageError:
    """The line for what the first LIST raised: a StoreError, or a time-out (trio.TooSlowError)."""
    said = one_line(str(error))
    detail = f" ({said})" if said else ""
    bucket = f"s3://{source.bucket}"
    match error:
        case NotFound():
            line = (
                f"there is no bucket {bucket} at {_where(store)}{detail}; check its name, --endpoint-url and --region"
            )
        case Denied():
            line = f"listing {source} was denied{detail}; {_credentials_advice(store)}"
        case Throttled():
            line = f"{_where(store)} is overloaded{detail}; try again later"
        case _:
            line = f"cannot reach {bucket} at {_where(store)}{detail}; check --endpoint-url, --region and the network"
    return ExitError(line, ExitCode.STORE)


def _where(store: S3Config) -> str:
    if store.endpoint_url is not None:
        return store.endpoint_url
    return "the store that AWS's settings name" if store.region is None else f"region {store.region}"


def _credentials_advice(store: S3Config) -> str:
    if store.anonymous:
        return "the bucket does not let everybody list: leave --no-sign-request out and give credentials"
    return (
        "give credentials that may s3:ListBucket (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --profile, an instance's"
        " role) and the bucket's --region, or --no-sign-request for a public bucket"
    )


def reading_error(error: Exception, what: Object, store: S3Config) -> UsageError:
    """The line for an object that a command needs, such as a snapshot, and that does not come."""
    said = one_line(str(error))
    detail = f" ({said})" if said else ""
    match error:
        case NotFound():
            line = f"there is no {what} at {_where(store)}{detail}"
        case Denied():
            line = f"reading {what} was denied{detail}; it takes credentials that may s3:GetObject"
        case _:
            line = f"cannot read {what} at {_where(store)}{detail}"
    return ExitError(one_line(line), ExitCode.STORE)
