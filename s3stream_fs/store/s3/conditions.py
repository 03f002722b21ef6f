"""What binds a GET to one version of an object, and whether an answer is about that version. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from s3stream_fs.store.etags import bare, same, time_of


def conditions(version: str) -> tuple[str | None, datetime | None]:
    """If-Match and If-Unmodified-Since for a GET of ``version`` (see ``etags.version_of``).

    The time is a second late, since some stores compare with parts of a second that a version does not have; what was
    replaced within that second is seen by the answer's Last-Modified.
    """
    seconds = time_of(version)
    if seconds is not None:
        return None, datetime.fromtimestamp(seconds + 1, UTC)
    return (f'"{version}"' if version else None), None


def is_version(version: str, etag: str, modified_seconds: int | None) -> bool:
    """Whether an answer with this ETag, and this Last-Modified in whole seconds since 1970, is about ``version``.

    What was asked for by its ETag has to come with it: a store that knows no If-Match would give any version. For one
    that is known by its time an answer that tells none is believed, since it was asked for by If-Unmodified-Since.
    """
    seconds = time_of(version)
    if seconds is not None:
        return modified_seconds is None or modified_seconds == seconds
    return not version or same(version, bare(etag))
