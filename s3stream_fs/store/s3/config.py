"""What has to be known to reach a bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from s3stream_fs.errors import UsageError

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[a-z-]+:s3[a-z-]*:[^/\s]+[:/].+")
"""Names of today's and of old buckets, access point aliases, and ARNs of access points. S3 itself judges the rest."""


@dataclass(frozen=True, slots=True)
class S3Config:
    """Where the bucket is and who asks. Credentials are not in here: the AWS chain finds and refreshes them.

    ``endpoint_url`` is None for Amazon S3. ``anonymous`` sends unsigned requests. ``addressing`` puts the bucket into
    the path or the host name; ``auto`` means the path where an endpoint is given, for few other stores have the
    wildcard DNS that host names need.
    """

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    addressing: Literal["auto", "path", "virtual"] = "auto"

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise UsageError(
                f"{self.bucket!r} is not a bucket name: 3 or more letters, digits, '.' and '-', as in s3://my-bucket/prefix"
            )
        if self.endpoint_url is not None:
            parts = urlsplit(self.endpoint_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(f"endpoint URL {self.endpoint_url!r} is not of the form https://HOST[:PORT]")
            if parts.username or parts.password:
                raise UsageError("endpoint URL must not hold a user name or password; use AWS credentials")

    @property
    def virtual_hosted(self) -> bool:
        """Whether the bucket stands in the host name."""
        if self.addressing == "auto":
            # A dot in the name breaks the certificate's wildcard.
            return self.endpoint_url is None and "." not in self.bucket
        return self.addressing == "virtual"

    @property
    def directory_bucket(self) -> bool:
        """Whether it is a directory bucket (S3 Express One Zone) or an access point of one: their names say so."""
        return self.bucket.endswith(("--x-s3", "--xa-s3"))
