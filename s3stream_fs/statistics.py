"""Renders what ``statistics()`` returns: as plain types for JSON, and as text for people.

Owns the forms. Never counts anything: the objects that work do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, Final

_BINARY_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def as_dict(value: object) -> Any:
    """``value`` in types that JSON has: frozen dataclasses and mappings become dicts, by name, however deep.

    Infinity and NaN, which JSON lacks, become text. Raises TypeError for a type that no statistics should hold.
    """
    if isinstance(value, Enum):
        return value.name.lower()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_name(key): as_dict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_dict(inner) for inner in value]
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"statistics cannot hold {type(value).__name__}")


def as_text(values: Mapping[str, object]) -> str:
    """The dict of ``as_dict`` as lines for people: sizes with units, one indent for each level."""
    return "\n".join(_lines(values, ""))


def _lines(values: Mapping[str, object], indent: str) -> list[str]:
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    width = max((len(_words(name)) for name in plain), default=0)
    lines = [f"{indent}{_words(name):<{width}}  {_amount(name, value)}" for name, value in plain.items()]
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += ["", f"{indent}{_words(name)}"] if not indent else [f"{indent}{_words(name)}"]
            lines += _lines(value, f"{indent}  ")
    return lines


def _name(key: object) -> str:
    return key.name.lower() if isinstance(key, Enum) else str(key)


def _words(name: str) -> str:
    """A field's name without its unit, which the amount carries."""
    parts = [part for part in name.split("_") if part not in ("nbytes", "seconds", "ns")]
    return " ".join(parts) or name


def _amount(name: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_amount(name, inner) for inner in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return "none" if value is None else str(value)
    units = name.split("_")
    if "nbytes" in units:
        return size_text(value)
    if "seconds" in units:
        return _seconds(float(value))
    if units[-1] == "ns":
        return _seconds(value / 1e9)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def size_text(nbytes: float) -> str:
    power = 0
    while abs(nbytes) >= 1024 and power < len(_BINARY_UNITS) - 1:
        nbytes /= 1024
        power += 1
    return f"{nbytes:.0f} B" if power == 0 else f"{nbytes:.1f} {_BINARY_UNITS[power]}"


def _seconds(seconds: float) -> str:
    if seconds == 0 or abs(seconds) >= 1:
        return f"{seconds:,.1f} s"
    return f"{seconds * 1000:.1f} ms"
