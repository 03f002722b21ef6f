"""The control socket, with honest and hostile clients."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from s3stream_daemon.control import DaemonExit, find_control, remove_stale, request, serve_control
from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.folders import folders_of, socket_name


def _fail() -> object:
    raise RuntimeError("a bug")


HANDLERS: dict[str, Callable[[], object]] = {"stats": lambda: {"reads": 3}, "fail": _fail}


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, HANDLERS)
        yield
        nursery.cancel_scope.cancel()


def run(path: Path, test: Callable[[], Awaitable[None]], clock: MockClock | None = None) -> None:
    async def main() -> None:
        async with serving(path):
            await test()

    trio.run(main, clock=clock)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def ask(path: Path, command: str) -> Any:
    return await trio.to_thread.run_sync(partial(request, path, command))


async def exchange(path: Path, sent: bytes) -> bytes:
    """What a client gets for raw bytes, until the daemon closes."""
    received = b""
    async with await trio.open_unix_socket(path) as stream:
        # The daemon may have closed already, with bytes of ours unread.
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(sent)
            while piece := await stream.receive_some(65536):
                received += piece
    return received


def test_a_question_is_answered(short_path: Path) -> None:
    path = short_path / "c.sock"

    async def test() -> None:
        assert await ask(path, "stats") == {"reads": 3}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert names_in(short_path) == ["c.sock"]

    run(path, test)
    assert not path.exists()


def test_a_folder_deeper_than_a_sockets_path_may_be(short_path: Path) -> None:
    folder = short_path / ("x" * 120)
    folder.mkdir()
    path = folder / "c.sock"

    async def test() -> None:
        assert await ask(path, "stats") == {"reads": 3}

    run(path, test)
    assert not path.exists()


def test_a_command_that_fails_does_not_end_the_daemon(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = short_path / "c.sock"

    async def test() -> None:
        with pytest.raises(ExitError, match="its log says why"):
            await ask(path, "fail")
        assert "a bug" in caplog.text
        assert await ask(path, "stats") == {"reads": 3}

    run(path, test)


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"null\n",
        b"[]\n",
        b'{"command": []}\n',
        b'{"command": "no"}\n',
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"{}\n{}\n",
    ],
)
def test_nonsense_gets_an_error_in_one_line(short_path: Path, sent: bytes) -> None:
    path = short_path / "c.sock"

    async def test() -> None:
        answer = await exchange(path, sent)
        assert answer.endswith(b"\n")
        assert list(json.loads(answer)) == ["error"]

    run(path, test)


@pytest.mark.parametrize("sent", [b"", b'{"command": "stats"}', b"x" * 100_000])
def test_a_client_that_never_ends_its_line_is_cut_off(short_path: Path, sent: bytes) -> None:
    path = short_path / "c.sock"

    async def test() -> None:
        assert await exchange(path, sent) == b""
        assert await exchange(path, b'{"command": "stats"}\n') == b'{"result": {"reads": 3}}\n'

    run(path, test, MockClock(autojump_threshold=0.1))


def test_silent_clients_do_not_keep_others_out_for_long(short_path: Path) -> None:
    path = short_path / "c.sock"

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(8)]
            # The ninth is turned away at once.
            assert await exchange(path, b'{"command": "stats"}\n') == b""
            for stream in silent:
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
        assert await exchange(path, b'{"command": "stats"}\n') == b'{"result": {"reads": 3}}\n'

    run(path, test, MockClock(autojump_threshold=0.1))


def test_a_stale_file_is_replaced_and_a_live_one_is_not(short_path: Path) -> None:
    path = short_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()

    async def test() -> None:
        assert await ask(path, "stats") == {"reads": 3}
        with pytest.raises(ExitError, match="another daemon") as raised:
            await serve_control(path, HANDLERS)
        assert raised.value.code is ExitCode.MOUNTPOINT
        remove_stale(path)
        assert path.is_socket()

    run(path, test)
    assert not path.exists()


def test_nobody_answers(short_path: Path) -> None:
    path = short_path / "c.sock"
    with pytest.raises(ExitError, match="no daemon answers") as raised:
        request(path, "stats")
    assert raised.value.code is ExitCode.NOT_MOUNTED
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(ExitError, match="does not answer within"):
            request(path, "stats", timeout_seconds=0.05)
    remove_stale(path)
    assert not path.exists()


@pytest.mark.parametrize("answer", [b"", b"x\n", b"[]\n", b"{}\n", b"3\n"])
def test_what_answers_is_no_daemon_of_ours(short_path: Path, answer: bytes) -> None:
    path = short_path / "c.sock"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.bind(str(path))
            raw.listen()

            def answer_once() -> None:
                client, _ = raw.accept()
                with client:
                    client.recv(1000)
                    client.sendall(answer)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, answer_once)
                with pytest.raises(ExitError) as raised:
                    await ask(path, "stats")
                assert raised.value.code is ExitCode.NOT_MOUNTED

    trio.run(main)


def test_the_end_of_a_daemon_can_be_waited_for(short_path: Path) -> None:
    path = short_path / "c.sock"
    with DaemonExit(None) as absent:
        assert absent.wait(0)

    async def test() -> None:
        with DaemonExit(path) as daemon:
            assert not daemon.wait(0)  # it is this very process

    run(path, test)


def test_the_socket_is_found_in_the_first_place_that_has_it(short_path: Path) -> None:
    folders = folders_of(os.getuid() or 1, Path("/h"), {"XDG_RUNTIME_DIR": str(short_path)})
    mountpoint = Path(f"/nowhere/{short_path.name}")
    assert find_control(mountpoint, folders) is None
    path = short_path / "s3stream-fs" / socket_name(mountpoint)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        assert find_control(mountpoint, folders) == path


def test_a_client_waits_while_there_is_no_descriptor_for_it_and_that_is_said_once(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = short_path / "control"
    said = "the control socket waits: Too many open files"

    async def test() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX) as raw:
            client = trio.socket.from_stdlib_socket(raw)
            raw.setblocking(False)
            least_free = os.dup(0)
            os.close(least_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (least_free, limits[1]))
            try:
                await client.connect(str(path))
                await client.send(b'{"command": "stats"}\n')
                with trio.fail_after(20):
                    while said not in caplog.messages:
                        await trio.lowlevel.checkpoint()
                    with trio.move_on_after(1.2):  # two tries more
                        await client.recv(100)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            with trio.fail_after(20):
                assert json.loads(await client.recv(1000)) == {"result": {"reads": 3}}

    run(path, test)
    assert caplog.messages == [said]
