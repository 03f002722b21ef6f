"""The border: what botocore, httpx and obstore raise, as errors of this package.

The one place that reads foreign error texts. Messages that leave here hold no URL, no header and no credential.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

import botocore.exceptions
import obstore.exceptions

from s3stream_fs.errors import (
    Archived,
    Denied,
    KeysRefused,
    NoBucket,
    NoKeys,
    NotFound,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
    Throttled,
    Untrusted,
    WrongRegion,
)
from s3stream_fs.store.s3.http import EndlessAnswer


class Unsuited(StoreError):
    """obstore cannot take what the store answers, or its certificate; the control plane may be able to."""


class RangeIgnored(StoreError):
    """The store sends the whole object where a part of it was asked for."""


_BY_CODE: Final[dict[str, type[StoreError]]] = {
    "InvalidObjectState": Archived,
    "AccessDenied": Denied,
    "AllAccessDisabled": Denied,
    "AuthorizationHeaderMalformed": Denied,
    "ExpiredToken": KeysRefused,
    "ExpiredTokenException": KeysRefused,
    "InvalidAccessKeyId": KeysRefused,
    "InvalidToken": KeysRefused,
    "RequestTimeTooSkewed": KeysRefused,
    "SignatureDoesNotMatch": KeysRefused,
    "TokenRefreshRequired": KeysRefused,
    "XAdminUserNotFound": KeysRefused,  # versitygw's word for keys that it does not know, with status 404
    "NoSuchBucket": NoBucket,
    "NoSuchKey": NotFound,
    "PreconditionFailed": ObjectChanged,
    "InvalidRange": ObjectChanged,
    "SlowDown": Throttled,
    "RequestLimitExceeded": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "TooManyRequests": Throttled,
    "TooManyRequestsException": Throttled,
    "RequestTimeout": StoreUnavailable,
    "NotImplemented": StoreError,
}
"""S3's error codes where they say more than the HTTP status."""

_BY_STATUS: Final[dict[int, type[StoreError]]] = {
    401: Denied,
    403: Denied,
    404: NotFound,
    408: StoreUnavailable,
    412: ObjectChanged,
    416: ObjectChanged,
    429: Throttled,
    501: StoreError,  # it will not know it the next time either
    503: Throttled,
}

_ELSEWHERE: Final = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")
"""Codes that mean another region, where one is named. Some stores name the bucket's in each answer."""

_SSE_C: Final = re.compile(r"Server Side Encryption|SSE-C|encryption parameters", re.IGNORECASE)
"""How S3 says, with the code InvalidRequest, that an object was stored with a customer's key, or with none."""

_MAX_SAID: Final = 300
"""Of a foreign message, what a line of a log bears."""
_MOST_READ: Final = 2000
"""Of a foreign message, what is looked at: a program may have written megabytes."""
_MAX_CODE: Final = 64
"""Of a store's error code; the longest of Amazon's has 42 characters."""
_MORE_WORDS: Final = "|key|auth|pw|credential"
"""Beside which a program may show what it should not; in a library's message they are harmless."""

_PROXY_REFUSES: Final = "407: the proxy takes a user and a password, or others than HTTP_PROXY or HTTPS_PROXY give"


def error_of(
    status: int,
    code: str,
    message: str = "",
    request_id: str = "",
    *,
    region: str = "",
    store_time: float | None = None,
) -> StoreError:
    """What an HTTP answer means. ``code`` is S3's own (``SlowDown``), empty where there was none; ``region`` is the
    bucket's, where the answer names one that requests are not sent to already."""
    code = code[:_MAX_CODE]
    said = " ".join(part for part in (str(status) if status else "", code) if part) or "no answer"
    if status == 407:
        return StoreError(_PROXY_REFUSES)
    if region and (code in _ELSEWHERE or (not code and status in (301, 302, 307, 400))):
        return WrongRegion(f"{said}: the bucket is in region {region}", region=region, request_id=request_id)
    if status == 400 and code in ("InvalidRequest", "InvalidArgument") and _SSE_C.search(message):
        return Denied(
            f"{said}: a customer's key (SSE-C) is missing (--sse-c-key-file), or the object is stored without one",
            request_id=request_id,
        )
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = StoreUnavailable if status == 0 or status >= 500 else StoreError
    if kind is KeysRefused:
        return KeysRefused(said, request_id=request_id, store_time=store_time)
    return kind(said, request_id=request_id)


def from_botocore(error: Exception, region: str = "") -> StoreError:
    """What an exception of the control plane means; ``region`` is the one that requests go to."""
    if isinstance(error, botocore.exceptions.ClientError):
        return _from_answer(error.response, region)
    if isinstance(error, StoreError):
        return error  # the keyring's own, on its way through botocore's signer
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return StoreError("the request is not one that S3 takes")
    return _from_connection(error)


def _from_answer(answer: Mapping[str, object], region: str) -> StoreError:
    """botocore's reading of an answer that is an error."""
    metadata = _mapping(answer.get("ResponseMetadata"))
    told = _mapping(answer.get("Error"))
    headers = {str(name).lower(): str(value) for name, value in _mapping(metadata.get("HTTPHeaders")).items()}
    code = str(told.get("Code", ""))
    status = metadata.get("HTTPStatusCode", 0)
    there = _region(headers.get("x-amz-bucket-region") or str(told.get("Region", "")))
    if code.isdigit():
        code = ""  # HEAD has no body, and botocore puts the status there
        if status == 400 and there in ("", region):
            # Of what S3 answers with 400, expired keys are the only thing that a HEAD of ours can meet.
            return KeysRefused("400 without a reason", request_id=str(metadata.get("RequestId", "")))
    return error_of(
        status if isinstance(status, int) else 0,
        code,
        str(told.get("Message", "")),
        str(metadata.get("RequestId", "")),
        region="" if there == region else there,
        store_time=_time(headers.get("date", "")),
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _region(text: str) -> str:
    return text if re.fullmatch(r"[a-z0-9-]{2,40}", text) else ""


def _time(text: str) -> float | None:
    """Unix seconds of an HTTP date, or of one as S3 writes it in XML."""
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(text).timestamp()
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return None


def _from_connection(error: BaseException) -> StoreError:
    """No answer came. The reason lies somewhere in the chain of causes."""
    to = "the proxy (HTTPS_PROXY or HTTP_PROXY)" if isinstance(error, _PROXY_ERRORS) else "the store"
    for cause in _causes(error):
        match cause:
            case EndlessAnswer():
                return StoreError(str(cause))
            case ssl.SSLCertVerificationError():
                return Untrusted(f"the server's certificate is not trusted: {cause.verify_message or cause.reason}")
            case ssl.SSLError() if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
                return Untrusted("the server does not speak TLS; an endpoint URL with http:// would reach it")
            case ssl.SSLError():
                return StoreUnavailable(f"TLS failed: {cause.reason or type(cause).__name__}")
            case socket.gaierror():
                return StoreUnavailable(f"the name of {to} cannot be resolved: {cause.strerror}")
            case _ if type(cause).__name__ == "ProxyError" and str(cause).startswith("407"):
                return StoreError(_PROXY_REFUSES)
            case OSError() if cause.strerror:
                return StoreUnavailable(f"no connection to {to}: {cause.strerror}")
    name = type(error).__name__
    # Network trouble of many kinds, and answers that cannot be parsed.
    return StoreUnavailable(_READABLE.get(name, f"{name} in the connection to {to}"))


_PROXY_ERRORS: Final = (botocore.exceptions.ProxyConnectionError,)

_READABLE: Final = {
    "ConnectTimeoutError": "no connection within the time for it",
    "ReadTimeoutError": "no answer within the time for it",
    "HTTPClientError": "what answers does not speak HTTP as a store does",
    "EndpointConnectionError": "no connection to the store",
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What an error goes back to: its causes, its context, and what botocore wraps as an argument."""
    seen: set[int] = set()
    left = [error]
    while left:
        at = left.pop(0)
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        yield at
        wrapped = getattr(at, "kwargs", None)
        inner = wrapped.get("error") if isinstance(wrapped, dict) else None
        left += [at.__cause__, inner if isinstance(inner, BaseException) else None, at.__context__]
        if isinstance(at, BaseExceptionGroup):
            left += at.exceptions


# Sources of credentials


def from_source(error: Exception) -> StoreError:
    """What botocore's chain raised: StoreUnavailable where asking again may help, else NoKeys with the reason."""
    if isinstance(error, botocore.exceptions.ClientError):
        operation = getattr(error, "operation_name", "")
        told = _mapping(error.response.get("Error"))
        status = _mapping(error.response.get("ResponseMetadata")).get("HTTPStatusCode", 0)
        code = str(told.get("Code", ""))
        text = f"{operation} was answered {status} {code}".rstrip()
        kind = _BY_CODE.get(code) or _BY_STATUS.get(status if isinstance(status, int) else 0)
        if kind in (Throttled, StoreUnavailable) or (isinstance(status, int) and status >= 500):
            return StoreUnavailable(f"credentials: {text}")
        return NoKeys(_credentials(f"{text}: {_said(str(told.get('Message', '')))}"))
    if isinstance(error, _LATER):
        found = _from_connection(error)
        return found if isinstance(found, Untrusted) else StoreUnavailable(f"credentials: {found}")
    if isinstance(error, botocore.exceptions.CredentialRetrievalError):
        provider, said = str(error.kwargs.get("provider", "")), str(error.kwargs.get("error_msg", ""))
        if provider == "custom-process":
            # What a program writes last is what went wrong; before it may stand a whole traceback.
            said = next((line for line in reversed(said.splitlines()) if line.strip()), "")
            why = _said(said, by_a_program=True) or "it says nothing"
            return NoKeys(_credentials(f"credential_process failed: {why}"))
        text = _credentials(f"{provider}: {_said(said)}")
        return StoreUnavailable(text) if provider in _SERVERS and not _REFUSED.search(said) else NoKeys(text)
    if isinstance(error, json.JSONDecodeError):
        return NoKeys(_credentials("credential_process writes something else than JSON"))
    if isinstance(error, _LOGIN):
        return NoKeys(_credentials("not logged in, or not any more: run aws sso login, for this profile"))
    return NoKeys(_credentials(_said(str(error)) or type(error).__name__))


_LATER: Final = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.MetadataRetrievalError,
    botocore.exceptions.IncompleteReadError,
)

_SERVERS: Final = ("container-role", "iam-role")
"""Sources that are servers of the machine's own: what they refuse now, they may give in a moment."""

_REFUSED: Final = re.compile(r"non 200 response (?!408|429)4[0-9][0-9]")
"""How botocore tells that a container's endpoint refuses: the wrong authorization token, or no role."""

_LOGIN: Final = (
    botocore.exceptions.SSOTokenLoadError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.UnauthorizedSSOTokenError,
)


def _credentials(text: str) -> str:
    return f"no usable credentials: {text}"


def _said(text: str, *, by_a_program: bool = False) -> str:
    """A foreign message in one line, without what may be a secret in it.

    What a program says may hold anything: of that, all that stands behind a word for a secret goes.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:_MOST_READ]).split())
    line = re.sub(r"\b([a-z][a-z0-9+.-]{0,20}://)[^/@\s]+@", r"\1***@", line)
    words = "secret|token|passw|signature|authorization" + (_MORE_WORDS if by_a_program else "")
    behind = "..*" if by_a_program else r"['\"]?\s*[=:]\s*\S+"
    line = re.sub(rf"(?i)(authorization).*|((?:{words})[\w-]*){behind}", r"\1\2 ***", line)
    long = r"[\w.~+/=-]{32,}" if by_a_program else r"(?<![\w.~+/=-])(?!/)[\w.~+/=-]{32,}"  # a path is no secret
    line = re.sub(rf"\b(?:AKIA|ASIA)[A-Z0-9]{{12,}}\b|{long}", "***", line)
    return line[:_MAX_SAID]


# obstore tells 503, a reset and a cut body apart only in its text; this is what that text looks like (0.12).
_OBSTORE_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})")
_OBSTORE_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_OBSTORE_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})")
_OBSTORE_REGION: Final = re.compile(r"<Region>([a-z0-9-]{2,40})</Region>")
_OBSTORE_TIME: Final = re.compile(r"<ServerTime>([0-9TZ:.+-]{10,40})</ServerTime>")
_OBSTORE_REQUEST_ID: Final = re.compile(r"<RequestId>([A-Za-z0-9+/=-]{1,128})</RequestId>")
_OBSTORE_KIND: Final = re.compile(r"kind: (Connect|Timeout|Interrupted|Request|Decode|Unknown)")
_OBSTORE_CERTIFICATE: Final = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)")
_OBSTORE_UNSUITED: Final = {
    "NotPartial": "answers a range with status 200",
    "ParseContentRange": "gives a Content-Range that does not tell the object's size",
    "MissingContentLength": "does not tell how long its answers are",
    # Of one object, such as an ETag, metadata or a Content-Type in UTF-8.
    "BadHeader": "gives an answer with a header that is not of ASCII",
    "InvalidMetadata": "gives an answer with metadata that is not of ASCII",
    "InvalidContentType": "gives an answer with a Content-Type that is not of ASCII",
    "InvalidContentEncoding": "gives an answer with a Content-Encoding that is not of ASCII",
    "InvalidLastModified": "gives an answer with a Last-Modified that is no time",
}


def from_obstore(error: Exception, region: str = "") -> StoreError:
    """What an exception of the data plane means; ``region`` is the one that requests go to."""
    text = str(error)
    status = _OBSTORE_STATUS.search(text)
    if status is not None:
        # Behind the status stands what the store said; before it the key, which may look like that.
        said = text[status.end() :]

        def found(pattern: re.Pattern[str]) -> str:
            match = pattern.search(said)
            return match[1] if match else ""

        return error_of(
            int(status[1]),
            found(_OBSTORE_CODE),
            found(_OBSTORE_MESSAGE),
            found(_OBSTORE_REQUEST_ID),
            region="" if found(_OBSTORE_REGION) == region else found(_OBSTORE_REGION),
            store_time=_time(found(_OBSTORE_TIME)),
        )
    if isinstance(error, FileNotFoundError):
        return NotFound("404")
    if isinstance(error, obstore.exceptions.PreconditionError):
        return ObjectChanged("412")
    if isinstance(error, obstore.exceptions.PermissionDeniedError | obstore.exceptions.UnauthenticatedError):
        return Denied("403")
    for sign, meaning in _OBSTORE_UNSUITED.items():
        if f"source: {sign}" in text:
            return Unsuited(f"the store {meaning}")
    if "BareRedirect" in text:
        return StoreError("the store redirects elsewhere; mount with the bucket's --region")
    certificate = _OBSTORE_CERTIFICATE.search(text)
    if certificate is not None:
        if certificate[1] == "CaUsedAsEndEntity":
            return Unsuited("the server's certificate is that of an authority, not of a server")
        return Untrusted(f"the server's certificate is not trusted: {certificate[1]}")
    kind = _OBSTORE_KIND.search(text)
    return StoreUnavailable(f"{kind[1] if kind else 'trouble'} in the connection to the store")
