"""For which terminals a request may speak: by the connection's certificate, by its signature, or both (item 6).

Deny by default: without either, a request speaks for nobody, unless the listener is a demonstration on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.terminals.http_settings import HttpListenerSettings
from gateway.terminals.http_signatures import SCHEME, SecretOf, SignatureCheck, Signed
from gateway.tls import TerminalNames
from protocol.http_api import ProblemKind

EVERY_TERMINAL = TerminalNames(every=True)


class NotProved(Exception):
    """A request that speaks for nobody.

    Attributes:
        kind: UNAUTHENTICATED.
        detail: what would be right.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.kind = ProblemKind.UNAUTHENTICATED
        self.detail = detail


class Identities:
    """Tells for which terminals a request may speak.

    Attributes:
        by_certificate, by_signature: how a terminal can prove who it is here.
    """

    def __init__(self, settings: HttpListenerSettings, secret_of: SecretOf | None, utc_ms: Callable[[], int]) -> None:
        """`secret_of` gives the secrets that requests are signed with; None where none are.

        Raises:
            ValueError: nobody could prove who they are, and the settings do not say that nobody has to.
        """
        tls = settings.tls
        self._tls = tls if tls is not None and tls.settings.client_ca_file is not None else None
        self._open = settings.allow_unauthenticated
        self._signatures = None
        if secret_of is not None:
            self._signatures = SignatureCheck(
                secret_of,
                utc_ms,
                window_ms=settings.signature_window_ms,
                nonces_max=settings.nonces_max,
                nonces_per_terminal_max=settings.nonces_per_terminal_max,
            )
        self.by_certificate = self._tls is not None
        self.by_signature = self._signatures is not None
        if not (self.by_certificate or self.by_signature or self._open):
            raise ValueError(
                f"listener {settings.name}: terminals need client certificates or secrets for signatures, "
                "or, on loopback, allow_unauthenticated"
            )

    @property
    def nonces(self) -> int:
        """Nonces remembered."""
        return self._signatures.remembered if self._signatures is not None else 0

    def check(self, certified: TerminalNames | None, authorization: str, signed: Signed, now_ms: int) -> TerminalNames:
        """The terminals that a request may speak for; those of certificate and signature in common where it has both.

        Args:
            certified: what its connection's certificate says, by `certified`.
            authorization: the header; where there is none, see `check_unsigned`.
            now_ms: monotonic.
        Raises:
            SignatureRefused, NotProved: it may speak for none.
        """
        if self._signatures is None:
            return self.check_unsigned(certified)
        terminal = self._signatures.check(authorization, signed, now_ms)
        if certified is None or terminal in certified:
            return TerminalNames(frozenset({terminal}))
        return TerminalNames()

    def check_unsigned(self, certified: TerminalNames | None) -> TerminalNames:
        """The terminals that a request without an Authorization header may speak for. Raises: NotProved."""
        if certified is not None:
            return certified
        if self._open:
            return EVERY_TERMINAL
        ways = [f"an Authorization: {SCHEME} header"] if self.by_signature else []
        ways += ["a client certificate"] if self.by_certificate else []
        raise NotProved(f"send {' or '.join(ways)}")

    def certified(self, transport: asyncio.BaseTransport) -> TerminalNames | None:
        """The terminals that a connection's certificate speaks for, all where it is not bound to any.

        None where the connection has shown none. It holds for as long as the connection does.
        """
        if self._tls is None:
            return None
        certificate = transport.get_extra_info("peercert")
        if not certificate:
            return None
        names = self._tls.names_of(certificate)
        return EVERY_TERMINAL if names is None else names
