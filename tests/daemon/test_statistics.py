"""Statistics as JSON and as text."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from s3stream_fs.statistics import as_dict, as_text


class Kind(Enum):
    DEMAND = 1


@dataclass(frozen=True, slots=True)
class Inner:
    hits: int
    nbytes_read: int


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner
    waited_seconds: float
    limit_seconds: float
    by_kind: dict[Kind, Inner]
    place: Path
    sizes_nbytes: tuple[int, ...]
    on: bool
    nothing: None


EXAMPLE = Outer(
    Inner(12345, 3 * 2**30 // 2), 0.25, math.inf, {Kind.DEMAND: Inner(1, 2)}, Path("/x"), (1, 2048), True, None
)


def test_as_dict_is_json() -> None:
    plain = as_dict(EXAMPLE)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["inner"] == {"hits": 12345, "nbytes_read": 3 * 2**30 // 2}
    assert plain["by_kind"] == {"demand": {"hits": 1, "nbytes_read": 2}}
    assert plain["limit_seconds"] == "inf"
    assert plain["place"] == "/x"


def test_as_text_has_units() -> None:
    text = as_text(as_dict(EXAMPLE))
    assert [line.split() for line in text.splitlines() if "hits" in line] == [["hits", "12,345"], ["hits", "1"]]
    assert "read  1.5 GiB" in text
    assert "waited   250.0 ms" in text
    assert "1 B, 2.0 KiB" in text
    assert "on       yes" in text
    assert "\n\ninner\n  hits" in text


def test_what_has_no_form_is_a_bug() -> None:
    with pytest.raises(TypeError, match="object"):
        as_dict({"a": object()})
