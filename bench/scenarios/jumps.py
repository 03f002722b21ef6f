"""Reads at random places of a large object, by pread and by mmap."""

from __future__ import annotations

from bench.load.spec import Load, Via
from bench.scenarios.scenario import WARM, Scenario, Unit, Variant
from bench.scenarios.trees import GIB, KIB, folders, jobs, scattered


def scenarios(quick: bool) -> list[Scenario]:
    share = 4 if quick else 1

    def random(
        name: str,
        summary: str,
        nbytes: int,
        count: int,
        size: int,
        *,
        via: Via = Via.PREAD,
        variants: tuple[Variant, ...] = (Variant.COLD,),
    ) -> Scenario:
        tree = f"{name}:1:{size}"
        work = jobs(tree, 1, scattered(count // share, nbytes, size))
        load = Load(work, via=via, folders=folders(work))
        return Scenario(name, summary, Unit.READS, load, (tree,), variants=variants)

    return [
        random("random-4KiB", "random reads of 4 KiB in a file of 4 GiB", 4 * KIB, 100, 4 * GIB),
        random(
            "random-256KiB",
            "random reads of 256 KiB in a file of 4 GiB",
            256 * KIB,
            200,
            4 * GIB,
            variants=WARM,
        ),
        random("mmap-random", "random pages of a mapped file of 1 GiB", 4 * KIB, 200, 1 * GIB, via=Via.MMAP),
    ]
