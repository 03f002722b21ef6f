"""The scenarios: whole, and chosen by patterns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.load.spec import Load, Via
from bench.scenarios import registry
from bench.scenarios.scenario import Scenario, Variant
from bench.simulator.bucket import Tree
from bench.targets import TARGETS, evaluate
from harness.made import results_of

ORIGINALS = Path("originals")


def _all(quick: bool = False) -> list[Scenario]:
    return registry.scenarios(quick, ORIGINALS)


@pytest.mark.parametrize("quick", [False, True])
def test_names_are_unique(quick: bool) -> None:
    rows = Counter(row for one in _all(quick) for row in one.rows)

    assert not [row for row, count in rows.items() if count > 1]


@pytest.mark.parametrize("quick", [False, True])
def test_every_read_lies_in_an_object_that_the_simulated_bucket_holds(quick: bool) -> None:
    for scenario in _all(quick):
        trees = [Tree.parse(tree) for tree in scenario.trees]
        for job in scenario.load.jobs:
            if job.key in scenario.files:
                continue
            if scenario.load.via in (Via.TREE, Via.LIST):
                assert [(tree.prefix, len(tree)) for tree in trees] == [(f"{job.key}/", job.size)]
                continue
            (item,) = [found for tree in trees if (found := tree.find(job.key)) is not None]
            assert item.size == job.size
            assert job.reads or scenario.load.via in (Via.STAT, Via.WALK)
            assert all(offset >= 0 and offset + nbytes <= item.size for offset, nbytes in job.reads)


@pytest.mark.parametrize("quick", [False, True])
def test_trees_of_one_prefix_are_the_same_tree(quick: bool) -> None:
    prefixes = Counter(tree.split(":")[0] for tree in {tree for one in _all(quick) for tree in one.trees})

    assert max(prefixes.values()) == 1


def test_every_folder_of_a_file_is_listed_first() -> None:
    for scenario in _all():
        if scenario.load.via not in (Via.STAT, Via.WALK, Via.TREE, Via.LIST):  # part of what is measured, or missing
            assert {job.key.rpartition("/")[0] for job in scenario.load.jobs} <= set(scenario.load.folders)


def test_cold_files_are_read_once_and_in_no_order() -> None:
    (scenario,) = registry.choose(_all(), ["small-64"])
    keys = [job.key for job in scenario.load.jobs]

    assert len(set(keys)) == len(keys) == 8_000
    assert keys != sorted(keys)


def test_the_two_interleaved_streams_read_what_the_separate_ones_read() -> None:
    def ranges(load: Load) -> set[tuple[int, int]]:
        return {read for job in load.jobs for read in job.reads}

    interleaved, shared, separate = (
        registry.choose(_all(), [name])[0].load for name in ("interleaved", "shared-descriptor", "two-descriptors")
    )

    assert ranges(interleaved) == ranges(shared) == ranges(separate)
    assert len(interleaved.jobs) == 1
    assert shared.via is Via.SHARED_DESCRIPTOR


def test_a_pattern_chooses_rows_and_the_cold_one_that_they_need() -> None:
    (chosen,) = registry.choose(_all(), ["small-8@nvme"])

    assert chosen.variants == (Variant.COLD, Variant.NVME)


def test_a_name_chooses_the_cold_row_alone() -> None:
    (chosen,) = registry.choose(_all(), ["small-8"])

    assert chosen.variants == (Variant.COLD,)


def test_a_pattern_for_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="smal-8"):
        registry.choose(_all(), ["small-8", "smal-8"])


def test_quick_names_rows_that_exist() -> None:
    assert registry.choose(_all(quick=True), registry.QUICK)


def test_each_target_has_its_scenarios() -> None:
    """A run of all rows leaves no target without a figure."""
    rows = [row for one in _all() for row in one.rows]

    assert not [one.target.text for one in evaluate(results_of(rows), TARGETS) if one.measured != one.measured]
