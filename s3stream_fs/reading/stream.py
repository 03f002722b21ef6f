"""One sequential stream: where it is, how fast it goes, and how far ahead of it to fetch. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from s3stream_fs.types import ByteRange

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReadAheadConfig:
    """How reads become GETs. All sizes in bytes.

    ``whole_nbytes``: an object up to this size is fetched whole when its first byte is read; at 90 MB/s per connection
    its transfer costs about as much as the first byte of a second request.
    ``part_nbytes``: the largest GET of a sequential stream (the S3 guidance says 8-16 MB).
    ``max_window_nbytes``: how far a stream may run ahead, whatever the memory allows: 5 GiB/s at 50 ms per GET.
    ``max_streams``: positions remembered per object; 16 interleaved readers of one file, a guess.
    """

    whole_nbytes: int = 4 * MIB
    part_nbytes: int = 8 * MIB
    max_window_nbytes: int = 512 * MIB
    max_streams: int = 16


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a plan depends on besides the reads. ``share_nbytes`` is one stream's fair share of the memory for
    read-ahead, ``get_seconds`` how long a GET of a part takes at present (0 where none was seen yet)."""

    now: float
    share_nbytes: int
    get_seconds: float = 0.0


REORDER_NBYTES: Final = 2 * MIB
"""How far a read may stray from its stream's position: the kernel sends its read-ahead (up to 1 MiB a request) out of
order."""

_PROVEN_NBYTES: Final = 3 * MIB
"""What a stream has to read before its window grows. A program that reads 1 MiB and stops makes the kernel ask for up
to 2.75 MiB; with ``_FIRST_WINDOW_NBYTES`` on top, at most 3 MiB are fetched beyond what it read."""

_FIRST_WINDOW_NBYTES: Final = MIB
"""The window until then, so that the first MiB of a file costs one round trip."""

_KERNEL_AHEAD_NBYTES: Final = 2 * MIB
"""How much the kernel asks for beyond what a program reads: two requests of the largest size."""

_PROVEN_INSIDE_NBYTES: Final = 16 * MIB
"""The same for a stream that begins inside of an object of which nobody reads much in sequence: a chunk of an array, a
column of a table, that ends after some MiB. Until then its window is twice what it has read beyond 4 MiB, so that of
one that ends after 2 MiB nothing is fetched but what the kernel asks for, which is 4."""

_LEAST_WINDOW_NBYTES: Final = 16 * MIB
"""The measured window is never less: two parts, so that one is on its way while the other is read."""

_MEASURED_AFTER_SECONDS: Final = 0.5
"""A rate over less time says nothing; until then the window is limited by evidence and share alone."""

_RATE_WEIGHT: Final = 0.3
"""Of the newest sample, one per ``_SAMPLE_SECONDS``: a pause of the reader counts within a second."""

_SAMPLE_SECONDS: Final = 0.1


class Stream:
    """``start`` is its first byte, ``position`` where its next read is expected, ``ahead_stop`` up to where it has been
    fetched or is being fetched. ``expected_stop`` is where it is known to end, if it is. ``trusted``: what it has read
    is taken for what it will read, as of who begins at the start of an object."""

    __slots__ = (
        "_began",
        "_rate",
        "_sampled_at",
        "_sampled_position",
        "ahead_stop",
        "expected_stop",
        "position",
        "seen_nbytes",
        "start",
        "trusted",
        "used",
    )

    def __init__(
        self, start: int, stop: int, now: float, expected_stop: int | None = None, *, trusted: bool = False
    ) -> None:
        self.start = start
        self.position = stop
        self.seen_nbytes = stop - start
        """How much it has read in sequence so far: the evidence for how much it will read."""
        self.ahead_stop = stop
        self.expected_stop = expected_stop
        self.trusted = trusted
        self.used = now
        self._began = self._sampled_at = now
        self._sampled_position = stop
        self._rate = 0.0

    def takes(self, offset: int) -> bool:
        """Whether a read at ``offset`` continues this stream."""
        # As far back as it may be reordered, but never further than the stream has come.
        reorder = min(REORDER_NBYTES, self.seen_nbytes)
        return -reorder <= offset - self.position <= reorder

    def advance(self, stop: int, nbytes: int, now: float) -> None:
        self.position = max(self.position, stop)
        self.seen_nbytes += nbytes
        self.used = now
        elapsed = now - self._sampled_at
        if elapsed >= _SAMPLE_SECONDS:
            rate = (self.position - self._sampled_position) / elapsed
            self._rate = rate if not self._rate else self._rate + _RATE_WEIGHT * (rate - self._rate)
            self._sampled_at = now
            self._sampled_position = self.position

    @property
    def proven(self) -> bool:
        """Whether it has read so much that its window grows."""
        return self.seen_nbytes >= (_PROVEN_NBYTES if self.trusted else _PROVEN_INSIDE_NBYTES)

    def window(self, config: ReadAheadConfig, conditions: Conditions) -> int:
        """Bytes to have under way or ready beyond ``position``.

        It grows with what the stream has shown, triples per round trip, and settles at twice what the reader takes in
        the time of a GET: enough to keep it from waiting, and no more than that of the memory that streams share.
        """
        if not self.proven:
            beyond = self.seen_nbytes - 2 * _KERNEL_AHEAD_NBYTES
            window = _FIRST_WINDOW_NBYTES if self.trusted else 2 * max(beyond, 0)
        else:
            window = 2 * self.seen_nbytes
            if conditions.get_seconds and conditions.now - self._began > _MEASURED_AFTER_SECONDS:
                window = min(window, max(int(2 * self._rate * conditions.get_seconds), _LEAST_WINDOW_NBYTES))
        return min(window, conditions.share_nbytes, config.max_window_nbytes)

    def plan_ahead(self, size: int, config: ReadAheadConfig, conditions: Conditions) -> tuple[ByteRange | None, int]:
        """The next range to fetch ahead, None while enough is on its way, and the size of its parts."""
        window = self.window(config, conditions)
        # A part that is small against the window keeps enough GETs in flight while the window still grows. Parts are
        # powers of two and end at their own multiples: the kernel's reads of 1 MiB then lie within one of them. Of 64
        # streams whose parts began wherever the first read had ended, nine reads in ten were put together from two.
        part_nbytes = min(max(1 << (window // 8).bit_length() >> 1, MIB), config.part_nbytes)
        goal = min((self.position + window) // part_nbytes * part_nbytes, size)
        if self.expected_stop is not None:
            goal = min(goal, self.expected_stop)
        due = goal - self.ahead_stop
        if due <= 0:
            return None, part_nbytes  # still well ahead: wait until a whole part is due
        ahead = ByteRange(self.ahead_stop, goal).aligned(size)
        self.ahead_stop = ahead.stop
        return ahead, part_nbytes
