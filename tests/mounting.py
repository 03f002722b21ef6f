"""Real mounts through the command line, for tests: made, watched, and always taken down again.

Owns the environment in which the command runs, and the processes and mount points that it leaves behind. Knows the
command's interface and nothing of its insides. Tests get at it through the fixtures ``mounted`` and ``cli``.
"""

from __future__ import annotations

import copy
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

PATIENCE_SECONDS: Final = 30.0
"""How long a command or a daemon's end may take before the test fails. A bound on a hang, not a speed."""

COMMAND: Final = (sys.executable, "-m", "s3stream_daemon")

_BAD_LINE: Final = re.compile(r"\b(ERROR|CRITICAL)\b|^Traceback \(most recent call last\)", re.MULTILINE)

Option = str | int | Path | bool | None

Environment = Mapping[str, str | None]
"""Variables to set; one that is None is taken away."""


class Server(Protocol):
    """What a mount needs of a server."""

    @property
    def url(self) -> str: ...


class CommandLine:
    """Runs ``s3stream-fs`` in an environment that holds test credentials and nothing of the user's own settings."""

    def __init__(self, folder: Path) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "S3STREAM_", "XDG_", "PYTHON", "SSL_CERT_"))
            and name.lower() not in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
            and name not in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        }
        home = folder / "home"
        runtime = folder / "run"
        for made in (home, runtime):
            made.mkdir(mode=0o700, exist_ok=True)
        self.before: tuple[str, ...] = ()
        """Words of a command that runs this one, ``prlimit`` for instance."""
        self.environment: dict[str, str] = inherited | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(runtime),
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(home / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "S3STREAM_TEST_RUN": os.environ.get("S3STREAM_TEST_RUN", ""),
        }

    def with_environment(self, env: Environment) -> CommandLine:
        """The same command, in another environment."""
        other = copy.copy(self)
        other.environment = {name: value for name, value in (self.environment | dict(env)).items() if value is not None}
        return other

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command to its end. ``env`` is added to the environment. Never raises for an exit code."""
        return subprocess.run(
            [*self.before, *COMMAND, *(str(argument) for argument in arguments)],
            env=self.environment | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )


class MountFailed(Exception):
    """The mount command ended with something else than 0."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"exit code {done.returncode}: {done.stderr.strip()}")
        self.returncode = done.returncode
        self.stderr = done.stderr


class Mount:
    """A bucket at ``path``, served by the process ``pid``."""

    def __init__(self, cli: CommandLine, source: str, folder: Path, options: Mapping[str, Option]) -> None:
        self.cli = cli
        self.source = source
        self.path = folder / "mount"
        self.cache_dir = folder / "cache"
        self.log = folder / "daemon.log"
        self.path.mkdir()
        chosen: dict[str, Option] = {"cache_dir": self.cache_dir, "log_file": self.log, **options}
        if isinstance(chosen["cache_dir"], Path):
            self.cache_dir = chosen["cache_dir"]
        self._arguments = [word for name, value in chosen.items() for word in _as_words(name, value)]
        self._announced: list[re.Pattern[str]] = []
        self._process = -1
        self.pid = -1
        try:
            self.mount()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Mount of {self.source} at {self.path} by {self.pid}>"

    def mount(self) -> None:
        """Mount, as it was mounted before. Raises MountFailed."""
        done = self.cli.run("mount", self.source, self.path, *self._arguments)
        if done.returncode != 0:
            raise MountFailed(done)
        assert is_mounted(self.path), f"the mount command said 0, but nothing is mounted at {self.path}"
        (self.pid,) = processes_naming(self.path)
        self._process = os.pidfd_open(self.pid)

    def umount(self) -> None:
        """Unmount by the command, and wait until the daemon has ended."""
        done = self.cli.run("umount", self.path)
        assert done.returncode == 0, f"umount ended with {done.returncode}: {done.stderr}"
        assert not is_mounted(self.path)
        self.wait_ended()

    def remount(self) -> None:
        """Unmount and mount again, with the same options and the same cache folder."""
        self.umount()
        self.mount()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the daemon a signal and wait until it has ended. After SIGKILL the dead mount is still there."""
        signal.pidfd_send_signal(self._process, number)
        self.wait_ended()

    def wait_ended(self) -> None:
        """Wait until the daemon has ended; fails the test where it does not."""
        if self._process < 0:
            return
        ended = select.select([self._process], [], [], PATIENCE_SECONDS)[0]
        assert ended, f"the daemon of {self.path} (process {self.pid}) does not end"
        os.close(self._process)
        self._process = -1

    def stats(self) -> Any:
        """What ``s3stream-fs stats --json`` tells."""
        done = self.cli.run("stats", self.path, "--json")
        assert done.returncode == 0, f"stats ended with {done.returncode}: {done.stderr}"
        return json.loads(done.stdout)

    def announce(self, pattern: str) -> None:
        """Say that log lines that match ``pattern`` are meant to come. ``"Traceback"`` announces tracebacks."""
        self._announced.append(re.compile(pattern))

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def unannounced(self) -> list[str]:
        """The log's errors and tracebacks that the test did not announce."""
        return [
            line
            for line in self.log_text().splitlines()
            if _BAD_LINE.search(line) and not any(pattern.search(line) for pattern in self._announced)
        ]

    def close(self) -> None:
        """Take everything down, whatever state the test left it in. Fails where that needed force."""
        forced = ""
        if is_mounted(self.path):
            done = self.cli.run("umount", self.path)
            if done.returncode != 0 or is_mounted(self.path):
                forced = f"umount ended with {done.returncode}: {done.stderr}"
                subprocess.run(["fusermount3", "-u", "-z", self.path], check=False)
        if self._process >= 0:
            if not select.select([self._process], [], [], PATIENCE_SECONDS)[0]:
                forced = forced or f"the daemon (process {self.pid}) did not end after its unmount"
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)
            self._process = -1
        assert not forced, f"{self!r}: {forced}\n{self.log_text()}"


def _as_words(name: str, value: Option) -> list[str]:
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    return [option] if value is True else [option, str(value)]


def mountpoints() -> list[Path]:
    """All FUSE mounts that this process sees."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, described = line.partition(" - ")
        if described.startswith("fuse"):
            # Space, tab, newline and backslash stand there as octal escapes.
            escaped = fields.split(" ")[4]
            found.append(Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), escaped)))
    return found


def is_mounted(path: Path) -> bool:
    """Whether a FUSE file system is mounted at ``path``; right also where its daemon is dead, and never blocks."""
    return path in mountpoints()


def processes_naming(argument: Path) -> list[int]:
    """The processes that have ``argument`` among their arguments."""
    return _processes("cmdline", os.fsencode(argument))


def processes_marked(mark: str) -> list[int]:
    """The processes that have ``mark`` (NAME=VALUE) in the environment they were started with."""
    return _processes("environ", mark.encode())


def _processes(file: str, wanted: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / file).read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if wanted in words:
            found.append(int(folder.name))
    return found


def tree_of(root: Path) -> dict[str, bytes | None]:
    """Every path below, with its bytes; None for a directory."""
    found: dict[str, bytes | None] = {}
    for folder, directories, files in os.walk(root):
        at = Path(folder)
        found |= {str((at / name).relative_to(root)): None for name in directories}
        found |= {str((at / name).relative_to(root)): (at / name).read_bytes() for name in files}
    return found
