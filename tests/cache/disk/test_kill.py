"""kill -9 at any moment: the cache opens, no byte is wrong, what was complete is there, nothing stays behind.

``S3STREAM_KILLS=200`` kills as often as that.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from disktiers import MIB, check, named, on_disk, run, until
from s3stream_fs.cache.disk.tier import DiskTier

KILLS: Final = int(os.environ.get("S3STREAM_KILLS", "6"))
LIMIT: Final = 24 * MIB
SIZE: Final = 300_000

CHILD = """
import pathlib, sys
import trio
sys.path.insert(0, sys.argv[2])
from disktiers import NO_RESERVE, DiskTierConfig, named, open_disk_tier, put

async def main():
    config = DiskTierConfig(pathlib.Path(sys.argv[1]), int(sys.argv[3]), NO_RESERVE)
    async with open_disk_tier(config, "s3/bucket") as tier:
        number = int(sys.argv[4])
        while True:
            put(tier, named(str(number), int(sys.argv[5])))
            number += 1
            if number % 8 == 0:
                await tier.flush()
                print(number, flush=True)

trio.run(main)
"""


def write_until_killed(folder: Path, first: int, seconds: float) -> int:
    """How many objects were complete, by number, when the one who wrote them was killed."""
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(folder),
        str(Path(__file__).parents[2]),
        str(LIMIT),
        str(first),
        str(SIZE),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        complete = int(child.stdout.readline())
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            complete = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            complete = int(line)
    return complete


def known(folder: Path) -> dict[str, int]:
    """What the index says that each file takes on disk; its total has to be their sum."""
    db = sqlite3.connect(folder / "blocks" / "index.sqlite")
    found = {name.hex(): nbytes for name, nbytes in db.execute("SELECT name, nbytes FROM file")}
    (total,) = db.execute("SELECT nbytes FROM total").fetchone()
    db.close()
    assert total == sum(found.values())
    return found


def there(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_blocks * 512 for path in folder.glob("blocks/??/*")}


def test_kills(tmp_path: Path) -> None:
    moments = random.Random(7)
    complete = expected = found = 0

    async def look(tier: DiskTier) -> None:
        nonlocal expected, found
        assert tier.statistics().errors == 0
        newest = range(max(complete - LIMIT // SIZE // 2, 0), complete)  # older ones may be evicted
        expected += len(newest)
        for number in newest:
            found += await check(tier, named(str(number), SIZE))
        for number in range(complete, complete + 100):
            await check(tier, named(str(number), SIZE))
        await until(lambda: known(tmp_path) == there(tmp_path))
        assert tier.statistics().bad_blocks == 0

    for _ in range(KILLS):
        complete = write_until_killed(tmp_path, complete, moments.uniform(0, 0.3))
        run(tmp_path, look, limit=LIMIT)
        assert on_disk(tmp_path) <= LIMIT
    assert expected > 0
    assert found >= 0.99 * expected
