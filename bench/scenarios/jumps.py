"""Here and there in large objects: random places, by pread and by mmap; columns of a table, slices of an array.

The table and the array are patterns without the libraries: what pyarrow and h5py read of such files, recorded once.
"""

from __future__ import annotations

from bench.load.spec import Load, Via
from bench.scenarios.scenario import WARM, Scenario, Unit, Variant
from bench.scenarios.trees import GIB, KIB, MIB, folders, jobs, scattered, whole

_TABLE_NBYTES = 6_117_442
_GROUP_NBYTES = 762_000
_COLUMN_STARTS = (4, 504_801)
_COLUMN_NBYTES = 12_075
_FOOTER_NBYTES = 64 * KIB
_COLUMNS = (
    (_TABLE_NBYTES - _FOOTER_NBYTES, _FOOTER_NBYTES),
    *((group * _GROUP_NBYTES + start, _COLUMN_NBYTES) for group in range(8) for start in _COLUMN_STARTS),
)
"""Two of five columns of a Parquet file with 8 row groups, by pyarrow."""

_ARRAY_NBYTES = 22_024_760
_ARRAY_STARTS_AT = 2048
_ROW_NBYTES = 2 * MIB
_SLICE = (
    *((0, 8), (0, 48), (48, 48), (96, 512), (680, 512), (136, 544), (1072, 328), (800, 512)),
    *((_ARRAY_STARTS_AT + 3 * _ROW_NBYTES + offset, nbytes) for offset, nbytes in whole(_ROW_NBYTES, 64 * KIB)),
)
"""A row of 2 MiB in pieces out of a contiguous dataset, by h5py: metadata, then the piece."""


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

    def pattern(name: str, summary: str, nfiles: int, size: int, reads: tuple[tuple[int, int], ...]) -> Scenario:
        tree = f"{name}:{nfiles}:{size}"
        work = jobs(tree, nfiles, reads)
        return Scenario(name, summary, Unit.FILES, Load(work, folders=folders(work)), (tree,), settle_seconds=1.0)

    return [
        pattern(
            "columns",
            "two of five columns of Parquet files of 6 MB with row groups of 0.75 MB, as pyarrow reads them",
            20 // share,
            _TABLE_NBYTES,
            _COLUMNS,
        ),
        pattern(
            "slices",
            "a row of 2 MiB in pieces of 64 KiB out of HDF5 files of 22 MB, as h5py reads it",
            20 // share,
            _ARRAY_NBYTES,
            _SLICE,
        ),
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
