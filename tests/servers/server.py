"""What a server of the battery is, and those that are one process with one port: moto, rclone, s3rver.

Owns how a server is started, waited for, stopped and started again. What each cannot do stands in ``stores``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from servers.processes import Process, beside_python, free_ports, wait_until

ROOT: Final = Path(__file__).parents[2]

PUBLIC: Final = "public"
"""The bucket that anybody may read, where a server has such buckets."""


class Server(ABC):
    """A server with a folder of its own. Started with ``start``; ``stop`` and ``start`` again keep address and data.

    ``url`` is what a mount gets as its endpoint, ``environment`` what it needs besides.
    """

    key_id: str = "s3stream-test"
    secret: str = "s3stream-test-secret"
    region: str = "us-east-1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self._client: Any = None
        folder.mkdir()

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def store(self) -> Server:
        """Who keeps the objects: this server, or the one that it stands in front of."""
        return self

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}

    @property
    def client(self) -> Any:
        """A boto3 client of the store."""
        if self._client is None:
            self._client = boto3.client(
                "s3",
                endpoint_url=self.url,
                region_name=self.region,
                aws_access_key_id=self.key_id,
                aws_secret_access_key=self.secret,
                config=Config(
                    s3={"addressing_style": "path"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    proxies={},
                    retries={"total_max_attempts": 1},
                    max_pool_connections=32,
                ),
            )
        return self._client

    def pids(self) -> set[int]:
        return {process.pid for process in self.processes}

    def start(self) -> None:
        """Start, and return when the store answers."""
        self.launch()
        wait_until(self.answers, f"{type(self).__name__} answers")

    @abstractmethod
    def launch(self) -> None:
        """Start what has to run. It need not answer yet."""

    def answers(self) -> bool:
        """Whether requests are served. Raises ServerFailed when the server has ended."""
        for process in self.processes:
            process.check()
        try:
            self.client.list_buckets()
        except Exception:
            return False
        return True

    def stop(self) -> None:
        """Stop what ``start`` has started. May be called for a server that was never started."""
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._client is not None:
            self._client.close()

    @abstractmethod
    def make_public(self, bucket: str) -> None:
        """Let anybody read ``bucket``, where the server has such buckets."""


class OnePort(Server):
    """A server that is one process with one port."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str | Path]: ...

    def launch(self) -> None:
        self.processes.append(Process(self.command(), self.folder))

    def make_public(self, bucket: str) -> None:
        pass  # it lets anybody in, or nobody


class Moto(OnePort):
    """moto's own server, as its users start it. Its policies concern nobody, but its access lists do."""

    def command(self) -> list[str | Path]:
        return [beside_python("moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]

    def make_public(self, bucket: str) -> None:
        for listed in self.client.list_objects_v2(Bucket=bucket)["Contents"]:
            self.client.put_object_acl(Bucket=bucket, Key=listed["Key"], ACL="public-read")


class Rclone(OnePort):
    """``rclone serve s3`` over a folder: keys are paths of files."""

    def command(self) -> list[str | Path]:
        (self.folder / "data").mkdir(exist_ok=True)
        return [
            *(beside_python("rclone"), "serve", "s3", self.folder / "data", "--config", "/dev/null"),
            *("--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{self.key_id},{self.secret}"),
        ]


class S3rver(OnePort):
    """s3rver, a small server for Node.js."""

    key_id = "S3RVER"  # the only pair that it knows
    secret = "S3RVER"

    def command(self) -> list[str | Path]:
        script = ROOT / "build" / "npm" / "node_modules" / "s3rver" / "bin" / "s3rver.js"
        return [
            "node",
            "--openssl-legacy-provider",
            script,
            "-d",
            self.folder / "data",
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
