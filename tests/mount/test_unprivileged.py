"""A mount by a user who is not root: through fusermount3, for this user alone."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mounting import COMMAND, PATIENCE_SECONDS, CommandLine, processes_naming
from s3server import S3Server

DATA = random.Random(3).randbytes(5 * 1024 * 1024 + 3)

USER = 65534

# The device is everybody's on a usual machine, but not in every container. So this takes a view of files of its own, in
# which it is; it goes with the process that holds it.
NAMESPACE = """
mknod "$0/fuse" c 10 229 && chmod 666 "$0/fuse" && mount --bind "$0/fuse" /dev/fuse && echo ready && read -r _
"""

# A capability that lets the user read the interpreter and this project, wherever they lie, and gives no right to mount.
AS_USER = (
    "setpriv",
    f"--reuid={USER}",
    f"--regid={USER}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=+dac_read_search",
    "--",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the user's own, below others that everybody may enter: fusermount3 looks with the user's rights."""
    made = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    for path in (made, *(made / name for name in ("home", "run", "mount", "cache"))):
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, USER, USER)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def namespace(folder: Path) -> Iterator[int]:
    """The process whose mounts the commands see."""
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", NAMESPACE, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"ready\n"
        yield holder.pid
        holder.stdin.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user; other tests mount as this one")
def test_a_user_mounts_reads_and_unmounts(
    server: S3Server, cli: CommandLine, folder: Path, namespace: int, binding: str
) -> None:
    server.create_bucket("bucket")
    server.put("bucket", "d/file", DATA)
    mountpoint = folder / "mount"
    environment = cli.environment | {"HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder / "run")}
    enter = ("nsenter", f"--mount=/proc/{namespace}/ns/mnt")

    def run(*words: str | Path, who: tuple[str, ...] = AS_USER) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*enter, *who, *words], env=environment, capture_output=True, timeout=60, check=False)

    def mount_line() -> list[str]:
        lines = Path(f"/proc/{namespace}/mounts").read_text().splitlines()
        return [line for line in lines if str(mountpoint) in line]

    options = ("--endpoint-url", server.url, "--binding", binding, "--cache-dir", folder / "cache")
    mounted = run(*COMMAND, "mount", "s3://bucket", mountpoint, *options, "--log-file", folder / "log")
    assert (mounted.returncode, mounted.stderr) == (0, b"")
    (pid,) = processes_naming(mountpoint)
    process = os.pidfd_open(pid)
    try:
        (line,) = mount_line()
        assert "fuse.s3stream ro," in line
        assert f"user_id={USER}" in line
        assert run("cat", mountpoint / "d" / "file").stdout == DATA
        assert b"Permission denied" in run("ls", mountpoint, who=()).stderr  # it is this user's, and not even root's
        stats = json.loads(run(*COMMAND, "stats", mountpoint, "--json").stdout)
        assert stats["kernel"]["binding"] == binding
        assert not stats["kernel"]["open_mode"].startswith("passthrough")
    finally:
        done = run(*COMMAND, "umount", mountpoint)
        ended = select.select([process], [], [], PATIENCE_SECONDS)[0]
        os.close(process)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ended
    assert mount_line() == []
    assert b"ERROR" not in (folder / "log").read_bytes()
