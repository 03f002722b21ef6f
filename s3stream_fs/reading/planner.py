"""The planner: what one read needs, and what will be needed next. Pure.

It sees only offsets and sizes, never handles: several readers may share a file, and one reader may interleave several
streams. A read belongs to the stream whose position it continues. Any other read is a jump: it starts a new stream, and
jumps at equal distances (every fourth MiB, or backwards) are a pattern of their own.

Who jumps mostly wants little, such as two columns of a table, and is given little: the blocks that the read touches. As
long as no more than 128 KiB of an object were fetched beyond what was asked for, they are rounded up, since the
first jumps go to headers and indexes, which are read in several steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from s3stream_fs.reading.stream import REORDER_NBYTES, Conditions, ReadAheadConfig, Stream
from s3stream_fs.reading.stride import Stride
from s3stream_fs.types import BLOCK_BYTES, ByteRange

_ALLOWANCE_NBYTES: Final = 128 * 1024
"""Of each object, what may be fetched beyond what was asked for when jumps are rounded up. Blocks that jumps touch with
an end only come on top."""

_HEADER_NBYTES: Final = 128 * 1024
_NEAR_NBYTES: Final = 64 * 1024
"""What jumps are rounded up to while the allowance lasts: the first one to the beginning of an object, and others, if
they lie within one such piece. A guess: metadata that is read in steps of a few KiB mostly lies that close together."""

_WIDE_NBYTES: Final = 256 * 1024
"""What jumps are rounded up to once so many were made that they would have brought the object twice by now. Whoever
reads all of a large object in records without order then needs three times the GETs at most of what it would have
needed had it been so from the start; at 90 MB/s per connection the transfer (3 ms) hides behind the first byte."""

_EAGER_READ_NBYTES: Final = 64 * 1024
"""A first read of this size at offset 0 is the kernel's full read-ahead, which it gives only to somebody who asked for
16 KiB; a reader that peeks at a header gets 16 KiB."""

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
        self._asked_nbytes = 0
        self._planned_nbytes = 0
        """Asked for by all reads, and needed or fetched ahead by all plans."""
        self._jumps_to_fetch = 0
        """Jumps whose bytes were not at hand."""
        self._untouched = True
        """Nothing was read since it was opened."""
        self._is_streamed = False
        """Somebody has read much of it in sequence."""
        self._begins_elsewhere = False
        """Somebody's first read was not at the start: who opens it next may read there too and mean no stream."""

    def on_read(self, offset: int, size: int, conditions: Conditions, *, at_hand: bool = False) -> ReadPlan:
        """Plan the read of ``size`` bytes at ``offset``, which lie within the object. ``at_hand``: they need no GET."""
        first, self._untouched = self._untouched, False
        self._begins_elsewhere |= first and offset >= REORDER_NBYTES
        self._asked_nbytes += size
        stream = self._stream_of(offset)
        wanted = ByteRange(offset, offset + size)
        if stream is None:
            need = wanted.aligned(self._size) if at_hand else self._rounded(wanted, first)
            plan = ReadPlan(need, self._jump(offset, size, need.stop, conditions, first), self._config.part_nbytes)
        else:
            plan = self._go_on(stream, wanted, conditions, at_hand=at_hand)
        self._planned_nbytes += sum(map(len, plan.ahead)) + (0 if at_hand else len(plan.need))
        return plan

    def _go_on(self, stream: Stream, wanted: ByteRange, conditions: Conditions, *, at_hand: bool) -> ReadPlan:
        self._streams.remove(stream)
        self._streams.append(stream)
        stream.advance(wanted.stop, len(wanted), conditions.now)
        need = wanted.aligned(self._size)
        if not at_hand and len(wanted) <= BLOCK_BYTES:
            # Requests of a few pages are what a program reads, without what the kernel reads ahead: a map of which
            # the kernel was told that it is read at random. As much again as it has read comes with one GET.
            nbytes = min(max(stream.seen_nbytes, len(wanted)), _WIDE_NBYTES)
            need = ByteRange(wanted.start, min(wanted.start + nbytes, self._size)).aligned(self._size)
        self._is_streamed |= stream.proven
        stream.trusted |= self._is_streamed
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

    def close(self) -> None:
        """Nobody has the object open any more. Who opens it next is another reader of the same object: a library opens
        a table for its footer, and once more for its columns."""
        self._streams.clear()
        self._stride = Stride()
        self._jumped = None
        self._untouched = True

    def active_streams(self, now: float) -> int:
        """Streams that were read lately and have a window."""
        return sum(now - stream.used < _ACTIVE_SECONDS for stream in self._streams)

    def _rounded(self, wanted: ByteRange, first: bool) -> ByteRange:
        """What is fetched of a jump."""
        self._jumps_to_fetch += 1
        if self._jumps_to_fetch * _WIDE_NBYTES > 2 * self._size:
            return wanted.aligned(self._size, _WIDE_NBYTES)
        unit = _HEADER_NBYTES if first and wanted.start == 0 else _NEAR_NBYTES
        rounded = wanted.aligned(self._size, unit)
        allowed = self._asked_nbytes + _ALLOWANCE_NBYTES - self._planned_nbytes
        if len(rounded) <= min(unit, allowed):
            return rounded
        return wanted.aligned(self._size)

    def _jump(
        self, offset: int, size: int, need_stop: int, conditions: Conditions, first: bool
    ) -> tuple[ByteRange, ...]:
        last = self._jumped
        in_step = self._stride.on_jump(offset)
        if in_step and last in self._streams:
            # One stream stands for the whole pattern, so that it does not push the others out.
            self._streams.remove(last)
        steady = self._stride.steady
        run_nbytes = max(last.position - last.start if last is not None else 0, size)
        leading = first and not self._begins_elsewhere
        stream = Stream(
            offset,
            offset + size,
            conditions.now,
            offset + run_nbytes if steady else None,
            trusted=leading or self._is_streamed,
        )
        stream.ahead_stop = need_stop
        self._streams.append(stream)
        self._jumped = stream
        del self._streams[: -self._config.max_streams]
        if steady:
            window = min(conditions.share_nbytes, self._config.max_window_nbytes)
            return self._stride.plan_ahead(run_nbytes, self._size, window)
        if leading and size >= _EAGER_READ_NBYTES:
            ahead, _ = stream.plan_ahead(self._size, self._config, conditions)
            return (ahead,) if ahead else ()
        return ()

    def _stream_of(self, offset: int) -> Stream | None:
        for stream in reversed(self._streams):
            if stream.takes(offset):
                return stream
        return None
