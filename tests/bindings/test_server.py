"""The native binding without a kernel: requests in, replies out, over a socket that keeps their borders."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from filesystems import Rig, run_filesystem
from s3stream_fs.bindings.native import server as server_module
from s3stream_fs.bindings.native.backing import BackingFiles
from s3stream_fs.bindings.native.negotiation import MAX_BACKGROUND
from s3stream_fs.bindings.native.opening import Opening, OpenMode
from s3stream_fs.bindings.native.operations import Operations
from s3stream_fs.bindings.native.protocol import (
    ATTR,
    ATTR_OUT,
    BATCH_FORGET_IN,
    DIRENT,
    ENTRY_OUT,
    EXPIRE_ONLY,
    FORGET_IN,
    FORGET_ONE,
    GETXATTR_IN,
    IN_HEADER,
    INIT_OUT,
    INTERRUPT_IN,
    NOTIFY_INVAL_ENTRY_OUT,
    OPEN_OUT,
    OUT_HEADER,
    READ_IN,
    RELEASE_IN,
    UNANSWERED,
    Init,
    Notify,
    Opcode,
    Open,
    padded,
)
from s3stream_fs.bindings.native.server import Server
from s3stream_fs.errors import UsageError
from s3stream_fs.namespace.inodes import ROOT
from s3stream_fs.namespace.scratch import Scratch
from scratches import HangingScratch

OFFERED = (
    Init.ASYNC_READ
    | Init.PARALLEL_DIROPS
    | Init.DO_READDIRPLUS
    | Init.NO_OPEN_SUPPORT
    | Init.NO_OPENDIR_SUPPORT
    | Init.MAX_PAGES
    | Init.INIT_EXT
)


@dataclass(frozen=True, slots=True)
class Reply:
    code: int
    body: bytes


class Kernel:
    """The other end: numbers requests, and tells which reply belongs to which."""

    def __init__(self, end: trio.socket.SocketType) -> None:
        self._end = end
        self._unique = 0
        self._replies: dict[int, Reply] = {}
        self._notifications: list[tuple[int, bytes]] = []

    async def send(self, opcode: int, number: int = ROOT, body: bytes = b"", **header: int) -> int:
        self._unique += 2
        nbytes = header.get("nbytes", IN_HEADER.size + len(body))
        await self._end.send(IN_HEADER.pack(nbytes, opcode, self._unique, number, 0, header.get("extension", 0)) + body)
        return self._unique

    async def send_raw(self, raw: bytes) -> None:
        await self._end.send(raw)

    async def notification(self) -> tuple[int, bytes]:
        """What this side is told unasked: its kind, and the rest."""
        while not self._notifications:
            await self._receive()
        return self._notifications.pop(0)

    async def reply_to(self, unique: int) -> Reply:
        while unique not in self._replies:
            await self._receive()
        return self._replies.pop(unique)

    async def _receive(self) -> None:
        raw = await self._end.recv(2**20)
        nbytes, code, found = OUT_HEADER.unpack_from(raw)
        assert nbytes == len(raw)
        if found == 0:
            self._notifications.append((code, raw[OUT_HEADER.size :]))
        else:
            assert -4096 < code <= 0
            assert found not in self._replies, "two replies to one request"
            self._replies[found] = Reply(-code, raw[OUT_HEADER.size :])

    async def ask(self, opcode: int, number: int = ROOT, body: bytes = b"", **header: int) -> Reply:
        return await self.reply_to(await self.send(opcode, number, body, **header))

    async def init(self, minor: int = 45, flags: Init = OFFERED, major: int = 7) -> Reply:
        low, high = flags & 0xFFFF_FFFF, flags >> 32
        return await self.ask(Opcode.INIT, 0, struct.pack("=IIIII44x", major, minor, 131072, low, high))

    async def lookup(self, name: bytes, parent: int = ROOT) -> int:
        """The node id of a name, 0 where there is none."""
        reply = await self.ask(Opcode.LOOKUP, parent, name + b"\0")
        assert reply.code == 0
        assert len(reply.body) == ENTRY_OUT.size + ATTR.size
        return int(ENTRY_OUT.unpack_from(reply.body)[0])

    async def read(self, number: int, offset: int, size: int) -> Reply:
        return await self.ask(Opcode.READ, number, READ_IN.pack(0, offset, size))

    def nothing_more(self) -> bool:
        """No reply came that nobody waited for."""
        return not self._replies


Case = Callable[[Rig, Kernel, Server], Awaitable[None]]


def run(
    folder: Path,
    case: Case,
    *,
    mode: OpenMode = OpenMode.AUTO,
    ttl: float = 60,
    agree: bool = True,
    scratch: Scratch | None = None,
    names_nbytes: int = 1 << 30,
) -> None:
    async def main(rig: Rig) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            operations = Operations(rig.filesystem, Opening(mode), BackingFiles(-1), frozen=ttl == float("inf"))
            server = Server(ours.fileno(), operations)
            kernel = Kernel(trio.socket.from_stdlib_socket(theirs))
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.serve)
                    if agree:
                        assert (await kernel.init()).code == 0
                    await case(rig, kernel, server)
                    assert kernel.nothing_more()
                    nursery.cancel_scope.cancel()

    run_filesystem(folder, main, ttl=ttl, real_time=True, scratch=scratch, names_nbytes=names_nbytes)


def test_init_takes_what_both_have(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        reply = await kernel.init(minor=38)
        major, minor, _, flags, background, _, _, granularity, pages, _, high, depth = INIT_OUT.unpack(reply.body)
        assert (major, minor) == (7, 38)
        wanted = Init.ASYNC_READ | Init.PARALLEL_DIROPS | Init.DO_READDIRPLUS | Init.MAX_PAGES | Init.INIT_EXT
        assert Init(flags) == wanted
        assert (background, granularity, pages, high, depth) == (MAX_BACKGROUND, 1, 256, 0, 0)

    run(tmp_path, case, agree=False)


def test_a_newer_major_version_is_asked_to_come_down(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        assert INIT_OUT.unpack((await kernel.init(major=8)).body)[0] == 7
        assert INIT_OUT.unpack((await kernel.init(minor=99)).body)[:2] == (7, 45)

    run(tmp_path, case, agree=False)


def test_an_old_kernel_is_refused_in_one_line(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            server = Server(
                ours.fileno(), Operations(rig.filesystem, Opening(OpenMode.AUTO), BackingFiles(-1), frozen=True)
            )
            theirs.send(
                IN_HEADER.pack(IN_HEADER.size + 16, Opcode.INIT, 2, 0, 0, 0) + struct.pack("=IIII", 7, 27, 0, 0)
            )
            with pytest.RaisesGroup(pytest.RaisesExc(UsageError, match=r"FUSE 7\.27.*needs 7\.31 \(Linux 5\.4\)")):
                await server.serve()
            assert OUT_HEADER.unpack(theirs.recv(100)) == (16, -errno.EPROTO, 2)

    run_filesystem(tmp_path, main, real_time=True)


def test_lookup_read_forget(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("d/file", b"content")
        directory = await kernel.lookup(b"d")
        number = await kernel.lookup(b"file", directory)
        assert await kernel.lookup(b"missing", directory) == 0
        assert (await kernel.read(number, 2, 100)).body == b"ntent"
        assert (await kernel.read(number, 7, 100)) == Reply(0, b"")
        attributes = (await kernel.ask(Opcode.GETATTR, number, bytes(16))).body
        assert ATTR.unpack_from(attributes, ATTR_OUT.size)[1] == 7
        await kernel.send(Opcode.FORGET, number, FORGET_IN.pack(1))
        assert (await kernel.ask(Opcode.GETATTR, number, bytes(16))).code == errno.ENOENT
        assert rig.inodes.statistics().remembered == 2

    run(tmp_path, case)


def test_open_is_asked_once_where_the_kernel_may_do_without(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        number = await kernel.lookup(b"file")
        assert (await kernel.ask(Opcode.OPEN, number, bytes(8))).code == errno.ENOSYS
        assert (await kernel.ask(Opcode.OPENDIR, ROOT, bytes(8))).code == errno.ENOSYS
        assert (await kernel.ask(Opcode.FLUSH, number, bytes(24))).code == errno.ENOSYS

    run(tmp_path, case, ttl=float("inf"))


def test_open_and_release_in_daemon_mode(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        number = await kernel.lookup(b"file")
        reply = await kernel.ask(Opcode.OPEN, number, bytes(8))
        assert OPEN_OUT.unpack(reply.body)[1:] == (Open.KEEP_CACHE | Open.NOFLUSH, 0)
        assert (await kernel.ask(Opcode.RELEASE, number, RELEASE_IN.pack(number))) == Reply(0, b"")

    run(tmp_path, case, mode=OpenMode.DAEMON)


def dirents(body: bytes, plus: bool) -> list[tuple[bytes, int, int]]:
    """Name, node id and following offset of each record."""
    found = []
    position = 0
    front = ENTRY_OUT.size + ATTR.size if plus else 0
    while position < len(body):
        number, offset, nbytes, _ = DIRENT.unpack_from(body, position + front)
        start = position + front + DIRENT.size
        if plus:
            number = ENTRY_OUT.unpack_from(body, position)[0]
        found.append((body[start : start + nbytes], number, offset))
        position += padded(front + DIRENT.size + nbytes)
    assert position == len(body)
    return found


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("ttl", [60, float("inf")])
@pytest.mark.parametrize("size", [400, 4096, 100_000])
def test_a_directory_comes_whole_in_pieces_of_any_size(tmp_path: Path, plus: bool, ttl: float, size: int) -> None:
    names = [b"%04d" % number for number in range(50)] + [b"n" * 200]

    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        for name in names:
            rig.store.put("d/" + name.decode(), b"x")
        directory = await kernel.lookup(b"d")
        opened = await kernel.ask(Opcode.OPENDIR, directory, bytes(8))
        handle = OPEN_OUT.unpack(opened.body)[0] if opened.code == 0 else 0
        assert (handle == 0) == (ttl == float("inf"))
        found: list[bytes] = []
        offset = 0
        while True:
            opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
            reply = await kernel.ask(opcode, directory, READ_IN.pack(handle, offset, size))
            assert reply.code == 0
            assert len(reply.body) <= size
            records = dirents(reply.body, plus)
            if not records:
                break
            found += [name for name, _, _ in records]
            offset = records[-1][2]
        assert found == [b".", b"..", *names]
        assert rig.inodes.statistics().remembered == 2 + len(names) * plus

    run(tmp_path, case, ttl=ttl)


def test_pages_of_a_directory_are_kept_while_it_is_the_same(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"x")
        kept = []
        for _ in range(2):
            reply = await kernel.ask(Opcode.OPENDIR, ROOT, bytes(8))
            kept.append(bool(OPEN_OUT.unpack(reply.body)[1] & Open.KEEP_CACHE))
            assert OPEN_OUT.unpack(reply.body)[1] & Open.CACHE_DIR
        assert kept == [False, True]

    run(tmp_path, case)


def test_a_directory_that_is_rewound_is_seen_as_it_is_now(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("one", b"x")
        handle = OPEN_OUT.unpack((await kernel.ask(Opcode.OPENDIR, ROOT, bytes(8))).body)[0]

        async def names() -> list[bytes]:
            found: list[bytes] = []
            while records := dirents(
                (await kernel.ask(Opcode.READDIR, ROOT, READ_IN.pack(handle, len(found), 4096))).body, plus=False
            ):
                found += [name for name, _, _ in records]
            return found[2:]

        assert await names() == [b"one"]
        rig.store.put("two", b"x")
        assert await names() == [b"one", b"two"]

    run(tmp_path, case, ttl=0)


def test_an_interrupted_read_is_answered_soon_and_gives_its_get_up(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        number = await kernel.lookup(b"file")
        rig.store.gate = trio.Event()
        unique = await kernel.send(Opcode.READ, number, READ_IN.pack(0, 0, 100))
        other = await kernel.send(Opcode.LOOKUP, ROOT, b"other\0")
        await wait_all_tasks_blocked()
        await kernel.send(Opcode.INTERRUPT, 0, INTERRUPT_IN.pack(unique))
        assert await kernel.reply_to(unique) == Reply(errno.EINTR, b"")
        await kernel.send(Opcode.INTERRUPT, 0, INTERRUPT_IN.pack(unique))  # once more, too late
        rig.store.gate.set()
        assert (await kernel.reply_to(other)).code == 0
        assert (await kernel.read(number, 0, 100)).body == b"content"
        assert rig.store.count("GET") == 2
        assert server.statistics().interrupted == 1

    run(tmp_path, case)


def test_more_requests_than_may_wait_are_left_in_the_kernel(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.gate = trio.Event()
        names = [b"name%d" % number for number in range(30)]
        asked = [await kernel.send(Opcode.LOOKUP, ROOT, name + b"\0") for name in names]
        await wait_all_tasks_blocked()
        assert server.statistics().waited == 10
        assert kernel.nothing_more()
        rig.store.gate.set()
        for unique in asked:
            assert (await kernel.reply_to(unique)).code == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "_MAX_WAITING", 10)
        run(tmp_path, case)


def test_changes_are_refused_and_what_is_not_known_is_not_implemented(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        number = await kernel.lookup(b"file")
        expected = {
            Opcode.SETATTR: errno.EROFS,
            Opcode.WRITE: errno.EROFS,
            Opcode.UNLINK: errno.EROFS,
            Opcode.CREATE: errno.EROFS,
            Opcode.SETXATTR: errno.EROFS,
            Opcode.IOCTL: errno.ENOTTY,
            Opcode.POLL: errno.ENOSYS,
            Opcode.LSEEK: errno.ENOSYS,
            Opcode.FSYNC: errno.ENOSYS,
            Opcode.BMAP: errno.ENOSYS,
            Opcode.READLINK: errno.EINVAL,
            4711: errno.ENOSYS,
        }
        found = {opcode: (await kernel.ask(opcode, number, bytes(128))).code for opcode in expected}
        assert found == expected

    run(tmp_path, case)


def test_attributes_by_name(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        number = await kernel.lookup(b"file")

        async def get(name: bytes, size: int) -> Reply:
            return await kernel.ask(Opcode.GETXATTR, number, GETXATTR_IN.pack(size) + name + b"\0")

        assert await get(b"user.s3.key", 100) == Reply(0, b"file")
        assert await get(b"user.s3.key", 0) == Reply(0, struct.pack("=I4x", 4))
        assert await get(b"user.s3.key", 3) == Reply(errno.ERANGE, b"")
        assert await get(b"user.other", 100) == Reply(errno.ENODATA, b"")
        names = await kernel.ask(Opcode.LISTXATTR, number, GETXATTR_IN.pack(1000))
        assert b"user.s3.etag\0" in names.body

    run(tmp_path, case)


def test_dots_are_found_by_number(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("a/b/file", b"x")
        a = await kernel.lookup(b"a")
        b = await kernel.lookup(b"b", a)
        file = await kernel.lookup(b"file", b)
        assert [await kernel.lookup(b"..", number) for number in (file, b, a, ROOT)] == [b, a, ROOT, ROOT]
        assert [await kernel.lookup(b".", number) for number in (file, b, ROOT)] == [file, b, ROOT]
        assert (await kernel.ask(Opcode.LOOKUP, 4711, b".\0")).code == errno.ESTALE

    run(tmp_path, case)


def test_as_many_forgets_as_lookups_leave_nothing(tmp_path: Path) -> None:
    """What a walk through a million files and the kernel's forgetting of them leaves: nothing."""

    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        for number in range(200):
            rig.store.put(f"d{number % 4}/{number:03}", b"x")
        for _ in range(30):
            known: list[int] = []
            for index in range(4):
                directory = await kernel.lookup(b"d%d" % index)
                known.append(directory)
                reply = await kernel.ask(Opcode.READDIRPLUS, directory, READ_IN.pack(0, 0, 100_000))
                known += [number for _, number, _ in dirents(reply.body, plus=True) if number]
                known += [await kernel.lookup(b"%03d" % number, directory) for number in range(index, 200, 40)]
            half = len(known) // 2
            forgets = b"".join(FORGET_ONE.pack(number, 1) for number in known[:half])
            await kernel.send(Opcode.BATCH_FORGET, 0, BATCH_FORGET_IN.pack(half) + forgets)
            for number in known[half:]:
                await kernel.send(Opcode.FORGET, number, FORGET_IN.pack(1))
            assert (await kernel.ask(Opcode.STATFS)).code == 0  # in order: the forgets have been seen
            assert rig.inodes.statistics().remembered == 1

    run(tmp_path, case, ttl=float("inf"))


def put_many(rig: Rig, directory: str) -> None:
    """So many that the LIST by which the directory is found does not tell of all."""
    for number in range(150):
        rig.store.put(f"{directory}/{number:03}", b"x")


def test_the_kernel_is_told_of_names_that_changed(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        put_many(rig, "d")
        directory = await kernel.lookup(b"d")
        assert await kernel.lookup(b"new", directory) == 0
        rig.store.put("d/new", b"x")
        await kernel.ask(Opcode.READDIR, directory, READ_IN.pack(0, 0, 4096))
        kind, rest = await kernel.notification()
        assert kind == Notify.INVAL_ENTRY
        assert NOTIFY_INVAL_ENTRY_OUT.unpack_from(rest) == (directory, 3, EXPIRE_ONLY)
        assert rest[NOTIFY_INVAL_ENTRY_OUT.size :] == b"new\0"
        assert await kernel.lookup(b"new", directory)

    run(tmp_path, case)


def test_directories_that_the_kernel_has_forgotten_are_not_spoken_of(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        put_many(rig, "a")
        put_many(rig, "b")
        a, b = await kernel.lookup(b"a"), await kernel.lookup(b"b")
        for directory in (a, b):
            assert await kernel.lookup(b"new", directory) == 0
        rig.store.put("a/new", b"x")
        rig.store.put("b/new", b"x")
        first = await kernel.send(Opcode.READDIR, a, READ_IN.pack(0, 0, 4096))
        await kernel.send(Opcode.FORGET, a, FORGET_IN.pack(1))
        await kernel.reply_to(first)
        await kernel.ask(Opcode.READDIR, b, READ_IN.pack(0, 0, 4096))
        _, rest = await kernel.notification()
        assert NOTIFY_INVAL_ENTRY_OUT.unpack_from(rest)[0] == b

    run(tmp_path, case)


def test_archived_files_are_refused_when_read_too(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("cold", b"x", storage_class="GLACIER")
        number = await kernel.lookup(b"cold")
        assert (await kernel.ask(Opcode.OPEN, number, bytes(8))).code == errno.EACCES
        assert (await kernel.read(number, 0, 10)).code == errno.EACCES
        assert rig.store.count("GET") == 0

    run(tmp_path, case)


BODIES = st.one_of(st.binary(max_size=200), st.binary(max_size=40).map(lambda name: name + b"\0"))
REQUESTS = st.tuples(
    st.one_of(st.sampled_from(list(Opcode)), st.integers(0, 2**32 - 1)),
    st.one_of(st.just(ROOT), st.integers(0, 2**64 - 1)),
    BODIES,
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.one_of(st.just(0), st.integers(0, 2**16 - 1)),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(REQUESTS, max_size=20), noise=st.lists(st.binary(min_size=1, max_size=60), max_size=5))
@example(requests=[(Opcode.BATCH_FORGET, ROOT, BATCH_FORGET_IN.pack(2**32 - 1) + bytes(17), None, 0)], noise=[])
@example(requests=[(Opcode.FORGET, ROOT, FORGET_IN.pack(2**64 - 1), None, 0)], noise=[b"x"])
@example(requests=[(Opcode.READ, ROOT, READ_IN.pack(2**64 - 1, 2**64 - 1, 2**32 - 1), None, 0)], noise=[])
@example(requests=[(Opcode.READDIRPLUS, ROOT, READ_IN.pack(2**64 - 1, 2**64 - 1, 2**32 - 1), None, 0)], noise=[])
@example(requests=[(Opcode.LOOKUP, ROOT, b"\xff\xfe\0", None, 2**16 - 1)], noise=[])
@example(requests=[(Opcode.INIT, 0, bytes(64), None, 0)], noise=[])
@example(requests=[(Opcode.NOTIFY_REPLY, 0, bytes(64), None, 0)], noise=[])
def test_whatever_comes_gets_one_reply_and_the_mount_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    requests: list[tuple[int, int, bytes, int | None, int]],
    noise: list[bytes],
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        for opcode, number, body, nbytes, extension in requests:
            nbytes = IN_HEADER.size + len(body) if nbytes is None else nbytes
            unique = await kernel.send(opcode, number, body, nbytes=nbytes, extension=extension)
            if nbytes != IN_HEADER.size + len(body) or opcode not in UNANSWERED:
                await kernel.reply_to(unique)
        for raw in noise:
            await kernel.send_raw(raw[: IN_HEADER.size - 1])
        number = await kernel.lookup(b"file")
        assert (await kernel.read(number, 0, 100)).body == b"content"

    run(tmp_path_factory.mktemp("fuzz"), case)


def test_errors_of_the_store_become_errnos(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        rig.store.put("file", b"content")
        number = await kernel.lookup(b"file")
        rig.store.put("file", b"changed")
        assert (await kernel.read(number, 0, 100)).code == errno.ESTALE
        assert stat.S_ISREG(ATTR.unpack_from((await kernel.ask(Opcode.GETATTR, number)).body, ATTR_OUT.size)[9])

    run(tmp_path, case)


def test_the_loop_ends_when_the_mount_is_gone(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        operations = Operations(rig.filesystem, Opening(OpenMode.AUTO), BackingFiles(-1), frozen=True)
        with ours:
            os.set_blocking(ours.fileno(), False)
            theirs.close()
            with trio.fail_after(10):
                await Server(ours.fileno(), operations).serve()

    run_filesystem(tmp_path, main, real_time=True)


async def listed(kernel: Kernel, number: int) -> list[bytes]:
    """The names in a directory, read from its start."""
    opened = await kernel.ask(Opcode.OPENDIR, number, bytes(8))
    (handle, *_) = OPEN_OUT.unpack(opened.body)
    names: list[bytes] = []
    offset = 0
    while True:
        reply = await kernel.ask(Opcode.READDIR, number, READ_IN.pack(handle, offset, 4096))
        assert reply.code == 0
        if not reply.body:
            return names[2:]
        position = 0
        while position < len(reply.body):
            _, offset, nbytes, _ = DIRENT.unpack_from(reply.body, position)
            position += DIRENT.size
            names.append(reply.body[position : position + nbytes])
            position += padded(DIRENT.size + nbytes) - DIRENT.size


NDIRECTORIES, NFILES = 40, 200


async def fill(rig: Rig, kernel: Kernel) -> dict[str, int]:
    """Far more names than may be in memory, all of which the kernel knows."""
    numbers = {}
    for directory in range(NDIRECTORIES):
        for file in range(NFILES):
            rig.store.put(f"{directory:02}/{file:03}", b"bytes")
    for directory in range(NDIRECTORIES):
        inside = numbers[f"{directory:02}"] = await kernel.lookup(b"%02d" % directory)
        assert len(await listed(kernel, inside)) == NFILES
        for file in range(0, NFILES, 10):
            numbers[f"{directory:02}/{file:03}"] = await kernel.lookup(b"%03d" % file, inside)
    while rig.shelf.statistics().nbytes_in_memory > 50_000:
        await trio.lowlevel.checkpoint()
    return numbers


def test_everything_is_answered_of_names_that_lie_on_the_disk(tmp_path: Path) -> None:
    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        numbers = await fill(rig, kernel)
        nlists = rig.store.count("LIST")
        before = rig.shelf.statistics().reads
        kinds = (Opcode.GETATTR, Opcode.READ, Opcode.OPEN, Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.LOOKUP)
        bodies = {
            Opcode.READ: READ_IN.pack(0, 0, 100),
            Opcode.GETXATTR: GETXATTR_IN.pack(100) + b"user.s3.key\0",
            Opcode.LISTXATTR: GETXATTR_IN.pack(100),
        }
        for turn, kind in enumerate(kinds):
            for directory in range(turn, NDIRECTORIES, len(kinds)):
                if kind is Opcode.LOOKUP:
                    number = numbers[f"{directory:02}"]
                    assert await kernel.lookup(b"010", number) == numbers[f"{directory:02}/010"]
                    assert len(await listed(kernel, number)) == NFILES
                    continue
                reply = await kernel.ask(kind, numbers[f"{directory:02}/020"], bodies.get(kind, bytes(16)))
                assert reply.code == (errno.ENOSYS if kind is Opcode.OPEN else 0)
                if kind is Opcode.READ:
                    assert reply.body == b"bytes"
        assert rig.shelf.statistics().reads > before + 20
        assert rig.store.count("LIST") == nlists

    (tmp_path / "names").mkdir()
    run(tmp_path, case, scratch=HangingScratch(tmp_path / "names"), names_nbytes=50_000)


def test_a_disk_of_names_that_hangs_stops_nobody_else(tmp_path: Path) -> None:
    """Who needs it waits some seconds, and then the store is asked."""
    (tmp_path / "names").mkdir()
    scratch = HangingScratch(tmp_path / "names")

    async def case(rig: Rig, kernel: Kernel, server: Server) -> None:
        numbers = await fill(rig, kernel)
        scratch.reads_go_on.clear()
        scratch.writes_go_on.clear()
        nlists = rig.store.count("LIST")
        waiting = [
            await kernel.send(Opcode.LOOKUP, numbers["00"], b"050\0"),
            await kernel.send(Opcode.LOOKUP, numbers["01"], b"none\0"),
            await kernel.send(Opcode.GETATTR, numbers["02/100"], bytes(16)),
        ]
        began = trio.current_time()
        while not scratch.places_read:
            await trio.lowlevel.checkpoint()
        for file in range(NFILES):
            await kernel.lookup(b"%03d" % file, numbers["39"])
        assert len(await listed(kernel, numbers["39"])) == NFILES
        assert trio.current_time() - began < 2
        assert rig.store.count("LIST") == nlists
        found, absent, lost = [await kernel.reply_to(unique) for unique in waiting]
        assert 2 < trio.current_time() - began < 10
        assert (found.code, ENTRY_OUT.unpack_from(found.body)[0]) == (0, numbers["00/050"])
        assert (absent.code, ENTRY_OUT.unpack_from(absent.body)[0]) == (0, 0)
        assert lost.code == errno.ESTALE  # the kernel shall ask by the path
        began = trio.current_time()
        for directory in range(3, 20):
            assert len(await listed(kernel, numbers[f"{directory:02}"])) == NFILES
            assert await kernel.lookup(b"070", numbers[f"{directory:02}"]) == numbers[f"{directory:02}/070"]
        assert trio.current_time() - began < 2
        scratch.answer()

    try:
        run(tmp_path, case, scratch=scratch, names_nbytes=50_000)
    finally:
        scratch.answer()
