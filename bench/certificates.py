"""Certificates of a run: a CA, the gateway's, the acquirer's, and one for each terminal, in files."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

_VALID_FOR: Final = timedelta(days=60)  # a gateway warns of those that end soon
_CLOCKS_DIFFER_BY: Final = timedelta(hours=1)
_HERE: Final = ipaddress.ip_address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, each in its file; the key's has mode 0600."""

    certificate_file: Path
    key_file: Path


class Authority:
    """A CA of a run, with the contexts that its certificates make. EC keys throughout: quick to make and to use."""

    def __init__(self, folder: Path) -> None:
        """Make the CA.

        Args:
            folder: is made where it is missing; everything issued goes there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Holdfast bench CA")])
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def server(self, name: str) -> Issued:
        """A certificate for a server on this machine."""
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(_HERE)])
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, name: str) -> Issued:
        """A certificate for a terminal; its common name is the terminal's id."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def server_context(self, issued: Issued) -> ssl.SSLContext:
        """For a simulator that listens."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(issued.certificate_file, issued.key_file)
        return context

    def client_context(self, issued: Issued | None = None) -> ssl.SSLContext:
        """For a simulator that connects: it looks at the server's certificate, and shows one of its own."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if issued is not None:
            context.load_cert_chain(issued.certificate_file, issued.key_file)
        return context

    def client_contexts(self, names: Iterable[str]) -> dict[str, ssl.SSLContext]:
        """A context for each of many terminals."""
        return {name: self.client_context(self.client(name)) for name in names}

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS_DIFFER_BY)
            .not_valid_after(now + _VALID_FOR)
        )

    def _issue(self, name: str, usage: ObjectIdentifier, names: x509.SubjectAlternativeName | None = None) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        issued = Issued(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        issued.certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(issued.key_file, secret)
        return issued


def write_secret(path: Path, secret: bytes) -> None:
    """Write a file that its owner alone can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secret)
