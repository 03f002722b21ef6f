"""The control plane's HTTP: aiobotocore's httpx session, with request targets as servers expect them.

aiobotocore hands httpx the whole URL as the request's target, so that no key is normalised on the way. Sent like that
(``GET http://host/key``, RFC 9112's absolute form) it is meant for proxies, and two servers in five refuse it. Here the
target is the path and the query, as they were signed; a forward proxy gets the absolute form, which httpcore makes.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Final

import httpx2
from aiobotocore.httpxsession import HttpxSession

_TARGETS: Final = ("target", "aiobotocore_raw_proxy_target")
"""Under which of a request's extensions aiobotocore leaves the whole URL: for servers, and for proxies."""

_MOST_NBYTES: Final = 64 * 1024 * 1024
"""No answer here is as long: parts have 8 MiB."""

_MOST_LISTED_NBYTES: Final = 8 * 1024 * 1024
"""A page of 1,000 keys with the longest names, each byte of them percent-encoded, has 4 MiB. What a store that heeds no
max-keys may send is 20,000 keys, some 50 ms to read."""

_MOST_REFUSED_NBYTES: Final = 1024 * 1024
"""What a store says with an error. A proxy may say it with a web page. The rest of a longer one is left unread, for
what counts is the status."""


_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_UNPACKED_NBYTES: Final = 64 * 1024


class EndlessAnswer(httpx2.ReadError):
    """More came than any answer to such a request has."""


class OriginFormSession(HttpxSession):  # type: ignore[misc]
    """Made by aiobotocore, for one client, with the SSL context that its configuration holds."""

    def _make_async_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            timeout=self._timeout,
            transport=_Transport(verify=self._verify, limits=self._limits),
            mounts={
                f"{scheme}://": _Transport(
                    verify=self._verify,
                    limits=self._limits,
                    proxy=httpx2.Proxy(
                        url=proxy,
                        headers=self._proxy_config.proxy_headers_for(proxy) or None,
                        ssl_context=self._proxy_ssl_contexts.get(proxy),
                    ),
                )
                for scheme, proxy in self._proxy_urls.items()
            },
            trust_env=False,  # the Connection has decided already
        )


class _Transport(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        for name in _TARGETS:
            target = request.extensions.pop(name, None)
            if target is not None:
                request.url = _RawURL(request.url, target)
        response = await super().handle_async_request(request)
        if isinstance(response.stream, httpx2.AsyncByteStream):
            refused = response.status_code >= 300
            listed = b"max-keys=" in request.url.raw_path
            most = _MOST_REFUSED_NBYTES if refused else _MOST_LISTED_NBYTES if listed else _MOST_NBYTES
            stream = response.stream
            if refused or listed:
                # Unpacked here, so that what is counted is what it comes to: 2 MB may be 2 GiB of blanks.
                encoding = response.headers.pop("content-encoding", "identity")
                stream = _Unpacked(stream) if encoding.lower() in ("gzip", "x-gzip", "deflate") else stream
            response.stream = _Bounded(stream, most, cut=refused)
        return response


class _Unpacked(httpx2.AsyncByteStream):
    """A body that was packed by gzip or zlib, a little at a time."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        unpacking = zlib.decompressobj(_GZIP_OR_ZLIB)
        async for piece in self._stream:
            left = piece
            try:
                while unpacked := unpacking.decompress(left, _UNPACKED_NBYTES):
                    yield unpacked
                    left = unpacking.unconsumed_tail
            except zlib.error as error:
                raise httpx2.ReadError(f"the answer cannot be unpacked: {error}") from None

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends, whatever the server sends: in an error, or where it is ``cut``."""

    def __init__(self, stream: httpx2.AsyncByteStream, most_nbytes: int, *, cut: bool) -> None:
        self._stream = stream
        self._most_nbytes = most_nbytes
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most_nbytes
        async for piece in self._stream:
            left -= len(piece)
            if left < 0 and self._cut:
                return
            if left < 0:
                raise EndlessAnswer(f"the answer has more than {self._most_nbytes} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _RawURL(httpx2.URL):
    """A URL whose path and query are sent byte for byte as they were given."""

    def __init__(self, url: httpx2.URL, target: bytes) -> None:
        super().__init__(url)
        _, _, rest = target.partition(b"://")
        self._raw = rest[rest.find(b"/") :] if b"/" in rest else b"/"

    @property
    def raw_path(self) -> bytes:
        return self._raw
