"""Lines that can be trusted: TLS contexts from files, their reload, the terminals that a certificate names.

Whoever listens or connects takes `server_context` or `client_context` and hands it to asyncio or aiohttp as any other
`ssl.SSLContext`. Revocation lists are out of scope: take a certificate back by changing the CA, or let it expire.
"""

from gateway.tls.contexts import (
    ReloadableClientContext,
    ReloadableContext,
    ReloadableServerContext,
    client_context,
    server_context,
)
from gateway.tls.files import TlsClientSettings, TlsError, TlsMistake, TlsServerSettings, mistakes_of
from gateway.tls.names import TerminalNames, terminal_names
from gateway.tls.refusals import Refusal, refusal_of
from gateway.tls.watch import CertificateWatch

__all__ = [
    "CertificateWatch",
    "Refusal",
    "ReloadableClientContext",
    "ReloadableContext",
    "ReloadableServerContext",
    "TerminalNames",
    "TlsClientSettings",
    "TlsError",
    "TlsMistake",
    "TlsServerSettings",
    "client_context",
    "mistakes_of",
    "refusal_of",
    "server_context",
    "terminal_names",
]
