"""One HTTP connection: aiohttp's protocol inside, and outside it the clock that aiohttp does not have.

aiohttp waits for ever for the rest of a head, and for a peer that takes its answer a byte at a time. Here each phase of
a connection has its deadline, looked at by the listener's sweep: no timer and no task per connection.

What is sent most, a sale in one piece and of plain form (http_head.py), does not go through aiohttp: the listener takes
it as it is, and answers in bytes. That is done only while aiohttp has nothing of this connection in hand, so that both
always agree where a request begins.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Any, Final, Protocol, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from gateway.terminals.accepting import Accepted
from gateway.terminals.http_answers import Made
from gateway.terminals.http_head import Plain, plain_request
from gateway.terminals.http_settings import HttpCount, HttpListenerSettings
from gateway.tls import TerminalNames
from protocol.http_api import ProblemKind

# aiohttp logs what it cannot parse, bytes and all; those may be a card number. What matters is reported by us.
_SILENT: Final = logging.getLogger("gateway.terminals.http.aiohttp")
_SILENT.addFilter(lambda _: False)

_NEVER_S: Final = 10.0 * 365 * 86_400
"""aiohttp's own time limit for silence. It does not know of what does not go through it; the sweep does."""


class Phase(Enum):
    """What a connection is doing. Each names whose time it takes."""

    IDLE = auto()  # between requests: the peer's
    HEAD = auto()  # a head has begun: the peer's
    SERVING = auto()  # the head was complete: the handler's, who has its own deadlines for body and outcome
    WRITING = auto()  # the answer is being taken: the peer's


# Names of what every request passes through: a member of an enumeration costs ten times as much to come by.
_IDLE: Final = Phase.IDLE
_SERVING: Final = Phase.SERVING
_WRITING: Final = Phase.WRITING


class ConnectionOwner(Protocol):
    """The listener, as its connections see it."""

    def certified(self, transport: asyncio.BaseTransport) -> TerminalNames | None:
        """The terminals that a new connection's certificate speaks for; None where it has shown none."""

    def opened(self, connection: HttpConnection) -> None:
        """A connection is there."""

    def lost(self, connection: HttpConnection) -> None:
        """The connection is gone."""

    def takes(self, plain: Plain) -> bool:
        """Whether a request is one for `take`."""

    def take(self, connection: HttpConnection, plain: Plain) -> None:
        """A request that `HttpConnection.answer` must be called for, once; from within this call or later."""

    def refuse(self, kind: ProblemKind, detail: str, reason: str, peer: str) -> Made:
        """Count and report a problem that was found outside of any handler; returns the answer."""

    def complete(self, response: web.StreamResponse) -> None:
        """Put on what every answer carries."""


class HttpConnection(Accepted):
    """Passes everything on to aiohttp, and knows which phase the connection is in.

    Attributes:
        address, name: of the peer: "192.0.2.7", and "192.0.2.7:40312" for reports.
        certified: what its certificate says it may speak for, by `ConnectionOwner.certified`.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        settings: HttpListenerSettings,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        peer: tuple[str, str],
    ) -> None:
        self.address, self.name = peer
        self.certified: TerminalNames | None = None
        self._owner = owner
        self._settings = settings
        self._loop = loop
        self._inner = Exchange(self, owner, settings, server, loop)
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.IDLE
        self._since_ms = 0
        self._more = False
        self._taken = False  # a request of this connection is with the listener, not with aiohttp
        self._aligned = True  # the next byte for aiohttp begins a request; once that is not sure, it stays so
        self._held = b""
        self._paused = False
        self._passed = 0  # bytes that aiohttp was given since it served the newest request
        self._deaf = False

    # --- called by listener and handlers ---------------------------------------------------------------------------

    def serving(self) -> None:
        """A request's head is complete."""
        self._passed = 0
        self._enter(Phase.SERVING)

    def body_complete(self) -> None:
        """What comes from here on is the next request."""
        self._passed = 0
        self._more = False

    def writing(self) -> None:
        """The answer begins to be written."""
        self._enter(Phase.WRITING)

    def written(self) -> None:
        """The answer has been taken, or the peer has gone."""
        self._enter(Phase.HEAD if self._more else Phase.IDLE)
        self._more = False
        if self._deaf and self._transport is not None:
            self._transport.close()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection's transport; None once it is gone."""
        return self._transport

    def answer(self, answer: bytes, *, last: bool) -> None:
        """Answer what the listener has taken; nothing happens where the peer has gone. `last`: close behind it."""
        transport = self._transport
        if transport is None:
            return
        self._phase = _WRITING
        self._since_ms = int(self._loop.time() * 1000)
        transport.write(answer)
        if last:
            transport.close()
        elif not self._paused:
            self._answered()

    def _answered(self) -> None:
        """The peer takes its answer: what it has sent meanwhile is its next request."""
        self._taken = False
        self._phase = _IDLE
        if self._held:
            held, self._held = self._held, b""
            if self._transport is not None:
                self._transport.resume_reading()
            self.data_received(held)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close where no request is under way."""
        if self._transport is not None and self._phase in {Phase.IDLE, Phase.HEAD}:
            self._since_ms = self._now_ms()
            self._transport.close()

    def overdue(self, now_ms: int) -> HttpCount | None:
        """Which of the peer's deadlines has passed, if any."""
        if self._transport is None:
            return None
        settings, spent_ms = self._settings, now_ms - self._since_ms
        if self._transport.is_closing():
            late = self._phase is not Phase.SERVING and spent_ms > settings.close_timeout_ms
            return HttpCount.CLOSED_WRITE_TIMEOUT if late else None
        if self._phase is Phase.HEAD and spent_ms > settings.head_timeout_ms:
            return HttpCount.CLOSED_HEAD_TIMEOUT
        if self._phase is Phase.IDLE and spent_ms > settings.idle_timeout_ms:
            return HttpCount.CLOSED_IDLE
        if self._phase is Phase.WRITING and spent_ms > settings.write_timeout_ms:
            return HttpCount.CLOSED_WRITE_TIMEOUT
        return None

    # --- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self._transport = cast("asyncio.Transport", transport)
        self.certified = self._owner.certified(transport)
        self._enter(Phase.IDLE)
        self._owner.opened(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._taken:
            self._hold(data)
            return
        if self._phase is not _IDLE:
            self._more = True
            self._aligned = False
        elif self._aligned:
            settings = self._settings
            plain = plain_request(data, settings.line_bytes_max, settings.headers_max)
            if plain is not None and self._owner.takes(plain):
                self._taken = True
                self._phase = _SERVING
                self._owner.take(self, plain)
                return
            self._aligned = plain is not None
            self._enter(Phase.HEAD)
        else:
            self._enter(Phase.HEAD)
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        """Give aiohttp what it is to read, of a request so much and no more.

        It would go on with a body that it has refused, and a chunk of one byte costs it more than a byte of six: what
        comes behind the longest request is read and forgotten, and the connection closed behind the answer (INV-9).
        """
        self._passed += len(data)
        self._deaf = self._deaf or self._passed > self._settings.request_bytes_max
        if not self._deaf:
            self._inner.data_received(data)

    def _hold(self, data: bytes) -> None:
        """Keep what comes before the answer has gone out. No more is read until then, so that it stays little."""
        if not self._held and self._transport is not None:
            self._transport.pause_reading()
        self._held += data

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._paused = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self._inner.resume_writing()
        if self._taken and self._phase is Phase.WRITING:
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._held = b""
        self._inner.connection_lost(exc)
        del self._inner  # it holds this connection: both would lie about until a full collection, which is far
        self._owner.lost(self)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since_ms = self._now_ms()

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)


class Exchange(RequestHandler):
    """aiohttp's protocol, which tells its connection where it is, and answers problem details for what it refuses."""

    __slots__ = ("_broken", "_owner", "line")

    def __init__(
        self,
        line: HttpConnection,
        owner: ConnectionOwner,
        settings: HttpListenerSettings,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=_NEVER_S,
            tcp_keepalive=False,  # the acceptor has switched it on
            logger=_SILENT,
            access_log=None,  # type: ignore[arg-type]  # as aiohttp documents it
            max_line_size=settings.line_bytes_max,
            max_field_size=settings.line_bytes_max,
            max_headers=settings.headers_max,
            lingering_time=1.0,  # else a refusal may be lost in the reset that unread bytes cause
            auto_decompress=False,
        )
        self.line = line
        self._owner = owner
        self._broken = False

    def data_received(self, data: bytes) -> None:
        """Read no further behind what is no HTTP: aiohttp would keep an error of each read for as long as the request
        before it is being served (INV-9)."""
        if self._broken:
            return
        super().data_received(data)
        self._broken = bool(self._messages) and not isinstance(self._messages[-1][0], RawRequestMessage)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of what refers back to this: memory of what is gone would grow with whoever connects (INV-9)."""
        loop = self._loop
        super().connection_lost(exc)
        self._keepalive_handle = None
        self._message_tail = b""
        loop.call_soon(self._messages.clear)  # behind the turn of whoever has been told that there is one

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer. What aiohttp raises by itself (an Expect that it does not know) becomes a problem too."""
        if isinstance(resp, web.HTTPException):
            resp = self._owner.refuse(
                ProblemKind.INVALID_REQUEST, "a header of the request is not taken", str(resp.status), self.line.name
            ).response()
            resp.force_close()
        self._owner.complete(resp)
        self.line.writing()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.line.written()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - holds what the peer sent
    ) -> web.StreamResponse:
        """Answer what is no HTTP, without a word of what it was, and close."""
        reason = type(exc).__name__
        forget_frames(exc)
        if status >= 500:
            kind, detail = ProblemKind.INTERNAL, "the gateway's log says more"
        elif isinstance(exc, LineTooLong):
            kind, detail = ProblemKind.HEADERS_TOO_LARGE, "send shorter lines, and fewer"
        else:
            kind, detail = ProblemKind.MALFORMED_HTTP, "HTTP/1.1 is expected"
        response = self._owner.refuse(kind, detail, reason, self.line.name).response()
        response.force_close()
        return response


def forget_frames(error: BaseException | None) -> None:
    """Have an error that was dealt with refer to no frames: they refer to the request, which may refer to it."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def connection_of(request: web.BaseRequest) -> HttpConnection:
    """The connection that a request came by."""
    exchange: Any = request.protocol
    assert isinstance(exchange, Exchange)
    return exchange.line
