"""S3's XML: listings of both versions, and errors. Pure."""

from __future__ import annotations

from urllib.parse import quote
from xml.sax.saxutils import escape

from bench.simulator.bucket import Page

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


def error(code: str, message: str, key: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message><Key>{escape(key)}</Key></Error>"
    return (_HEAD + body).encode()


def listing(bucket: str, page: Page, query: dict[str, str]) -> bytes:
    """The answer to ListObjectsV2 (``list-type=2``) or to its first version."""
    as_url = query.get("encoding-type") == "url"

    def name(text: str) -> str:
        return quote(text, safe="/") if as_url else escape(text)

    second = query.get("list-type") == "2"
    parts = [
        f'{_HEAD}<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>',
        f"<Prefix>{name(query.get('prefix', ''))}</Prefix><Delimiter>{name(query.get('delimiter', ''))}</Delimiter>",
        f"<MaxKeys>{escape(query.get('max-keys', '1000'))}</MaxKeys>",
        "<EncodingType>url</EncodingType>" if as_url else "",
        f"<IsTruncated>{'false' if page.next_key is None else 'true'}</IsTruncated>",
    ]
    if second:
        parts.append(f"<KeyCount>{len(page.items) + len(page.prefixes)}</KeyCount>")
    if page.next_key is not None:
        tag = "NextContinuationToken" if second else "NextMarker"
        # The first version's marker is the last key that was seen, not the next one.
        last = max([item.key for item in page.items[-1:]] + list(page.prefixes[-1:]))
        parts.append(f"<{tag}>{page.next_key.encode().hex() if second else name(last)}</{tag}>")
    parts += [
        f"<Contents><Key>{name(item.key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{item.etag}&quot;</ETag><Size>{item.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for item in page.items
    ]
    parts += [f"<CommonPrefixes><Prefix>{name(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
    parts.append("</ListBucketResult>")
    return "".join(parts).encode()
