"""The fork, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s3stream_daemon.exits import ExitCode

PATIENCE_SECONDS = 30

PROLOGUE = """
import json, os, signal, sys, time
from pathlib import Path
from s3stream_daemon.background import run_in_background
from s3stream_daemon.exits import ExitCode, ExitError

def start(daemon):
    try:
        run_in_background(daemon, waiting_for="s3://b", log_file=Path("/the/log"))
    except ExitError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROLOGUE + code],
        cwd=folder,
        env=os.environ | {"AWS_CONFIG_FILE": "relative/config", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_the_command_returns_while_the_daemon_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    os.mkfifo(tmp_path / "report")
    done = run(
        tmp_path,
        """
folder = Path.cwd()
os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
def daemon(pipe):
    pipe.ready()
    (folder / "go").read_bytes()  # until the test has seen the command end
    report = {
        "cwd": os.getcwd(), "leader": os.getsid(0) == os.getpid(), "umask": os.umask(0),
        "files": [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)],
        "descriptors": len(os.listdir("/proc/self/fd")) - 1, "config": os.environ["AWS_CONFIG_FILE"],
    }
    (folder / "report").write_text(json.dumps(report))
    return ExitCode.OK
start(daemon)
print("returned")
""",
    )
    # Its pipes are at their end although the daemon lives: it keeps none of them.
    assert (done.returncode, done.stdout, done.stderr) == (0, "returned\n", "")
    (tmp_path / "go").write_bytes(b"")
    report = json.loads((tmp_path / "report").read_text())
    assert report == {
        "cwd": "/",
        "leader": True,
        "umask": 0o077,
        "files": ["/dev/null"] * 3,
        "descriptors": 3,
        "config": str(tmp_path / "relative/config"),
    }


def test_a_failure_is_told_by_the_command(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
def daemon(pipe):
    pipe.failed(ExitCode.STORE, "no such\\nbucket")
    return ExitCode.STORE
start(daemon)
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "no such bucket\n")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os._exit(9)", "ended with code 9"),
        ("raise RuntimeError", "ended with code 1"),
        ("return ExitCode.OK", "ended with code 0"),
    ],
)
def test_a_silent_end_is_told_with_the_place_of_the_log(tmp_path: Path, end: str, said: str) -> None:
    done = run(tmp_path, f"\ndef daemon(pipe):\n    {end}\nstart(daemon)\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"the daemon {said} before the mount was ready; its log may say why: /the/log\n"


def test_ctrl_c_takes_the_daemon_along(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    done = run(
        tmp_path,
        """
folder = Path.cwd()
command = os.getpid()
def daemon(pipe):
    alive = open(folder / "alive", "w")
    os.kill(command, signal.SIGINT)
    while True:
        time.sleep(0.01)  # pause() would wait for ever where the signal came just before it
reader = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
try:
    start(daemon)
finally:
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # no writer is left
    print("gone")
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "gone\n", "")


def test_signals_that_the_command_ignored_are_not_ignored_by_the_daemon(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
signal.signal(signal.SIGINT, signal.SIG_IGN)
def daemon(pipe):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    pipe.failed(ExitCode.USAGE, str([signal.getsignal(number).name for number in numbers]))
    return ExitCode.USAGE
start(daemon)
""",
    )
    assert done.stderr == f"{[signal.SIG_DFL.name, signal.SIG_DFL.name, signal.SIG_IGN.name]}\n"


def test_a_start_that_takes_long_says_how_far_it_is(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
def daemon(pipe):
    for number in range(3):
        pipe.progress(f"{number} of 3\\n")
    pipe.ready()
    pipe.progress("nobody listens")
    return ExitCode.OK
start(daemon)
def failing(pipe):
    pipe.progress("1 of 3")
    pipe.failed(ExitCode.STORE, "it does not come")
    return ExitCode.STORE
start(failing)
""",
    )
    assert (done.returncode, done.stderr) == (ExitCode.STORE, "it does not come\n")
