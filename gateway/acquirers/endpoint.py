"""One endpoint of an acquirer: a TCP connection that is kept up, with its limits and numbers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from gateway.acquirers.port import EndpointState, EndpointStatus
from gateway.acquirers.settings import EndpointSettings, LinkSettings
from gateway.tls import refusal_of
from protocol.framing import FrameReader, Framing, FramingError, KeepAliveFloodError

# Not every system has each of them; what is missing is left at the system's default.
_KEEPALIVE_IDLE: Final[int | None] = getattr(socket, "TCP_KEEPIDLE", None)
_KEEPALIVE_INTERVAL: Final[int | None] = getattr(socket, "TCP_KEEPINTVL", None)
_KEEPALIVE_COUNT: Final[int | None] = getattr(socket, "TCP_KEEPCNT", None)
_UNACKNOWLEDGED: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)

_FRAMES_PER_TURN: Final = 64
"""The rest of what one read brought waits for the next turn of the loop, so that terminals come in between."""

_KEEPALIVES_PER_S: Final = 100
"""A host that sends more is hung up on: reading them would keep everybody else from being served."""

_SECOND_MS: Final = 1_000


class EndpointDownError(Exception):
    """No connection, or not for long: try again after a pause."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class EndpointOwner(Protocol):
    """The link, as its endpoints see it. Every call is made on the event loop's thread."""

    def opened(self, endpoint: Endpoint) -> None:
        """A connection is there."""

    def received(self, endpoint: Endpoint, frame: bytes) -> None:
        """A frame has come."""

    def lost(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """The connection is gone; what was in flight on it is in doubt."""

    def connect_failed(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """An attempt to connect has failed."""


class Endpoint:
    """Keeps one connection up, from `start` until `close`.

    Attributes:
        in_flight, sent, answered, timed_out: kept by the owner.
        echo_second, echoes: the owner's count of echo tests answered in the present second.
    """

    def __init__(
        self,
        index: int,
        settings: EndpointSettings,
        link: LinkSettings,
        *,
        framing: Framing,
        owner: EndpointOwner,
        mono_ms: Callable[[], int],
    ) -> None:
        self.index = index
        self.name = settings.name
        self.in_flight = 0
        self.sent = 0
        self.answered = 0
        self.timed_out = 0
        self.echo_second = 0
        self.echoes = 0
        self._settings = settings
        self._link = link
        self._framing = framing
        self._owner = owner
        self._mono_ms = mono_ms
        self._state = EndpointState.WAITING
        self._since_ms = mono_ms()
        self._last_error = ""
        self._connection: _Connection | None = None
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not begun to close."""
        connection = self._connection
        return connection is not None and not connection.closing

    @property
    def has_room(self) -> bool:
        """Whether a message may be written now."""
        connection = self._connection
        return (
            connection is not None
            and not connection.closing
            and not connection.congested
            and self.in_flight < self._link.in_flight_max
        )

    def start(self) -> None:
        """Begin to connect."""
        self._upkeep = asyncio.get_running_loop().create_task(self._keep_up(), name=f"endpoint {self.name}")
        self._upkeep.add_done_callback(self._upkeep_ended)

    def write(self, data: bytes) -> None:
        """Hand bytes to the connection. From here on they may have left, whatever follows (D6)."""
        if self._connection is None:
            raise RuntimeError("write without a connection")
        self._connection.write(data)

    def sweep(self, now_ms: int) -> None:
        """Close the connection when the host leaves a frame incomplete for too long."""
        if self._connection is not None and self._connection.overdue(now_ms):
            self._connection.abort("frame incomplete")

    def status(self) -> EndpointStatus:
        """Numbers for status pages."""
        return EndpointStatus(
            name=self.name,
            state=self._state,
            since_ms=self._since_ms,
            last_error=self._last_error,
            in_flight=self.in_flight,
            sent=self.sent,
            answered=self.answered,
            timed_out=self.timed_out,
        )

    async def close(self) -> None:
        """Disconnect and wait until the socket is closed, at most `close_timeout_ms`."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        if (connection := self._connection) is not None:
            connection.close()
            await asyncio.wait([connection.gone], timeout=self._link.close_timeout_ms / 1000)
            if not connection.gone.done():
                connection.abort("closed")
                await asyncio.wait([connection.gone], timeout=self._link.close_timeout_ms / 1000)
        self._enter(EndpointState.CLOSED)

    # --- called by the connection ----------------------------------------------------------------------------------

    def connection_opened(self, connection: _Connection) -> None:
        self._connection = connection
        self._enter(EndpointState.CONNECTED)
        self._owner.opened(self)

    def connection_lost(self, connection: _Connection, reason: str, detail: str) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._last_error = f"{reason}: {detail}" if detail else reason
        self._enter(EndpointState.WAITING)
        self._owner.lost(self, reason, detail)

    def frame_received(self, frame: bytes) -> None:
        self._owner.received(self, frame)

    # --- upkeep ----------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Connect for ever: pauses grow while attempts fail, and start anew after a connection that lasted."""
        link = self._link
        pause = wait_exponential(multiplier=link.reconnect_initial_ms / 1000, max=link.reconnect_max_ms / 1000)
        jitter = wait_random(0, link.reconnect_jitter_ms / 1000)
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(EndpointDownError),
                wait=pause + jitter,
                before_sleep=self._before_pause,
            ):
                with attempt:
                    await self._one_connection()

    async def _one_connection(self) -> None:
        """Connect and stay until the connection is lost.

        Raises:
            EndpointDownError: it could not be made, or did not last for `reconnect_stable_ms`.
        """
        self._enter(EndpointState.CONNECTING)
        connection = _Connection(self, self._framing, self._link, self._mono_ms)
        settings = self._settings
        tls = settings.tls
        tls_name = (settings.server_hostname or settings.host) if tls is not None else None
        tls_shutdown_s = self._link.close_timeout_ms / 1000 if tls is not None else None
        try:
            async with asyncio.timeout(self._link.connect_timeout_ms / 1000):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, settings.host, settings.port, ssl=tls, server_hostname=tls_name,
                    ssl_shutdown_timeout=tls_shutdown_s,
                )  # fmt: skip
        except OSError as error:
            raise EndpointDownError(_reason_of(error), str(error)) from error
        connected_ms = self._mono_ms()
        await connection.gone
        if self._mono_ms() - connected_ms < self._link.reconnect_stable_ms:
            raise EndpointDownError("did not last", self._last_error)

    def _before_pause(self, state: RetryCallState) -> None:
        self._enter(EndpointState.WAITING)
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, EndpointDownError) and error.reason != "did not last":  # that one was told as lost
            self._last_error = str(error)
            self._owner.connect_failed(self, error.reason, error.detail)

    def _upkeep_ended(self, upkeep: asyncio.Task[None]) -> None:
        # Supervision boundary: only a defect of ours ends the upkeep by itself, and it must not pass unseen.
        if not upkeep.cancelled() and (error := upkeep.exception()) is not None:
            self._last_error = f"defect: {type(error).__name__}"
            upkeep.get_loop().call_exception_handler({"message": f"upkeep of {self.name} ended", "exception": error})

    def _enter(self, state: EndpointState) -> None:
        if state is not self._state:
            self._state = state
            self._since_ms = self._mono_ms()


class _Connection(asyncio.Protocol):
    """One TCP connection: cuts frames, knows whether there is room to write, and tells when it is gone."""

    def __init__(self, endpoint: Endpoint, framing: Framing, link: LinkSettings, mono_ms: Callable[[], int]) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.congested = False
        self._endpoint = endpoint
        self._link = link
        self._mono_ms = mono_ms
        self._reader: FrameReader = framing.reader()
        self._transport: asyncio.Transport | None = None
        self._frames: deque[bytes] = deque()  # read, but not their turn yet; nothing is read from the socket meanwhile
        self._turn_scheduled = False
        self._taken_in_turn = 0
        self._second_began_ms = mono_ms()
        self._keepalives_before_second = 0
        self._frame_since_ms: int | None = None
        self._end_reason = ""

    @property
    def closing(self) -> bool:
        """Whether nothing may be written any more."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._transport is None:
            raise RuntimeError("write without a connection")
        self._transport.write(data)

    def overdue(self, now_ms: int) -> bool:
        """Whether a frame has been incomplete for too long; the time in which the host is not read from is ours."""
        since_ms = self._frame_since_ms
        return since_ms is not None and not self._frames and now_ms - since_ms > self._link.frame_timeout_ms

    def close(self) -> None:
        """Close when what is buffered has been written."""
        self._end_reason = self._end_reason or "closed here"
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what is buffered is dropped."""
        self._end_reason = self._end_reason or reason
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(self._link.write_buffer_high_bytes, self._link.write_buffer_low_bytes)
        self._set_options(transport.get_extra_info("socket"))
        self._endpoint.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        begun_before = reader.pending_bytes > 0
        keepalives_before = reader.keepalives
        now_ms = self._mono_ms()
        if now_ms - self._second_began_ms >= _SECOND_MS:
            self._second_began_ms = now_ms
            self._keepalives_before_second = keepalives_before
        try:
            frames = reader.feed(data, _KEEPALIVES_PER_S - keepalives_before + self._keepalives_before_second)
        except KeepAliveFloodError as error:
            frames = error.frames
            self.abort("keep-alive flood")
        except FramingError as error:
            frames = error.frames
            self.abort(f"framing: {error}")
        if reader.pending_bytes == 0:
            self._frame_since_ms = None
        elif not begun_before or frames or reader.keepalives != keepalives_before:
            self._frame_since_ms = now_ms
        self._frames.extend(frames)
        self._take_frames()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        while self._frames:  # answers that have come are answers: nothing of theirs is in doubt
            self._endpoint.frame_received(self._frames.popleft())
        if self._end_reason:
            reason, _, detail = self._end_reason.partition(": ")
        elif exc is not None:
            reason, detail = _reason_of(exc), str(exc)
        else:
            reason, detail = "closed by the host", ""
        self._endpoint.connection_lost(self, reason, detail)
        if not self.gone.done():
            self.gone.set_result(None)

    def _take_frames(self) -> None:
        frames = self._frames
        if frames and not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)
        while frames:
            if self._taken_in_turn >= _FRAMES_PER_TURN:
                if self._transport is not None and not self._transport.is_closing():
                    self._transport.pause_reading()
                return
            self._taken_in_turn += 1
            self._endpoint.frame_received(frames.popleft())

    def _turn(self) -> None:
        self._turn_scheduled = False
        self._taken_in_turn = 0
        if self._transport is None or not self._frames:
            return
        self._take_frames()
        if not self._frames and not self._transport.is_closing():
            if self._frame_since_ms is not None:
                self._frame_since_ms = self._mono_ms()
            self._transport.resume_reading()

    def _set_options(self, sock: socket.socket | None) -> None:
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        link = self._link
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (_KEEPALIVE_IDLE, link.keepalive_idle_s),
            (_KEEPALIVE_INTERVAL, link.keepalive_interval_s),
            (_KEEPALIVE_COUNT, link.keepalive_count),
            (_UNACKNOWLEDGED, link.unacknowledged_ms),
        ):
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _reason_of(error: BaseException) -> str:
    """A reason out of a small fixed set, so that reports can be limited by it."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return "reset"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError):
        return f"tls: {refusal_of(error).text}"
    if isinstance(error, socket.gaierror):
        return "name not found"
    return "failed"
