"""How people name the files of a data set, each as a function of a number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

NAMES: dict[str, Callable[[int], str]] = {
    "numbers": lambda number: f"{number:08}.bin",
    "numbers behind a word": lambda number: f"train-{number:08}.jpg",
    "numbers of other lengths": str,
    "hashes": lambda number: hashlib.md5(str(number).encode()).hexdigest(),
    "classes and numbers": lambda number: f"n{number * 7919 % 10**8:08}_{number}.JPEG",
}
