"""The filter says "not here" of exactly those files that are not, whatever comes and goes while it is being loaded."""

from __future__ import annotations

import random
import sqlite3
import threading
import tracemalloc
from array import array
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from disktiers import named, nothing, run
from s3stream_fs.cache.disk.files import file_name
from s3stream_fs.cache.disk.filter import SHARDS, Filter, key_of, load
from s3stream_fs.cache.disk.folder import CacheFolder
from s3stream_fs.cache.disk.rows import Written
from s3stream_fs.types import ByteRange

keys = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, (1 << 52) - 1, 1 << 52, (1 << 52) + 1, (1 << 64) - 1]),
)


class Names:
    """An index that holds a set of names, each 16 bytes."""

    def __init__(self, names: set[bytes]) -> None:
        self.names = names
        self.faults = 0

    def keys(self, after: bytes, limit: int) -> tuple[bytes, bytes]:
        if self.faults:
            self.faults -= 1
            raise sqlite3.OperationalError("locked")
        found = sorted(name for name in self.names if name > after)[: min(limit, 7)]
        return (found[-1] if found else after), b"".join(name[:8] for name in found)


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "load"]), keys), max_size=60), st.sets(keys, max_size=30))
@settings(max_examples=300, deadline=None)
def test_it_has_what_came_and_did_not_go(steps: list[tuple[str, int]], first: set[int]) -> None:
    """A set is the model. The index is read at the start; shards of it arrive later, one by one, in order."""
    made, model, loaded = Filter(), set(first), 0
    old: list[array[int]] = [array("Q") for _ in range(SHARDS)]
    for key in sorted(first):
        old[key >> 52].append(key)
    for what, key in steps:
        if what == "add":
            made.add(key)
            model.add(key)
        elif what == "discard":
            made.discard(key)
            model.discard(key)
        else:
            upto = min(SHARDS, loaded + 1 + key % SHARDS)
            made.loaded(loaded, old[loaded:upto])
            loaded = upto
        assert all(made.may_have(key) for key in model)
    made.loaded(loaded, old[loaded:])
    assert len(made) == len(model)
    for key in {*model, *first, *(key for _, key in steps)}:
        assert made.may_have(key) is (key in model)


def test_nothing_is_ruled_out_before_it_is_loaded() -> None:
    made = Filter()
    assert made.may_have(7)
    made.discard(7)
    assert made.may_have(7)
    made.loaded(0, [array("Q", [7, 8])])
    assert not made.may_have(7)
    assert made.may_have(8)
    assert made.may_have(1 << 60)


def test_all_names_are_loaded_though_the_index_is_locked_for_a_while() -> None:
    names = {random.Random(number).randbytes(16) for number in range(50)} | {b"\xff" * 16, bytes(15) + b"\1"}
    index = Names(names)
    index.faults = 1
    made = Filter()
    thread = threading.Thread(target=load, args=(index, made.loaded, threading.Event()))
    thread.start()
    thread.join(30)
    assert len(made) == len(names)
    assert all(made.may_have(key_of(name.hex())) for name in names)


def test_all_files_of_an_index_come_from_it_and_no_others(tmp_path: Path) -> None:
    count = 30_000
    run(tmp_path, nothing)
    folder = CacheFolder(tmp_path)
    ids = [named(str(number), 10) for number in range(count)]
    written = [
        Written(file_name("x", one, one.whole), one, ByteRange(0, 10), {0: b"c" * 32}, 4096, fresh=True) for one in ids
    ]
    with folder.writing.transaction():
        folder.writing.add(1, written, 1)
    made = Filter()
    load(folder.index, made.loaded, threading.Event())
    folder.close()
    assert len(made) == count
    assert all(made.may_have(key_of(one.name)) for one in written)
    assert not any(made.may_have(key_of(file_name("y", one, one.whole))) for one in ids)


def test_a_million_names_take_9_bytes_each_at_the_most() -> None:
    generator = random.Random(3)
    tracemalloc.start()
    try:
        packed = array("Q", sorted(generator.getrandbits(64) for _ in range(1_000_000)))
        before = tracemalloc.get_traced_memory()[0]
        made = Filter()
        shards = []
        at = 0
        for shard in range(SHARDS):
            end = at
            while end < len(packed) and packed[end] >> 52 == shard:
                end += 1
            shards.append(packed[at:end])
            at = end
        made.loaded(0, shards)
        del shards
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(made) == 1_000_000
    assert taken < 9 * 1_000_000
