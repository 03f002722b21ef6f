"""What the mount is for: DataLoader workers of every kind read every byte, from paths alone."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mounting import Mount
    from s3server import S3Server

LOADER = Path(__file__).with_name("load_all.py")
TIMEOUT_SECONDS = 120
"""A bound on a hang: the workers started by spawn each import torch anew, which takes seconds on a busy machine."""

KIB = 1024
SIZES = (0, 1, 4095, 4096, 4097, 128 * KIB, 256 * KIB - 1, 256 * KIB + 1, 700_001, 3 * KIB * KIB + 5, 6 * KIB * KIB + 3)


def dataset() -> dict[str, bytes]:
    """Files of sizes around all borders, in class folders."""
    random_bytes = random.Random(20).randbytes
    return {f"{number % 3}/sample {number}.bin": random_bytes(size) for number, size in enumerate(SIZES * 2)}


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_data_loader_workers_read_every_byte(
    server: S3Server, mounted: Callable[..., Mount], start_method: str
) -> None:
    files = dataset()
    server.create_bucket("training")
    for name, data in files.items():
        server.put("training", f"set/{name}", data)
    mount = mounted(server, "training", "set")

    done = subprocess.run(
        [sys.executable, "-W", "error", LOADER, mount.path, start_method],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert [json.loads(line) for line in done.stdout.splitlines()] == [expected, expected]
