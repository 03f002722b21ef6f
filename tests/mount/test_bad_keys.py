"""One key of which the store says nonsense hurts nobody but itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import pytest

from conftest import Mounted
from loopback import Answer, Request
from smalls3 import SmallS3

SIZES: Final = {"negative": "-1", "missing": None, "largest": str(2**63 - 1), "endless": "9" * 40, "words": "many"}

TAGS: Final = {
    "quote": '"a"b"',
    "controls": '"a\tb"',
    "space": '"a b"',
    "none": "",
    "foreign": '"ä"',
    "long": '"' + "x" * 5000 + '"',
    "time": '"@17"',
}
"""ETags that no If-Match can carry, or that would be taken for something else."""

HEADERS: Final = {
    "metadata": ("x-amz-meta-author", "ä"),
    "kind": ("Content-Type", "text/ä"),
    "undated": ("Last-Modified", "never"),
}
"""Of one object's answers."""


class Nonsense(SmallS3):
    """A directory of each kind of nonsense, with good files around each."""

    def __init__(self) -> None:
        names = {"size": [*SIZES], "tag": [*TAGS], "header": [*HEADERS]}
        keys = [f"{directory}/{name}" for directory, odd in names.items() for name in ("aa", *odd, "zz")]
        super().__init__({"bucket": {key: key.encode() for key in keys}})

    def serve(self, request: Request, bucket: str, key: str) -> Answer:
        answer = super().serve(request, bucket, key)
        if not key and request.method == "GET":
            return Answer(200, _spoiled(answer.body.decode()).encode(), answer.headers)
        name = key.rpartition("/")[2]
        headers = dict(answer.headers)
        if name in TAGS and not request.headers.get("if-match"):
            headers["ETag"] = TAGS[name]
        if name in HEADERS:
            headers |= [HEADERS[name]]
        return Answer(answer.status, answer.body, headers)


class Unencoded(SmallS3):
    """Writes names as they are, whatever XML can carry."""

    def serve(self, request: Request, bucket: str, key: str) -> Answer:
        return super().serve(replace(request, target=request.target.replace("encoding-type=url", "")), bucket, key)


def _spoiled(listing: str) -> str:
    for name, size in SIZES.items():
        said = "" if size is None else f"<Size>{size}</Size>"
        listing = re.sub(rf"(<Key>size/{name}</Key>.*?)<Size>.*?</Size>", rf"\g<1>{said}", listing)
    for name, tag in TAGS.items():
        listing = re.sub(rf"(<Key>tag/{name}</Key>.*?)<ETag>.*?</ETag>", rf"\g<1><ETag>{escape(tag)}</ETag>", listing)
    return listing


@pytest.fixture
def nonsense() -> Iterator[Nonsense]:
    with Nonsense() as store:
        yield store


def test_a_size_that_cannot_be_true_hides_its_key_and_says_so_once(nonsense: Nonsense, mounted: Mounted) -> None:
    mount = mounted(nonsense, "bucket", metadata_ttl="0")
    for _ in range(3):
        assert sorted(os.listdir(mount.path / "size")) == ["aa", "zz"]
        assert not (mount.path / "size" / "negative").exists()
    assert (mount.path / "size" / "zz").read_bytes() == b"size/zz"
    (line,) = (line for line in mount.log_text().splitlines() if "size" in line)
    assert f"{len(SIZES)} keys under 'size/' are hidden" in line
    assert mount.stats()["namespace"]["hidden_keys"] == len(SIZES)


def test_a_size_that_cannot_be_true_is_told_where_its_name_alone_is_asked_for(
    nonsense: Nonsense, mounted: Mounted
) -> None:
    mount = mounted(nonsense, "bucket", read_deadline="5s")
    with pytest.raises(FileNotFoundError):
        (mount.path / "size" / "negative").stat()
    assert "such as 'size/" in mount.log_text()


@pytest.mark.parametrize(("directory", "names"), [("tag", TAGS), ("header", HEADERS)])
def test_what_is_odd_beside_the_bytes_leaves_them_readable(
    nonsense: Nonsense, mounted: Mounted, directory: str, names: dict[str, object]
) -> None:
    mount = mounted(nonsense, "bucket", read_deadline="5s")
    folder: Path = mount.path / directory
    assert sorted(os.listdir(folder)) == sorted(["aa", *names, "zz"])
    for name in ("aa", *names, "zz"):
        assert (folder / name).read_bytes() == f"{directory}/{name}".encode()
    assert mount.stats()["retries"]["retries"] == 0


def test_a_key_that_xml_cannot_carry_is_a_file_like_any_other(mounted: Mounted) -> None:
    names = ["a\x01b", "c\x1fd", "good"]
    with Unencoded({"bucket": {f"d/{name}": name.encode() for name in names}}) as store:
        mount = mounted(store, "bucket", read_deadline="5s")
        assert sorted(os.listdir(mount.path / "d")) == names
        for name in names:
            assert (mount.path / "d" / name).read_bytes() == name.encode()
