"""A load without a mount: obstore fetches the objects' ranges by itself. What the network and one client library allow.

No reader waits for its bytes in order here, so this is an upper bound for a stream, not a contestant among mounts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import obstore
from obstore.store import S3Store

from bench import content
from bench.contestants.contestant import BUCKET
from bench.load.spec import Load, Outcome
from bench.load.tally import Tally, outcome

RANGE_NBYTES: Final = 8 << 20
CONNECTIONS: Final = 16
"""What the S3 guidance asks for at 10 Gbit/s: ranges of 8 to 16 MB, some 15 at once."""


def run(server_url: str, load: Load, go: Callable[[], None]) -> Outcome:
    """Fetch all that the load reads, as ranges of 8 MiB. ``go`` returns when the clock may start."""
    content.pattern()
    store = S3Store(
        BUCKET,
        endpoint=server_url,
        access_key_id="bench",
        secret_access_key="bench-secret",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    tally = Tally()
    ranges = _ranges(load)
    go()
    cpu = time.process_time()
    started = time.monotonic()
    deadline = started + load.limit_seconds

    async def fetch_some() -> None:
        for key, start, end in ranges:  # shared: each range is taken once
            if time.monotonic() > deadline:
                return
            began = time.perf_counter()
            data = await obstore.get_range_async(store, key, start=start, end=end)
            tally.took((time.perf_counter() - began) * 1e3, first=start == 0)
            view = memoryview(data)
            tally.nbytes += view.nbytes
            tally.wrong_reads += view.nbytes != end - start or not content.matches(key, start, view)

    async def fetch_all() -> None:
        await asyncio.gather(*(fetch_some() for _ in range(CONNECTIONS)))

    asyncio.run(fetch_all())
    tally.nfiles = len(load.jobs)
    return outcome([tally], time.monotonic() - started, time.process_time() - cpu)


def _ranges(load: Load) -> Iterator[tuple[str, int, int]]:
    for job in load.jobs:
        end = max(offset + nbytes for offset, nbytes in job.reads)
        for start in range(0, end, RANGE_NBYTES):
            yield job.key, start, min(start + RANGE_NBYTES, end)
