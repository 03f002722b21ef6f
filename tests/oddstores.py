"""Stores that are not quite Amazon S3, as layers around moto: what they ignore, refuse and spell in their own way.

Each is a ``Layer`` for ``S3Server(layer)``. Only listings are touched.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlencode
from xml.sax.saxutils import escape

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Layer = Callable[[App], App]
Query = dict[str, str]


def listings(ask: Callable[[Query], Query | tuple[str, str]], answer: Callable[[Query, str], str]) -> Layer:
    """``ask`` changes a LIST's query or refuses it with (status, code), ``answer`` changes what comes back for it."""

    def layer(app: App) -> App:
        def odd(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
            if not _is_list(environ, query):
                return app(environ, start_response)
            asked = ask(dict(query))
            if isinstance(asked, tuple):
                return _refused(*asked, start_response)
            environ["QUERY_STRING"] = urlencode(asked, quote_via=quote)
            environ.pop("RAW_URI", None)
            environ.pop("REQUEST_URI", None)
            said: list[Any] = []
            text = b"".join(app(environ, lambda *given: said.extend(given[:2]))).decode()
            body = answer(query, text).encode()
            start_response(said[0], [pair for pair in said[1] if pair[0].lower() != "content-length"])
            return [body]

        return odd

    return layer


def _is_list(environ: dict[str, Any], query: Query) -> bool:
    return bool(environ["REQUEST_METHOD"] == "GET" and {"prefix", "max-keys"} & query.keys())


def _refused(status: str, code: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    start_response(status, [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
    return [body]


def first_version(refusal: tuple[str, str] | None = None, *, next_marker: bool = True, skips: bool = True) -> Layer:
    """ListObjects as it was first: ``marker``, and ``NextMarker`` where there is a delimiter.

    A request of the second version is answered as one of the first, or refused. ``skips``: a marker that is a common
    prefix stands for all that is rolled up in it.
    """

    def ask(query: Query) -> Query | tuple[str, str]:
        if query.pop("list-type", "") == "2":
            query.pop("start-after", None)
            query.pop("continuation-token", None)
            if refusal is not None:
                return refusal
        marker = query.pop("marker", "")
        if marker:
            # moto rolls up first and then compares: ".\U0010ffff" is what comes just before "/".
            query["start-after"] = marker if skips or not marker.endswith("/") else marker[:-1] + ".\U0010ffff"
        return query | {"list-type": "2"}

    def answer(query: Query, text: str) -> str:
        text = re.sub("<KeyCount>.*?</KeyCount>|<StartAfter>.*?</StartAfter>", "", text)
        names = [unquote(name) for name in re.findall("<Key>(.*?)</Key>|<Prefix>(.+?)</Prefix>", text) for name in name]
        last = max((name for name in names if name != query.get("prefix")), default="")
        tag = f"<NextMarker>{quote(last)}</NextMarker>" if next_marker else ""
        return re.sub("<NextContinuationToken>.*?</NextContinuationToken>", tag, text)

    return listings(ask, answer)


def spelled(
    keys: Callable[[str], str] = quote, prefixes: Callable[[str], str] = quote, *, announced: bool = True
) -> Layer:
    """Names are written as these functions do it; ``announced``: the answer says that they are encoded."""

    def answer(_: Query, text: str) -> str:
        for tag, spell in (("Key", keys), ("Prefix", prefixes)):
            pieces = re.split(f"(?<=<{tag}>)(.*?)(?=</{tag}>)", text)
            pieces[1::2] = [escape(spell(unquote(piece))) for piece in pieces[1::2]]
            text = "".join(pieces)
        return text if announced else text.replace("<EncodingType>url</EncodingType>", "")

    return listings(lambda query: query, answer)


def seaweedfs(name: str) -> str:
    """A key as SeaweedFS writes it: the last part as in a form, and what is before it otherwise."""
    front, slash, last = name.rpartition("/")
    return quote(front + slash) + quote_plus(last)


def refuses(*parameters: str, status: str = "501 Not Implemented", code: str = "NotImplemented") -> Layer:
    """Knows no LIST with these parameters (of the query) or headers, in lower case."""

    def layer(app: App) -> App:
        def odd(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
            headers = {name.removeprefix("HTTP_").replace("_", "-").lower() for name in environ}
            if not _is_list(environ, query) or not (query.keys() | headers) & set(parameters):
                return app(environ, start_response)
            return _refused(status, code, start_response)

        return odd

    return layer


def allows(allowed: Callable[[Query], bool]) -> Layer:
    """A policy: LIST is denied but for some queries."""
    return listings(lambda query: query if allowed(query) else ("403 Forbidden", "AccessDenied"), lambda _, text: text)


def rewritten(pattern: str, by: str) -> Layer:
    """Lists with something else in the place of what matches. ETags of other answers go, where those of lists do."""
    listing = listings(lambda query: query, lambda _, text: re.sub(pattern, by, text, flags=re.DOTALL))
    if "ETag" not in pattern or by:
        return listing

    def layer(app: App) -> App:
        lists = listing(app)

        def odd(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            def without(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
                return start_response(status, [pair for pair in headers if pair[0].lower() != "etag"], *more)

            return lists(environ, without)

        return odd

    return layer


def pages_without_names(every: int) -> Layer:
    """Before each page so many others that are empty, each with a token."""

    def ask(query: Query) -> Query | tuple[str, str]:
        rest = query.get("continuation-token", "0:").partition(":")[2]
        if rest:
            query["continuation-token"] = rest
        else:
            query.pop("continuation-token", None)
        return query

    def answer(query: Query, text: str) -> str:
        done = int(query.get("continuation-token", "0:").partition(":")[0])
        rest = query.get("continuation-token", "0:").partition(":")[2]
        if done < every:
            token = f"<NextContinuationToken>{escape(f'{done + 1}:{rest}')}</NextContinuationToken>"
            return f"<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>"
        return text.replace("<NextContinuationToken>", "<NextContinuationToken>0:")

    return listings(ask, answer)


def directory_bucket(*, refuses_start_after: bool = True) -> Layer:
    """A bucket of S3 Express One Zone: listed in no order, from its beginning, below prefixes that end in ``/``."""

    def ask(query: Query) -> Query | tuple[str, str]:
        if query.get("list-type") != "2":
            return "501 Not Implemented", "NotImplemented"
        if query.get("prefix") and not query["prefix"].endswith("/"):
            return "400 Bad Request", "InvalidArgument"
        if query.pop("start-after", None) and refuses_start_after:
            return "400 Bad Request", "InvalidArgument"
        return query

    def answer(_: Query, text: str) -> str:
        for pattern in ("(<Contents>.*?</Contents>)", "(<CommonPrefixes>.*?</CommonPrefixes>)"):
            pieces = re.split(pattern, text)
            shuffled = pieces[1::2]
            random.Random(len(text)).shuffle(shuffled)
            pieces[1::2] = shuffled
            text = "".join(pieces)
        return text

    listing = listings(ask, answer)

    def layer(app: App) -> App:
        lists = listing(app)

        def odd(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ.get("QUERY_STRING", "").partition("=")[0] != "session":
                return lists(environ, start_response)
            start_response("200 OK", [("Content-Type", "application/xml")])
            return [_SESSION]

        return odd

    return layer


_SESSION = b"""<CreateSessionResult><Credentials><AccessKeyId>testing</AccessKeyId>
<SecretAccessKey>testing</SecretAccessKey><SessionToken>testing</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"""
"""A directory bucket is asked with the credentials of a session."""
