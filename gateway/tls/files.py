"""The files of a line: which there are, and everything that is wrong with them, told before they are used."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

_ORDER = "the own certificate first, then each that issued the one before it"
_KEY_RIGHT = "the unencrypted PEM key of the certificate, mode 0600"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsServerSettings:
    """A listener's line.

    Attributes:
        certificate_file: PEM, the gateway's own certificate first, then its issuers.
        key_file: PEM, unencrypted, readable by its owner only.
        client_ca_file: PEM of the CAs that issue terminals' certificates; None asks terminals for none.
        require_client_certificate: refuse the handshake of a terminal without certificate (mutual TLS). If not, one
            without is taken and bound to nothing.
        bind_terminal_ids: whether a certificate speaks for the terminal ids that it names only.
        allow_wildcard: whether a certificate may name every terminal, as `holdfast:terminal:*`.
    """

    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    require_client_certificate: bool = True
    bind_terminal_ids: bool = True
    allow_wildcard: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return tuple(path for path in (self.certificate_file, self.key_file, self.client_ca_file) if path is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsClientSettings:
    """A line to a host.

    Attributes:
        ca_file: PEM of the CAs (or of the very certificate) that the host must show; None for the system's CAs.
        certificate_file, key_file: shown to a host that asks for a certificate; both or neither.
        server_name: name that the host's certificate must carry; empty for the name that is connected to.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return tuple(path for path in (self.ca_file, self.certificate_file, self.key_file) if path is not None)


@dataclass(frozen=True, slots=True)
class TlsMistake:
    """What is wrong with one setting, and what would be right.

    Attributes:
        key: the name of the setting: `certificate_file`.
        text: "is wrong so; what would be right". Holds no content of a key.
    """

    key: str
    text: str


class TlsError(Exception):
    """The files of a line cannot be used; all mistakes at once."""

    def __init__(self, mistakes: Sequence[TlsMistake]) -> None:
        super().__init__("; ".join(f"{mistake.key} {mistake.text}" for mistake in mistakes))
        self.mistakes = tuple(mistakes)


def mistakes_of(settings: TlsServerSettings | TlsClientSettings, now: datetime | None = None) -> list[TlsMistake]:
    """Everything that is wrong with a line's files at `now`, by default the present.

    Read: existence, PEM, validity, order of the chain, purpose, key's mode, key fits certificate.
    """
    now = now or datetime.now(UTC)
    if isinstance(settings, TlsServerSettings):
        found = list(_own(settings.certificate_file, settings.key_file, now, ExtendedKeyUsageOID.SERVER_AUTH))
        if settings.client_ca_file is not None:
            found += _authorities("client_ca_file", settings.client_ca_file, now, leaf_allowed=False)
        return found
    found = []
    certificate, key = settings.certificate_file, settings.key_file
    if certificate is not None and key is not None:
        found += _own(certificate, key, now, ExtendedKeyUsageOID.CLIENT_AUTH)
    elif certificate is not None:
        found.append(TlsMistake("key_file", f"is missing beside certificate_file; {_KEY_RIGHT}"))
    elif key is not None:
        found.append(TlsMistake("certificate_file", "is missing beside key_file; the PEM certificate of that key"))
    if settings.ca_file is not None:
        found += _authorities("ca_file", settings.ca_file, now, leaf_allowed=True)
    return found


def own_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, in order. Raises: OSError, ValueError when it holds none."""
    return x509.load_pem_x509_certificates(path.read_bytes())


def _certificates(key: str, path: Path, right: str) -> list[x509.Certificate] | TlsMistake:
    try:
        return own_certificates(path)
    except OSError as error:
        return TlsMistake(key, f"cannot be read: {error.strerror}; {right}")
    except ValueError:
        return TlsMistake(key, f"holds no PEM certificate; {right}")


def _own(certificate_file: Path, key_file: Path, now: datetime, purpose: ObjectIdentifier) -> Iterator[TlsMistake]:
    """Mistakes in a certificate, its chain and its key."""
    chain = _certificates("certificate_file", certificate_file, f"a PEM file, {_ORDER}")
    public = _public_key(key_file)
    if isinstance(public, TlsMistake):
        yield public
    if isinstance(chain, TlsMistake):
        yield chain
        return
    for number, certificate in enumerate(chain, 1):
        if wrong := _outside_validity(certificate, now):
            yield TlsMistake("certificate_file", f"is out of date: certificate {number} {wrong}; a renewed one")
    for number, (certificate, issuer) in enumerate(itertools.pairwise(chain), 1):
        if not _issued(certificate, issuer):
            text = f"is no chain: certificate {number + 1} did not issue certificate {number}; {_ORDER}"
            yield TlsMistake("certificate_file", text)
    if not _serves(chain[0], purpose):
        side = "servers" if purpose == ExtendedKeyUsageOID.SERVER_AUTH else "clients"
        text = f"may not be used by {side} (extended key usage); a certificate issued for {side}"
        yield TlsMistake("certificate_file", text)
    if isinstance(public, bytes) and public != _spki(chain[0]):
        whose = " (it fits a later one: the order is wrong)" if public in map(_spki, chain[1:]) else ""
        text = f"is not the key of the first certificate in certificate_file{whose}; {_KEY_RIGHT}"
        yield TlsMistake("key_file", text)


def _public_key(path: Path) -> bytes | TlsMistake:
    """The public half of a key file that is as it should be."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        return TlsMistake("key_file", f"cannot be read: {error.strerror}; {_KEY_RIGHT}")
    if mode & 0o077:
        return TlsMistake("key_file", f"is open to others than its owner (mode {mode:04o}); chmod 600 it")
    try:
        return (
            load_pem_private_key(content, None)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except TypeError:
        return TlsMistake("key_file", f"is encrypted with a passphrase; {_KEY_RIGHT}")
    except ValueError:
        return TlsMistake("key_file", f"holds no PEM private key; {_KEY_RIGHT}")


def _authorities(key: str, path: Path, now: datetime, *, leaf_allowed: bool) -> Iterator[TlsMistake]:
    """Mistakes in a file of trusted certificates. Expired ones among others are normal while CAs change over."""
    found = _certificates(key, path, "a PEM file of CA certificates")
    if isinstance(found, TlsMistake):
        yield found
        return
    outside = [_outside_validity(certificate, now) for certificate in found]
    if all(outside):
        newest = max(range(len(found)), key=lambda number: found[number].not_valid_after_utc)
        yield TlsMistake(key, f"holds no valid certificate: the last {outside[newest]}; a present CA's")
    for number, certificate in enumerate(found, 1):
        if not leaf_allowed and not _is_authority(certificate):
            text = f"is not of CAs alone: certificate {number} is none's; the CAs that issue terminals' certificates"
            yield TlsMistake(key, text)


def _outside_validity(certificate: x509.Certificate, now: datetime) -> str:
    if now > (until := certificate.not_valid_after_utc):
        return f"expired on {until:%Y-%m-%d %H:%M} UTC"
    if now < (since := certificate.not_valid_before_utc):
        return f"is valid only from {since:%Y-%m-%d %H:%M} UTC"
    return ""


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        # Roots of version 1 have no extensions; OpenSSL takes them where they signed themselves.
        return certificate.version is x509.Version.v1 and certificate.issuer == certificate.subject
    except ValueError:
        return False


def _serves(certificate: x509.Certificate, purpose: ObjectIdentifier) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return purpose in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
