"""The watch: a connection to an HTTP host on which nothing is asked, to hear of an outage without asking."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Final, cast

import aiohttp

from gateway.acquirers.http_settings import HttpLinkSettings
from gateway.acquirers.settings import EndpointSettings
from gateway.tls import refusal_of

_OPTIONS: Final[tuple[tuple[int | None, str], ...]] = (
    (getattr(socket, "TCP_KEEPIDLE", None), "keepalive_idle_s"),
    (getattr(socket, "TCP_KEEPINTVL", None), "keepalive_interval_s"),
    (getattr(socket, "TCP_KEEPCNT", None), "keepalive_count"),
)
"""Not every system has each of them; what is missing is left at the system's default."""

_RESETS: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})

_UNASKED_MAX_BYTES: Final = 65_536
"""A host may say that it got no request before it hangs up; one that says more is hung up on."""


class EndpointDownError(Exception):
    """No connection, or not for long: try again after a pause. `reason` is out of a small set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Watch(asyncio.Protocol):
    """A connection that is told when it is gone."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._unasked_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unasked_bytes += len(data)
        if self._unasked_bytes > _UNASKED_MAX_BYTES:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's own
        self._transport = None
        self.gone.set()

    def close(self) -> None:
        """Hang up in order; nothing happens where it is gone already."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()


async def open_watch(endpoint: EndpointSettings, link: HttpLinkSettings) -> Watch:
    """Connect, with TLS where the endpoint has it, within `connect_timeout_ms`.

    Raises:
        EndpointDownError: it could not be done.
    Cancellation: nothing stays open.
    """
    tls = endpoint.tls
    try:
        async with asyncio.timeout(link.connect_timeout_ms / 1000):
            transport, watch = await asyncio.get_running_loop().create_connection(
                Watch, endpoint.host, endpoint.port, ssl=tls,
                server_hostname=(endpoint.server_hostname or endpoint.host) if tls is not None else None,
                ssl_shutdown_timeout=link.close_timeout_ms / 1000 if tls is not None else None,
            )  # fmt: skip
    except OSError as error:  # also every TimeoutError
        raise EndpointDownError(reason_of(error)) from error
    _set_options(transport.get_extra_info("socket"), link)
    return watch


def _set_options(sock: socket.socket | None, link: HttpLinkSettings) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, name in _OPTIONS:
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, getattr(link, name))


def reason_of(error: BaseException) -> str:
    """A reason out of a small fixed set, so that reports can be limited by it; nothing that the host has said."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, OSError) and error.errno in _RESETS:  # aiohttp has classes of its own for these
        return "reset"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError):
        return f"tls: {refusal_of(error).text}"
    if isinstance(error, socket.gaierror):
        return "name not found"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed by the host"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "broke off within the answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "not HTTP"
    return "failed"
