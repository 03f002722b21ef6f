"""Little of a large file: columns of a table, slices of an array. What the kernel asked for, and what is fetched.

The traces are READ requests of one file each, as Linux 6.18 sent them on a mount with a read-ahead of 1 MiB. The tables
have 8 row groups of 0.75 MB with five columns, of which two are read (12 KB of a row group each), which lie beside each
other or apart. pyarrow 26, duckdb 2.0, polars 2.1, datasets 5.2 (on Python 3.11), h5py 3.16.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from s3stream_fs.reading.planner import Planner
from s3stream_fs.reading.stream import Conditions, ReadAheadConfig
from s3stream_fs.types import BLOCK_BYTES, ByteRange

KIB = 1024
MIB = 1024 * KIB

APART = (
    *(0, 503_808, 761_856, 1_265_664, 1_523_712, 2_027_520, 2_289_664, 2_793_472),
    *(3_051_520, 3_555_328, 3_813_376, 4_317_184, 4_579_328, 5_083_136, 5_341_184, 5_844_992),
)
BESIDE = (0, 761_856, 1_523_712, 2_289_664, 3_051_520, 3_813_376, 4_579_328, 5_341_184)
OUT_OF_ORDER = (
    *(503_808, 1_265_664, 0, 761_856, 2_027_520, 1_523_712, 2_793_472, 2_289_664),
    *(3_555_328, 3_051_520, 3_813_376, 4_317_184, 5_083_136, 4_579_328, 5_844_992, 5_341_184),
)
TABLE_NBYTES = 6_117_442
COLUMNS_NBYTES = 16 * 12_075
FOOTER = (6_049_792, TABLE_NBYTES - 6_049_792)
FOOTER_NBYTES = 64 * KIB


@dataclass(frozen=True)
class Trace:
    """``asked_nbytes`` is what the program read, ``reads`` what the kernel made of it."""

    size: int
    asked_nbytes: int
    reads: tuple[tuple[int, int], ...]


def columns(starts: tuple[int, ...], nbytes: int) -> tuple[tuple[int, int], ...]:
    return tuple((start, nbytes) for start in starts)


TRACES = {
    "pyarrow": Trace(TABLE_NBYTES, FOOTER_NBYTES + COLUMNS_NBYTES, (FOOTER, *columns(APART, 16 * KIB))),
    "pyarrow, columns beside each other": Trace(
        TABLE_NBYTES, FOOTER_NBYTES + COLUMNS_NBYTES, (FOOTER, *columns(BESIDE, 28 * KIB))
    ),
    "duckdb": Trace(
        TABLE_NBYTES,
        32 * KIB + COLUMNS_NBYTES,
        (
            (6_098_944, TABLE_NBYTES - 6_098_944),
            *columns(OUT_OF_ORDER[:2], 16 * KIB),
            (0, 64 * KIB),
            *columns(OUT_OF_ORDER[3:], 16 * KIB),
        ),
    ),
    "datasets, columns beside each other": Trace(
        TABLE_NBYTES, FOOTER_NBYTES + COLUMNS_NBYTES, (FOOTER, (0, 128 * KIB), *columns(BESIDE[1:], 36 * KIB))
    ),
    "h5py, a row of 2 MiB": Trace(
        22_024_760, 2_100_000, ((0, 16 * KIB), *((start, MIB) for start in range(6 * MIB, 10 * MIB, MIB)))
    ),
    "h5py, a row of 2 MiB in pieces": Trace(
        22_024_760,
        2_100_000,
        (
            (0, 16_384),
            (6_291_456, 69_632),
            (6_361_088, 131_072),
            (6_492_160, 258_048),
            (6_750_208, 507_904),
            (7_258_112, 1_015_808),
            (8_273_920, 1_048_576),
            (9_322_496, 1_048_576),
        ),
    ),
    "h5py, chunks of 64 KiB": Trace(
        22_024_760,
        398_000,
        (
            *((0, 16_384), (20_971_520, 8_192), (20_979_712, 131_072)),
            *columns((21_172_224, 21_368_832, 21_565_440, 21_762_048, 21_958_656), 66_104),
        ),
    ),
}


def fetched(trace: Trace) -> int:
    """Bytes of all blocks that are fetched for a trace, each of them once."""
    planner = Planner(trace.size, ReadAheadConfig())
    known: set[int] = set()
    for number, (offset, nbytes) in enumerate(trace.reads):
        at_hand = known.issuperset(ByteRange(offset, offset + nbytes).blocks())
        plan = planner.on_read(offset, nbytes, Conditions(number * 0.03, 128 * MIB, 0.03), at_hand=at_hand)
        for wanted in (*plan.ahead, *(() if at_hand else (plan.need,))):
            known.update(wanted.blocks())
    return len(known) * BLOCK_BYTES


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
def test_no_more_than_twice_is_fetched_of_what_was_asked_for(trace: Trace) -> None:
    assert fetched(trace) <= 2 * trace.asked_nbytes + 256 * KIB


def test_a_footer_that_is_mapped_is_fetched_as_the_kernel_asks_for_it() -> None:
    # For the page that is touched the kernel reads half of its read-ahead before it: nothing can be saved of that.
    footer = (5_525_504, TABLE_NBYTES - 5_525_504)
    trace = Trace(TABLE_NBYTES, 205_000, (footer, *columns(APART, 16 * KIB)))
    assert fetched(trace) <= fetched(TRACES["pyarrow"]) + footer[1]


def test_a_stream_from_the_middle_opens_once_the_program_itself_has_read_for_long() -> None:
    reads = [(offset, MIB) for offset in range(64 * MIB, 128 * MIB, MIB)]
    planner = Planner(1 << 30, ReadAheadConfig())
    reach = 0
    for number, (offset, nbytes) in enumerate(reads):
        plan = planner.on_read(offset, nbytes, Conditions(number * 0.01, 128 * MIB))
        reach = max(reach, plan.need.stop, *(ahead.stop for ahead in plan.ahead))
        asked = offset + nbytes - 64 * MIB - 2 * MIB  # without the kernel's own read-ahead
        if asked <= 2 * MIB:
            assert reach - 64 * MIB == asked + 2 * MIB
        elif asked < 14 * MIB:
            assert reach - 64 * MIB <= 3 * asked + 2 * MIB
    assert reach >= 190 * MIB


def test_who_opens_a_table_for_its_footer_first_begins_no_stream_with_its_first_column() -> None:
    planner = Planner(TABLE_NBYTES, ReadAheadConfig())
    planner.on_read(*FOOTER, Conditions(0.0, 128 * MIB))
    planner.close()
    plan = planner.on_read(0, 128 * KIB, Conditions(0.1, 128 * MIB))
    assert (plan.need, plan.ahead) == (ByteRange(0, 128 * KIB), ())


def test_who_opens_a_file_again_that_was_read_from_its_start_reads_it_so_again() -> None:
    planner = Planner(TABLE_NBYTES, ReadAheadConfig())
    for _ in range(2):
        plan = planner.on_read(0, 128 * KIB, Conditions(0.0, 128 * MIB))
        assert plan.ahead == (ByteRange(128 * KIB, MIB),)
        planner.close()


def test_a_second_stream_of_a_file_that_is_streamed_opens_as_fast_as_the_first() -> None:
    planner = Planner(1 << 30, ReadAheadConfig())
    reach = 0
    for offset in range(0, 6 * MIB, MIB):
        planner.on_read(offset, MIB, Conditions(offset / 1e9, 128 * MIB))
        plan = planner.on_read(512 * MIB + offset, MIB, Conditions(offset / 1e9, 128 * MIB))
        reach = max(reach, plan.need.stop, *(ahead.stop for ahead in plan.ahead))
    assert reach >= (512 + 16) * MIB
