"""The planner: what one read needs, and what the stream that it belongs to will need next. Pure.

It sees only offsets and sizes, never handles: several readers may share a file, and one reader may interleave several
streams. A read belongs to the stream whose position it continues; any other read starts a new stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from s3stream_fs.types import BLOCK_BYTES, ByteRange

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReadAheadConfig:
    """How reads become GETs. All sizes in bytes.

    ``whole_nbytes``: an object up to this size is fetched whole when its first byte is read; at 90 MB/s per connection
    its transfer costs about as much as the first byte of a second request.
    ``part_nbytes``: the largest GET of a sequential stream (the S3 guidance says 8-16 MB).
    ``max_window_nbytes``: how far a stream may run ahead; 128 MiB is 16 parts, which at 90 MB/s per connection and
    30 ms to the first byte is 1 GiB/s.
    ``max_streams``: positions remembered per object; 16 interleaved readers of one file, a guess.
    """

    whole_nbytes: int = 4 * MIB
    part_nbytes: int = 8 * MIB
    max_window_nbytes: int = 128 * MIB
    max_streams: int = 16


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """``need`` is block-aligned and holds the read; ``ahead`` is block-aligned and what to fetch beyond it, if any.

    Both are cut into GETs of at most ``part_nbytes``.
    """

    need: ByteRange
    ahead: ByteRange | None
    part_nbytes: int


@dataclass(slots=True)
class _Stream:
    position: int
    """Where the next read is expected."""
    seen_nbytes: int
    """How much it has read in sequence so far: the only evidence for how much it will read."""
    ahead_stop: int
    """Up to where it has been fetched, or is being fetched."""


_REORDER_NBYTES: Final = 2 * MIB
"""How far a read may stray from its stream's position: the kernel sends its read-ahead (up to 1 MiB a request) out of
order."""

_EAGER_READ_NBYTES: Final = 64 * 1024
"""A first read of this size at offset 0 is the kernel's full read-ahead, which it gives only to somebody who asked for
that much; a reader that peeks at a header gets 16 KiB."""

_EAGER_WINDOW_NBYTES: Final = MIB
"""What such a reader gets at once, so that the first MiB of a file costs one round trip."""


class Planner:
    """The streams of one object."""

    def __init__(self, size: int, config: ReadAheadConfig) -> None:
        self._size = size
        self._config = config
        self._streams: list[_Stream] = []
        """Most recently used last."""

    def on_read(self, offset: int, size: int, max_window_nbytes: int) -> ReadPlan:
        """Plan the read of ``size`` bytes at ``offset``, which lie within the object.

        ``max_window_nbytes`` is this object's share of the memory budget at this moment.
        """
        if self._size <= self._config.whole_nbytes:
            return ReadPlan(ByteRange(0, self._size), None, self._config.part_nbytes)
        stop = offset + size
        need = ByteRange(offset, stop).aligned(self._size)
        stream = self._stream_of(offset)
        if stream is None:
            stream = _Stream(position=stop, seen_nbytes=size, ahead_stop=need.stop)
            eager = offset == 0 and size >= _EAGER_READ_NBYTES
            window = _EAGER_WINDOW_NBYTES if eager else 0
        else:
            self._streams.remove(stream)
            stream.position = max(stream.position, stop)
            stream.seen_nbytes += size
            # Twice what it has shown: it triples with each round trip, and a reader that stops has wasted at most
            # twice what it read.
            window = 2 * stream.seen_nbytes
        self._streams.append(stream)
        del self._streams[: -self._config.max_streams]

        window = min(window, max_window_nbytes, self._config.max_window_nbytes)
        # A part that is small against the window keeps enough GETs in flight while the window still grows.
        part_nbytes = min(max(window // 8 // BLOCK_BYTES * BLOCK_BYTES, MIB), self._config.part_nbytes)
        stream.ahead_stop = max(stream.ahead_stop, need.stop)
        goal = min(stream.position + window, self._size)
        if goal - stream.ahead_stop < min(window // 2, part_nbytes) and goal < self._size:
            return ReadPlan(need, None, part_nbytes)  # still well ahead: wait until a whole GET is due
        if goal <= stream.ahead_stop:
            return ReadPlan(need, None, part_nbytes)
        ahead = ByteRange(stream.ahead_stop, goal).aligned(self._size)
        stream.ahead_stop = ahead.stop
        return ReadPlan(need, ahead, part_nbytes)

    def lost(self, offset: int) -> None:
        """What was planned ahead at ``offset`` is neither here nor coming (dropped, failed, evicted): plan it again."""
        stream = self._stream_of(offset)
        if stream is not None:
            stream.ahead_stop = min(stream.ahead_stop, offset)

    def _stream_of(self, offset: int) -> _Stream | None:
        for stream in reversed(self._streams):
            # As far back as it may be reordered, but never further than the stream has come.
            reorder = min(_REORDER_NBYTES, stream.seen_nbytes)
            if stream.position - reorder <= offset <= max(stream.position + reorder, stream.ahead_stop):
                return stream
        return None
