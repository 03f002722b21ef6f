"""What is mounted: a bucket and a prefix. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from s3stream_daemon.exits import ExitError, one_line

# As wide as S3 itself, other stores and buckets from before 2018 have been: the store has the last word on a name.
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
# The name of an access point may hold one "/" after "accesspoint", and one after "outpost".
_ACCESS_POINT: Final = re.compile(
    r"(arn:[a-z0-9-]+:s3[a-z0-9-]*:[a-z0-9-]*:[0-9]*:(?:outpost[/:][A-Za-z0-9-]+[/:])?accesspoint[/:][A-Za-z0-9.-]+)(?:/(.*))?",
    re.ASCII | re.DOTALL,
)
_MAX_KEY_NBYTES: Final = 1024  # S3's limit for a key, thus for a prefix


@dataclass(frozen=True, slots=True)
class Source:
    """``bucket`` is a name or an access point's ARN. ``prefix`` is empty or ends with ``/``, as keys have it.

    ``scheme`` says in which kind of store it is.
    """

    bucket: str
    prefix: str = ""
    scheme: str = "s3"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".removesuffix("/")


@dataclass(frozen=True, slots=True)
class Object:
    """One object in a bucket."""

    bucket: str
    key: str
    scheme: str = "s3"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def parse_object(text: str) -> Object:
    """Read ``s3://BUCKET/KEY``. Raises ExitError with one line for anything else."""
    source = parse_source(text)
    key = source.prefix.removesuffix("/")
    if not key or text.endswith("/"):
        raise ExitError(f"{one_line(text)!r} names no object: write s3://BUCKET/KEY")
    return Object(source.bucket, key)


def is_url(text: str) -> bool:
    """Whether it is meant to be in a bucket, and not the name of a file."""
    return text[:5].lower() == "s3://"


def parse_source(text: str) -> Source:
    """Read ``s3://BUCKET[/PREFIX[/]]``. Raises ExitError with one line for anything else."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != "s3":
        raise ExitError(f"{one_line(text)!r} is not a bucket: write s3://BUCKET or s3://BUCKET/PREFIX")
    if rest.startswith("arn:"):
        match = _ACCESS_POINT.fullmatch(rest)
        if match is None:
            raise ExitError(f"{one_line(text)!r}: only the ARN of an access point can be mounted, not of anything else")
        bucket, prefix = match[1], match[2] or ""
    else:
        bucket, _, prefix = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            what = f"{one_line(bucket)!r} is no bucket's name" if bucket else "the bucket is missing"
            raise ExitError(f"{one_line(text)!r}: {what}; write s3://BUCKET or s3://BUCKET/PREFIX")
    try:
        nbytes = len(prefix.encode())
    except UnicodeEncodeError:
        raise ExitError(
            f"{one_line(ascii(text))}: the prefix is not UTF-8, and no key of S3 can begin with it"
        ) from None
    if nbytes > _MAX_KEY_NBYTES or "\0" in prefix:
        raise ExitError(f"the prefix of s3://{bucket} is no key of S3: at most {_MAX_KEY_NBYTES} bytes, no NUL")
    # Exactly one "/" is added or kept: "p//" is another prefix than "p/", and both may exist.
    return Source(bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/")
