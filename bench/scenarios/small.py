"""Many files, each read once and whole, in an order without order: what a training epoch does. And their beginnings."""

from __future__ import annotations

from bench.load.spec import Load
from bench.scenarios.scenario import WARM, Scenario, Unit, Variant
from bench.scenarios.trees import KIB, MIB, folders, jobs, shuffled

THROTTLED_RATE = 1_000.0
"""Requests per second in ``throttled``: the issue's figure, well below what 64 readers ask for."""


def scenarios(quick: bool) -> list[Scenario]:
    share = 8 if quick else 1
    tree_100k = "small:20000:100KB:1000"
    tree_20k = "small20k:20000:20KB:1000"
    tree_1m = "small1m:4000:1MB:1000"
    nfresh, npeeked = (5, 100) if quick else (20, 1000)
    fresh = jobs(f"first:{nfresh}:64MiB", nfresh, ((0, MIB),))
    peeked = jobs("header:1000:8MiB", npeeked, ((0, 4 * KIB),))

    def small(
        name: str,
        summary: str,
        tree: str,
        count: int,
        readers: int,
        *,
        preset: str | None = None,
        max_rate: float | None = None,
        variants: tuple[Variant, ...] = (Variant.COLD,),
    ) -> Scenario:
        work = shuffled(tree, count // share)
        load = Load(work, readers, folders=folders(work))
        return Scenario(name, summary, Unit.FILES, load, (tree,), (), preset, max_rate, 0.0, variants)

    return [
        small("small-1", "cold shuffled files of 100 KB, 1 reader", tree_100k, 160, 1),
        small("small-8", "cold shuffled files of 100 KB, 8 readers", tree_100k, 2_000, 8, variants=WARM),
        small("small-64", "cold shuffled files of 100 KB, 64 readers", tree_100k, 8_000, 64, variants=WARM),
        small(
            "small-64-none",
            "cold shuffled files of 100 KB, 64 readers, no latency: bound by CPU",
            tree_100k,
            8_000,
            64,
            preset="none",
        ),
        small(
            "small-8-hot",
            "cold shuffled files of 100 KB, 8 readers, latency with a tail",
            tree_100k,
            3_000,
            8,
            preset="hot",
        ),
        small(
            "throttled",
            f"cold shuffled files of 100 KB, 64 readers; above {THROTTLED_RATE:.0f} requests/s the server answers 503",
            tree_100k,
            8_000,
            64,
            max_rate=THROTTLED_RATE,
        ),
        small("small-20KB-64", "cold shuffled files of 20 KB, 64 readers", tree_20k, 8_000, 64),
        small("small-1MB-64", "cold shuffled files of 1 MB, 64 readers", tree_1m, 2_000, 64),
        Scenario(
            "first-mib",
            "open and read the first MiB of a fresh file of 64 MiB; its directory was listed",
            Unit.FILES,
            Load(fresh, folders=folders(fresh)),
            (f"first:{nfresh}:64MiB",),
        ),
        Scenario(
            "header-peek",
            f"first 4 KiB of {npeeked} files of 8 MiB, 8 readers",
            Unit.FILES,
            Load(peeked, 8, folders=folders(peeked)),
            ("header:1000:8MiB",),
        ),
    ]
