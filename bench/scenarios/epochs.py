"""The epochs after the first: data and names that the kernel, or the disk, has already."""

from __future__ import annotations

from dataclasses import replace

from bench.load.spec import Load, Via
from bench.scenarios.scenario import Scenario, Unit, Variant
from bench.scenarios.trees import MIB, folders, jobs, shuffled, whole

_TREE = "small:20000:100KB:1000"


def scenarios(quick: bool) -> list[Scenario]:
    work = shuffled(_TREE, 2_500 if quick else 20_000)
    listed = folders(work)
    # The cold epoch compares every byte; in the warm ones the comparison would take longer than open, read and close.
    cold = Load(work, 64, folders=listed)
    looked_at = Load(tuple(replace(job, reads=()) for job in work), via=Via.STAT)
    walked = tuple(sorted(looked_at.jobs, key=lambda job: job.key))
    size, nlarge = (256 * MIB, 1) if quick else (1024 * MIB, 2)
    large_tree = f"large:{nlarge}:{size}"
    large = jobs(large_tree, nlarge, whole(size, MIB))
    streamed = Load(large, folders=folders(large))

    def stat(name: str, readers: int) -> Scenario:
        load = replace(looked_at, readers=readers)
        how = "one after another" if readers == 1 else f"by {readers} readers"
        return Scenario(
            name,
            f"a stat of {len(work):,} shuffled files, {how}; their directories were listed once, before",
            Unit.FILES,
            replace(load, folders=listed),
            (_TREE,),
            variants=(Variant.COLD, Variant.NAMES),
            warm_load=load,
        )

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
            "epoch-large",
            f"an epoch of {nlarge} files of {size // MIB} MiB, in reads of 1 MiB; later ones compare nothing",
            Unit.MIB,
            streamed,
            (large_tree,),
            variants=(Variant.COLD, Variant.NVME, Variant.COMPLETE),
            warm_load=replace(streamed, compare=False),
        ),
        stat("stat", 1),
        stat("stat-8", 8),
        Scenario(
            "walk",
            f"{len(listed) - 1} folders listed, and a stat of each of their {len(work):,} files",
            Unit.FILES,
            Load(walked, via=Via.WALK),
            (_TREE,),
            variants=(Variant.COLD, Variant.MEMORY, Variant.NAMES),
        ),
    ]
