"""Everything that can go wrong, named for what the caller can do about it.

::

    S3StreamError
    ├── UsageError              the user can mend it: bad option, bucket, credentials, mount point
    ├── NameTooLong             a path component that no key can have
    └── StoreError              one request to the store came to nothing
        ├── NotFound            no such key
        │   └── NoBucket        no such bucket
        ├── WrongRegion         the bucket is in another region, which is known
        ├── Untrusted           the server's certificate is not believed, or it does not speak TLS
        ├── Denied              403, or no usable credentials
        │   ├── Archived        the object must be restored from its archive first
        │   ├── NoKeys          no source gives any, and none will before somebody mends it
        │   └── KeysRefused     the keys are expired, unknown or signed at the wrong time: others may do
        ├── ObjectChanged       the key now holds another version (412)
        └── Transient           asking again may help; the retry policy decides, nobody else
            ├── Throttled       503 SlowDown, 429
            └── StoreUnavailable  5xx, network trouble, short body, time-out; also what is raised once retries are spent
                └── TooSlow     it did not come by the reader's own deadline

Foreign errors are turned into these at the border (``store/``), by a table. Only ``errno_of`` turns them into errno.
"""

from __future__ import annotations

import errno
from typing import Final


class S3StreamError(Exception):
    """Root of all errors that this package raises on purpose."""


class UsageError(S3StreamError):
    """The user can mend it. ``str()`` is one line that says what is wrong and what to do."""


class NameTooLong(S3StreamError):
    """A path component of more than 255 bytes."""


class StoreError(S3StreamError):
    """A request to the store failed. ``request_id`` is the store's own, where it gave one."""

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id

    def again(self) -> StoreError:
        """The same error, to be raised to one more waiter: each adds its own traceback."""
        error = type(self).__new__(type(self), *self.args)  # what some of them need beside a message is in __dict__
        error.__dict__.update(self.__dict__)
        return error


class NotFound(StoreError):
    """There is no such key."""


class WrongRegion(StoreError):
    """The bucket is in ``region``, for which requests have to be signed, and to whose host they have to go."""

    def __init__(self, message: str, *, region: str, request_id: str = "") -> None:
        super().__init__(message, request_id=request_id)
        self.region = region


class Untrusted(StoreError):
    """No TLS with this server: its certificate is not believed, or it speaks another protocol."""


class Denied(StoreError):
    """The store refuses: permissions, or credentials that are missing or expired after a refresh."""


class Archived(Denied):
    """The object lies in an archive and has to be restored before it can be read."""


class NoKeys(Denied):
    """There are no credentials, so that nothing was asked of the store. ``str()`` says why."""


class KeysRefused(Denied):
    """The store refuses the keys themselves, not what they may do. ``store_time`` is its clock (Unix seconds) where it
    says that the request was signed at the wrong time."""

    def __init__(self, message: str, *, request_id: str = "", store_time: float | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.store_time = store_time


class NoBucket(NotFound):
    """There is no such bucket."""


class ObjectChanged(StoreError):
    """The object was replaced since its version was learnt."""


class Transient(StoreError):
    """Asking again may help."""


class Throttled(Transient):
    """The store asks for fewer requests."""


class StoreUnavailable(Transient):
    """The store, or the way to it, is out of order."""


class TooSlow(StoreUnavailable):
    """Bytes did not come by the deadline of who waited for them. ``str()`` says how far they were, and why."""


_ERRNO: Final[tuple[tuple[type[S3StreamError], int], ...]] = (
    (NameTooLong, errno.ENAMETOOLONG),
    (NotFound, errno.ENOENT),
    (Denied, errno.EACCES),
    (ObjectChanged, errno.ESTALE),
    (StoreError, errno.EIO),
)


def errno_of(error: S3StreamError) -> int:
    """The errno that a program gets for ``error``; EIO for what has no better name."""
    return next((number for kind, number in _ERRNO if isinstance(error, kind)), errno.EIO)
