"""What stands between mount and store: nginx with TLS by a private CA on ``[::1]``, and tinyproxy as a forward proxy.

Owns their configuration files and certificates. The objects are another server's.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import Any

from servers.processes import Process, ServerFailed, free_ports, in_sbin, listens
from servers.server import Server

NAME = "store.test"
"""A name that nginx's certificate holds as well; what it stands for is for a test to say."""


class _Front(Server):
    """What stands between mount and store, and has no objects itself. ``client`` goes to the store, past it."""

    def __init__(self, folder: Path, store: Server) -> None:
        super().__init__(folder)
        self._store = store
        self.key_id, self.secret, self.region = store.key_id, store.secret, store.region

    @property
    def store(self) -> Server:
        return self._store

    @property
    def client(self) -> Any:
        return self._store.client

    def make_public(self, bucket: str) -> None:
        self._store.make_public(bucket)

    def answers(self) -> bool:
        for process in self.processes:
            process.check()
        return self.listens()

    @abstractmethod
    def listens(self) -> bool: ...


class Nginx(_Front):
    """nginx on ``[::1]`` in front of a store, with a certificate of a private CA. Its log tells what came through."""

    def __init__(self, folder: Path, store: Server) -> None:
        super().__init__(folder, store)
        (self.port,) = free_ports(1, "::1")
        self._authority, certificate, key = _certified(f"IP:::1,DNS:{NAME}", folder)
        self.log = folder / "access.log"
        (folder / "nginx.conf").write_text(f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log {self.log};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen [::1]:{self.port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass {store.url};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;  # it is signed
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
""")

    @property
    def url(self) -> str:
        return f"https://[::1]:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return self._store.environment | {"AWS_CA_BUNDLE": str(self._authority)}

    def launch(self) -> None:
        # Its compiled-in error log, which an ordinary user may not write, is opened before the file is read.
        log, configuration = self.folder / "error.log", self.folder / "nginx.conf"
        words: list[str | Path] = [in_sbin("nginx"), "-p", self.folder, "-e", log, "-c", configuration]
        self.processes.append(Process(words, self.folder))

    def listens(self) -> bool:
        trusting = ssl.create_default_context(cafile=str(self._authority))
        try:
            with (
                socket.create_connection(("::1", self.port)) as plain,
                trusting.wrap_socket(plain, server_hostname="::1"),
            ):
                return True
        except OSError:
            return False


class Tinyproxy(_Front):
    """A forward proxy between mount and store: the store's address is unchanged, the way is another."""

    def __init__(self, folder: Path, store: Server) -> None:
        super().__init__(folder, store)
        (self.port,) = free_ports(1)
        self.log = folder / "tinyproxy.log"
        (folder / "tinyproxy.conf").write_text(
            f'Port {self.port}\nListen 127.0.0.1\nAllow 127.0.0.1\nLogFile "{self.log}"\nLogLevel Connect\nTimeout 60\n'
        )

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def environment(self) -> dict[str, str]:
        way = f"http://127.0.0.1:{self.port}"
        return self._store.environment | {"HTTP_PROXY": way, "HTTPS_PROXY": way, "NO_PROXY": "", "no_proxy": ""}

    def launch(self) -> None:
        configuration = self.folder / "tinyproxy.conf"
        self.processes.append(Process([in_sbin("tinyproxy"), "-d", "-c", configuration], self.folder))

    def listens(self) -> bool:
        return listens(self.port)


def _certified(names: str, folder: Path) -> tuple[Path, Path, Path]:
    """A CA of its own, and a server's certificate and key that it has signed, as an administrator makes them."""
    authority, certificate, key = (folder / name for name in ("authority.pem", "server.pem", "server.key"))
    make: list[str | Path] = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
    make += ["-pkeyopt", "ec_paramgen_curve:P-256"]
    authority_key = folder / "authority.key"
    of_authority: list[str | Path] = ["-subj", "/CN=A private CA", "-keyout", authority_key, "-out", authority]
    of_server: list[str | Path] = [
        *("-subj", "/CN=A store", "-keyout", key, "-out", certificate),
        *("-CA", authority, "-CAkey", authority_key),
        *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"),
    ]
    for words in (of_authority, of_server):
        done = subprocess.run([*make, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"openssl ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return authority, certificate, key
