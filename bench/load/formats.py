"""Loads that read through a library: columns of a Parquet file, arrays of npz files. Compares with the original."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from bench.load.spec import Job, Load, Via
from bench.load.tally import Tally


class FormatReader:
    """Runs jobs on the files below ``root``; what counts as read is the size of the values."""

    def __init__(self, root: Path, load: Load) -> None:
        self._root = root
        self._originals = Path(load.originals)
        self._columns = list(load.columns)
        self._via = load.via

    def __call__(self, job: Job, tally: Tally, deadline: float) -> None:
        began = time.perf_counter()
        nbytes, same = (self._parquet if self._via is Via.PARQUET else self._npz)(job.key, tally, began)
        tally.nbytes += nbytes
        tally.nfiles += 1
        tally.wrong_reads += not same

    def _parquet(self, key: str, tally: Tally, began: float) -> tuple[int, bool]:
        table = parquet.read_table(self._root / key, columns=self._columns)
        tally.took((time.perf_counter() - began) * 1e3, first=True)
        return table.nbytes, table.equals(parquet.read_table(self._originals / key, columns=self._columns))

    def _npz(self, key: str, tally: Tally, began: float) -> tuple[int, bool]:
        with np.load(self._root / key) as arrays:
            read = {name: arrays[name] for name in arrays.files}
        tally.took((time.perf_counter() - began) * 1e3, first=True)
        with np.load(self._originals / key) as arrays:
            same = set(read) == set(arrays.files) and all(np.array_equal(read[n], arrays[n]) for n in arrays.files)
        return sum(array.nbytes for array in read.values()), same
