"""fio, which knows nothing of this project, reads what it wrote: each 4 KiB says what it is and where it belongs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import Mount
from s3server import S3Server

Mounted = Callable[..., Mount]

NBYTES = 16 * 1024 * 1024
NREADERS = 4

WRITTEN = ("--verify=crc32c", "--verify_state_save=0", "--verify_interval=4k", f"--size={NBYTES}", "--randseed=7")


def fio(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["fio", "--name=job", f"--filename={path}", *WRITTEN, *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--rw=read", "--bs=128k", "--ioengine=psync"],
        ["--rw=randread", "--bsrange=4k-1m", "--ioengine=psync"],
        ["--rw=randread", "--bsrange=4k-256k", "--ioengine=mmap"],
        ["--rw=randread", "--bsrange=4k-1m", "--ioengine=libaio", "--direct=1", "--iodepth=16"],
        ["--rw=read", "--bs=1m", "--ioengine=io_uring", "--iodepth=8"],
    ],
    ids=["sequential", "random", "mapped", "direct", "io_uring"],
)
def test_fio_finds_every_block_in_its_place(
    server: S3Server, mounted: Mounted, tmp_path: Path, words: list[str]
) -> None:
    local = tmp_path / "written"
    assert fio(local, "--rw=write", "--bs=1m", "--do_verify=0").returncode == 0
    server.create_bucket("bucket")
    server.put("bucket", "file", local.read_bytes())
    mount = mounted(server, "bucket")
    done = fio(mount.path / "file", "--readonly", "--verify_fatal=1", f"--numjobs={NREADERS}", "--thread", *words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_fio_would_tell(tmp_path: Path) -> None:
    """One wrong byte, and it fails: the test above shows something."""
    local = tmp_path / "written"
    assert fio(local, "--rw=write", "--bs=1m", "--do_verify=0").returncode == 0
    with local.open("r+b") as file:
        file.seek(NBYTES // 2 + 100)
        byte = file.read(1)
        file.seek(NBYTES // 2 + 100)
        file.write(bytes([byte[0] ^ 1]))
    done = fio(local, "--readonly", "--verify_fatal=1", "--rw=randread", "--bsrange=4k-1m", "--ioengine=psync")
    assert done.returncode != 0
    assert "verify failed" in done.stdout + done.stderr
