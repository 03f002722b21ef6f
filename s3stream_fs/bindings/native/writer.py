"""Replies on their way to the kernel. Where several large ones are due at once, threads copy all but one of them.

The kernel copies a reply while it is being written, 1 MiB in some 200 us, in which the main thread answers nobody. A
lone reader loses some 7 % by a thread, so a reply goes to one only where other requests are at hand.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Final

import trio

from s3stream_fs.bindings.native.protocol import OUT_HEADER, Body

log = logging.getLogger(__name__)

LARGE_NBYTES: Final = 256 * 1024
"""Smaller replies are copied in less time than a thread takes to wake up."""

NTHREADS: Final = min(4, (os.cpu_count() or 1) - 1)
"""Four for some 10 GiB/s of replies: a guess, from 3.5 GiB/s of the main thread alone."""

GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF})
"""What the device says once the mount is gone."""


class Writer:
    """Owns all writing to the device. Its methods are for the main thread; ``with`` it, threads are there."""

    def __init__(self, fd: int, nthreads: int = NTHREADS) -> None:
        self._fd = fd
        self._held: tuple[int, Body] | None = None
        self._queue: SimpleQueue[tuple[int, Body] | None] = SimpleQueue()
        self._written: deque[Body] = deque()
        """What threads are done with. A view of the memory tier says so when it goes, which is for the main thread."""
        self._threads = [Thread(target=self._copy, name=f"copy-{index}", daemon=True) for index in range(nthreads)]

    def __enter__(self) -> Writer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._written.clear()

    def reply(self, unique: int, code: int, body: Body) -> None:
        """Answer a request, with an errno or 0, on this thread."""
        self._written.clear()
        self._write(unique, code, body)

    def hold(self, unique: int, body: Body) -> None:
        """Answer with something large. It is kept until the next one, then a thread takes it, or until ``flush``."""
        if self._held is not None:
            self.hand_over(*self._held)
        self._held = (unique, body)

    def flush(self) -> bool:
        """Write what is held, on this thread. False where nothing is."""
        if self._held is None:
            return False
        held, self._held = self._held, None
        self.reply(held[0], 0, held[1])
        return True

    def hand_over(self, unique: int, body: Body) -> None:
        """Answer with something large; a thread writes it."""
        self._written.clear()
        if self._threads:
            self._queue.put((unique, body))
        else:
            self.reply(unique, 0, body)

    async def notify(self, message: bytes) -> None:
        """Tell the kernel something unasked.

        It takes a directory's lock for that, which somebody may hold who waits for a reply of ours: so it is told from
        a thread, which may be left behind.
        """
        await trio.to_thread.run_sync(_write_and_close, os.dup(self._fd), message, abandon_on_cancel=True)

    def _copy(self) -> None:
        while (item := self._queue.get()) is not None:
            unique, body = item
            self._write(unique, 0, body)
            self._written.append(body)
            del item, body

    def _write(self, unique: int, code: int, body: Body) -> None:
        header = OUT_HEADER.pack(OUT_HEADER.size + len(body), -code, unique)
        try:
            if len(body) == 0:
                os.write(self._fd, header)
            else:
                os.writev(self._fd, (header, body))
        except OSError as error:
            # Given up by whoever made it, or the mount is gone: nobody waits for it.
            if error.errno != errno.ENOENT and error.errno not in GONE:
                log.error("the kernel does not take a reply of %d bytes: %s", len(body), error)
                if code == 0:
                    self._write(unique, errno.EIO, b"")


def _write_and_close(fd: int, message: bytes) -> None:
    """Write to a descriptor of one's own, so that it is still the device whenever this comes to run."""
    try:
        os.write(fd, message)
    except OSError as error:
        # A kernel that does not know the directory or the name has nothing to forget.
        if error.errno not in {errno.ENOENT, errno.ENOTDIR} | GONE:
            log.error("the kernel does not take a notification: %s", error)
    finally:
        os.close(fd)
