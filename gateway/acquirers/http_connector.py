"""Where bytes begin to leave: aiohttp's connector with a gate in it.

Whether a byte may have left is decided in one place, `Gate`: the connector passes it at the moment at which it hands
a connection over to be written to. What fails before is not sent, for certain; what fails after is in doubt (D6). The
gate lets each request through once, so that nothing a library retries by itself reaches the host (D7).

aiohttp keeps what a host sends behind a response, and would take it for the response to the next request over that
connection. So a connection on which something has come unasked is never used again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace


class WithdrawnError(aiohttp.ClientConnectionError):
    """The gate was closed: the send is settled already, or has been through once."""


class Gate:
    """Passed once per request, when a connection is about to be written to."""

    def __init__(self, may_write: Callable[[], bool], is_late: Callable[[], bool]) -> None:
        self._may_write = may_write
        self.is_late = is_late
        self.passed = False

    def go_through(self) -> None:
        """From here on the request may have left. Raises: WithdrawnError, and nothing may be written."""
        if self.passed or not self._may_write():
            raise WithdrawnError("this request may not be written")
        self.passed = True


_GATE: ContextVar[Gate] = ContextVar("gate")


def through_gate(gate: Gate) -> None:
    """Let the next request of this task go through `gate`: each exchange has a task of its own."""
    _GATE.set(gate)


class Connector(aiohttp.TCPConnector):
    """Hands connections over through the gate, and knows what came over them unasked."""

    def __init__(self, on_stray: Callable[[bool], None], *, reuse_idle_ms: int) -> None:
        if reuse_idle_ms:
            super().__init__(limit=0, keepalive_timeout=reuse_idle_ms / 1000)
        else:
            super().__init__(limit=0, force_close=True)
        self._on_stray = on_stray
        self._idle: dict[ResponseHandler, bool] = {}  # whether its last response was late

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own
    ) -> Connection:
        """A connection for a request, clean, through the gate."""
        gate = _GATE.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not self._taken_clean(protocol):
                connection.close()
                continue
            try:
                gate.go_through()
            except WithdrawnError:
                connection.close()
                raise
            connection.add_callback(partial(self._released, protocol, gate.is_late))
            return connection

    def sweep(self) -> None:
        """Count and close idle connections on which something came; forget closed ones."""
        for protocol in list(self._idle):
            if not self._is_stray(protocol):
                if not protocol.is_connected():
                    del self._idle[protocol]
                continue
            self._on_stray(self._idle.pop(protocol))
            protocol.abort()

    @staticmethod
    def _is_stray(protocol: ResponseHandler) -> bool:
        return len(protocol) > 0

    def _taken_clean(self, protocol: ResponseHandler) -> bool:
        late = self._idle.pop(protocol, False)
        if self._is_stray(protocol):
            self._on_stray(late)
        return not protocol.should_close

    def _released(self, protocol: ResponseHandler, is_late: Callable[[], bool]) -> None:
        """A response has been read, or given up: look at what stands behind it."""
        if self._is_stray(protocol):
            self._on_stray(is_late())
        elif protocol.is_connected():
            self._idle[protocol] = is_late()
