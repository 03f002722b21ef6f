"""Keys of the simulated bucket's trees, and jobs on them. Pure; the same ones at every run."""

from __future__ import annotations

import random
from typing import Final

from bench.load.spec import Job
from bench.simulator.bucket import Tree

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

SEED: Final = 20260101


def whole(size: int, step: int) -> tuple[tuple[int, int], ...]:
    """Reads of ``step`` bytes that cover ``size`` bytes from the start."""
    return tuple((offset, min(step, size - offset)) for offset in range(0, size, step))


def jobs(tree: str, count: int, reads: tuple[tuple[int, int], ...], first: int = 0) -> tuple[Job, ...]:
    """The same reads on ``count`` objects of a tree in order, from the ``first`` on."""
    bucket = Tree.parse(tree)
    items = (bucket.item(index) for index in range(first, first + count))
    return tuple(Job(item.key, item.size, reads) for item in items)


def shuffled(tree: str, count: int) -> tuple[Job, ...]:
    """``count`` objects from the start of a tree, read whole by one read each, in an order without order."""
    size = Tree.parse(tree).item(0).size
    order = list(jobs(tree, count, ((0, size),)))
    random.Random(SEED).shuffle(order)
    return tuple(order)


def scattered(count: int, nbytes: int, size: int, align: int = 4 * KIB) -> tuple[tuple[int, int], ...]:
    """``count`` reads of ``nbytes`` at random aligned offsets."""
    rng = random.Random(SEED)
    return tuple((rng.randrange((size - nbytes) // align) * align, nbytes) for _ in range(count))


def folders(*listed: tuple[Job, ...]) -> tuple[str, ...]:
    """The folders of the jobs' files, parents first."""
    found: set[str] = set()
    for job in (job for some in listed for job in some):
        parts = job.key.split("/")[:-1]
        found.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return tuple(sorted(found))
