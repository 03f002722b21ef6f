"""Where the requests for a bucket go, and what they are signed for: by botocore's own endpoint rules, asked once. Pure.

The rules know partitions, regions, dual-stack, FIPS, ARNs, directory buckets, dots in names and IP addresses, so nobody
else has to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions
import botocore.loaders
from botocore.endpoint_provider import EndpointProvider, RuleSetStandardLibrary

from s3stream_fs.errors import UsageError
from s3stream_fs.store.s3.config import AWS


@dataclass(frozen=True, slots=True)
class Address:
    """``url`` names the bucket, in its host or its path, and does not end in ``/``. ``scheme`` is how to sign:
    ``sigv4``, ``sigv4a`` or ``sigv4-s3express``, for ``service`` (s3, s3-outposts, ...) in ``region``."""

    url: str
    scheme: str
    service: str
    region: str

    @property
    def host(self) -> str:
        """Without port, and without the brackets of an IPv6 address."""
        return urlsplit(self.url).hostname or ""

    @property
    def amazon(self) -> bool:
        """Whether it is one of Amazon's own hosts."""
        suffixes = [partition["outputs"]["dnsSuffix"] for partition in _partitions()["partitions"]]
        return f".{self.host}".endswith(tuple(f".{suffix}" for suffix in suffixes))


def address_of(
    bucket: str, *, endpoint_url: str | None, region: str, path_style: bool, dual_stack: bool, fips: bool
) -> Address:
    """Raises UsageError for what the rules refuse."""
    try:
        found = _rules().resolve_endpoint(
            Bucket=bucket,
            Region=region,
            UseFIPS=fips,
            UseDualStack=dual_stack,
            ForcePathStyle=path_style,
            Accelerate=False,
            UseGlobalEndpoint=False,
            UseArnRegion=True,
            DisableMultiRegionAccessPoints=False,
            **({} if endpoint_url is None else {"Endpoint": endpoint_url}),
        )
    except botocore.exceptions.BotoCoreError as error:
        raise UsageError(f"s3://{bucket} cannot be addressed: {error}") from None
    scheme: dict[str, Any] = next(iter(found.properties.get("authSchemes", [])), {})
    return Address(
        found.url.rstrip("/"),
        str(scheme.get("name", "sigv4")),
        str(scheme.get("signingName", "s3")),
        str(scheme.get("signingRegion", region)),
    )


def partition_of(region: str) -> str:
    """The part of AWS that a region is in (``aws``, ``aws-cn``): in each a bucket's name has a meaning of its own."""
    found = RuleSetStandardLibrary(_partitions()).aws_partition(region)
    return str(found["name"]) if found else AWS


@cache
def loader() -> botocore.loaders.Loader:
    """botocore's data, read once for all of its sessions: parsing it takes 0.1 s."""
    return botocore.loaders.create_loader()


@cache
def _rules() -> EndpointProvider:
    rules = loader().load_service_model("s3", "endpoint-rule-set-1", api_version=None)
    return EndpointProvider(rules, _partitions())


@cache
def _partitions() -> Any:
    return loader().load_data("partitions")
