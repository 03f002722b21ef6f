"""An S3 of the standard library, of which each test may have several: moto's buckets are one process's.

Owns a few objects in memory and a record of every request, whole. Knows LIST, HEAD and GET, no signatures: who may ask
is decided by ``judge``.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote
from xml.sax.saxutils import escape

from loopback import Answer, Loopback, Request

Kind = Literal["HEAD", "LIST", "GET", "other"]

_MODIFIED: Final = "2026-01-02T03:04:05.000Z"
_MODIFIED_HTTP: Final = "Fri, 02 Jan 2026 03:04:05 GMT"


@dataclass(frozen=True)
class Seen:
    """One request as the store understood it, and the status it was given. ``key`` is a LIST's prefix."""

    kind: Kind
    bucket: str
    key: str
    request: Request
    status: int

    @property
    def virtual(self) -> bool:
        """Whether the bucket stood in the host name."""
        return self.request.host.startswith(f"{self.bucket}.")


Judge = Callable[[Request, str], Answer | None]
"""Gets each request and its bucket before it is answered; what it gives is the answer."""


def error(status: int, code: str, headers: Mapping[str, str] | None = None, *, said: str = "") -> Answer:
    """An S3 error. ``said`` is XML that goes beside its code."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code} by the tests</Message>{said}'
    body += "<RequestId>R1</RequestId></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml", **(headers or {})})


class SmallS3(Loopback):
    """``with SmallS3({"bucket": {"key": b"data"}}) as store``."""

    def __init__(
        self,
        buckets: Mapping[str, Mapping[str, bytes]],
        judge: Judge | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls)
        self._buckets = {bucket: dict(objects) for bucket, objects in buckets.items()}
        self._judge = judge
        self._seen: list[Seen] = []
        self._lock = threading.Lock()

    @property
    def seen(self) -> list[Seen]:
        with self._lock:
            return list(self._seen)

    def of_kind(self, kind: Kind) -> list[Seen]:
        return [one for one in self.seen if one.kind == kind]

    def clear(self) -> None:
        with self._lock:
            self._seen.clear()

    def place(self, request: Request) -> tuple[str, str]:
        """Which bucket and key a request names, in its path or in its host."""
        path = request.path.lstrip("/")
        for bucket in self._buckets:
            if request.host.startswith(f"{bucket}."):
                return bucket, path
        bucket, _, key = path.partition("/")
        return bucket, key

    def answer(self, request: Request) -> Answer:
        bucket, key = self.place(request)
        kind: Kind = "other"
        if request.method in ("GET", "HEAD") and "session" not in request.query:
            kind = "HEAD" if request.method == "HEAD" else "GET" if key else "LIST"
        answer = self._judge(request, bucket) if self._judge is not None else None
        if answer is None:
            answer = self.serve(request, bucket, key)
        name = request.query.get("prefix", "") if kind == "LIST" else key
        with self._lock:
            self._seen.append(Seen(kind, bucket, name, request, answer.status))
        return answer

    def serve(self, request: Request, bucket: str, key: str) -> Answer:
        """What a store says to somebody who may ask."""
        if request.method not in ("GET", "HEAD"):
            return error(405, "MethodNotAllowed")
        if bucket not in self._buckets:
            return error(404, "NoSuchBucket")
        if not key:
            return Answer() if request.method == "HEAD" else self._listing(bucket, request.query)
        if key not in self._buckets[bucket]:
            return error(404, "NoSuchKey")
        return _object(self._buckets[bucket][key], request)

    def _listing(self, bucket: str, query: Mapping[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""), key=str.encode)
        limit = int(query.get("max-keys", "1000"))
        spelled = quote if query.get("encoding-type") == "url" else escape
        rows: dict[str, str] = {}
        for key in sorted(self._buckets[bucket], key=str.encode):
            inside = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in inside:
                name = prefix + inside.partition(delimiter)[0] + delimiter
                row = f"<CommonPrefixes><Prefix>{spelled(name)}</Prefix></CommonPrefixes>"
            else:
                name, data = key, self._buckets[bucket][key]
                row = (
                    f"<Contents><Key>{spelled(key)}</Key><LastModified>{_MODIFIED}</LastModified>"
                    f"<ETag>&quot;{_etag(data)}&quot;</ETag><Size>{len(data)}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>"
                )
            if name.encode() > after.encode():
                rows[name] = row
        page = list(rows)[:limit]
        more = len(rows) > limit
        said = [
            "<IsTruncated>true</IsTruncated>" if more else "<IsTruncated>false</IsTruncated>",
            f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else "",
            "<EncodingType>url</EncodingType>" if spelled is quote else "",
            *(rows[name] for name in page),
        ]
        body = f'<?xml version="1.0"?><ListBucketResult><Name>{bucket}</Name>{"".join(said)}</ListBucketResult>'
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})


def _etag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def _object(data: bytes, request: Request) -> Answer:
    headers = {"ETag": f'"{_etag(data)}"', "Last-Modified": _MODIFIED_HTTP, "Accept-Ranges": "bytes"}
    match = request.headers.get("if-match", "").strip('"')
    if match not in ("", _etag(data)):
        return error(412, "PreconditionFailed")
    if request.method == "HEAD":
        return Answer(200, b"", headers | {"Content-Length": str(len(data))})
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Answer(200, data, headers)
    start = int(asked[1])
    if start >= len(data):
        return error(416, "InvalidRange")
    stop = min(int(asked[2] or len(data)) + 1, len(data))
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Answer(206, data[start:stop], headers)
