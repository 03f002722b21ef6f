"""Names by the million: a tree that is walked, and one folder that is listed. Nothing is read."""

from __future__ import annotations

from bench.load.spec import Job, Load, Via
from bench.scenarios.scenario import Scenario, Unit

_LIMIT_SECONDS = 60.0
"""Who lists page after page gets through two thirds of the one, and of the other, in that time."""


def scenarios(quick: bool) -> list[Scenario]:
    nfiles = 50_000 if quick else 1_000_000

    def names(name: str, summary: str, via: Via, tree: str) -> Scenario:
        load = Load((Job(tree.partition(":")[0], nfiles, ()),), via=via, limit_seconds=_LIMIT_SECONDS)
        return Scenario(name, summary, Unit.FILES, load, (tree,))

    return [
        names(
            "tree",
            f"os.walk through {nfiles:,} files in {nfiles // 1000:,} folders, and a stat of each",
            Via.TREE,
            f"tree:{nfiles}:100KB:1000",
        ),
        names("flat", f"one folder of {nfiles:,} files listed", Via.LIST, f"flat:{nfiles}:100KB"),
    ]
