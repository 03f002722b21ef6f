"""Packed entries say what they were packed from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_fs.namespace.entries import DirectoryEntry, FileEntry
from s3stream_fs.namespace.rows import Rows, row_of
from s3stream_fs.types import ObjectId, ObjectInfo

NAMES = st.text(st.sampled_from("0azé😀-. "), min_size=1, max_size=5).map(str.encode)
ETAGS = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.text("0123456789abcdefAF -", min_size=30, max_size=38),
    st.text(max_size=5),
    st.integers(1, 9_999_999_999).map("@{}".format),  # of stores without ETags
)
CLASSES = st.sampled_from(["STANDARD", "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "FROM_NEXT_YEAR", ""])
FILES = st.tuples(ETAGS, st.integers(0, 1 << 53), st.integers(-(1 << 63), (1 << 63) - 1), CLASSES, st.booleans())
DIRECTORIES = st.dictionaries(NAMES, st.none() | FILES, max_size=20)

Described = dict[bytes, tuple[str, int, int, str, bool] | None]


def infos(prefix: str, described: Described) -> list[tuple[bytes, ObjectInfo | None]]:
    found: list[tuple[bytes, ObjectInfo | None]] = []
    for name, file in sorted(described.items()):
        if file is None:
            found.append((name, None))
        else:
            etag, size, mtime_ns, storage_class, restored = file
            object_id = ObjectId(prefix + name.decode(), etag.replace("\0", ""), size)
            found.append((name, ObjectInfo(object_id, mtime_ns, storage_class, restored)))
    return found


@given(st.sampled_from(["", "p/", "é/ü/"]), DIRECTORIES, NAMES)
def test_what_goes_in_comes_out(prefix: str, described: Described, other: bytes) -> None:
    packed = infos(prefix, described)
    rows = Rows.packed(prefix, packed)
    assert len(rows) == len(packed)
    for index, (name, info) in enumerate(packed):
        expected = DirectoryEntry(name, f"{prefix}{name.decode()}/") if info is None else FileEntry(name, info)
        assert rows.entry(index) == expected
        assert rows.name(index) == name
        assert rows.find(name) == index
        said = (False, False, 0, 0) if info is None else (True, info.archived, info.id.size, info.mtime_ns)
        row = rows.row(index)
        assert row[:7] == (rows, index, name, *said)
        assert row.entry == expected
    assert list(rows.rows()) == [rows.row(index) for index in range(len(rows))]
    assert len({row.identity for row in rows.rows()}) == len(rows)
    names = sorted(described)
    if other not in described:
        assert ~rows.find(other) == sum(name < other for name in names)


@given(DIRECTORIES, st.integers(0, 20), st.integers(0, 20))
def test_how_rows_are_cut_into_pieces_does_not_show(described: Described, one: int, two: int) -> None:
    packed = infos("", described)

    def content(at: int) -> list[bytes]:
        pieces = [Rows.packed("", packed[:at]).content, Rows.packed("", packed[at:]).content]
        return [bytes(front) + bytes(back) for front, back in zip(*pieces, strict=True)]

    assert content(one) == content(two)


def test_the_identity_is_the_version_and_nothing_else() -> None:
    def identity(info: ObjectInfo | None, prefix: str = "p/", name: bytes = b"n") -> bytes:
        return row_of(prefix, name, info).identity

    info = ObjectInfo(ObjectId("p/n", "e", 3), 7)
    assert identity(info) == identity(info._replace(mtime_ns=8, storage_class="GLACIER", restored=True))
    others = [ObjectId("p/n", "f", 3), ObjectId("p/n", "e", 4)]
    identities = [identity(info), identity(None), *(identity(info._replace(id=other)) for other in others)]
    assert len(set(identities)) == 4
    assert identity(info, "", b"p/n") == identity(info)


def test_times_beyond_what_a_clock_can_say_are_cut_and_no_etag_is() -> None:
    info = ObjectInfo(ObjectId("n", "e" * 60_000, 3), 1 << 80)
    entry = Rows.packed("", [(b"n", info)]).entry(0)
    assert isinstance(entry, FileEntry)
    assert entry.info == info._replace(mtime_ns=(1 << 63) - 1)
    with pytest.raises(ValueError, match="64 KiB"):
        Rows.packed("", [(b"n", info._replace(id=ObjectId("n", "e" * 70_000, 3)))])


def test_a_file_of_a_training_set_takes_sixty_bytes() -> None:
    info = ObjectInfo(ObjectId("", "0123456789abcdef" * 2, 100_000), 1_700_000_000_000_000_000)
    rows = Rows.packed("train/n01440764/", [(b"n01440764_%05d.JPEG" % number, info) for number in range(1000)])
    assert len(rows.data) / 1000 < 61
