"""Writes past the page cache leave the same bytes as any others, and say how many they took."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from s3stream_fs.cache.direct import DirectWriter
from s3stream_fs.cache.files import DataFile

MIB = 1024 * 1024
DATA = random.Random(2).randbytes(3 * MIB + 4096 + 11)


def cut(*at: int) -> list[memoryview]:
    """DATA in pieces that end there."""
    return [memoryview(DATA)[start:stop] for start, stop in zip((0, *at), (*at, len(DATA)), strict=True)]


@pytest.mark.parametrize("at", [(), (1,), (MIB,), (MIB - 1, MIB + 1), (5, 6, 2 * MIB + 3, 3 * MIB)])
def test_a_file_holds_what_was_written_whole_pages_past_the_page_cache(tmp_path: Path, at: tuple[int, ...]) -> None:
    file = DataFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
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
