"""What a load does and what came of it, as frozen values that travel between two processes as JSON.

Owns the wire format. Reads no file and knows no contestant.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class Via(StrEnum):
    """The means by which a load reads."""

    PREAD = "pread"
    MMAP = "mmap"
    SHARED_DESCRIPTOR = "shared-descriptor"  # jobs of one file share one open descriptor
    PARQUET = "parquet"
    NPZ = "npz"
    STAT = "stat"  # a stat of each file; nothing is listed or read
    WALK = "walk"  # a stat of each file, and before the first of a folder a listing of it; nothing is read
    TREE = "tree"  # os.walk from a folder on, and a stat of each file that it finds
    LIST = "list"  # the names in one folder


@dataclass(frozen=True, slots=True)
class Job:
    """A file of ``size`` bytes: opened, read at each ``(offset, nbytes)`` in turn, closed, all of it by one reader.

    With ``Via.TREE`` and ``Via.LIST`` a folder in which ``size`` files are to be found.
    """

    key: str
    size: int
    reads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Load:
    """``readers`` threads that take jobs in order until none is left or ``limit_seconds`` have passed.

    ``folders`` are listed before the clock starts, as a training program lists its data set. With ``Via.PARQUET`` and
    ``Via.NPZ`` the library decides what is read: the jobs hold no reads, ``columns`` are the columns asked for, and
    the values are compared with those of the same file below ``originals``. Without ``compare`` bytes are only counted:
    where the comparison would take longer than the read, a variant before has compared the same ones.
    """

    jobs: tuple[Job, ...]
    readers: int = 1
    via: Via = Via.PREAD
    folders: tuple[str, ...] = ()
    limit_seconds: float = 20.0
    columns: tuple[str, ...] = ()
    originals: str = ""
    compare: bool = True

    @property
    def nbytes(self) -> int:
        """What it reads, as far as that is known before."""
        return sum(nbytes for job in self.jobs for _, nbytes in job.reads)

    def first(self, nfiles: int, nreads: int) -> Load:
        """The part that was done when a limit ended the load early: so many files, or reads where it is one file."""
        if len(self.jobs) == 1 and nreads:
            return replace(self, jobs=(replace(self.jobs[0], reads=self.jobs[0].reads[:nreads]),))
        return replace(self, jobs=self.jobs[:nfiles])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Load:
        jobs = tuple(
            Job(job["key"], job["size"], tuple((offset, nbytes) for offset, nbytes in job["reads"]))
            for job in data["jobs"]
        )
        return cls(
            jobs,
            data["readers"],
            Via(data["via"]),
            tuple(data["folders"]),
            data["limit_seconds"],
            tuple(data["columns"]),
            data["originals"],
            data["compare"],
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load measured. A latency is that of one read; a file's first one includes the open.

    ``first_read_ms`` is the median over the files. ``wrong_reads`` had other bytes than the object has, or fewer.
    ``errors`` are the first few texts, ``nerrors`` is how many there were.
    """

    nbytes: int
    nfiles: int
    nreads: int
    seconds: float
    first_read_ms: float
    p50_ms: float
    p99_ms: float
    wrong_reads: int = 0
    nerrors: int = 0
    errors: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Of the load's own process, user and system."""
