"""What the commands answer: one line and an exit code. Real mounts are tested in tests/mount."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s3stream_daemon.cli import main
from s3stream_daemon.exits import (
    ExitCode,
    ExitError,
    code_of,
    ending_with,
    is_interrupt,
    one_line,
    usage_error_in,
)
from s3stream_fs import __version__
from s3stream_fs.errors import UsageError


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("S3STREAM_FS_", "XDG_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def told(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("s3stream-fs: ")
    return captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"s3stream-fs {__version__}\n"


def test_as_a_module() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "s3stream_daemon", "version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.endswith(
        f"{__version__}\n"
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["mount"], "what shall be mounted"),
        (["mount", "s3://bucket"], "mount point"),
        (["mount", "bucket", "/m"], "s3://BUCKET"),
        (["mount", "s3://bucket", "/m", "--cache-size"], "--cache-size"),
        (["mount", "s3://bucket", "/m", "--cache-size", "lots"], "--cache-size must be a size"),
        (["mount", "s3://bucket", "/m", "--cache"], "--cache"),
        (["mount", "s3://bucket", "/m", "-o", "rw"], "read-only"),
        (["mount", "--config", "/absent.toml"], "/absent.toml"),
        (["umount"], "MOUNTPOINT"),
        (["stats", "--json"], "MOUNTPOINT"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == ExitCode.USAGE
    assert said in told(capsys)


def test_a_mount_point_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount", "s3://bucket", str(tmp_path / "absent")]) == ExitCode.MOUNTPOINT
    assert "mkdir -p" in told(capsys)


@pytest.mark.parametrize("command", ["umount", "stats"])
def test_nothing_is_mounted(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path)]) == ExitCode.NOT_MOUNTED
    assert str(tmp_path) in told(capsys)


def test_a_mount_of_somebody_else_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["umount", "/proc"]) == ExitCode.NOT_MOUNTED
    assert "use umount" in told(capsys)


def test_the_mount_point_of_a_configuration_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'source = "s3://bucket"\nmountpoint = "{tmp_path}/m"\n')
    assert main(["umount", "--config", str(path)]) == ExitCode.NOT_MOUNTED
    assert f"{tmp_path}/m" in told(capsys)


def test_lower_floors_get_their_exit_code() -> None:
    with pytest.raises(ExitError, match="broken") as raised, ending_with(ExitCode.CACHE):
        raise UsageError("broken")
    assert raised.value.code is ExitCode.CACHE
    with pytest.raises(ExitError) as raised, ending_with(ExitCode.CACHE):
        raise ExitError("no FUSE", ExitCode.FUSE)
    assert raised.value.code is ExitCode.FUSE
    assert code_of(UsageError("x")) is ExitCode.USAGE


def test_a_mistake_is_found_inside_what_a_nursery_raises() -> None:
    mistake = UsageError("x")
    assert usage_error_in(mistake) is mistake
    assert usage_error_in(ExceptionGroup("", [ExceptionGroup("", [mistake])])) is mistake
    assert usage_error_in(ExceptionGroup("", [mistake, ValueError()])) is None
    assert usage_error_in(ValueError()) is None
    assert is_interrupt(BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]))
    assert is_interrupt(KeyboardInterrupt())
    assert not is_interrupt(ExceptionGroup("", [ValueError()]))


def test_foreign_text_becomes_one_line() -> None:
    assert one_line(" a\n\tb\x1b[0m ") == "a b [0m"
