"""What becomes of opens: a list of them in, how each goes on out."""

from __future__ import annotations

import pytest

from s3stream_fs.bindings.native.opening import Opening, OpenMode, Way
from s3stream_fs.errors import UsageError

MIB = 1024 * 1024


def opening(mode: OpenMode, *, unasked: bool = True, passthrough: bool = True) -> Opening:
    made = Opening(mode)
    made.agreed(unasked=unasked, passthrough=passthrough)
    return made


def whole() -> bool:
    return True


def partial() -> bool:
    return False


def test_kernel_mode_asks_nobody() -> None:
    assert opening(OpenMode.KERNEL).open(1, MIB, whole) is Way.UNASKED
    assert opening(OpenMode.KERNEL, unasked=False).open(1, MIB, whole) is Way.PAGES


def test_daemon_mode_keeps_pages() -> None:
    assert opening(OpenMode.DAEMON).open(1, MIB, whole) is Way.PAGES


def test_passthrough_takes_whole_files_and_serves_the_rest() -> None:
    made = opening(OpenMode.PASSTHROUGH)
    assert made.open(1, MIB, whole) is Way.PASSTHROUGH
    assert made.open(2, MIB, partial) is Way.PAGES


def test_passthrough_that_cannot_be_had_is_said() -> None:
    with pytest.raises(UsageError, match="needs root and Linux"):
        opening(OpenMode.PASSTHROUGH, passthrough=False)


def test_a_file_that_is_open_is_opened_again_in_the_same_way() -> None:
    made = opening(OpenMode.PASSTHROUGH)
    assert made.open(1, MIB, partial) is Way.PAGES
    assert made.open(1, MIB, whole) is Way.PAGES
    assert not made.release(1)
    assert made.open(1, MIB, whole) is Way.PAGES
    assert not made.release(1)
    assert made.release(1)
    assert made.open(1, MIB, whole) is Way.PASSTHROUGH
    assert made.open(1, MIB, partial) is Way.PASSTHROUGH


def test_a_file_that_the_kernel_refused_goes_by_pages() -> None:
    made = opening(OpenMode.PASSTHROUGH)

    def refused() -> bool:
        made.no_passthrough()
        return False

    assert made.open(1, MIB, refused) is Way.PAGES
    assert made.open(1, MIB, whole) is Way.PAGES
    assert made.open(2, MIB, whole) is Way.PAGES


def test_auto_without_passthrough_asks_nobody_from_the_start() -> None:
    made = opening(OpenMode.AUTO, passthrough=False)
    assert made.unasked
    assert made.open(1, MIB, whole) is Way.UNASKED
    assert made.explanation().startswith("kernel")


def test_auto_asks_nobody_any_more_once_files_are_known_to_be_small() -> None:
    made = opening(OpenMode.AUTO)
    ways = []
    for number in range(100):
        ways.append(made.open(number, 100_000, partial))
        if ways[-1] is Way.PAGES:
            made.release(number)
    assert ways == [Way.PAGES] * 64 + [Way.UNASKED] * 36
    assert "small" in made.explanation()


def test_auto_goes_on_passing_large_files_through() -> None:
    made = opening(OpenMode.AUTO)
    for number in range(200):
        assert made.open(number, 1024 * MIB, whole) is Way.PASSTHROUGH
        made.release(number)
    assert made.explanation().startswith("passthrough")


def test_auto_waits_until_nothing_passes_through_any_more() -> None:
    made = opening(OpenMode.AUTO)
    assert made.open(1000, MIB, whole) is Way.PASSTHROUGH
    for number in range(100):
        assert made.open(number, 1000, partial) is Way.PAGES
        made.release(number)
    made.release(1000)
    assert made.open(1, 1000, partial) is Way.UNASKED


def test_auto_asks_where_not_asking_is_not_safe_and_kernel_does_as_it_is_told() -> None:
    for mode, way in ((OpenMode.AUTO, Way.PAGES), (OpenMode.KERNEL, Way.UNASKED)):
        made = Opening(mode, unasked_is_safe=False)
        made.agreed(unasked=True, passthrough=False)
        assert [made.open(number, 1000, partial) for number in range(100)] == [way] * 100


def test_a_kernel_that_allows_nothing_is_answered() -> None:
    made = opening(OpenMode.AUTO, unasked=False, passthrough=False)
    assert made.open(1, MIB, whole) is Way.PAGES
    assert made.explanation().startswith("daemon")


def test_a_release_of_what_is_not_open_harms_nothing() -> None:
    made = opening(OpenMode.PASSTHROUGH)
    assert made.release(1)
    assert made.open(1, MIB, whole) is Way.PASSTHROUGH
