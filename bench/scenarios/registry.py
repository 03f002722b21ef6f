"""All scenarios in the order in which they are run and shown, and how patterns choose among their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from bench.scenarios import epochs, formats, jumps, names, small, streams
from bench.scenarios.scenario import Scenario, Variant

QUICK: Final = (
    "sequential",
    "sequential@nvme",
    "sequential@remount",
    "first-mib",
    "small-8",
    "small-8@memory",
    "small-8@remount",
    "small-64",
    "random-256KiB",
    "early-stop",
)
"""The rows of ``--quick``: one of each kind, so that all contestants fit in two minutes."""

QUICK_LIMIT_SECONDS: Final = 3.0
"""How long a contestant may take for one load of ``--quick``; what it has done by then gives its rate."""


def scenarios(quick: bool, originals: Path, limit_seconds: float | None = None) -> list[Scenario]:
    """All of them. ``limit_seconds`` is per load, None for the usual one."""
    found = [
        *streams.scenarios(quick),
        *small.scenarios(quick),
        *epochs.scenarios(quick),
        *names.scenarios(quick),
        *jumps.scenarios(quick),
        *formats.scenarios(quick, originals),
    ]
    if limit_seconds is None and quick:
        limit_seconds = QUICK_LIMIT_SECONDS
    if limit_seconds is not None:
        found = [_limited(one, limit_seconds) for one in found]
    return found


def _limited(scenario: Scenario, seconds: float) -> Scenario:
    warm = None if scenario.warm_load is None else replace(scenario.warm_load, limit_seconds=seconds)
    return replace(scenario, load=replace(scenario.load, limit_seconds=seconds), warm_load=warm)


def choose(found: Sequence[Scenario], patterns: Sequence[str]) -> list[Scenario]:
    """The scenarios with only those variants whose rows match a pattern, and the cold one that the others need.

    Raises ValueError for a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(row, pattern) for one in found for row in one.rows):
            raise ValueError(f"no scenario matches {pattern!r}; --list names them all")
    chosen = []
    for one in found:
        wanted = tuple(v for v in one.variants if any(fnmatchcase(one.row(v), pattern) for pattern in patterns))
        if wanted:
            chosen.append(replace(one, variants=tuple(v for v in one.variants if v in wanted or v is Variant.COLD)))
    return chosen
