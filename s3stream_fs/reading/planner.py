"""The planner: what one read needs, and what will be needed next. Pure.

It sees only offsets and sizes, never handles: several readers may share a file, and one reader may interleave several
streams. A read belongs to the stream whose position it continues. Any other read is a jump: it starts a new stream, and
jumps at equal distances (every fourth MiB, or backwards) are a pattern of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from s3stream_fs.reading.stream import Conditions, ReadAheadConfig, Stream
from s3stream_fs.reading.stride import Stride
from s3stream_fs.types import ByteRange

_EAGER_READ_NBYTES: Final = 64 * 1024
"""A first read of this size at offset 0 is the kernel's full read-ahead, which it gives only to somebody who asked for
that much; a reader that peeks at a header gets 16 KiB."""

_ACTIVE_SECONDS: Final = 2.0
"""A stream that has not read for so long takes no share of the memory from the others. A guess: longer than the pause
between two batches of a loader that keeps up."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """``need`` is block-aligned and holds the read; ``ahead`` are block-aligned ranges to fetch beyond it.

    All are cut into GETs of at most ``part_nbytes``.
    """

    need: ByteRange
    ahead: tuple[ByteRange, ...]
    part_nbytes: int


class Planner:
    """The streams of one object."""

    def __init__(self, size: int, config: ReadAheadConfig) -> None:
        self._size = size
        self._config = config
        self._streams: list[Stream] = []
        """Most recently used last."""
        self._stride = Stride()
        self._jumped: Stream | None = None
        """The stream that the last jump began."""

    def on_read(self, offset: int, size: int, conditions: Conditions) -> ReadPlan:
        """Plan the read of ``size`` bytes at ``offset``, which lie within the object."""
        need = ByteRange(offset, offset + size).aligned(self._size)
        stream = self._stream_of(offset)
        if stream is None:
            return ReadPlan(need, self._jump(offset, size, need.stop, conditions), self._config.part_nbytes)
        self._streams.remove(stream)
        self._streams.append(stream)
        stream.advance(offset + size, size, conditions.now)
        stream.ahead_stop = max(stream.ahead_stop, need.stop)
        if stream.expected_stop is not None and stream.position > stream.expected_stop:
            stream.expected_stop = None  # it goes on further than the runs before it
        ahead, part_nbytes = stream.plan_ahead(self._size, self._config, conditions)
        return ReadPlan(need, (ahead,) if ahead else (), part_nbytes)

    def lost(self, offset: int) -> None:
        """What was planned ahead at ``offset`` is neither here nor coming (dropped, failed, evicted): plan it again."""
        stream = self._stream_of(offset)
        if stream is None:
            self._stride.lost()
        else:
            stream.ahead_stop = min(stream.ahead_stop, offset)

    def active_streams(self, now: float) -> int:
        """Streams that were read lately and have a window."""
        return sum(now - stream.used < _ACTIVE_SECONDS for stream in self._streams)

    def _jump(self, offset: int, size: int, need_stop: int, conditions: Conditions) -> tuple[ByteRange, ...]:
        last = self._jumped
        in_step = self._stride.on_jump(offset)
        if in_step and last in self._streams:
            # One stream stands for the whole pattern, so that it does not push the others out.
            self._streams.remove(last)
        steady = self._stride.steady
        run_nbytes = max(last.position - last.start if last is not None else 0, size)
        stream = Stream(offset, offset + size, conditions.now, offset + run_nbytes if steady else None)
        stream.ahead_stop = need_stop
        self._streams.append(stream)
        self._jumped = stream
        del self._streams[: -self._config.max_streams]
        if steady:
            window = min(conditions.share_nbytes, self._config.max_window_nbytes)
            return self._stride.plan_ahead(run_nbytes, self._size, window)
        if offset == 0 and size >= _EAGER_READ_NBYTES:
            ahead, _ = stream.plan_ahead(self._size, self._config, conditions)
            return (ahead,) if ahead else ()
        return ()

    def _stream_of(self, offset: int) -> Stream | None:
        for stream in reversed(self._streams):
            if stream.takes(offset):
                return stream
        return None
