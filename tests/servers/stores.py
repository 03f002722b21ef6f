"""Which stores were tried, and what each cannot do: the facts that the battery goes by and that docs/STORES.md tells.

Owns the one table of both. The battery asserts what holds on each, and that what is said to be lacking lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from servers.tree import HIDDEN, MARKER, NAMES, SHADOWED


class Lack(Enum):
    """What most stores do and some do not. The value is how docs/STORES.md says it."""

    IF_MATCH = "ignores If-Match (that an object was replaced shows by the ETag of what comes)"
    PARTIAL_STATUS = "answers a ranged GET with 200 and a right Content-Range"
    FIRST_BYTES = "answers a range of the first byte alone with the whole object"
    PART_COUNTS = "the ETag of an object of several parts does not tell their number"
    KEY_IDS = "takes any access key"
    SECRETS = "takes any secret"
    PRIVACY = "lets anybody read"
    PUBLICITY = "has no bucket that anybody may read"
    CUSTOMERS_KEYS = "encrypts nothing with customers' keys (SSE-C)"
    MEMORY = "keeps objects in memory only"


@dataclass(frozen=True, slots=True)
class Store:
    """One store, as it was tried. ``refuses`` are keys of ``tree`` that it refuses, loses, or breaks at."""

    name: str
    version: str
    options: str = ""
    lacks: frozenset[Lack] = frozenset()
    refuses: frozenset[str] = frozenset()
    limits: tuple[str, ...] = ()


_CONTROLS: Final = frozenset(name for name in NAMES if any(ord(char) < 32 or ord(char) == 127 for char in name))
_LONGEST: Final = frozenset(name for name in NAMES if len(name) == 255)
_BACKSLASH: Final = frozenset(name for name in NAMES if "\\" in name)
_NESTED: Final = frozenset({"a/b/c/d/e/f/g", "percent%/dir%20/file"})

TRIED: Final = (
    Store(
        "moto",
        "5.2.5",
        lacks=frozenset({Lack.KEY_IDS, Lack.SECRETS, Lack.CUSTOMERS_KEYS, Lack.MEMORY}),
        refuses=frozenset({"line\nline"}),
        limits=("no newlines in keys",),
    ),
    Store(
        "rclone",
        "1.75.2 (`rclone serve s3`)",
        lacks=frozenset(
            {Lack.IF_MATCH, Lack.PARTIAL_STATUS, Lack.PART_COUNTS, Lack.PUBLICITY, Lack.CUSTOMERS_KEYS},
        ),
        refuses=_CONTROLS | {SHADOWED, MARKER} | frozenset(HIDDEN),
        limits=(
            "keys are paths of files: no object beside a folder of its name",
            "no empty components",
            "no control characters",
            "`dir/` becomes an empty file",
        ),
    ),
    Store(
        "s3rver",
        "3.7.1",
        lacks=frozenset(
            {
                Lack.IF_MATCH,
                Lack.FIRST_BYTES,
                Lack.PART_COUNTS,
                Lack.SECRETS,
                Lack.PRIVACY,
                Lack.CUSTOMERS_KEYS,
            }
        ),
        refuses=frozenset({"control\x01"}) | _LONGEST | _NESTED | frozenset(HIDDEN),
        limits=(
            "needs `node --openssl-legacy-provider` where a listing has more than one page",
            "a name of 255 bytes ends it",
            "a folder that holds nothing but folders is missing where a listing is by folders",
            "a control character makes it refuse the listing",
            "no empty components",
        ),
    ),
    Store(
        "SeaweedFS",
        "4.48",
        refuses=_BACKSLASH | frozenset(HIDDEN),
        limits=("stores a backslash as a slash", "no empty components"),
    ),
    Store("radosgw", "16.2.15 (Ceph)"),
    Store(
        "nginx",
        "1.22.1, TLS by a private CA, on `[::1]`, before SeaweedFS",
        options="`AWS_CA_BUNDLE`, or `--ca-bundle`",
        refuses=_BACKSLASH | frozenset(HIDDEN),
        limits=("must pass the Host header on as it came (`proxy_set_header Host $http_host`), since it is signed",),
    ),
    Store(
        "tinyproxy",
        "1.11.1, a forward proxy before Ceph's radosgw",
        options="`HTTP_PROXY`",
    ),
)
"""In the order of the battery."""

BY_HAND: Final = (
    Store("MinIO", ""),
    Store("versitygw", "", limits=("says 404 `XAdminUserNotFound` to an unknown access key",)),
    Store("s3s-fs", "", limits=("its listings have no ETags",)),
    Store("S3Proxy", "2.6.0", limits=("answers 501 to the header x-amz-optional-object-attributes",)),
    Store("OpenStack Swift's s3api", "", limits=("answers 500 to requests in absolute form",)),
)
"""Tried once and not by the tests. Where there is no version, none was noted."""


def tried(name: str) -> Store:
    return next(store for store in TRIED if store.name == name)
