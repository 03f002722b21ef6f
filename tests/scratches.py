"""A scratch file of names whose disk hangs on demand, and of which the kernel has no pages."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from s3stream_fs.namespace.scratch import Scratch


class HangingScratch(Scratch):
    """Threads wait in it for as long as one of its events is cleared."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.writes_go_on = threading.Event()
        self.reads_go_on = threading.Event()
        self.writing = threading.Event()
        """Somebody has begun to write."""
        self.places_read: list[int] = []
        self.answer()

    def answer(self) -> None:
        """The disk works again."""
        self.writes_go_on.set()
        self.reads_go_on.set()

    def read_nowait(self, where: int, nbytes: int, checksum: int) -> bytes | None:
        return None

    def write(self, pieces: Sequence[tuple[int, bytes]]) -> list[int]:
        self.writing.set()
        self.writes_go_on.wait(60)
        return super().write(pieces)

    def read(self, where: int, nbytes: int, checksum: int) -> bytes:
        self.places_read.append(where)
        self.reads_go_on.wait(60)
        return super().read(where, nbytes, checksum)
