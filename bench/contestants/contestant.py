"""What the harness needs of a contestant. Owns the two protocols, no process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.load.spec import Load

BUCKET: Final = "bench"

CACHE_SIZE_GIB: Final = 20
"""For every contestant that can be told: more than any scenario reads."""

MEMORY_MIB: Final = 1024
"""For every contestant that can be told; ours would choose the same by itself on a machine of 4 GiB or more."""


class ContestantFailed(Exception):
    """It does not mount, or does not unmount; the text says why in a line."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mount happens: the server, and a new folder that is the contestant's own. ``load`` is what comes."""

    server_url: str
    folder: Path
    load: Load

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mount"

    @property
    def cache_dir(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def home(self) -> Path:
        return self.folder / "home"


class Mounted(Protocol):
    """Objects that can be read now, as files below the folder ``root``, or, where that is a URL, from there.

    ``pid`` is the daemon's, None where there is none.
    """

    @property
    def root(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    def remount(self) -> None:
        """Unmount and mount again over the same cache folder. Raises ContestantFailed."""

    def unmount(self) -> None:
        """Afterwards neither mount nor daemon is left, by force if need be."""


class Contestant(Protocol):
    @property
    def name(self) -> str: ...
    def found(self) -> bool:
        """Whether it can run on this machine."""

    def version(self) -> str: ...
    def takes(self, load: Load, *, warm: bool) -> bool:
        """Whether the load makes sense for it; ``warm`` asks for a second time over its cache."""

    def mount(self, place: Place) -> Mounted:
        """Raises ContestantFailed."""
