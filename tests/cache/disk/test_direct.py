"""Writes past the page cache leave the same bytes as any others, and say how many they took."""

from __future__ import annotations

import ctypes
import os
import random
from pathlib import Path

import pytest

from s3stream_fs.cache.disk.direct import DirectWriter, ReadBuffers
from s3stream_fs.cache.disk.files import DataFile, Descriptors

MIB = 1024 * 1024
DATA = random.Random(2).randbytes(3 * MIB + 4096 + 11)


def cut(*at: int) -> list[memoryview]:
    """DATA in pieces that end there."""
    return [memoryview(DATA)[start:stop] for start, stop in zip((0, *at), (*at, len(DATA)), strict=True)]


@pytest.mark.parametrize("at", [(), (1,), (MIB,), (MIB - 1, MIB + 1), (5, 6, 2 * MIB + 3, 3 * MIB)])
def test_a_file_holds_what_was_written_whole_pages_past_the_page_cache(tmp_path: Path, at: tuple[int, ...]) -> None:
    file = DataFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), Descriptors())
    file.write(8192, cut(*at), DirectWriter())
    assert (tmp_path / "file").read_bytes() == bytes(8192) + DATA


def test_only_whole_pages_are_taken(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert DirectWriter().write(fd, 4096, cut(7)) in (0, 3 * MIB + 4096)  # 0: a file system that refuses
    finally:
        os.close(fd)


def test_small_and_unaligned_writes_are_left_to_the_page_cache(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert DirectWriter().write(fd, 0, [memoryview(DATA)[: MIB - 1]]) == 0
        assert DirectWriter().write(fd, 512, cut()) == 0
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_system_that_refuses_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = DirectWriter()
    fd = os.memfd_create("no direct writes here")
    try:
        first = writer.write(fd, 0, cut())
        assert first in (0, 3 * MIB + 4096)
        if not first:
            monkeypatch.setattr(os, "open", None)
            assert writer.write(fd, 0, cut()) == 0
    finally:
        os.close(fd)


def test_a_buffer_is_nobody_elses_while_a_slice_of_it_lives() -> None:
    buffers = ReadBuffers(1 << 20)
    first = buffers.take(8192)
    assert first is not None
    first[:] = b"1" * 8192
    part = first[4096:4100]
    del first
    second = buffers.take(8192)
    assert second is not None
    second[:] = b"2" * 8192
    assert bytes(part) == b"1111"
    del part
    third = buffers.take(4096)
    assert third is not None
    assert bytes(third[:4]) == b"1111"  # the first one again
    assert bytes(second[:4]) == b"2222"


def test_buffers_are_aligned_and_there_are_not_many() -> None:
    buffers = ReadBuffers(1 << 20)
    assert buffers.take((1 << 20) + 4096) is None
    views = []
    while (view := buffers.take(1 << 20)) is not None:
        views.append(view)
    assert len(views) == 32
    for view in views:
        assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % 4096 == 0
    del view, views
    assert buffers.take(1 << 20) is not None
