"""Replies on their way: in which thread, and what is left when they are written."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import weakref
from collections.abc import Iterator

import pytest

from s3stream_fs.bindings.native.protocol import OUT_HEADER
from s3stream_fs.bindings.native.writer import Writer


@pytest.fixture
def ends() -> Iterator[tuple[int, socket.socket]]:
    """The writer's descriptor, and the kernel's end, which keeps the borders of replies."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours.fileno(), theirs


def received(kernel: socket.socket) -> tuple[int, int, bytes]:
    """Unique number, errno and body of the next reply."""
    raw = kernel.recv(2**20)
    nbytes, code, unique = OUT_HEADER.unpack_from(raw)
    assert nbytes == len(raw)
    return unique, -code, raw[OUT_HEADER.size :]


def something_came(kernel: socket.socket) -> bool:
    return bool(select.select([kernel], [], [], 0)[0])


def test_a_reply_is_written_at_once(ends: tuple[int, socket.socket]) -> None:
    fd, kernel = ends
    with Writer(fd) as writer:
        writer.reply(1, 0, b"body")
        writer.reply(2, errno.ENOENT, b"")
    assert [received(kernel), received(kernel)] == [(1, 0, b"body"), (2, errno.ENOENT, b"")]


def test_what_is_alone_waits_for_the_flush(ends: tuple[int, socket.socket]) -> None:
    fd, kernel = ends
    with Writer(fd) as writer:
        assert not writer.flush()
        writer.hold(1, b"one")
        assert not something_came(kernel)
        assert writer.flush()
        assert received(kernel) == (1, 0, b"one")
        assert not writer.flush()


@pytest.mark.parametrize("nthreads", [0, 1, 3])
def test_all_but_the_last_go_without_a_flush(ends: tuple[int, socket.socket], nthreads: int) -> None:
    fd, kernel = ends
    with Writer(fd, nthreads) as writer:
        for unique in range(10):
            writer.hold(unique, b"%d" % unique)
        assert sorted(received(kernel) for _ in range(9)) == [(unique, 0, b"%d" % unique) for unique in range(9)]
        writer.flush()
        assert received(kernel) == (9, 0, b"9")


def test_views_are_given_back_on_the_main_thread(ends: tuple[int, socket.socket]) -> None:
    """They belong to tiers that know no locks."""
    fd, kernel = ends
    threads: list[int] = []
    refs = []
    with Writer(fd, 2) as writer:
        for unique in range(20):
            view = memoryview(bytearray(1000))
            refs.append(weakref.ref(view, lambda _: threads.append(threading.get_ident())))
            writer.hand_over(unique, view)
            del view
            received(kernel)
        assert len(threads) >= 17  # but for the last one, and one that each thread may still hold
        writer.reply(99, 0, b"")
    assert threads == 20 * [threading.get_ident()]


def test_what_the_kernel_does_not_take_becomes_an_error(
    ends: tuple[int, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    fd, kernel = ends
    with Writer(fd) as writer, caplog.at_level(logging.ERROR):
        writer.reply(1, 0, bytes(2**24))  # more than a socket takes at once
    assert received(kernel) == (1, errno.EIO, b"")
    assert "does not take a reply" in caplog.text


def test_nobody_is_there_any_more(caplog: pytest.LogCaptureFixture) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    with Writer(fd, 1) as writer, caplog.at_level(logging.ERROR):
        writer.reply(1, 0, b"x")
        writer.hand_over(2, b"x")
    assert caplog.text == ""
