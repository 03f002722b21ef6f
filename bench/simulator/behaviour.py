"""How slow, how narrow and how faulty the simulated S3 is: presets of latency, caps, faults.

Owns the settings and every random draw. Pure but for its random generator.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Fault(StrEnum):
    """What may go wrong with a GET. ``FLIP`` changes one byte, which no client can see without a checksum."""

    SLOW_DOWN = "503"
    RESET = "reset"
    STALL = "stall"
    TRUNCATE = "truncate"
    ETAG = "etag"
    FLIP = "flip"


@dataclass(frozen=True, slots=True)
class Preset:
    """Seconds to the first byte: of a GET as a mixture of ``(weight, offset, median, sigma)`` log-normals, and fixed
    additions for the other kinds. A sigma of 0 is a constant."""

    mixture: tuple[tuple[float, float, float, float], ...]
    head_extra: float = 0.003
    list_page: float = 0.013

    def first_byte(self, rng: random.Random) -> float:
        weights = [weight for weight, *_ in self.mixture]
        _, offset, median, sigma = rng.choices(self.mixture, weights)[0] if len(weights) > 1 else self.mixture[0]
        return offset + (median * rng.lognormvariate(0.0, sigma) if sigma else median)

    def times(self, factor: float) -> Preset:
        """The same, but so many times slower."""
        mixture = tuple((weight, at * factor, median * factor, sigma) for weight, at, median, sigma in self.mixture)
        return Preset(mixture, self.head_extra * factor, self.list_page * factor)


_HOT: Final = Preset(((0.97, 0.007, 0.0036, 0.55), (0.027, 0.007, 0.050, 0.45), (0.003, 0.0, 0.250, 0.60)))
"""A bucket in the same region that is read often, as measured: p50 10-12 ms, p99 54-90 ms, the worst near a second."""

PRESETS: Final[Mapping[str, Preset]] = {
    "none": Preset(((1.0, 0.0, 0.0, 0.0),), head_extra=0.0, list_page=0.0),
    "30ms": Preset(((1.0, 0.030, 0.0, 0.0),), list_page=0.060),
    "hot": _HOT,
    "far": _HOT.times(3.0),
    "aws": Preset(((1.0, 0.0, 0.120, 0.35),), list_page=0.115),
}
"""``aws`` is what the provider's own guide promises for a bucket that nobody has warmed up."""


@dataclass(slots=True)
class Behaviour:
    """The settings in force. ``bandwidth`` is bytes/s per connection, ``max_rate`` requests/s per top-level folder."""

    preset: Preset = PRESETS["none"]
    bandwidth: float | None = None
    max_rate: float | None = None
    faults: dict[Fault, float] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def change(self, settings: Mapping[str, Any]) -> None:
        """Take over the given settings, leave the others. Raises ValueError and KeyError for what makes no sense."""
        unknown = settings.keys() - {"preset", "bandwidth", "max_rate", "faults", "seed"}
        if unknown:
            raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")
        # All of them are looked at before the first one counts.
        preset = PRESETS[settings["preset"]] if "preset" in settings else self.preset
        bandwidth = _limit(settings["bandwidth"]) if "bandwidth" in settings else self.bandwidth
        max_rate = _limit(settings["max_rate"]) if "max_rate" in settings else self.max_rate
        faults = _shares(settings["faults"]) if "faults" in settings else self.faults
        rng = random.Random(settings["seed"]) if "seed" in settings else self.rng
        self.preset, self.bandwidth, self.max_rate, self.faults, self.rng = preset, bandwidth, max_rate, faults, rng

    def delay(self, kind: str) -> float:
        """Seconds until the first byte of an answer."""
        preset = self.preset
        if kind == "LIST":
            return preset.list_page
        seconds = preset.first_byte(self.rng)
        return seconds + preset.head_extra if kind == "HEAD" else seconds

    def fault(self) -> Fault | None:
        """What goes wrong with the next GET, mostly nothing."""
        if not self.faults:
            return None
        draw = self.rng.random()
        for fault, share in self.faults.items():
            draw -= share
            if draw < 0:
                return fault
        return None


def _limit(value: object) -> float | None:
    limit = float(str(value)) if value else None
    if limit is not None and not limit > 0:
        raise ValueError(f"a limit is above 0, or null for none, and not {value}")
    return limit


def _shares(shares: Mapping[str, Any]) -> dict[Fault, float]:
    faults = {Fault(name): float(share) for name, share in shares.items() if share}
    if sum(faults.values()) > 1 or any(not 0 <= share <= 1 for share in faults.values()):
        raise ValueError("shares of faults are from 0 to 1, and 1 at most in all")
    return faults


class RequestRate:
    """A token bucket per top-level folder: above the rate a request is answered 503 SlowDown."""

    BURST_SECONDS: Final = 0.1
    """How long a pause may be saved up. A guess: S3 does not say how its own limit counts."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def admits(self, folder: str, rate: float, now: float) -> bool:
        most = max(rate * self.BURST_SECONDS, 1.0)
        tokens, then = self._buckets.get(folder, (most, now))
        tokens = min(tokens + (now - then) * rate, most)
        admitted = tokens >= 1
        self._buckets[folder] = (tokens - admitted, now)
        return admitted
