"""The servers that are a gateway above a cluster: SeaweedFS and Ceph's radosgw, each as small as it gets.

Owns their configuration files and the processes below the gateway.
"""

from __future__ import annotations

import json
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import Final

from servers.processes import PATIENCE_SECONDS, Process, ServerFailed, beside_python, free_ports, listens, wait_until
from servers.server import PUBLIC, Server

_FSID: Final = "b3b7a6d5-6f5c-4bd1-8f0c-6a1d3b8f7a10"
"""Names the cluster, and its one OSD. Any UUID will do."""


class _Gateway(Server):
    """A gateway above a cluster. ``stop`` and ``start`` concern the gateway; what lies below runs on to ``close``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._cluster: list[Process] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def port(self) -> int: ...

    @abstractmethod
    def command(self) -> list[str | Path]: ...

    @abstractmethod
    def launch_cluster(self) -> None: ...

    def launch(self) -> None:
        if not self._cluster:
            self.launch_cluster()
        self.processes.append(Process(self.command(), self.folder))

    def pids(self) -> set[int]:
        return super().pids() | {process.pid for process in self._cluster}

    def close(self) -> None:
        super().close()
        for process in reversed(self._cluster):
            process.stop()
        self._cluster.clear()


class SeaweedFS(_Gateway):
    """SeaweedFS: master, volume server and filer in one process, and the S3 gateway."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = free_ports(8)
        identities = [
            {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
            {
                "name": "me",
                "credentials": [{"accessKey": self.key_id, "secretKey": self.secret}],
                "actions": ["Admin", "Read", "Write", "List"],
            },
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()

    @property
    def port(self) -> int:
        return self._ports[0]

    def launch_cluster(self) -> None:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports[2:]
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 100,
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": self.folder / "filer.sock",
        }
        words = [f"-{name}={value}" for name, value in options.items()]
        self._cluster.append(Process([beside_python("weed"), "server", "-filer", *words], self.folder))
        wait_until(lambda: listens(filer_grpc), "SeaweedFS's filer answers")  # without it the gateway ends at once

    def command(self) -> list[str | Path]:
        options = {
            "port": self.port,
            "port.grpc": self._ports[1],
            "port.iceberg": 0,
            "port.lance": 0,
            "ip.bind": "127.0.0.1",
            "filer": f"127.0.0.1:{self._ports[6]}.{self._ports[7]}",
            "config": self.folder / "s3.json",
            "localSocket": self.folder / "s3.sock",
        }
        return [beside_python("weed"), "s3", *(f"-{name}={value}" for name, value in options.items())]

    def make_public(self, bucket: str) -> None:
        pass  # by its configuration

    def close(self) -> None:
        super().close()
        for port in self._ports:  # it puts them into /tmp whatever TMPDIR says
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def answers(self) -> bool:
        """The gateway answers before there is a volume to write to."""
        if not super().answers():
            return False
        try:
            if not any(bucket["Name"] == "trial" for bucket in self.client.list_buckets()["Buckets"]):
                self.client.create_bucket(Bucket="trial")
            self.client.put_object(Bucket="trial", Key="key", Body=b"x")
        except Exception:
            return False
        return True


ROLE = "reader"
"""A role that the gateway's one user may assume, and that may read everything."""


def _policy(*actions: str, **more: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, **more}]})


class Radosgw(_Gateway):
    """Ceph's gateway above the smallest of clusters: one monitor, and one OSD that keeps its objects in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = free_ports(2)
        self._write_configuration()

    @property
    def port(self) -> int:
        return self._ports[0]

    def command(self) -> list[str | Path]:
        return ["radosgw", "-n", "client.rgw.a", "-f", "--no-mon-config", "-c", self.folder / "ceph.conf"]

    def make_public(self, bucket: str) -> None:
        resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        policy = _policy("s3:GetObject", "s3:ListBucket", Principal="*", Resource=resources)
        self.client.put_bucket_policy(Bucket=bucket, Policy=policy)

    def _write_configuration(self) -> None:
        settings = {
            "fsid": _FSID,
            "mon host": f"[v2:127.0.0.1:{self._ports[1]}]",
            "auth cluster required": "none",
            "auth service required": "none",
            "auth client required": "none",
            # Without keys nothing can be encrypted, which gateways want of their monitors.
            "ms mon client mode": "crc",
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            "mon data": self.folder / "monitor",
            "osd data": self.folder / "osd",
            "rgw data": self.folder / "gateway",
            "run dir": self.folder,
            "admin socket": "",
            "pid file": "",
            "log file": self.folder / "$name.log",
            "keyring": "/dev/null",
            "osd objectstore": "memstore",
            "memstore device bytes": 1 << 30,
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 1,
            "osd crush chooseleaf type": 0,
            "mon allow pool size one": "true",
            # It refuses writes on a disk that is fuller than this, and disks of build machines are.
            "mon data avail crit": 1,
            # The gateway makes its pools one after another, each a round of the monitor's.
            "paxos propose interval": 0.05,
            "paxos min wait": 0.02,
            # Customers' keys in clear text: this is a test on loopback.
            "rgw crypt require ssl": "false",
            "rgw s3 auth use sts": "true",
            "rgw sts key": "0123456789abcdef",  # what it encrypts tokens with
            "rgw frontends": f"beast endpoint=127.0.0.1:{self.port}",
        }
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        (self.folder / "ceph.conf").write_text(f"[global]\n{lines}\n")

    def launch_cluster(self) -> None:
        for name in ("monitor", "osd", "gateway"):
            (self.folder / name).mkdir()
        address = f"[v2:127.0.0.1:{self._ports[1]}]"
        self._run("monmaptool", "--create", "--fsid", _FSID, "--addv", "a", address, "monitors")
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monitors", "-c", "ceph.conf")
        self._cluster.append(Process(["ceph-mon", "-i", "a", "-f", "-c", "ceph.conf"], self.folder))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", _FSID, "-c", "ceph.conf")
        self._run("ceph", "-c", "ceph.conf", "osd", "new", _FSID, "0")
        self._run("ceph", "-c", "ceph.conf", "osd", "crush", "add", "osd.0", "1", "root=default", "host=here")
        self._cluster.append(Process(["ceph-osd", "-i", "0", "-f", "-c", "ceph.conf"], self.folder))
        keys = [f"--access-key={self.key_id}", f"--secret={self.secret}"]
        user = ["user", "create", "--uid=me", "--display-name=me", *keys]
        self._administer(*user)
        trust = _policy("sts:AssumeRole", Principal={"AWS": ["arn:aws:iam:::user/me"]})
        self._administer("role", "create", f"--role-name={ROLE}", "--path=/", f"--assume-role-policy-doc={trust}")
        rights = _policy("s3:*", Resource="arn:aws:s3:::*")
        self._administer("role-policy", "put", f"--role-name={ROLE}", "--policy-name=all", f"--policy-doc={rights}")

    def _administer(self, *words: str) -> None:
        self._run("radosgw-admin", "-c", "ceph.conf", "--no-mon-config", *words)

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            words, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        if done.returncode != 0:
            raise ServerFailed(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
