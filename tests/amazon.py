"""Amazon's own hosts, on loopback: whatever name under amazonaws.com is asked for, over TLS or not, lands here.

Names are not looked up: the client is told of a forward proxy (``environment``), which leads every one of them to the
servers of this rig, with a certificate made for the very name by a private CA that AWS_CA_BUNDLE makes trusted. Behind
them stands an S3 that knows regions, and refuses as Amazon does what is sent or signed for another one.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from authority import Authority
from forwardproxy import Address, ForwardProxy
from loopback import Answer, Request
from smalls3 import Judge, Seen, SmallS3, error

_REGION: Final = r"(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)"

_HOSTS: Final = tuple(
    re.compile(rf"(?:{pattern})\.amazonaws\.com(?:\.cn)?")
    for pattern in (
        # Before the general one, which would take the words in front for a bucket's name.
        rf"(?P<bucket>.+)\.s3express-(?P<zone>[a-z0-9-]+?)\.(?:dualstack\.)?{_REGION}",
        rf"(?P<bucket>[a-z0-9-]+-\d{{12}})\.s3-accesspoint(?P<fips>-fips)?\.(?P<dual>dualstack\.)?{_REGION}",
        r"(?P<bucket>[a-z0-9.]+\.mrap)\.accesspoint\.s3-global",
        rf"(?:(?P<bucket>.+)\.)?s3(?P<fips>-fips)?\.(?P<dual>dualstack\.)?{_REGION}",
        r"(?:(?P<bucket>.+)\.)?s3",
    )
)

_SESSION: Final = b"""<?xml version="1.0"?><CreateSessionResult><Credentials><AccessKeyId>SESSION</AccessKeyId>
<SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"""


@dataclass(frozen=True)
class Place:
    """What a host name of Amazon's says. ``region`` is None for the names that stand for all regions."""

    bucket: str | None
    region: str | None
    zone: str | None = None
    fips: bool = False
    dual_stack: bool = False
    multi_region: bool = False


def place_of(host: str) -> Place | None:
    """None for a name that is none of S3's."""
    for pattern in _HOSTS:
        if found := pattern.fullmatch(host):
            said = found.groupdict()
            return Place(
                said.get("bucket"),
                said.get("region"),
                said.get("zone"),
                bool(said.get("fips")),
                bool(said.get("dual")),
                host.endswith("accesspoint.s3-global.amazonaws.com"),
            )
    return None


class Amazon:
    """``with Amazon(folder, {"bucket": {"key": b"data"}}, {"bucket": "eu-west-1"}) as amazon``.

    An access point is a bucket named as in its host: ``name-123456789012``, or ``alias.mrap``.
    """

    def __init__(
        self,
        folder: Path,
        buckets: Mapping[str, Mapping[str, bytes]],
        regions: Mapping[str, str],
        judge: Judge | None = None,
    ) -> None:
        self._regions = regions
        self._judge = judge
        self.authority = Authority(folder)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        context = self.authority.server("amazonaws.com").context()
        context.sni_callback = self._show
        self._secure = _Hosts(buckets, self._judged, context)
        self._plain = _Hosts(buckets, self._judged)
        self.proxy = ForwardProxy(self._route)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for one in (self._secure, self._plain, self.proxy):
            self._stack.enter_context(one)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client find this Amazon."""
        return {
            "HTTPS_PROXY": self.proxy.url,
            "HTTP_PROXY": self.proxy.url,
            "AWS_CA_BUNDLE": str(self.authority.certificate),
        }

    @property
    def seen(self) -> list[Seen]:
        """All requests, as they came."""
        return sorted(self._secure.seen + self._plain.seen, key=lambda one: one.request.at)

    def clear(self) -> None:
        self._secure.clear()
        self._plain.clear()
        self.proxy.clear()

    def _route(self, host: str, port: int) -> Address | None:
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) and port in (80, 443):
            return "127.0.0.1", (self._secure if port == 443 else self._plain).port
        return None

    def _show(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """A certificate for just this name."""
        assert isinstance(connection, ssl.SSLSocket)
        if name is None:
            return
        self._secure.server.names[connection] = name
        with self._lock:
            if name not in self._contexts:
                self._contexts[name] = self.authority.server(name).context()
            connection.context = self._contexts[name]

    def _judged(self, request: Request, bucket: str) -> Answer | None:
        """As Amazon does it: sent to another region 301, signed for another one 400, both with the right one."""
        place = place_of(request.host)
        if place is None:
            return error(400, "InvalidRequest")
        judged = self._judge(request, bucket) if self._judge is not None else None
        if judged is not None:
            return judged
        home = self._regions.get(bucket)
        if home is None:
            return None  # the store says that there is no such bucket
        told = {"x-amz-bucket-region": home}
        if place.multi_region:
            return (
                None if request.headers.get("x-amz-region-set") == "*" else error(400, "AuthorizationHeaderMalformed")
            )
        if place.zone is not None:
            return self._judged_session(request)
        # The names without a region are led to the bucket's own by Amazon's name servers.
        if place.region not in (None, home):
            said = f"<Endpoint>{bucket}.s3.{home}.amazonaws.com</Endpoint><Bucket>{bucket}</Bucket>"
            return error(301, "PermanentRedirect", told, said=said)
        if request.access_key and request.region != home:
            return error(400, "AuthorizationHeaderMalformed", told, said=f"<Region>{home}</Region>")
        return None

    @staticmethod
    def _judged_session(request: Request) -> Answer | None:
        # Amazon's own SDKs sign for s3express. The crate object_store signs for s3, and is used with the real ones:
        # that Amazon takes this too is believed, not shown.
        if request.service not in ("s3", "s3express"):
            return error(403, "AccessDenied")
        if "session" in request.query:
            return Answer(200, _SESSION, {"Content-Type": "application/xml"})
        if request.headers.get("x-amz-s3session-token") != "session":
            return error(403, "AccessDenied")
        # Directory buckets list below a whole folder only, and from its beginning.
        if request.query.get("prefix", "").rpartition("/")[2] or "start-after" in request.query:
            return error(400, "InvalidRequest")
        return None


class _Hosts(SmallS3):
    def place(self, request: Request) -> tuple[str, str]:
        place = place_of(request.host)
        if place is not None and place.bucket is not None:
            return place.bucket, request.path.removeprefix("/")
        bucket, _, key = request.path.removeprefix("/").partition("/")
        return bucket, key
