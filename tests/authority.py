"""A private certificate authority for the tests, made anew for each: keys, certificates, and what is wrong with some.

Owns PEM files in one folder. Everything is P-256, which is made in a millisecond and taken by every TLS library here.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a TLS server shows, the key to it, and what its clients have to trust: three PEM files."""

    certificate: Path
    key: Path
    trust: Path

    def context(self) -> ssl.SSLContext:
        """For a server that shows it. Speaks HTTP/1.1 only, and says so where it is asked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["http/1.1"])
        return context


class Authority:
    """A CA of its own. ``certificate`` is what its clients have to trust."""

    def __init__(self, folder: Path, name: str = "Authority of the tests") -> None:
        self._folder = folder
        self._name = _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._nidentities = 0
        made = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "authority.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, expired: bool = False) -> Identity:
        """An identity for these host names and IP addresses, signed by this CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            _builder(_named(names[0]), self._name, key.public_key(), expired=expired)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_alternatives(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return self._written(made, key, self.certificate)

    def self_signed(self, *names: str) -> Identity:
        """As ``openssl req -x509 -addext subjectAltName=...`` makes it: it signs itself, and calls itself a CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(names[0])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        made = (
            _builder(name, name, key.public_key())
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_alternatives(names), critical=False)
            .sign(key, hashes.SHA256())
        )
        return self._written(made, key)

    def _written(self, made: x509.Certificate, key: ec.EllipticCurvePrivateKey, trust: Path | None = None) -> Identity:
        self._nidentities += 1
        certificate = self._folder / f"server{self._nidentities}.pem"
        identity = Identity(certificate, certificate.with_suffix(".key"), trust or certificate)
        identity.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # 64 is the most that X.509 takes


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    # Valid for long before and after: some tests set the clock.
    start, end = (now - 3 * _DAY, now - _DAY) if expired else (now - 30 * _DAY, now + 30 * _DAY)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
