"""The epochs after the first: data and names that the kernel, or the disk, has already."""

from __future__ import annotations

from dataclasses import replace

from bench.load.spec import Load, Via
from bench.scenarios.scenario import Scenario, Unit, Variant
from bench.scenarios.trees import folders, shuffled

_TREE = "small:20000:100KB:1000"


def scenarios(quick: bool) -> list[Scenario]:
    work = shuffled(_TREE, 2_500 if quick else 20_000)
    listed = folders(work)
    # The cold epoch compares every byte; in the warm ones the comparison would take longer than open, read and close.
    cold = Load(work, 64, folders=listed)
    walked = tuple(sorted((replace(job, reads=()) for job in work), key=lambda job: job.key))
    return [
        Scenario(
            "epoch",
            f"an epoch of {len(work):,} shuffled files of 100 KB, 64 readers; then one: open, read, close",
            Unit.FILES,
            cold,
            (_TREE,),
            preset="none",
            variants=(Variant.COLD, Variant.MEMORY, Variant.NVME),
            warm_load=replace(cold, readers=1, compare=False),
        ),
        Scenario(
            "walk",
            f"{len(listed) - 1} folders listed, and a stat of each of their {len(work):,} files",
            Unit.FILES,
            Load(walked, via=Via.WALK),
            (_TREE,),
            variants=(Variant.COLD, Variant.MEMORY, Variant.NAMES),
        ),
    ]
