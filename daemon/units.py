"""Sizes, durations and modes as people write them. Pure; raises ValueError with what would be right."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

# A letter alone is a power of 1024, as for mount(8), systemd and GNU tools; with a B it says which of the two it means.
_SIZE_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgtp", start=1)
    for name, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}
_DURATION_UNITS: Final[dict[str, Fraction]] = {
    "": Fraction(1),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", re.ASCII)
_MAX_NBYTES: Final = 2**63 - 1
"""What the kernel's file offsets hold."""


def parse_size(text: str) -> int:
    """Bytes from ``20GiB``, ``512M`` (1024 based), ``10GB`` (1000 based), ``1.5TiB`` or a plain number."""
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    factor = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError("a size such as 20GiB, 512M or 10GB")
    nbytes = int(Fraction(match[1]) * factor)
    if nbytes > _MAX_NBYTES:
        raise ValueError("a size below 8EiB")
    return nbytes


def format_size(nbytes: int) -> str:
    """The shortest text that ``parse_size`` reads back exactly: ``20GiB``, ``1536MiB``, ``1000``."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if nbytes and nbytes % 1024**power == 0:
            return f"{nbytes // 1024**power}{unit}"
    return str(nbytes)


def parse_duration(text: str) -> float:
    """Seconds from ``90s``, ``5m``, ``1h``, ``500ms``, a plain number of seconds, or ``inf``."""
    if text.strip().lower() in ("inf", "infinity"):
        return math.inf
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    factor = _DURATION_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError("a duration such as 90s, 5m, 1h, 0 or inf")
    return float(Fraction(match[1]) * factor)


def parse_mode(text: str) -> int:
    """Permission bits from octal digits: ``444``, ``0444``, ``0o444``."""
    if not re.fullmatch(r"(?:0o)?0*[0-7]{1,3}", text.strip(), re.ASCII):
        raise ValueError("octal permission bits such as 0444")
    return int(text.strip().removeprefix("0o"), 8)
