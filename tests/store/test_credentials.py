"""Credentials that the AWS chain asks for over HTTP work under trio, in both planes, and are renewed."""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from s3server import S3Server
from s3stream_fs.errors import NoKeys, StoreError
from s3stream_fs.store.s3.config import S3Config
from s3stream_fs.store.s3.connection import resolve
from s3stream_fs.store.s3.credentials import Chain
from s3stream_fs.store.s3.store import open_s3
from s3stream_fs.store.s3.trust import Trust
from s3stream_fs.types import ObjectId


class Source(ThreadingHTTPServer):
    """Hands out credentials as a container's and an instance's endpoint do."""

    life = timedelta(hours=1)
    broken = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Source

    def do_PUT(self) -> None:
        self._answer(b"token")

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.broken:
            self.send_error(500)
        elif self.path.endswith("/security-credentials/"):
            self._answer(b"role")
        else:
            credentials = {
                "Code": "Success",
                "AccessKeyId": "testing",
                "SecretAccessKey": "testing",
                "Token": f"token{len(self.server.asked)}",
                "Expiration": (datetime.now(UTC) + self.server.life).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            self._answer(json.dumps(credentials).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
    with Source() as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def use(server: S3Server, ntimes: int) -> None:
    """List and read through both planes, so many times."""
    server.create_bucket("bucket")
    ids = [ObjectId(key, server.put("bucket", key, b"hello"), 5) for key in ("plain", "control\x01")]

    async def main() -> None:
        async with open_s3(resolve(S3Config("bucket", endpoint_url=server.url, region="us-east-1"), {})) as store:
            for _ in range(ntimes):
                assert len((await store.list_page("")).objects) == 2
                for object_id in ids:
                    got = bytearray()
                    await store.get_range(object_id, object_id.whole, got.extend)
                    assert got == b"hello"

    trio.run(main)


def test_container_role(server: S3Server, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{source.url}/role")
    use(server, 3)
    assert len(source.asked) == 1


def test_instance_role(server: S3Server, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{source.url}/")
    use(server, 1)
    assert any(path.endswith("/security-credentials/role") for path in source.asked)


def test_credentials_with_little_time_left_are_used_and_not_asked_for_with_each_request(
    server: S3Server, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{source.url}/role")
    source.life = timedelta(seconds=30)
    use(server, 3)
    assert len(source.asked) == 1


def test_a_source_that_fails_is_told(server: S3Server, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{source.url}/role")
    source.broken = True
    with pytest.raises(StoreError):
        use(server, 1)


def test_a_process_that_hangs_ends_with_the_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it has started, too."""
    config = tmp_path / "config"
    pids = tmp_path / "pids"
    script = tmp_path / "hangs"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {pids}.new\nmv {pids}.new {pids}\nwait\n")
    script.chmod(0o755)
    config.write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    chain = Chain(None, Trust())
    found: list[StoreError] = []

    def ask() -> None:
        try:
            chain()
        except StoreError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not pids.exists():
        assert thread.is_alive()
    ends = [os.pidfd_open(int(pid)) for pid in pids.read_text().split()]
    chain.close()
    thread.join()
    for end in ends:
        assert select.select([end], [], [], 20)[0], "the process goes on"
        os.close(end)
    assert [type(error) for error in found] == [NoKeys]
