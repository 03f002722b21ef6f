"""The border: what botocore, httpx and obstore raise, as errors of this package.

The one place that reads foreign error texts. Messages that leave here hold no URL, no header and no credential.
"""

from __future__ import annotations

import re
from typing import Final

import botocore.exceptions
import obstore.exceptions

from s3stream_fs.errors import (
    Archived,
    Denied,
    NotFound,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
    Throttled,
)

_BY_CODE: Final[dict[str, type[StoreError]]] = {
    "InvalidObjectState": Archived,
    "AccessDenied": Denied,
    "AllAccessDisabled": Denied,
    "AuthorizationHeaderMalformed": Denied,
    "ExpiredToken": Denied,
    "InvalidAccessKeyId": Denied,
    "InvalidToken": Denied,
    "RequestTimeTooSkewed": Denied,
    "SignatureDoesNotMatch": Denied,
    "TokenRefreshRequired": Denied,
    "NoSuchBucket": NotFound,
    "NoSuchKey": NotFound,
    "PreconditionFailed": ObjectChanged,
    "InvalidRange": ObjectChanged,
    "SlowDown": Throttled,
    "RequestLimitExceeded": Throttled,
    "Throttling": Throttled,
    "TooManyRequests": Throttled,
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

_CREDENTIAL_ERRORS: Final = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.UnauthorizedSSOTokenError,
    botocore.exceptions.SSOTokenLoadError,
)


def error_of(status: int, code: str, message: str = "", request_id: str = "") -> StoreError:
    """What an HTTP answer means. ``code`` is S3's own (``SlowDown``), empty where there was none."""
    said = " ".join(part for part in (str(status) if status else "", code, message and f"({message})") if part)
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = StoreUnavailable if status == 0 or status >= 500 else StoreError
    return kind(said or "no answer", request_id=request_id)


def from_botocore(error: Exception) -> StoreError:
    """What an exception of the control plane means."""
    if isinstance(error, botocore.exceptions.ClientError):
        answer = error.response
        metadata = answer.get("ResponseMetadata", {})
        code = str(answer.get("Error", {}).get("Code", ""))
        status = int(metadata.get("HTTPStatusCode", 0))
        headers = metadata.get("HTTPHeaders", {})
        if status in (301, 307, 400) and (region := headers.get("x-amz-bucket-region")):
            return StoreError(f"the bucket is in region {region}; mount with --region {region}")
        if code.isdigit():
            code = ""  # HEAD has no body, and botocore puts the status there
        return error_of(status, code, request_id=str(metadata.get("RequestId", "")))
    if isinstance(error, _CREDENTIAL_ERRORS):
        return Denied("no usable credentials were found")
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return StoreError("the request is not one that S3 takes")
    if isinstance(error, botocore.exceptions.BotoCoreError):
        # Network trouble of many kinds, and answers that cannot be parsed.
        return StoreUnavailable(type(error).__name__)
    return StoreUnavailable(f"{type(error).__name__} in the connection to the store")


# obstore tells 503, a reset and a cut body apart only in its text; this is what that text looks like (0.12).
_OBSTORE_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})")
_OBSTORE_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_OBSTORE_REQUEST_ID: Final = re.compile(r"<RequestId>([A-Za-z0-9+/=-]{1,128})</RequestId>")
_OBSTORE_KIND: Final = re.compile(r"kind: (Connect|Timeout|Interrupted|Request|Decode|Unknown)")


def from_obstore(error: Exception) -> StoreError:
    """What an exception of the data plane means."""
    text = str(error)
    status = _OBSTORE_STATUS.search(text)
    code = _OBSTORE_CODE.search(text)
    request_id = _OBSTORE_REQUEST_ID.search(text)
    if status is not None:
        return error_of(int(status[1]), code[1] if code else "", request_id=request_id[1] if request_id else "")
    if isinstance(error, FileNotFoundError):
        return NotFound("404")
    if isinstance(error, obstore.exceptions.PreconditionError):
        return ObjectChanged("412")
    if isinstance(error, obstore.exceptions.PermissionDeniedError | obstore.exceptions.UnauthenticatedError):
        return Denied("403")
    if "BareRedirect" in text:
        return StoreError("the store redirects elsewhere; mount with the bucket's --region")
    kind = _OBSTORE_KIND.search(text)
    return StoreUnavailable(f"{kind[1] if kind else 'trouble'} in the connection to the store")
