"""The simulated S3 as a process of its own, and what it counted. Owns that process; knows its control interface."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

CONNECTION_NBYTES_PER_SECOND: Final = 90_000_000
"""What one connection to S3 carries, of the 93-100 MB/s that were measured. For every preset but ``none``."""

_PATIENCE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Traffic:
    """What reached the server since the last reset. ``nbytes`` are bodies of GETs, ``refused`` answers of 503.

    ``connections`` were opened, those of the harness's own questions among them.
    """

    gets: int
    heads: int
    lists: int
    nbytes: int
    connections: int
    max_in_flight: int
    refused: int

    @classmethod
    def from_json(cls, counters: Mapping[str, Any]) -> Traffic:
        requests = counters["requests"]
        return cls(
            gets=requests["GET"],
            heads=requests["HEAD"],
            lists=requests["LIST"],
            nbytes=counters["nbytes"]["GET"],
            connections=counters["connections"],
            max_in_flight=counters["max_in_flight"],
            refused=counters.get("statuses", {}).get("503", 0),
        )


class SimulatedS3:
    """A context manager: at its end the server is gone."""

    def __init__(self, trees: Sequence[str], files: Mapping[str, Path], *, md5: bool = False) -> None:
        """``md5``: the ETags of what lies in trees are the MD5s of its bytes, as S3's are."""
        arguments = [word for tree in trees for word in ("--tree", tree)]
        arguments += [word for key, path in files.items() for word in ("--file", f"{key}={path}")]
        arguments += ["--md5"] if md5 else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.simulator", "--port", "0", *arguments],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends who reads first, while there is still a store to read from
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said.startswith("listening on "):
            self.close()
            raise RuntimeError("the simulated S3 does not start; its own words are above")
        self.url = said.removeprefix("listening on ").strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    def behave(self, preset: str, max_rate: float | None = None) -> None:
        bandwidth = None if preset == "none" else CONNECTION_NBYTES_PER_SECOND
        # The same seed each time: every contestant meets the same delays.
        self.change({"preset": preset, "bandwidth": bandwidth, "max_rate": max_rate, "seed": 1})

    def change(self, settings: Mapping[str, Any]) -> None:
        """Change some of the server's settings: preset, bandwidth, max_rate, faults, seed."""
        self._post("settings", settings)

    def reset(self) -> None:
        self._post("reset", {})

    def traffic(self) -> Traffic:
        with urllib.request.urlopen(f"{self.url}/-/counters", timeout=_PATIENCE_SECONDS) as answer:
            return Traffic.from_json(json.load(answer))

    def settled(self, most_seconds: float) -> Traffic:
        """The traffic once it has stopped: read-ahead goes on for a moment after the last read."""
        deadline = time.monotonic() + most_seconds
        before = self.traffic()
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            after = self.traffic()
            # Not all of it: asking is a connection and a request by itself.
            if (after.gets, after.nbytes) == (before.gets, before.nbytes):
                return after
            before = after
        return before

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _post(self, path: str, data: Mapping[str, Any]) -> None:
        body = json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/-/{path}", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
            answer.read()
