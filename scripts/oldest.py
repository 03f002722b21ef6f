"""Prints, as pip's constraints, the oldest release that pyproject.toml allows of each package that a user needs."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def oldest(project: Path) -> list[str]:
    """``name==version`` for each of the dependencies and of the extra pyfuse3. Raises ValueError where none is said."""
    table = tomllib.loads(project.read_text())["project"]
    return [_pinned(Requirement(text)) for text in (*table["dependencies"], *table["optional-dependencies"]["pyfuse3"])]


def _pinned(requirement: Requirement) -> str:
    bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} does not say which release is the oldest that works")
    return f"{requirement.name}=={bounds[0]}"


if __name__ == "__main__":
    print(*oldest(Path(__file__).parents[1] / "pyproject.toml"), sep="\n")
