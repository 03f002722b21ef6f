"""The servers of the battery: started when first asked for, filled once, and ended with the module that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Leavings
from mounting import CommandLine
from servers.buckets import fill
from servers.clusters import Radosgw, SeaweedFS
from servers.fronts import Nginx, Tinyproxy
from servers.server import Moto, Rclone, S3rver, Server
from servers.stores import TRIED, Store, tried


class Running:
    """The servers that run, by the names of the table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[str, Server] = {}

    def __getitem__(self, name: str) -> Server:
        """The server, started and filled if nobody has asked for it before."""
        if name not in self._servers:
            made = self._made(name, self._folder / name)
            try:
                made.start()
                if made.store is made:
                    fill(made, tried(name))
            except BaseException:
                made.close()
                raise
            self._servers[name] = made
        return self._servers[name]

    def _made(self, name: str, folder: Path) -> Server:
        match name:
            case "moto":
                return Moto(folder)
            case "rclone":
                return Rclone(folder)
            case "s3rver":
                return S3rver(folder)
            case "SeaweedFS":
                return SeaweedFS(folder)
            case "radosgw":
                return Radosgw(folder)
            case "nginx":
                return Nginx(folder, self["SeaweedFS"])
            case "tinyproxy":
                return Tinyproxy(folder, self["radosgw"])
        raise ValueError(name)

    def pids(self) -> set[int]:
        return {pid for server in self._servers.values() for pid in server.pids()}

    def close(self) -> None:
        for server in reversed(self._servers.values()):
            server.close()


@pytest.fixture(scope="module")
def running(leavings: Leavings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """``leavings`` is asked for so that it looks around after these servers have ended."""
    found = Running(tmp_path_factory.mktemp("servers"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=[store.name for store in TRIED])
def server(request: pytest.FixtureRequest, running: Running) -> Server:
    return running[request.param]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """What the table says of ``server``."""
    return tried(request.node.callspec.params["server"])


@pytest.fixture
def cli(cli: CommandLine, server: Server) -> CommandLine:
    cli.environment.update(server.environment)
    return cli


@pytest.fixture(autouse=True)
def _leaves_nothing(leavings: Leavings, request: pytest.FixtureRequest) -> Iterator[None]:
    """As elsewhere, but a server that was stopped and started again is another process and stays."""
    before = leavings.mounts() | leavings.folders() | leavings.children()
    yield
    left = (leavings.mounts() | leavings.folders() | leavings.children()) - before
    if "running" in request.fixturenames:
        kept = tuple(f"process {pid}:" for pid in request.getfixturevalue("running").pids())
        left = {what for what in left if not what.startswith(kept)}
    assert not left, f"the test leaves behind: {sorted(left)}"
