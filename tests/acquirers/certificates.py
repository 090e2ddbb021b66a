"""CAs, certificates and keys in files, made for a test; and the two ends of a plain TLS line."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from gateway.tls import ReloadableServerContext, TlsServerSettings, server_context

CLIENTS = ExtendedKeyUsageOID.CLIENT_AUTH
SERVERS = ExtendedKeyUsageOID.SERVER_AUTH
VALID = (timedelta(days=-1), timedelta(days=60))
EXPIRED = (timedelta(days=-3), timedelta(days=-1))
NOT_YET_VALID = (timedelta(days=1), timedelta(days=3))

Validity = tuple[timedelta, timedelta]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, each in its file."""

    certificate_file: Path
    key_file: Path

    def replace(self, other: Issued) -> None:
        """Put another certificate in the place of this one, as an operator would."""
        _write_key(self.key_file, other.key_file.read_bytes())
        self.certificate_file.write_bytes(other.certificate_file.read_bytes())


class Authority:
    """A CA; one with an `issuer` is an intermediate CA, and sends its own certificate along."""

    def __init__(
        self, folder: Path, name: str = "ca", *, issuer: Authority | None = None, valid: Validity = VALID
    ) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test {name}")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        parent = issuer or self
        self.certificate = (
            _builder(self.name, parent.name, self.key, valid)
            .add_extension(constraints, critical=True)
            .sign(parent.key, hashes.SHA256())
        )
        self.chain: list[x509.Certificate] = [self.certificate, *issuer.chain] if issuer else []
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        file: str,
        *,
        common_name: str = "",
        dns: Sequence[str] = (),
        uris: Sequence[str] = (),
        valid: Validity = VALID,
        usage: ObjectIdentifier | None = None,
    ) -> Issued:
        """A certificate, its chain and its key, in `file`.pem and `file`.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = _builder(subject, self.name, key, valid)
        names = [*map(x509.DNSName, dns), *map(x509.UniformResourceIdentifier, uris)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return self._written(file, builder.sign(self.key, hashes.SHA256()), key, self.chain)

    def self_signed(self, file: str, *, common_name: str, dns: Sequence[str] = ()) -> Issued:
        """A certificate that no CA has signed, in this CA's folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(subject, subject, key, VALID)
        if dns:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, dns)]), critical=False)
        return self._written(file, builder.sign(key, hashes.SHA256()), key, [])

    def _written(
        self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]
    ) -> Issued:
        issued = Issued(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        issued.certificate_file.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in [certificate, *chain]))
        _write_key(issued.key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return issued


def server(issued: Issued, client_ca: Authority | None = None, **settings: bool) -> ReloadableServerContext:
    """The gateway's end of a listener's line."""
    return server_context(
        TlsServerSettings(
            certificate_file=issued.certificate_file,
            key_file=issued.key_file,
            client_ca_file=client_ca.ca_file if client_ca is not None else None,
            **settings,
        )
    )


def client(trusted: Authority, shown: Issued | None = None) -> ssl.SSLContext:
    """A terminal's end, which trusts a CA and shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(trusted.ca_file)
    if shown is not None:
        context.load_cert_chain(shown.certificate_file, shown.key_file)
    return context


def only_tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make a context of the kind that this gateway no longer speaks with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def tls_contexts(folder: Path) -> tuple[ReloadableServerContext, ssl.SSLContext]:
    """Contexts of a server called "localhost" and of a client that trusts it; clients show no certificate."""
    authority = Authority(folder)
    return server(authority.issue("localhost", dns=["localhost"])), client(authority)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid: Validity
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0])
        .not_valid_after(now + valid[1])
    )


def _write_key(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
