"""TLS contexts that can be given new files while connections are open.

TLS 1.2 and 1.3 only, with forward secrecy and authenticated encryption; no compression, no renegotiation, no session
tickets (a terminal keeps its connection, and each new one is to show its certificate again).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from gateway.tls.files import TlsClientSettings, TlsError, TlsMistake, TlsServerSettings, mistakes_of, own_certificates
from gateway.tls.names import TerminalNames, terminal_names

_CIPHERS_TLS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"

_Stamp = tuple[int, int, int] | None


class ReloadableContext(ssl.SSLContext):
    """An SSLContext whose handshakes use the newest good files; connections that are open go on with what they have.

    asyncio, uvloop and aiohttp call `wrap_bio` once for each connection; it is passed on to the context of the day.
    A whole new context is made for each reload, so that nothing of a CA that was taken away stays behind. The base
    object itself holds no certificate: a handshake that went past `wrap_bio` could only fail.

    Attributes:
        settings: the files, and what is asked of the peer.
        expires: when the first certificate shown by this side ends; None where it shows none.
    """

    settings: TlsServerSettings | TlsClientSettings
    expires: datetime | None
    _current: ssl.SSLContext
    _stamps: tuple[_Stamp, ...]

    def reload(self, *, force: bool = False) -> bool:
        """Use what the files hold now, if they have changed since the last look, or in any case.

        Returns:
            Whether new handshakes use a new context.
        Raises:
            TlsError: the files are wrong; the context that was in use stays in use. Not raised again before the files
                change again, unless forced.
        """
        stamps = tuple(map(_stamp, self.settings.files))
        if not force and stamps == self._stamps:
            return False
        self._stamps = stamps  # taken before reading: what changes from here on is seen at the next look
        mistakes = mistakes_of(self.settings)
        if mistakes:
            raise TlsError(mistakes)
        try:
            self._current = self._made()
            self.expires = self._end()
        except ssl.SSLError as error:  # beyond our own checks, such as a key too short for OpenSSL
            text = f"is refused by OpenSSL ({error.reason}); a certificate and key of present strength"
            raise TlsError([TlsMistake("certificate_file", text)]) from error
        except (OSError, ValueError) as error:  # changed between check and use
            raise TlsError([TlsMistake("certificate_file", "changed while it was read; it is tried again")]) from error
        return True

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """A connection's TLS, by the newest good files."""
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _made(self) -> ssl.SSLContext:
        """A new context from the files. Raises: OSError, ssl.SSLError."""
        raise NotImplementedError

    def _end(self) -> datetime | None:
        """When the first of the certificates shown by this side ends."""
        path = self.settings.certificate_file
        return None if path is None else min(one.not_valid_after_utc for one in own_certificates(path))

    def _first(self) -> Self:
        self._stamps = ()
        self.reload(force=True)
        return self


class ReloadableServerContext(ReloadableContext):
    """A listener's context."""

    settings: TlsServerSettings

    def __new__(cls, settings: TlsServerSettings) -> Self:
        """Read the files. Raises: TlsError with every mistake."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made.settings = settings
        return made._first()

    def names_of(self, peercert: Mapping[str, Any] | None) -> TerminalNames | None:
        """The terminals that a connection may speak for; None where it is not bound to any.

        Args:
            peercert: the transport's extra "peercert", once the handshake is over.
        """
        settings = self.settings
        if settings.client_ca_file is None or not settings.bind_terminal_ids:
            return None
        if not peercert:
            # Only where certificates are optional; a handshake that needs one has failed already.
            return TerminalNames() if settings.require_client_certificate else None
        return terminal_names(peercert, allow_wildcard=settings.allow_wildcard)

    def _made(self) -> ssl.SSLContext:
        settings = self.settings
        context = _hardened(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.certificate_file, settings.key_file)
        if settings.client_ca_file is not None:
            context.load_verify_locations(settings.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_OPTIONAL
        return context


class ReloadableClientContext(ReloadableContext):
    """A context towards a host: its certificate and its name are always verified."""

    settings: TlsClientSettings

    def __new__(cls, settings: TlsClientSettings) -> Self:
        """Read the files. Raises: TlsError with every mistake."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made.settings = settings
        return made._first()

    def _made(self) -> ssl.SSLContext:
        settings = self.settings
        context = _hardened(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name by itself
        context.hostname_checks_common_name = False  # a name counts as an alternative name only (RFC 9525)
        if settings.ca_file is not None:
            context.load_verify_locations(settings.ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
        return context


def server_context(settings: TlsServerSettings) -> ReloadableServerContext:
    """A listener's context, to be given to asyncio or aiohttp. Raises: TlsError with every mistake in the files."""
    return ReloadableServerContext(settings)


def client_context(settings: TlsClientSettings) -> ReloadableClientContext:
    """A context towards a host, likewise; connect with `server_hostname=settings.server_name` where that is set.

    Raises: TlsError with every mistake in the files.
    """
    return ReloadableClientContext(settings)


def _hardened(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_TLS_1_2)  # those of TLS 1.3 are all as they should be
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # What the CA file holds is trusted as it stands, also an intermediate CA alone, or the one certificate of a host.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # of TLS 1.3
    return context


def _stamp(path: Path) -> _Stamp:
    """What changes when a file is written or replaced, also behind a symbolic link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def days_left(expires: datetime, utc_ms: int) -> int:
    """Whole days until a certificate ends; negative once it has."""
    return (expires - datetime.fromtimestamp(utc_ms / 1000, UTC)).days
