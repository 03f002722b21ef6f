"""Whose certificates are believed: the system's authorities, and those of one bundle that the user names."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import botocore.httpsession

from s3stream_fs.errors import UsageError

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Trust:
    """``pem`` are certificates that are believed besides the system's; ``origin`` is what named them.

    Where ``verify`` is false nothing is checked, and whoever sits in the way can read the data and change it.
    """

    verify: bool = True
    pem: str = field(default="", repr=False)
    origin: str = "the system"

    def context(self) -> ssl.SSLContext:
        """For connections that Python makes. Reads the system's certificates from the disk."""
        context = ssl.create_default_context()
        # Python 3.13 asks of authorities what older ones, and those that people make for themselves, do not have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # An intermediate authority is enough, as for obstore, and as in Python 3.13.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.pem:
            context.load_verify_locations(cadata=self.pem)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @contextmanager
    def bundle(self) -> Iterator[str | None]:
        """For a library that takes one file in place of its own: everybody's authorities, and these; None without any.

        A file in memory, for the time of the context.
        """
        if not self.pem:
            yield None
            return
        descriptor = os.memfd_create("authorities")
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(Path(botocore.httpsession.where()).read_bytes() + b"\n" + self.pem.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


def read_bundle(path: Path, origin: str) -> Trust:
    """The certificates of a PEM file, whatever else stands in it. Raises UsageError, which names ``origin``."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read the certificates that {origin} names, {path}: {error.strerror}") from None
    pem = "\n".join(_CERTIFICATE.findall(text))
    try:
        if pem:
            ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError):
        pem = ""
    if not pem:
        raise UsageError(f"{path}, which {origin} names, holds no certificates in PEM form")
    return Trust(pem=pem + "\n", origin=origin)


def system_has_certificates() -> bool:
    """Whether the system brings any: slim container images do not."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None:
        return True
    return paths.capath is not None and any(Path(paths.capath).iterdir())
