"""Trains a model from a bucket, start to end, on this machine alone, and shows what each epoch asked of S3.

Starts a simulated S3 (moto) on a loopback port, uploads scikit-learn's 1,797 handwritten digits as PNG files, mounts
the bucket with ``s3stream-fs``, runs docs/examples/train_digits.py on the mount and then on a local copy of the same
files. Requests are counted where they arrive, at the server. Leaves nothing behind; ends with 1 if accuracy or
requests are not what they should be.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import numpy as np
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from PIL import Image
from sklearn.datasets import load_digits
from werkzeug.serving import make_server

BUCKET: Final = "digits"
TRAINING_SCRIPT: Final = Path(__file__).parents[1] / "docs" / "examples" / "train_digits.py"
COMMAND: Final = Path(sys.executable).with_name("s3stream-fs")
ACCURACY_WANTED: Final = 0.95
TEST_EVERY: Final = 5
"""Every fifth image of a class is kept for the test: 80 % to learn from, 20 % to be judged by."""
UPLOADS: Final = 8
PATIENCE_SECONDS: Final = 60.0
"""How long a command that should be done within a second or two may take before the demo gives up."""

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class DemoError(Exception):
    """The demo cannot go on. ``str()`` is one line."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it. ``when`` is a reading of the system-wide monotonic clock, in seconds."""

    when: float
    kind: str


class CountedS3:
    """The simulated S3 and the list of all requests that reached it."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: list[Request] = []
        self._application: WSGIApplication = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._count, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3")
        self._thread.start()  # the port has been listening since make_server, so there is nothing to wait for

    def _count(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ["QUERY_STRING"]
        self.requests.append(Request(time.monotonic(), "LIST" if listing else environ["REQUEST_METHOD"]))
        return self._application(environ, start_response)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch as the training script told it, and the requests that reached S3 meanwhile."""

    number: int
    loss: float
    accuracy: float
    nimages: int
    seconds: float
    ngets: int
    nothers: int

    @property
    def images_per_second(self) -> float:
        return self.nimages / self.seconds


def note(text: str) -> None:
    print(text, flush=True)


def write_digits(folder: Path) -> int:
    """Write the digits as ``{train,test}/DIGIT/NUMBER.png`` and return how many there are."""
    digits = load_digits()
    nseen = [0] * 10
    for pixels, label in zip(digits.images, digits.target, strict=True):
        number = nseen[label]
        nseen[label] += 1
        part = "test" if number % TEST_EVERY == TEST_EVERY - 1 else "train"
        path = folder / part / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).astype(np.uint8)).save(path)  # the pixels are 0 to 16
    return sum(nseen)


def upload(folder: Path, url: str) -> None:
    """Put all files below ``folder`` into the bucket, under their relative paths."""
    config = Config(max_pool_connections=UPLOADS, retries={"max_attempts": 1})
    with closing(boto3.client("s3", endpoint_url=url, config=config)) as s3:
        s3.create_bucket(Bucket=BUCKET)

        def put(path: Path) -> None:
            s3.put_object(Bucket=BUCKET, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())

        with ThreadPoolExecutor(UPLOADS) as pool:
            for _ in pool.map(put, sorted(folder.rglob("*.png"))):
                pass


def s3stream(*arguments: str) -> str:
    """Run the project's command and return what it printed."""
    try:
        done = subprocess.run(
            [COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"s3stream-fs {arguments[0]} did not end within {PATIENCE_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise DemoError(f"s3stream-fs {arguments[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


@contextmanager
def mounted(mountpoint: Path, work: Path, url: str) -> Iterator[None]:
    """The bucket at ``mountpoint``; unmounted at the end, whatever happens, and the daemon gone."""
    mountpoint.mkdir()
    arguments = ["--endpoint-url", url, "--cache-dir", str(work / "cache"), "--log-file", str(work / "daemon.log")]
    arguments += ["--metadata-ttl", "inf"]  # training data does not change under a run, however slow the machine
    # On a slow machine the simulated S3 is late with everything: to ask it twice would only blur the count of requests.
    arguments += ["--no-hedging"]
    try:
        s3stream("mount", f"s3://{BUCKET}", str(mountpoint), *arguments)
        yield
    finally:
        daemons = daemons_of(mountpoint)
        if os.path.ismount(mountpoint):
            try:
                s3stream("umount", str(mountpoint))
            except DemoError as error:
                note(str(error))
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)
        for pid in daemons:
            end(pid)


def daemons_of(mountpoint: Path) -> list[int]:
    """The processes that were started for ``mountpoint``."""
    wanted = os.fsencode(mountpoint)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if wanted in arguments:
            found.append(int(folder.name))
    return found


def end(pid: int) -> None:
    """Wait for a process that should be ending, and kill it if it does not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([handle], [], [], PATIENCE_SECONDS)[0]:
            note(f"the daemon (process {pid}) did not end by itself")
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def train(folder: Path, options: argparse.Namespace, requests: list[Request]) -> list[Epoch]:
    """Run the training script on ``folder`` and tell of each epoch as it ends."""
    command = [sys.executable, str(TRAINING_SCRIPT), str(folder), "--json"]
    command += ["--epochs", str(options.epochs), "--workers", str(options.workers)]
    epochs: list[Epoch] = []
    # A session of its own, so that its workers can be ended with it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as script:
        assert script.stdout is not None
        try:
            for line in script.stdout:
                told = json.loads(line)
                # By the script's own clock readings: this line is read a little after the next epoch began.
                kinds = [request.kind for request in requests if told["started"] <= request.when < told["ended"]]
                ngets = kinds.count("GET")
                seconds = told["ended"] - told["started"]
                epochs.append(
                    Epoch(
                        told["epoch"],
                        told["loss"],
                        told["accuracy"],
                        told["nimages"],
                        seconds,
                        ngets,
                        len(kinds) - ngets,
                    )
                )
                note(describe(epochs[-1]))
        except BaseException:
            os.killpg(script.pid, signal.SIGKILL)
            raise
    if script.returncode != 0:
        raise DemoError(f"the training script failed ({script.returncode})")
    return epochs


def describe(epoch: Epoch) -> str:
    return (
        f"  epoch {epoch.number}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.1%}, "
        f"{epoch.images_per_second:,.0f} images/s, S3 requests: {epoch.ngets} GET + {epoch.nothers} LIST/HEAD"
    )


def table(from_mount: list[Epoch], from_disk: list[Epoch]) -> str:
    """All epochs side by side."""
    lines = [
        "         test       S3 requests      from cache          images/s",
        "epoch  accuracy    GET  LIST/HEAD   (of images)      mount   local disk",
    ]
    for mount, disk in zip(from_mount, from_disk, strict=True):
        cached = f"{mount.nimages - mount.ngets:,}/{mount.nimages:,}"
        lines.append(
            f"{mount.number:>5} {mount.accuracy:>9.1%} {mount.ngets:>6} {mount.nothers:>10} {cached:>13} "
            f"{mount.images_per_second:>10,.0f} {disk.images_per_second:>12,.0f}"
        )
    lines.append(
        "An image that took no GET came from a cache: the kernel's, which the mount does not see, or the mount's own."
    )
    return "\n".join(lines)


def faults(from_mount: list[Epoch], from_disk: list[Epoch]) -> list[str]:
    """What is not as it should be, in words."""
    found = []
    if from_mount[-1].accuracy < ACCURACY_WANTED:
        found.append(f"accuracy {from_mount[-1].accuracy:.1%} is less than {ACCURACY_WANTED:.0%}")
    if abs(from_mount[-1].loss - from_disk[-1].loss) > 0.05:
        found.append("the same script learnt something else from the mount than from the local disk")
    if not from_mount[0].ngets:
        found.append("epoch 1 asked nothing of S3: it cannot have read the bucket")
    found += [
        f"epoch {epoch.number} sent {epoch.ngets + epoch.nothers} requests to S3, and should send none"
        for epoch in from_mount[1:]
        if epoch.ngets + epoch.nothers
    ]
    return found


def isolate(work: Path) -> None:
    """Let nothing of the user's settings reach the demo, nor the demo a real account."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3STREAM_")) or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            del os.environ[name]
    temporary = work / "tmp"
    temporary.mkdir()
    os.environ |= {
        "TMPDIR": str(temporary),  # torch leaves a cache folder there
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(work / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(work / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def demo(options: argparse.Namespace) -> list[str]:
    """Everything, from an empty folder to the final table. Returns what was not as it should be."""
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="s3stream-demo-"))
        stack.callback(shutil.rmtree, work)
        isolate(work)
        s3 = stack.enter_context(closing(CountedS3()))
        local = work / "local"
        nimages = write_digits(local)
        started = time.monotonic()
        upload(local, s3.url)
        note(f"uploaded {nimages:,} images to s3://{BUCKET} (simulated) in {time.monotonic() - started:.1f} s")

        mountpoint = work / "mount"
        with mounted(mountpoint, work, s3.url):
            note(f"mounted s3://{BUCKET}; training from the mount:")
            from_mount = train(mountpoint, options, s3.requests)
            statistics = s3stream("stats", str(mountpoint))
        if os.path.ismount(mountpoint):
            stack.pop_all()  # a folder that still has a mount in it is not ours to delete
            raise DemoError(f"{mountpoint} is still mounted")
        note("unmounted; the same script on a local copy:")
        from_disk = train(local, options, s3.requests)
        note(
            f"\nwhat the mount counted (s3stream-fs stats):\n\n{statistics.strip()}\n\n{table(from_mount, from_disk)}\n"
        )
        return faults(from_mount, from_disk)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a model from a simulated bucket and from a local disk.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: the second is what a cache is for")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that cleaning up happens then too
    started = time.monotonic()
    try:
        found = demo(options)
    except DemoError as error:
        found = [str(error)]
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    for fault in found:
        print(f"demo: {fault}", file=sys.stderr)
    note(f"{'failed' if found else 'done'} after {time.monotonic() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
