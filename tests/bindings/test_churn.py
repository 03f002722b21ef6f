"""Months of names that come and go: what the kernel forgets leaves nothing behind.

A kernel with a cache of names of its own, which looks names up, walks directories and forgets under pressure, drives
the native binding's operations; meanwhile objects are replaced and times to live run out. Once it has forgotten all,
the table and the number of objects in this process are where they were.

``S3STREAM_CHURN=8640000`` makes as many requests as 100 a second do in 24 hours (some minutes) in place of the few of
every day.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from pathlib import Path
from typing import Final

import trio

from filesystems import Rig, run_filesystem
from s3stream_fs.bindings.native.backing import BackingFiles
from s3stream_fs.bindings.native.opening import Opening, OpenMode
from s3stream_fs.bindings.native.operations import Operations
from s3stream_fs.bindings.native.protocol import (
    ATTR,
    BATCH_FORGET_IN,
    DIRENT,
    ENTRY_OUT,
    FORGET_IN,
    FORGET_ONE,
    READ_IN,
    Opcode,
    padded,
)
from s3stream_fs.namespace.inodes import ROOT
from s3stream_fs.namespace.shelf import Elsewhere
from scratches import HangingScratch

NREQUESTS: Final = int(os.environ.get("S3STREAM_CHURN", "150000"))
NDIRECTORIES: Final = 20
NFILES_EACH: Final = 250
NNAMES_KEPT: Final = 2_000
"""Above this many the kernel is under pressure."""

TTL_SECONDS: Final = 60


class Kernel:
    """Owns the counts of references, as the kernel does, and gives all of them back."""

    def __init__(self, operations: Operations, choice: random.Random) -> None:
        self._operations = operations
        self._handlers = operations.handlers
        self._choice = choice
        self.known: Counter[int] = Counter()
        self.nrequests = 0

    async def ask(self, opcode: Opcode, number: int, body: bytes) -> bytes:
        self.nrequests += 1
        try:
            reply = self._handlers[opcode](number, memoryview(body))
        except Elsewhere:
            reply = self._operations.answer_later(self._handlers[opcode], number, body)
        assert reply is not None
        return bytes(reply if isinstance(reply, bytes | memoryview) else await reply)

    async def lookup(self, parent: int, name: str) -> int:
        reply = await self.ask(Opcode.LOOKUP, parent, name.encode() + b"\0")
        number = int(ENTRY_OUT.unpack_from(reply)[0])
        if number:
            self.known[number] += 1
        return number

    async def walk(self, directory: int) -> None:
        offset, front = 0, ENTRY_OUT.size + ATTR.size
        while body := await self.ask(Opcode.READDIRPLUS, directory, READ_IN.pack(0, offset, 32768)):
            position = 0
            while position < len(body):
                number = int(ENTRY_OUT.unpack_from(body, position)[0])
                _, offset, nbytes, _ = DIRENT.unpack_from(body, position + front)
                if number:
                    self.known[number] += 1
                position += padded(front + DIRENT.size + nbytes)

    async def getattr(self) -> None:
        """Whatever it knows, it may ask about."""
        number = self._choice.choice(list(self.known))
        reply = await self.ask(Opcode.GETATTR, number, bytes(16))
        assert ATTR.unpack_from(reply, len(reply) - ATTR.size)[0] == number

    def forget(self, count: int) -> None:
        """Give back the references of ``count`` inodes, some one by one and some in one message."""
        victims = self._choice.sample(list(self.known), count)
        alone = self._choice.randrange(count + 1)
        for number in victims[:alone]:
            self._handlers[Opcode.FORGET](number, memoryview(FORGET_IN.pack(self.known.pop(number))))
        batch = b"".join(FORGET_ONE.pack(number, self.known.pop(number)) for number in victims[alone:])
        body = BATCH_FORGET_IN.pack(count - alone) + batch
        self._handlers[Opcode.BATCH_FORGET](0, memoryview(body))
        self.nrequests += alone + 1


async def live(rig: Rig, kernel: Kernel, choice: random.Random, until: int, ttl_seconds: float = TTL_SECONDS) -> None:
    """A time of training: lookups mostly, now and then a walk, a changed object, and a time to live that goes by."""
    while kernel.nrequests < until:
        index = choice.randrange(NDIRECTORIES)
        directory = await kernel.lookup(ROOT, f"d{index}")
        if choice.random() < 0.01:
            await kernel.walk(directory)
        for _ in range(20):
            await kernel.lookup(directory, f"{choice.randrange(NFILES_EACH + 5)}")
        await kernel.getattr()
        if choice.random() < 0.01:
            rig.store.put(f"d{index}/{choice.randrange(NFILES_EACH)}", choice.randbytes(3))
        if choice.random() < 0.002:
            await trio.sleep(ttl_seconds + 1)
        if len(kernel.known) > NNAMES_KEPT:
            kernel.forget(choice.randrange(1, NNAMES_KEPT))
    await trio.sleep(ttl_seconds + 1)  # answers are kept for so long
    await kernel.lookup(ROOT, "d0")
    kernel.forget(len(kernel.known))


def count_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def kernel_of(rig: Rig, choice: random.Random) -> Kernel:
    for index in range(NDIRECTORIES):
        for number in range(NFILES_EACH):
            rig.store.put(f"d{index}/{number}", b"x")
    return Kernel(Operations(rig.filesystem, Opening(OpenMode.AUTO), BackingFiles(-1), frozen=False), choice)


def test_what_is_forgotten_leaves_nothing(tmp_path: Path) -> None:
    async def case(rig: Rig) -> None:
        choice = random.Random(7)
        kernel = kernel_of(rig, choice)
        await live(rig, kernel, choice, NREQUESTS // 4)
        assert rig.inodes.statistics().remembered == 1
        before = count_objects()
        await live(rig, kernel, choice, NREQUESTS)
        assert rig.inodes.statistics().remembered == 1
        assert rig.inodes.statistics().collisions == 0
        assert count_objects() < 1.02 * before

    run_filesystem(tmp_path, case, ttl=TTL_SECONDS)


def test_what_lies_on_the_disk_is_forgotten_as_well(tmp_path: Path) -> None:
    """With memory for a tenth of the names."""

    async def case(rig: Rig) -> None:
        choice = random.Random(8)
        kernel = kernel_of(rig, choice)
        for until in (NREQUESTS // 30, NREQUESTS // 10):
            await live(rig, kernel, choice, until, ttl_seconds=0.5)
            assert rig.inodes.statistics().remembered == 1
        assert rig.inodes.statistics().collisions == 0
        statistics = rig.shelf.statistics()
        assert statistics.reads > 100
        assert statistics.nbytes_in_memory < 40_000 < statistics.nbytes_on_disk
        assert statistics.errors == 0

    (tmp_path / "names").mkdir()
    run_filesystem(
        tmp_path, case, ttl=0.5, real_time=True, scratch=HangingScratch(tmp_path / "names"), names_nbytes=30_000
    )
