"""What the simulated S3 has seen. Plain ints, rendered as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Counters:
    """``nbytes`` are bytes of bodies; ``by_key`` is how often and how much of each key was fetched."""

    def __init__(self) -> None:
        self.connections_open = 0
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Count afresh. What is open and in flight stays what it is."""
        self.requests: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.by_key: dict[str, list[int]] = {}
        self.connections = 0
        self.max_in_flight = self.in_flight

    def began(self, kind: str) -> None:
        self.requests[kind] += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def sent(self, kind: str, key: str, nbytes: int) -> None:
        self.nbytes[kind] += nbytes
        if kind == "GET":
            seen = self.by_key.get(key)
            if seen is None:
                seen = self.by_key[key] = [0, 0]
            seen[0] += 1
            seen[1] += nbytes

    def as_json(self) -> dict[str, Any]:
        kinds = ("GET", "HEAD", "LIST", "OTHER")
        return {
            "requests": {kind: self.requests[kind] for kind in kinds},
            "nbytes": {kind: self.nbytes[kind] for kind in kinds},
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "connections": self.connections,
            "connections_open": self.connections_open,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "faults": dict(self.faults),
        }
