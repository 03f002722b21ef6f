from __future__ import annotations

import tracemalloc
from array import array

import pytest

from s3stream_fs.errors import NotFound
from s3stream_fs.namespace import inodes
from s3stream_fs.namespace.inodes import ROOT, DirectoryInode, FileInode, InodeTable
from s3stream_fs.namespace.rows import Row, Rows, row_of
from s3stream_fs.types import ObjectId, ObjectInfo


def file(key: str, etag: str = "e", size: int = 3, storage_class: str = "STANDARD") -> Row:
    return row_of("", key.encode(), ObjectInfo(ObjectId(key, etag, size), 0, storage_class))


def test_number_is_the_same_before_and_after_it_is_forgotten() -> None:
    table = InodeTable("")
    row = file("a")
    number = table.number_of(row)
    assert table.remember(row) == number
    table.remember(row)
    inode = table.get(number)
    assert inode == FileInode(number, ObjectInfo(ObjectId("a", "e", 3), 0))
    table.forget(number, 1)
    assert table.get(number) == inode
    table.forget(number, 1)
    with pytest.raises(NotFound):
        table.get(number)
    assert table.remember(row) == number
    assert InodeTable("").number_of(row) == number


def test_another_version_or_kind_is_another_inode() -> None:
    table = InodeTable("")
    rows = [file("a"), file("a", etag="f"), file("a", size=4), file("b"), row_of("", b"a", None)]
    numbers = {table.remember(row) for row in rows}
    assert len(numbers) == len(rows)
    assert all(number > ROOT for number in numbers)
    assert table.statistics().remembered == len(rows) + 1


def test_what_may_change_within_a_version_is_brought_up_to_date() -> None:
    table = InodeTable("")
    number = table.remember(file("a", storage_class="GLACIER"))
    table.remember(file("a"))
    inode = table.get(number)
    assert isinstance(inode, FileInode)
    assert inode.info.storage_class == "STANDARD"


def test_root_is_never_forgotten() -> None:
    table = InodeTable("p/")
    table.forget(ROOT, 5)
    assert table.get(ROOT) == DirectoryInode(ROOT, "p/")


def test_two_that_hash_alike_get_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alike:
        def __init__(self, of: bytes, *, digest_size: int) -> None:
            again = len(of) == digest_size
            self._digest = (int.from_bytes(of, "little") + 1 if again else 1000).to_bytes(digest_size, "little")

        def digest(self) -> bytes:
            return self._digest

    monkeypatch.setattr(inodes, "blake2b", Alike)
    table = InodeTable("")
    assert [table.remember(file(key)) for key in "aba"] == [1000, 1001, 1000]
    assert table.statistics().collisions == 1


def test_a_table_that_has_forgotten_is_small_again() -> None:
    rows = Rows.packed("", [(b"%06d" % number, None) for number in range(50_000)])
    tracemalloc.start()
    try:
        table = InodeTable("")
        empty, _ = tracemalloc.get_traced_memory()
        numbers = array("Q", (table.remember(row) for row in rows.rows()))
        full, _ = tracemalloc.get_traced_memory()
        for number in numbers:
            table.forget(number, 1)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (table.statistics().remembered, table.statistics().forgotten) == (1, 50_000)
    assert (full - empty) / 50_000 < 50
    assert after - empty < 0.6 * (full - empty)  # the numbers themselves are still there
    assert rows.nknown == 0
