"""Reads at equal distances, forwards or backwards: what will be read next. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from s3stream_fs.types import BLOCK_BYTES, ByteRange

_REPEATS: Final = 2
"""Equal distances in a row before anything is fetched for them: of shuffled records, hardly ever three are in step."""

_PROVEN: Final = 4
"""Equal distances in a row until which no more runs are fetched ahead than were read, where they are small: a table
of a few row groups, or a program that looks at the first records, ends before. A guess. From then on their number
doubles with each jump, and that of large ones from the start."""

_LARGE_RUN_NBYTES: Final = 256 * 1024
"""What is no small run: of an array or of a stream, and not a column of a table. A guess."""

_MAX_RUNS: Final = 64
"""Runs fetched ahead at most. A guess: 64 blocks on their way are 500 MiB/s at 30 ms."""


class Stride:
    """Watches the jumps of one object's reads; a jump is a read that continues no stream."""

    __slots__ = ("_delta", "_planned", "_repeats", "_start")

    def __init__(self) -> None:
        self._start = -1
        self._delta = 0
        self._repeats = 0
        self._planned = 0
        """Runs that have been planned beyond the last jump."""

    @property
    def steady(self) -> bool:
        """Whether the jumps so far have been in step."""
        return self._repeats >= _REPEATS

    def on_jump(self, offset: int) -> bool:
        """Note a jump. True where it was in step with those before."""
        delta = offset - self._start if self._start >= 0 else 0
        self._start = offset
        if delta and delta == self._delta:
            self._repeats += 1
            self._planned = max(self._planned - 1, 0)
            return True
        self._delta = delta
        self._repeats = 1 if delta else 0
        self._planned = 0
        return False

    def lost(self) -> None:
        """What was planned is not there: plan it again."""
        self._planned = 0

    def plan_ahead(self, run_nbytes: int, size: int, window_nbytes: int) -> tuple[ByteRange, ...]:
        """The runs of ``run_nbytes`` that come next, block-aligned, neighbours merged; none while enough are planned.

        Their number doubles with each jump that is in step, as far as the window goes; that of small ones once the
        stride is proven.
        """
        if not self.steady:
            return ()
        # Where the gaps are smaller than a block everything between is fetched anyway.
        dense = abs(self._delta) < run_nbytes + BLOCK_BYTES
        step_nbytes = abs(self._delta) if dense else max(run_nbytes, BLOCK_BYTES)
        most = window_nbytes // step_nbytes
        # With millions of jumps a power of their number alone would take 32 ms.
        repeats = min(self._repeats, _PROVEN + most.bit_length())
        if run_nbytes >= _LARGE_RUN_NBYTES:
            nruns = 1 << repeats
        else:
            nruns = repeats if repeats < _PROVEN else _PROVEN << (repeats - _PROVEN)
        nruns = min(nruns, most)
        if not dense:
            nruns = min(nruns, _MAX_RUNS)
        if nruns - self._planned < max(nruns // 2, 1):
            return ()
        first, self._planned = self._planned + 1, nruns
        starts: Iterable[int] = range(self._start + first * self._delta, self._start + nruns * self._delta, self._delta)
        starts = [*starts, self._start + nruns * self._delta]
        if dense:
            spans = [(min(starts), max(starts) + run_nbytes)]
        else:
            spans = [(start, start + run_nbytes) for start in sorted(starts)]
        merged: list[ByteRange] = []
        for start, stop in spans:
            start, stop = max(start, 0), min(stop, size)
            if start >= stop:
                continue
            wanted = ByteRange(start, stop).aligned(size)
            if merged and wanted.start <= merged[-1].stop:
                merged[-1] = ByteRange(merged[-1].start, max(wanted.stop, merged[-1].stop))
            else:
                merged.append(wanted)
        # What is read next comes first.
        return tuple(merged if self._delta > 0 else reversed(merged))
