"""The scripts, the packaging and the example agree with each other and with the README."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import s3stream_daemon
import s3stream_fs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = ("setup", "lint", "test", "demo", "bench", "simulate-s3")
SCRIPTS = [ROOT / "scripts" / name for name in NAMES] + [ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_is_sound(script: Path) -> None:
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and line[0] != "#"]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "scripts/test"]
    readme = (ROOT / "README.md").read_text()
    assert "scripts/test" in readme
    assert "scripts/demo" in readme


def test_setup_is_quick_when_nothing_is_missing(tmp_path: Path) -> None:
    """What it was made from is known by a stamp, so a second run neither installs nor asks a registry."""
    before = (ROOT / ".venv" / "setup.stamp").stat().st_mtime_ns
    path = f"{tmp_path}:{os.environ['PATH']}"
    for name in ("apt-get", "pip", "sudo"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 99\n")
        (tmp_path / name).chmod(0o700)
    done = subprocess.run(
        [ROOT / "scripts" / "setup"], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (ROOT / ".venv" / "setup.stamp").stat().st_mtime_ns == before


def test_all_packages_are_listed() -> None:
    folders = {"s3stream_fs": ROOT / "s3stream_fs", "s3stream_daemon": ROOT / "daemon"}
    found = {
        ".".join((package, *init.parent.relative_to(folder).parts))
        for package, folder in folders.items()
        for init in folder.rglob("__init__.py")
    }
    assert sorted(found) == PROJECT["tool"]["setuptools"]["packages"]


def test_installed_package_is_this_tree() -> None:
    assert Path(s3stream_fs.__file__).parent == ROOT / "s3stream_fs"
    assert Path(str(s3stream_daemon.__file__)).parent == ROOT / "daemon"
    assert importlib.metadata.version("s3stream-fs") == s3stream_fs.__version__
    assert Path(sys.executable).with_name("s3stream-fs").exists()


def test_training_script_knows_nothing_but_files() -> None:
    tree = ast.parse((ROOT / "docs" / "examples" / "train_digits.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names}
    assert tops - set(sys.stdlib_module_names) == {"PIL", "numpy", "torch"}
