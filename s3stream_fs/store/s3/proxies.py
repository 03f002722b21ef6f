"""Which requests go through a proxy, by the environment's variables, read in one way for all of them. Pure.

Libraries read NO_PROXY differently: as suffixes only, without ports, without networks. What counts here:

- ``host`` stands for the host and all below it; ``.host`` and ``*.host`` for what is below it, and the host too
- ``host:port`` for that port only
- an IP address, or a network such as ``10.0.0.0/8``
- ``*`` for everything
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from s3stream_fs.errors import UsageError

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxies:
    """``by_scheme`` gives (origin, proxy's URL). The URLs may hold a password."""

    by_scheme: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    exceptions: tuple[str, ...] = ()

    def proxy_of(self, url: str) -> str | None:
        """The proxy for a URL; None where it is asked directly. Raises UsageError for one that cannot be used."""
        parts = urlsplit(url)
        found = self.by_scheme.get(parts.scheme)
        if found is None or parts.hostname is None:
            return None
        port = parts.port or _PORTS[parts.scheme]
        if any(_excepts(exception, parts.hostname, port) for exception in self.exceptions):
            return None
        origin, proxy = found
        try:
            proxy_parts = urlsplit(proxy)
            usable = proxy_parts.scheme in ("http", "https") and proxy_parts.hostname and proxy_parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            # Not the URL itself, which may hold a password.
            raise UsageError(
                f"{origin} names a proxy that cannot be used: it takes http://HOST:PORT or https://HOST:PORT;"
                f" NO_PROXY={parts.hostname} goes without it"
            )
        return proxy


def read_proxies(environ: Mapping[str, str]) -> Proxies:
    """What the environment says. As with curl, lower case goes first."""
    by_scheme = {}
    for scheme in ("http", "https"):
        for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
            value = environ.get(name, "").strip()
            if value:
                by_scheme[scheme] = (name, value if "://" in value else f"http://{value}")
                break
    exceptions = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").lower().replace(",", " ")
    return Proxies(by_scheme, tuple(exceptions.split()))


def _excepts(exception: str, host: str, port: int) -> bool:
    if exception == "*":
        return True
    if "/" in exception:
        try:
            return ip_address(host) in ip_network(exception, strict=False)
        except ValueError:
            return False
    name, only_port = _split_port(exception)
    if only_port is not None and only_port != port:
        return False
    try:
        return ip_address(name) == ip_address(host)
    except ValueError:
        name = name.removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(text: str) -> tuple[str, int | None]:
    """``host:443``, ``[::1]:443``, ``[::1]``, ``::1`` or ``host``."""
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        rest = rest.removeprefix(":")
    elif text.count(":") == 1:
        name, _, rest = text.partition(":")
    else:
        name, rest = text, ""
    return name, int(rest) if rest.isascii() and rest.isdecimal() else None
