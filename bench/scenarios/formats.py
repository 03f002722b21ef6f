"""Files read by the libraries that training programs use: columns of a Parquet file, arrays of npz files.

Owns those files: they are made once, with a fixed seed, and are real ones, since a library checks what it reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.load.spec import Job, Load, Via
from bench.scenarios.scenario import Scenario, Unit
from bench.scenarios.trees import SEED, folders

PARQUET: Final = "tables/table.parquet"
_NCOLUMNS: Final = 20
_NROWS: Final = 1_250_000  # times 20 columns of 8 bytes: 200 MB
_NROWS_IN_GROUP: Final = 125_000  # ten row groups, as writers make them of a table of this size
_COLUMNS: Final = ("column_03", "column_11")  # neither the first nor neighbours

NPZ: Final = tuple(f"npz/{number:02d}.npz" for number in range(20))
_NPZ_SHAPE: Final = (7, 512, 512)  # of 4 bytes: 7.3 MB, an MLPerf unet3d sample at a twentieth of its size


def scenarios(quick: bool, originals: Path) -> list[Scenario]:
    """``originals`` is where ``make`` puts the files."""
    table = (Job(PARQUET, 0, ()),)
    arrays = tuple(Job(key, 0, ()) for key in (NPZ[:5] if quick else NPZ))
    return [
        Scenario(
            "parquet",
            f"{len(_COLUMNS)} of {_NCOLUMNS} columns of a Parquet file of 200 MB, by pyarrow",
            Unit.MIB,
            Load(table, via=Via.PARQUET, folders=folders(table), columns=_COLUMNS, originals=str(originals)),
            files=(PARQUET,),
        ),
        Scenario(
            "npz",
            f"np.load of {len(arrays)} npz files of 7 MB",
            Unit.FILES,
            Load(arrays, via=Via.NPZ, folders=folders(arrays), originals=str(originals)),
            files=tuple(job.key for job in arrays),
        ),
    ]


def make(key: str, originals: Path) -> Path:
    """The file of that key, made if it is not there yet."""
    path = originals / key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        (_make_parquet if key == PARQUET else _make_npz)(unfinished, SEED + len(key) + sum(key.encode()))
        unfinished.rename(path)
    return path


def _make_parquet(path: Path, seed: int) -> None:
    import numpy as np
    import pyarrow
    import pyarrow.parquet as parquet

    rng = np.random.default_rng(seed)
    table = pyarrow.table({f"column_{number:02d}": rng.random(_NROWS) for number in range(_NCOLUMNS)})
    # Random numbers do not compress: what is read of the file is what the columns hold.
    parquet.write_table(table, path, row_group_size=_NROWS_IN_GROUP, compression="none", use_dictionary=False)


def _make_npz(path: Path, seed: int) -> None:
    import numpy as np

    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        np.savez(file, x=rng.random(_NPZ_SHAPE, dtype=np.float32), y=np.array([seed]))
