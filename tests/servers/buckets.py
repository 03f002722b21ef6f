"""The buckets of the battery, written through each store's own door.

Owns what is in them. ``tree`` and ``crowd`` are written once and never changed, ``public`` may be read by anybody where
a store has such buckets, and in ``changing`` each test has a prefix of its own: some stores take long to make a bucket.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import obstore
from boto3.s3.transfer import TransferConfig
from obstore.store import S3Store

from servers.server import PUBLIC, Server
from servers.stores import Lack, Store
from servers.tree import CROWD, HIDDEN, MARKER, MULTIPART, NAMES, PART_NBYTES, SHADOWED, content

TREE: Final = "tree"
CROWDED: Final = "crowd"
CHANGING: Final = "changing"

PUBLIC_KEY: Final = "open/to all"

_NWRITERS: Final = 8


def keys_of(store: Store) -> list[str]:
    """The keys of ``tree``: all that the store takes."""
    return [key for key in (*NAMES, MARKER, SHADOWED, *HIDDEN, MULTIPART) if key not in store.refuses]


def fill(server: Server, store: Store) -> None:
    """Make all buckets and write what is in them."""
    client = server.client
    for bucket in (TREE, CROWDED, CHANGING, PUBLIC):
        client.create_bucket(Bucket=bucket)
    client.upload_fileobj(
        io.BytesIO(content(MULTIPART)),
        TREE,
        MULTIPART,
        Config=TransferConfig(multipart_threshold=PART_NBYTES, multipart_chunksize=PART_NBYTES),
    )
    for key in keys_of(store):
        if key != MULTIPART:
            client.put_object(Bucket=TREE, Key=key, Body=content(key))
    crowded = S3Store(  # a fifth of boto3's CPU for each object
        CROWDED,
        endpoint=server.url,
        region=server.region,
        access_key_id=server.key_id,
        secret_access_key=server.secret,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with ThreadPoolExecutor(_NWRITERS) as writers:
        for done in [writers.submit(obstore.put, crowded, key, content(key)) for key in CROWD]:
            done.result()
    client.put_object(Bucket=PUBLIC, Key=PUBLIC_KEY, Body=content(PUBLIC_KEY))
    if Lack.PUBLICITY not in store.lacks:
        server.make_public(PUBLIC)
