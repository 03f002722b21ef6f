"""What the user says about a bucket and the way to it. Nothing here has been looked up or asked of anybody."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from s3stream_fs.errors import UsageError

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[a-z-]+:s3[a-z-]*:[^/\s]+[:/].+")
"""Names of today's and of old buckets, access point aliases, and ARNs of access points. S3 itself judges the rest."""

AWS: Final = "aws"
"""What stands for Amazon S3 where other stores have their address."""

SSE_C_KEY_NBYTES: Final = 32
"""SSE-C knows AES256 only."""


@dataclass(frozen=True, slots=True)
class S3Config:
    """Which bucket, and what of the way to it was named by options; ``connection.resolve`` finds out the rest.

    ``endpoint_url`` is None where no option names a store. ``anonymous`` sends unsigned requests. ``addressing`` puts
    the bucket into the path or the host name; ``auto`` does what suits the store. ``sse_c_key`` is the 32 bytes of a
    customer's key (SSE-C). Credentials are not in here: the AWS chain finds and renews them.
    """

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_bundle: Path | None = None
    verify_tls: bool = True
    dual_stack: bool = False
    fips: bool = False
    expected_bucket_owner: str | None = None
    sse_c_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise UsageError(
                f"{self.bucket!r} is not a bucket name: 3 or more letters, digits, '.' and '-', as in s3://my-bucket/prefix"
            )
        if self.endpoint_url is not None:
            check_endpoint(self.endpoint_url, "endpoint URL")
        if self.sse_c_key is not None and len(self.sse_c_key) != SSE_C_KEY_NBYTES:
            raise UsageError(f"a customer's key (SSE-C) has {SSE_C_KEY_NBYTES} bytes, not {len(self.sse_c_key)}")

    @property
    def directory_bucket(self) -> bool:
        """Whether it is a directory bucket (S3 Express One Zone) or an access point of one: their names say so."""
        return self.bucket.endswith(("--x-s3", "--xa-s3"))


def check_endpoint(url: str, origin: str) -> None:
    """Raises UsageError, which names ``origin`` and never the password that a URL may hold."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        raise UsageError(f"{origin} is not of the form https://HOST[:PORT]") from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{origin} must not hold a user name or password; use AWS credentials")
    if not usable or parts.query or parts.fragment:
        shown = "" if "@" in url else f" {url!r}"  # what stands before it may be a password
        raise UsageError(f"{origin}{shown} is not of the form https://HOST[:PORT]")
