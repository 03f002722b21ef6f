"""Where to cut a range of names in two, so that both halves are listed at the same time. Pure.

Names are taken for numbers: which characters stand at a position is learned from names that were seen, and where one
digit or letter stands another may. It is a guess that costs a request when it is wrong.
"""

from __future__ import annotations

from bisect import bisect_left
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Final

_POSITIONS: Final = 24
"""How far into a name it is looked; all that names have in common at their start is skipped first."""

_KINDS: Final = (digits, "abcdef", ascii_lowercase, "ABCDEF", ascii_uppercase)
"""What goes together: where one was seen any other may stand. Hexadecimal digits come before all letters."""


class Scale:
    def __init__(self) -> None:
        self._seen: list[set[str]] = []
        self._alphabets: list[list[str]] = []
        """By position: the characters that may stand there, in order."""

    def learn(self, name: str) -> None:
        """Take notice of a name. What lies beyond ASCII is not looked at."""
        for position, character in enumerate(name[: 8 * _POSITIONS]):
            if not character.isascii():
                break
            if position == len(self._seen):
                self._seen.append(set())
                self._alphabets.append([])
            if character not in self._seen[position] and character != "/":
                self._seen[position].add(character)
                self._alphabets[position] = _completed(self._seen[position])

    def middle(self, low: str, high: str | None) -> str | None:
        """A text between ``low`` and ``high`` (None: the end of all), about half-way; None where there is none."""
        start = self._common(low, high)
        number = (self._number(low, start) + self._number(high, start)) // 2
        return self._text(number, start, low, high)

    def further(self, first: str, low: str, times: int) -> str | None:
        """A text beyond ``low``, so many times as far from it as it is from ``first``; None beyond the end of all."""
        start = self._common(low, None)
        number = self._number(low, start)
        number += times * max(number - self._number(first, start), 1)
        return self._text(number, start, low, None) if number < self._number(None, start) else None

    def width(self, low: str, high: str | None) -> float:
        """How much lies between them, as a share of all that there may be."""
        return (self._number(high, 0) - self._number(low, 0)) / self._number(None, 0)

    def _common(self, low: str, high: str | None) -> int:
        """How many characters both begin with, and every name that was seen."""
        start = 0
        for alphabet in self._alphabets:
            here = low[start : start + 1]
            if not here or (high is not None and high[start : start + 1] != here):
                break
            if high is None and alphabet != [here]:
                break
            start += 1
        return start

    def _number(self, text: str | None, start: int) -> int:
        """A text as a number, each position a digit: 0 where the text has ended, 1 and up for the characters.

        None is one more than any text.
        """
        number = 0
        for position, alphabet in enumerate(self._alphabets[start : start + _POSITIONS], start):
            number *= len(alphabet) + 1
            if text is None:
                number += len(alphabet)
            elif position < len(text):
                number += min(bisect_left(alphabet, text[position]) + 1, len(alphabet))
        return number + (text is None)

    def _text(self, number: int, start: int, low: str, high: str | None) -> str | None:
        """The shortest text that stands for about this number and lies between the two; None where there is none."""
        characters = []
        for alphabet in reversed(self._alphabets[start : start + _POSITIONS]):
            number, rank = divmod(number, len(alphabet) + 1)
            characters.append(alphabet[rank - 1] if rank else "")
        text = low[:start]
        for character in reversed(characters):
            if not character:
                break  # nothing stands here, nor behind it
            text += character
            if low.encode() < text.encode() and (high is None or text.encode() < high.encode()):
                return text
        return None


def _completed(seen: set[str]) -> list[str]:
    found = set(seen)
    for kind in _KINDS:
        members = seen & set(kind)
        if members and not (kind in (ascii_lowercase, ascii_uppercase) and members <= set(kind[:6])):
            found |= set(kind)
    return sorted(found)
