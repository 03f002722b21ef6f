"""The scripts, the packaging and the example agree with each other and with the README."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import s3stream_daemon
import s3stream_fs
from scripts.oldest import oldest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = ("setup", "lint", "test", "test-oldest", "demo", "bench", "soak", "simulate-s3")
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


REQUIREMENTS = [
    Requirement(text)
    for text in (*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["pyfuse3"])
]
"""What a user's machine needs."""


def test_the_oldest_releases_are_the_lower_bounds() -> None:
    pinned = [Requirement(line) for line in oldest(ROOT / "pyproject.toml")]
    assert [requirement.name for requirement in pinned] == [requirement.name for requirement in REQUIREMENTS]
    for requirement, pin in zip(REQUIREMENTS, pinned, strict=True):
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert f">={exact.version}" in [str(specifier) for specifier in requirement.specifier]
        assert exact.version in requirement.specifier, f"{requirement} does not allow its own lower bound"


@pytest.mark.parametrize("text", ["obstore", "obstore<0.13", "obstore==0.12", "obstore>=0.11,>=0.12"])
def test_a_dependency_without_one_lower_bound_is_refused(tmp_path: Path, text: str) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[project]\ndependencies = ["{text}"]\n[project.optional-dependencies]\npyfuse3 = []\n')
    with pytest.raises(ValueError, match="does not say"):
        oldest(project)


def test_upper_bounds_stand_where_a_border_is_fragile_and_say_why() -> None:
    """They keep people from a release: only where tests/store/test_borders.py tests what nobody promises."""
    bounded = [r.name for r in REQUIREMENTS if any(specifier.operator != ">=" for specifier in r.specifier)]
    assert bounded == ["aiobotocore", "obstore"]
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for name in bounded:
        (number,) = [number for number, line in enumerate(lines) if line.strip().startswith(f'"{name}')]
        assert "#" in lines[number] or lines[number - 1].strip().startswith("#"), f"{name}'s bound says no reason"


def test_what_is_imported_is_a_dependency() -> None:
    """Also where another dependency would bring it: that one may stop to."""
    found = set()
    for path in (*(ROOT / "s3stream_fs").rglob("*.py"), *(ROOT / "daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    foreign = found - set(sys.stdlib_module_names) - {"s3stream_fs", "s3stream_daemon"}
    assert foreign <= {requirement.name for requirement in REQUIREMENTS}


def test_the_oldest_are_tested_where_they_are_used() -> None:
    paths = {word for word in (ROOT / "scripts" / "test-oldest").read_text().split() if word.startswith("tests/")}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    # aiobotocore, botocore, httpx2, obstore and outcome; xxhash; cachetools and trio; tqdm; pyfuse3
    assert paths >= {"tests/store", "tests/bindings", "tests/cache/disk/test_disk.py", "tests/daemon/test_progress.py"}
    assert any(path.startswith("tests/mount/") for path in paths)


@pytest.mark.parametrize(
    ("arguments", "failing", "ran"),
    [
        ([], None, ["lint", "setup oldest", "newest", "oldest"]),
        ([], "lint", ["lint"]),
        ([], "setup", ["lint", "setup oldest"]),
        ([], "newest", ["lint", "setup oldest", "newest"]),
        ([], "oldest", ["lint", "setup oldest", "newest", "oldest"]),
        (["-k", "umount"], None, ["lint", "newest -k umount"]),
        (["-k", "umount"], "newest", ["lint", "newest -k umount"]),
    ],
)
def test_each_run_has_to_pass(tmp_path: Path, arguments: list[str], failing: str | None, ran: list[str]) -> None:
    """scripts/test, with stand-ins for what it starts. The failing one ends as pytest does when it finds no test."""
    stand_ins = {
        "lint": "scripts/lint",
        "setup": "scripts/setup",
        "oldest": "scripts/test-oldest",
        "newest": ".venv/bin/python",
    }
    for name, path in stand_ins.items():
        command = tmp_path / path
        command.parent.mkdir(parents=True, exist_ok=True)
        code = int(pytest.ExitCode.NO_TESTS_COLLECTED if name == failing else pytest.ExitCode.OK)
        command.write_text(f'#!/bin/sh\n[ "$1" != -m ] || shift 2 # -m pytest\necho {name} $* >>ran\nexit {code}\n')
        command.chmod(0o700)
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts" / "test")
    done = subprocess.run([tmp_path / "scripts" / "test", *arguments], check=False)
    assert done.returncode == (0 if failing is None else pytest.ExitCode.NO_TESTS_COLLECTED)
    assert (tmp_path / "ran").read_text().splitlines() == ran


@pytest.mark.parametrize(("arguments", "environment"), [([], ".venv"), (["oldest"], ".venv-oldest")])
def test_setup_is_quick_when_nothing_is_missing(tmp_path: Path, arguments: list[str], environment: str) -> None:
    """What it was made from is known by a stamp, so a second run neither installs nor asks a registry."""
    stamp = ROOT / environment / "setup.stamp"
    if not stamp.exists():
        pytest.skip(f"no {environment} has been made yet")
    before = stamp.stat().st_mtime_ns
    path = f"{tmp_path}:{os.environ['PATH']}"
    for name in ("apt-get", "pip", "sudo"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 99\n")
        (tmp_path / name).chmod(0o700)
    done = subprocess.run(
        [ROOT / "scripts" / "setup", *arguments],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stamp.stat().st_mtime_ns == before


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
