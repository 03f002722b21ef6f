"""A load as a process of its own, so that its interpreter lock is nobody else's. Owns that process."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.load.spec import Load, Outcome

READY_SECONDS: Final = 120.0
"""How long the listing before the load may take. Generous: some mounts ask for each file."""

GRACE_SECONDS: Final = 45.0
"""How much longer than its limit a load may run: its last reads may wait for a mount that is far behind."""


class LoadFailed(Exception):
    """The load gave no result; the text says why in a line."""


class LoadProcess:
    """Made ready by the constructor, run once by ``run``. A context manager: at its end the process is gone."""

    def __init__(self, root: str, load: Load) -> None:
        self._limit_seconds = load.limit_seconds
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._say(json.dumps({"root": root, "load": load.as_json()}))
            self._hear(READY_SECONDS)
        except BaseException:
            self.close()
            raise

    def run(self) -> Outcome:
        """Start the clock and wait for the result. Raises LoadFailed."""
        self._say("go")
        return Outcome(**json.loads(self._hear(self._limit_seconds + GRACE_SECONDS)))

    def close(self) -> None:
        # A reader inside a dead mount cannot be killed before that mount is gone, so this does not wait for long.
        self._process.kill()
        try:
            self._process.communicate(timeout=1)
        except (subprocess.TimeoutExpired, ValueError):
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LoadFailed(self._last_words()) from None

    def _hear(self, seconds: float) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise LoadFailed(f"no answer from the readers within {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(self._last_words())
        return line

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        lines = self._process.stderr.read().strip().splitlines()
        return lines[-1] if lines else "the readers ended without a word"
