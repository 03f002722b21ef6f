"""docs/CONFIGURATION.md, the help and the systemd unit say what the table of options says."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from s3stream_daemon.cli import main
from s3stream_daemon.exits import EXIT_MEANINGS, ExitCode
from s3stream_daemon.options import OPTIONS, Option
from s3stream_daemon.settings import read_config_file

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "CONFIGURATION.md").read_text()
UNIT = ROOT / "systemd" / "s3stream-fs@.service"


def row(option: Option) -> str:
    flag = f"`{option.flag}`" if option.positional or option.is_switch else f"`{option.flag}` `{option.metavar}`"
    flags = ", ".join([flag, *(f"`--{name}`" for name in option.shorthands)])
    return f"| {flags} | `{option.key}` | `{option.variable}` | {option.kind.name} | {option.default} | {option.help} |"


def help_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*command, "--help"]) == ExitCode.OK
    return capsys.readouterr().out


def test_the_document_has_every_option_and_no_other() -> None:
    rows = [line for line in DOCUMENT.splitlines() if "`S3STREAM_FS_" in line and line.startswith("|")]
    assert rows == [row(option) for option in OPTIONS]


def test_the_document_has_every_exit_code_and_no_other() -> None:
    rows = [line for line in DOCUMENT.splitlines() if re.match(r"\| [0-9]+ \|", line)]
    assert rows == [f"| {int(code)} | {meaning} |" for code, meaning in EXIT_MEANINGS.items()]
    assert EXIT_MEANINGS.keys() == set(ExitCode)


def test_the_documents_example_is_right(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    path = tmp_path / "example.toml"
    path.write_text(example)
    assert {given.option.key for given in read_config_file(path)} >= {"source", "mountpoint"}


def test_the_help_has_every_option_exit_code_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(["mount"], capsys)
    flags = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE)) - {"--help", "--config"}
    expected = {option.flag for option in OPTIONS if not option.positional}
    assert flags == expected | {f"--{name}" for option in OPTIONS for name in option.shorthands}
    for code, meaning in EXIT_MEANINGS.items():
        assert f"  {int(code):<4} {meaning}" in text
    for place in (
        "S3STREAM_FS_CONFIG",
        "/etc/s3stream-fs/config.toml",
        "~/.config/s3stream-fs/config.toml",
        "/var/log/",
    ):
        assert place in text
        assert place in DOCUMENT
    for flag in re.findall(r"--[a-z][a-z-]+", DOCUMENT.partition("## systemd")[0]):
        assert flag in text


@pytest.mark.parametrize("command", [[], ["umount"], ["stats"]])
def test_every_help_has_the_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "exit codes:" in help_of(command, capsys)


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_mounts_by_instance_and_leaves_no_dead_mount() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"] == "s3stream-fs mount --foreground --config /etc/s3stream-fs/%i.toml"
    assert service["ExecStopPost"] == "-s3stream-fs umount --lazy --config /etc/s3stream-fs/%i.toml"
    assert service["Restart"] == "on-failure"
    codes = [ExitCode(int(code)) for code in service["RestartPreventExitStatus"].split()]
    assert codes == [ExitCode.USAGE, ExitCode.MOUNTPOINT, ExitCode.CACHE, ExitCode.FUSE, ExitCode.SNAPSHOT]


def test_the_unit_has_no_setting_that_would_hide_the_mount_or_close_the_device() -> None:
    forbidden = re.compile(
        "Private|Protect|ReadWritePaths|ReadOnlyPaths|InaccessiblePaths|MountFlags|Root|Device|DynamicUser"
    )
    assert [key for key in unit()["Service"] if forbidden.match(key)] == []


def test_the_units_example_is_right(tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text("\n".join(re.findall(r"^#     (.*)", UNIT.read_text(), re.MULTILINE)))
    assert {given.option.key for given in read_config_file(path)} >= {"source", "mountpoint", "cache_size"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # The program is not installed where systemd looks for it; any other takes its place.
    text = (
        UNIT.read_text()
        .replace("s3stream-fs mount", "/bin/true mount")
        .replace("s3stream-fs umount", "/bin/true umount")
    )
    copy = tmp_path / "s3stream-fs@test.service"
    copy.write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    complaints = [line for line in result.stderr.splitlines() if "s3stream-fs@" in line]
    assert complaints == []
