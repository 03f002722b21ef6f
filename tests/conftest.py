"""The fixtures that all tests share, and the guard that lets no test leave anything behind."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mounting import CommandLine, Environment, Mount, Option, Server, mountpoints, processes_marked

if TYPE_CHECKING:
    from s3server import S3Server

MARK_NAME = "S3STREAM_TEST_RUN"
"""Every process that a test starts inherits this variable, however far it detaches itself."""

PREFIX = "s3stream-"
"""How the temporary files and folders of this project begin."""

# The interpreter starts these once, keeps them for all later tests, and ends them with itself.
_OF_THE_INTERPRETER = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

_ntests_run = 0


class Leavings:
    """What this test run would leave behind if it ended now: mounts, processes, temporary folders."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._temporary = base / "tmp"
        self._temporary.mkdir(exist_ok=True)
        self._mark = f"{MARK_NAME}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        os.environ[name] = value
        # A folder of this run's own, so that what others leave in the system's is not blamed on it.
        os.environ["TMPDIR"] = tempfile.tempdir = str(self._temporary)

    def mounts(self) -> set[str]:
        return {f"mount {path}" for path in mountpoints() if path.is_relative_to(self._base)}

    def folders(self) -> set[str]:
        return {f"temporary {path}" for path in self._temporary.iterdir() if path.name.startswith(PREFIX)}

    def children(self) -> set[str]:
        """This process's own children: cheap enough to ask after every test."""
        pids = {pid for task in Path("/proc/self/task").iterdir() for pid in _children(task)}
        return _described(pids)

    def descendants(self) -> set[str]:
        """Every process that was started by this run, also a daemon that has detached itself."""
        return _described({pid for pid in processes_marked(self._mark) if pid != os.getpid()})


def _children(task: Path) -> list[int]:
    try:
        return [int(pid) for pid in (task / "children").read_text().split()]
    except OSError:  # the thread has ended meanwhile
        return []


def _described(pids: set[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if not any(name in command for name in _OF_THE_INTERPRETER):
            found.add(f"process {pid}: {command or '(not waited for)'}")
    return found


@pytest.fixture(scope="session", autouse=True)
def leavings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leavings]:
    """Fails the run when anything is left at its end."""
    found = Leavings(tmp_path_factory.getbasetemp())
    yield found
    left = found.mounts() | found.folders() | found.descendants()
    assert not left, f"the run leaves behind: {sorted(left)}"


@pytest.fixture(autouse=True)
def _leaves_nothing(leavings: Leavings) -> Iterator[None]:
    """Fails the test that leaves a mount, a child process or a temporary folder."""
    before = leavings.mounts() | leavings.folders() | leavings.children()
    yield
    left = (leavings.mounts() | leavings.folders() | leavings.children()) - before
    assert not left, f"the test leaves behind: {sorted(left)}"


@pytest.fixture
def server() -> Iterator[S3Server]:
    """A simulated S3 of this test's own, whose requests can be counted and made to fail."""
    from s3server import S3Server  # here, so that tests without a server do not wait for moto's imports

    with S3Server() as started:
        yield started


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder whose path is short enough for a Unix socket in it (107 bytes), whatever the test's name."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cli(short_path: Path) -> CommandLine:
    """The command, in an environment without any of the user's settings."""
    return CommandLine(short_path)


Mounted = Callable[..., Mount]
"""``mounted(server, bucket, prefix="", **options)``; an option's ``_`` stands for ``-``, True for a bare flag.

``env`` is added to the command's environment for this mount; a variable that is None is taken away.
"""


@pytest.fixture
def mounted(cli: CommandLine, short_path: Path) -> Iterator[Mounted]:
    """Mounts buckets and takes the mounts down again. Fails the test when a log holds an error not announced."""
    mounts: list[Mount] = []

    def mount(
        server: Server, bucket: str, prefix: str = "", env: Environment | None = None, **options: Option
    ) -> Mount:
        folder = short_path / f"m{len(mounts)}"
        folder.mkdir()
        source = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        by = cli if env is None else cli.with_environment(env)
        mounts.append(Mount(by, source, folder, {"endpoint_url": server.url} | options))
        return mounts[-1]

    yield mount
    faults = []
    for made in mounts:
        try:
            made.close()
        except AssertionError as error:
            faults.append(str(error))
        faults += [f"{made!r} logged: {line}" for line in made.unannounced()]
    assert not faults, "\n".join(faults)


def pytest_report_header() -> str:
    """Says which releases this run is a proof for."""
    required = [text for text in importlib.metadata.requires("s3stream-fs") or () if "extra ==" not in text]
    names = [re.split(r"[\[<>=;]", text)[0].strip() for text in required] + ["pyfuse3"]
    return "with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _ntests_run
    _ntests_run += report.when == "call" and not report.skipped


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which every test was skipped has shown nothing, and fails as one without tests does."""
    if exitstatus == pytest.ExitCode.OK and not _ntests_run and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
