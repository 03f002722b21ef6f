"""How one bucket is spoken to: resolved once, and all that requests, the cache's space and messages are made from.

Reads AWS's files and the environment that it is given, and sends nothing. What only the store itself knows (its region,
whether it takes the bucket in the path) is found out by ``room.open_bucket``, which makes another of this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import botocore.configprovider
import botocore.exceptions
import botocore.httpsession
import botocore.session

from s3stream_fs.errors import UsageError
from s3stream_fs.store.s3.address import Address, address_of, partition_of
from s3stream_fs.store.s3.config import S3Config, check_endpoint
from s3stream_fs.store.s3.proxies import Proxies, read_proxies
from s3stream_fs.store.s3.trust import Trust, read_bundle, system_has_certificates

DEFAULT_REGION: Final = "us-east-1"
"""What requests are signed for where nobody names a region: other stores mostly do not care, and Amazon says which."""

_SETTINGS_ERRORS: Final = (
    botocore.exceptions.ConfigNotFound,
    botocore.exceptions.ConfigParseError,
    botocore.exceptions.InvalidConfigError,
)


@dataclass(frozen=True, slots=True)
class Connection:
    """``endpoint_url`` is None for Amazon S3. ``region`` is the one that the bucket is believed to be in.

    ``path_style`` asks for the bucket in the path; ``any_style`` says that nobody asked for either. ``address`` and
    ``proxy`` follow from the rest.
    """

    config: S3Config
    endpoint_url: str | None
    region: str
    path_style: bool
    any_style: bool
    dual_stack: bool
    fips: bool
    trust: Trust
    proxies: Proxies = field(repr=False)
    address: Address
    proxy: str | None = field(repr=False)

    @property
    def bucket(self) -> str:
        return self.config.bucket

    @property
    def space(self) -> str:
        """The store and the bucket, as a cache keeps them apart: what has one name here has one meaning."""
        return f"{self.store_name}/{self.bucket}"

    @property
    def store_name(self) -> str:
        """The store's address in one spelling; for Amazon S3 the partition (``aws``), in which names are unique."""
        if self.endpoint_url is None:
            return partition_of(self.region)
        parts = urlsplit(self.endpoint_url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = "" if parts.port in (None, 443 if parts.scheme == "https" else 80) else f":{parts.port}"
        return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"

    @property
    def where(self) -> str:
        """The store, for messages."""
        return f"Amazon S3 in {self.region}" if self.endpoint_url is None else self.store_name

    @property
    def anonymous(self) -> bool:
        return self.config.anonymous

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of what was asked for, a line each."""
        found = []
        if not self.trust.verify:
            found.append(
                "certificates are not checked (--no-verify-tls): who sits between can read and change the data"
            )
        if self.config.sse_c_key is not None and self.address.url.startswith("http://"):
            found.append("there is no TLS, so the customer's key (--sse-c-key-file) crosses the network in clear text")
        return tuple(found)

    def moved(self, *, region: str | None = None, path_style: bool | None = None) -> Connection:
        """The same bucket in another region, or named in another place. Raises UsageError."""
        return _made(
            self, region=region or self.region, path_style=self.path_style if path_style is None else path_style
        )

    def to_bucket(self, bucket: str) -> Connection:
        """Another bucket of the same store. Raises UsageError."""
        # A customer's key is for the objects of the one bucket: others refuse it.
        return _made(self, config=dataclasses.replace(self.config, bucket=bucket, sse_c_key=None))


def resolve(config: S3Config, environ: Mapping[str, str]) -> Connection:
    """``config`` made whole by the environment and AWS's files. Raises UsageError for what cannot be used."""
    try:
        session = botocore.session.Session(profile=config.profile)
        scoped = session.get_scoped_config()
        endpoint_url, endpoint_origin = config.endpoint_url, "endpoint URL"
        if endpoint_url is None:
            endpoint_url, endpoint_origin = _configured_endpoint(session, environ), "AWS's endpoint_url"
        dual_stack = _is_true(_s3_section(scoped).get("use_dualstack_endpoint")) or bool(
            session.get_config_variable("use_dualstack_endpoint")
        )
        fips = bool(session.get_config_variable("use_fips_endpoint"))
    except botocore.exceptions.ProfileNotFound:
        name = config.profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
        raise UsageError(f"there is no AWS profile {name!r}; see ~/.aws/config") from None
    except (*_SETTINGS_ERRORS, ValueError) as error:
        raise UsageError(f"AWS's settings cannot be used: {error}") from None
    if endpoint_url is not None:
        check_endpoint(endpoint_url, endpoint_origin)
        if config.dual_stack or config.fips:
            raise UsageError(
                "dual-stack and FIPS are hosts of Amazon's own: leave the endpoint URL out, or name such a host by it"
            )
        dual_stack = fips = False
    style = _addressing(config, scoped)
    connection = Connection(
        config=config,
        endpoint_url=endpoint_url,
        region=_region(config, environ, scoped),
        path_style=style == "path" or (style == "auto" and endpoint_url is not None and not _is_arn(config.bucket)),
        any_style=style == "auto",
        dual_stack=config.dual_stack or dual_stack,
        fips=config.fips or fips,
        trust=_trust(config, environ, scoped),
        proxies=read_proxies(environ),
        address=Address("", "", "", ""),
        proxy=None,
    )
    return _made(connection)


def _is_arn(bucket: str) -> bool:
    """Whether it is an access point's, which has a host of its own."""
    return bucket.startswith("arn:")


def _made(connection: Connection, **changes: object) -> Connection:
    """With the address and the proxy that follow from the rest."""
    changed = dataclasses.replace(connection, **changes)  # type: ignore[arg-type]
    address = address_of(
        changed.bucket,
        endpoint_url=changed.endpoint_url,
        region=changed.region,
        path_style=changed.path_style,
        dual_stack=changed.dual_stack,
        fips=changed.fips,
    )
    return dataclasses.replace(changed, address=address, proxy=changed.proxies.proxy_of(address.url))


def _configured_endpoint(session: botocore.session.Session, environ: Mapping[str, str]) -> str | None:
    """AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's service section, the profile, in AWS's own order."""
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = botocore.configprovider.ConfiguredEndpointProvider(
        full_config=session.full_config,
        scoped_config=session.get_scoped_config(),
        client_name="s3",
        environ=environ,
    )
    found = provider.provide()
    return None if not found else str(found)


def _region(config: S3Config, environ: Mapping[str, str], scoped: Mapping[str, object]) -> str:
    """AWS_REGION is what all of AWS's programs read but the older ones in Python, which read AWS_DEFAULT_REGION."""
    named = (config.region, environ.get("AWS_REGION"), environ.get("AWS_DEFAULT_REGION"), scoped.get("region"))
    return next((str(region) for region in named if region), DEFAULT_REGION)


def _addressing(config: S3Config, scoped: Mapping[str, object]) -> Literal["auto", "path", "virtual"]:
    if config.addressing != "auto":
        return config.addressing
    style = _s3_section(scoped).get("addressing_style")
    return style if style in ("path", "virtual") else "auto"


def _s3_section(scoped: Mapping[str, object]) -> Mapping[str, object]:
    """The settings that a profile has under ``s3``."""
    section = scoped.get("s3")
    return section if isinstance(section, Mapping) else {}


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"


def _trust(config: S3Config, environ: Mapping[str, str], scoped: Mapping[str, object]) -> Trust:
    if not config.verify_tls:
        return Trust(verify=False, origin="nobody: certificates are not checked")
    if config.ca_bundle is not None:
        return read_bundle(config.ca_bundle, "--ca-bundle")
    for origin, value in (
        ("AWS_CA_BUNDLE", environ.get("AWS_CA_BUNDLE")),
        ("the profile's ca_bundle", scoped.get("ca_bundle")),
        ("SSL_CERT_FILE", environ.get("SSL_CERT_FILE")),
    ):
        if value:
            return read_bundle(Path(str(value)).expanduser(), origin)
    if not system_has_certificates():
        return read_bundle(Path(botocore.httpsession.where()), "botocore")
    return Trust()
