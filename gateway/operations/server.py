"""The operators' listener: its own address, its own limits; a slow or hostile client costs it little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web

from gateway.config.values import Address
from gateway.operations.disclosures import Disclosures
from gateway.operations.keys import Keys
from gateway.operations.routes import ACT_WAIT_S, Routes
from gateway.operations.settlements import Settlements
from gateway.operations.view import GatewayView

CONNECTIONS_MAX = 64
REQUEST_TIMEOUT_S = 15.0
_HEADER_BYTES_MAX = 4096
_HEADERS_MAX = 40


class OperationsServer:
    """Serves operators, probes and scrapes from one event loop.

    Each connection carries one request and is cut off after `request_timeout_s`, whatever it waits for: aiohttp itself
    does not defend against slow headers and bodies. Over `connections_max` a new connection is closed at once.
    """

    def __init__(
        self,
        view: GatewayView,
        listen: Address,
        token: str = "",
        *,
        keys: Keys | None = None,
        disclosures: Disclosures | None = None,
        settlements: Settlements | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        act_wait_s: float = ACT_WAIT_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._listen = listen
        self._timeout_s = request_timeout_s
        self._connections_max = connections_max
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._runner = web.AppRunner(
            Routes(view, listen, token, keys, disclosures, settlements, act_wait_s=act_wait_s).application(),
            handler_cancellation=False,  # an act that was handed over is carried out, whoever hangs up
            access_log=None,
            shutdown_timeout=2.0,
            max_line_size=_HEADER_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            max_headers=_HEADERS_MAX,
            lingering_time=0.0,
        )

    async def start(self) -> Address:
        """Listen; returns the real address (the port may have been 0).

        Raises:
            OSError: the address cannot be listened on.
        """
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, self._listen.host, self._listen.port
            )
        except OSError:
            await self._runner.cleanup()
            raise
        return Address(self._listen.host, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, give requests under way two seconds, close. Safe to call twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await self._runner.cleanup()
            for connection in list(self._open):
                connection.cut()

    def _connection(self) -> asyncio.Protocol:
        serve = self._runner.server
        return _Connection(
            cast("Callable[[], asyncio.Protocol]", serve)(), self._open, self._connections_max, self._timeout_s
        )


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and holds the clock and the door."""

    def __init__(
        self, inner: asyncio.Protocol, opened: set[_Connection], connections_max: int, timeout_s: float
    ) -> None:
        self._inner = inner
        self._opened = opened
        self._connections_max = connections_max
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turn away what is too many; start the clock."""
        self._inner.connection_made(transport)
        self._transport = cast("asyncio.Transport", transport)
        if len(self._opened) >= self._connections_max:
            self._transport.abort()
            return
        self._opened.add(self)
        self._deadline = asyncio.get_running_loop().call_later(self._timeout_s, self.cut)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._opened.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()

    def cut(self) -> None:
        """Close at once, without waiting for anyone."""
        if self._transport is not None:
            self._transport.abort()
