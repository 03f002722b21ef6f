"""No mount: obstore, the client library that this project's mount reads with, by itself. A cold stream's limit."""

from __future__ import annotations

import importlib.metadata

from bench.contestants.contestant import Mounted, Place
from bench.load.spec import Load, Via


class Obstore:
    name = "obstore"

    def found(self) -> bool:
        return True

    def version(self) -> str:
        return importlib.metadata.version("obstore")

    def takes(self, load: Load, *, warm: bool) -> bool:
        """Only cold reads of one object from start to end: it has neither files nor a cache."""
        if warm or load.via is not Via.PREAD or len(load.jobs) != 1:
            return False
        at = 0
        for offset, nbytes in load.jobs[0].reads:
            if offset != at:
                return False
            at += nbytes
        return True

    def mount(self, place: Place) -> Mounted:
        return Endpoint(place.server_url)


class Endpoint:
    pid = None

    def __init__(self, url: str) -> None:
        self.root = url

    def remount(self) -> None:
        return

    def unmount(self) -> None:
        return
