from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.namespace.keys import Hidden, component, settled_before, text_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a", b"a"),
        ("é", b"\xc3\xa9"),
        ("...", b"..."),
        ("n" * 255, b"n" * 255),
        ("", Hidden.EMPTY),
        (".", Hidden.DOT),
        ("..", Hidden.DOT),
        ("a\0b", Hidden.NUL),
        ("n" * 256, Hidden.TOO_LONG),
        ("é" * 128, Hidden.TOO_LONG),
        ("\ud800", Hidden.NOT_TEXT),
    ],
)
def test_component(text: str, shown: bytes | Hidden) -> None:
    assert component(text) == shown


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"", b".", b"..", b"n" * 256])
def test_names_that_no_key_has(name: bytes) -> None:
    assert text_of(name) is None


@given(st.text(min_size=1).filter(lambda text: isinstance(component(text), bytes) and "/" not in text))
def test_names_go_there_and_back(text: str) -> None:
    name = component(text)
    assert isinstance(name, bytes)
    assert text_of(name) == text


# A key that begins with '/' shows no name.
KEY = st.text(alphabet="a0-/ !.", min_size=1, max_size=6).filter(lambda key: not key.startswith("/"))
KEYS = st.sets(KEY, min_size=1, max_size=12)


def names_of(keys: list[bytes]) -> dict[bytes, bool]:
    """Name -> is a directory, as these keys show it."""
    found: dict[bytes, bool] = {}
    for key in keys:
        name, slash, _ = key.partition(b"/")
        found[name] = found.get(name, False) or bool(slash)
    return found


@given(KEYS)
def test_what_is_settled_never_changes(texts: set[str]) -> None:
    keys = sorted(text.encode() for text in texts)
    final = names_of(keys)
    for count in range(1, len(keys) + 1):
        # A listing that is rolled up ends its page with a key or with a common prefix.
        name, slash, _ = keys[count - 1].partition(b"/")
        border = settled_before(name + slash)
        # All keys of the common prefix are in it.
        so_far = names_of([key for key in keys if key <= keys[count - 1] or (slash and key.startswith(name + slash))])
        assert {name: kind for name, kind in so_far.items() if name < border} == {
            name: kind for name, kind in final.items() if name < border
        }
