"""What a scenario is, and the warm variants that follow a cold one. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bench.load.spec import Load


class Unit(StrEnum):
    """What a scenario's rate counts."""

    MIB = "MiB"
    FILES = "files"
    READS = "reads"


class Variant(StrEnum):
    """The states of the caches in which a load is run, in the order in which one mount goes through them."""

    COLD = ""
    MEMORY = "memory"  # again at once
    NAMES = "names"  # again without the kernel's names and inodes: each has to be looked up anew
    NVME = "nvme"  # again without the kernel's pages: the contestant's cache on disk answers, or its memory
    COMPLETE = "complete"  # as before, after it was read until nothing was fetched: the disk has taken all of it
    REMOUNT = "remount"  # again after an unmount and a mount over the same cache folder


WARM: Final = (Variant.COLD, Variant.MEMORY, Variant.NVME, Variant.REMOUNT)
"""What most scenarios go through that are run warm at all."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """``trees`` are what the simulated S3 holds, as its ``--tree`` takes them; ``files`` are keys of real files.

    ``preset`` None leaves the latency to the command line. ``settle_seconds`` pass between the end of the load and the
    counting of what was fetched. ``warm_load`` is what the warm variants do instead, on the same files.
    """

    name: str
    summary: str
    unit: Unit
    load: Load
    trees: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    preset: str | None = None
    max_rate: float | None = None
    settle_seconds: float = 0.0
    variants: tuple[Variant, ...] = (Variant.COLD,)
    warm_load: Load | None = None

    def row(self, variant: Variant) -> str:
        """The name of a variant's results."""
        return f"{self.name}@{variant}" if variant else self.name

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(self.row(variant) for variant in self.variants)
