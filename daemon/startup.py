"""What is told when the bucket cannot be used at start: one line, what is wrong and what to do. Pure."""

from __future__ import annotations

from s3stream_daemon.exits import ExitCode, ExitError, one_line
from s3stream_daemon.source import Object, Source
from s3stream_fs.errors import Denied, KeysRefused, NoKeys, NotFound, Throttled, Untrusted, UsageError, WrongRegion
from s3stream_fs.store import Connection


def startup_error(error: Exception, source: Source, connection: Connection) -> UsageError:
    """The line for the StoreError that the first LIST raised."""
    said = one_line(str(error))
    detail = f" ({said})" if said else ""
    bucket, where = f"s3://{source.bucket}", connection.where
    match error:
        case NotFound():
            line = f"there is no bucket {bucket} at {where}{detail}; check its name, --endpoint-url and --region"
        case KeysRefused():
            line = f"{where} refuses the credentials{detail}; check AWS_ACCESS_KEY_ID, --profile, or what gives them"
        case NoKeys():
            line = (
                f"{said}, so {bucket} was asked nothing; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --profile"
                " or a role (docs/CREDENTIALS.md), or --no-sign-request for a public bucket"
            )
        case Denied():
            line = f"listing {source} was denied{detail}; {_credentials_advice(connection)}"
        case Untrusted():
            line = f"no TLS with {where}: {said}; --ca-bundle FILE names the certificates of a private authority"
        case WrongRegion():
            line = f"{bucket} is in another region than was asked for{detail}; mount with --region {error.region}"
        case Throttled():
            line = f"{where} is overloaded{detail}; try again later"
        case _:
            line = f"cannot reach {bucket} at {where}{detail}; check --endpoint-url, --region and the network"
    return ExitError(line, ExitCode.STORE)


def _credentials_advice(connection: Connection) -> str:
    if connection.anonymous:
        return "the bucket does not let everybody list: leave --no-sign-request out and give credentials"
    return (
        "give credentials that may s3:ListBucket (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --profile, an instance's"
        " role) and the bucket's --region, or --no-sign-request for a public bucket"
    )


def reading_error(error: Exception, what: Object, connection: Connection) -> UsageError:
    """The line for an object that a command needs, such as a snapshot, and that does not come."""
    said = one_line(str(error))
    detail = f" ({said})" if said else ""
    match error:
        case NotFound():
            line = f"there is no {what} at {connection.where}{detail}"
        case Denied():
            line = f"reading {what} was denied{detail}; it takes credentials that may s3:GetObject"
        case _:
            line = f"cannot read {what} at {connection.where}{detail}"
    return ExitError(one_line(line), ExitCode.STORE)
