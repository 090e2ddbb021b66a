"""The tables that switch TLS on, for a listener and for the link to the acquirer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.keys import Section, key, number
from gateway.config.values import FilePath, OptionalFilePath, ServerName, Whole

if TYPE_CHECKING:
    from gateway.tls import TlsClientSettings, TlsServerSettings

_READ_AGAIN = "Read again when it changes, and on SIGHUP."


class TerminalsTlsSection(Section):
    """With this table only TLS 1.2 and 1.3 are spoken on this listener. Revocation lists are not looked at."""

    certificate_file: FilePath = key(
        f"The gateway's certificate, followed by its issuers' except the root's. {_READ_AGAIN}",
        right="the path of a PEM file, the gateway's own certificate first",
        example="tls/gateway.pem",
    )
    key_file: FilePath = key(
        f"The certificate's key, unencrypted, mode 0600. {_READ_AGAIN}",
        right="the path of a PEM file that its owner alone can read",
        example="tls/gateway.key",
    )
    client_ca_file: OptionalFilePath = key(
        f"CAs that issue the terminals' certificates (mutual TLS); empty asks terminals for none. {_READ_AGAIN}",
        "",
        right="the path of a PEM file of CA certificates, or empty",
    )
    require_client_certificate: bool = key(
        "Whether a terminal without certificate is refused. If not, one without may speak for any terminal id.",
        True,
        right="true or false",
    )
    bind_terminal_ids: bool = key(
        "Whether a certificate speaks only for the terminal ids that it names: as common name or as an alternative "
        "name URI:holdfast:terminal:ID. A message of another id is answered 58.",
        True,
        right="true or false",
    )
    allow_wildcard: bool = key(
        "Whether a certificate with URI:holdfast:terminal:* speaks for every terminal (a concentrator's).",
        False,
        right="true or false",
    )
    handshake_timeout_ms: Whole = number("How long a handshake may take.", 5000, 100, 60_000, "ms")
    handshakes_max: Whole = number(
        "Most handshakes under way at once; the next connection is closed at once.", 1000, 1, 100_000, "handshakes"
    )


class AcquirerTlsSection(Section):
    """With this table the host is reached by TLS 1.2 or 1.3 only, and not before its certificate is verified."""

    ca_file: OptionalFilePath = key(
        f"CAs (or the one certificate) that the host's must come from; empty for the system's. {_READ_AGAIN}",
        "",
        right="the path of a PEM file of certificates, or empty",
    )
    certificate_file: OptionalFilePath = key(
        f"Certificate that the gateway shows to the host, followed by its issuers'; empty for none. {_READ_AGAIN}",
        "",
        right="the path of a PEM file, the gateway's own certificate first, or empty",
    )
    key_file: OptionalFilePath = key(
        f"That certificate's key, unencrypted, mode 0600. {_READ_AGAIN}",
        "",
        right="the path of a PEM file that its owner alone can read, or empty",
    )
    server_name: ServerName = key(
        "Alternative name that the host's certificate must carry; empty for the name or address in `endpoints`.",
        "",
        right="a host name or address, or empty",
    )


def tls_server_settings(section: TerminalsTlsSection) -> TlsServerSettings:
    """A listener's line, in the terms of gateway.tls."""
    from gateway.tls import TlsServerSettings  # noqa: PLC0415 - cryptography is slow to import, and most need no TLS

    return TlsServerSettings(
        certificate_file=section.certificate_file,
        key_file=section.key_file,
        client_ca_file=section.client_ca_file,
        require_client_certificate=section.require_client_certificate,
        bind_terminal_ids=section.bind_terminal_ids,
        allow_wildcard=section.allow_wildcard,
    )


def tls_client_settings(section: AcquirerTlsSection) -> TlsClientSettings:
    """The line to the acquirer, likewise."""
    from gateway.tls import TlsClientSettings  # noqa: PLC0415 - as above

    return TlsClientSettings(
        ca_file=section.ca_file,
        certificate_file=section.certificate_file,
        key_file=section.key_file,
        server_name=section.server_name,
    )
