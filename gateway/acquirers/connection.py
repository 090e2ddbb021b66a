"""One TCP connection to an acquirer: cuts frames, bounded in what it holds and in what it does at a turn."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from gateway.acquirers.settings import LinkSettings
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


class ConnectionOwner(Protocol):
    """The endpoint, as its connection sees it."""

    def connection_opened(self, connection: Connection) -> None:
        """The connection is there, with TLS where it is wanted."""

    def connection_lost(self, connection: Connection, reason: str, detail: str) -> None:
        """The connection is gone; reasons come from a small fixed set."""

    def frame_received(self, frame: bytes) -> None:
        """A frame has come."""


class Connection(asyncio.Protocol):
    """One TCP connection: cuts frames, knows whether there is room to write, and tells when it is gone."""

    def __init__(
        self, owner: ConnectionOwner, framing: Framing, link: LinkSettings, mono_ms: Callable[[], int]
    ) -> None:
        self.gone: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()  # reason, detail
        self.admitted_ms: int | None = None
        self.congested = False
        self._owner = owner
        self._link = link
        self._mono_ms = mono_ms
        self._reader: FrameReader = framing.reader()
        self._transport: asyncio.Transport | None = None
        self._to_write: list[bytes] = []
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
        """Write at the end of this turn of the loop, with what else is written in it: one call of the system."""
        if self._transport is None:
            raise RuntimeError("write without a connection")
        self._to_write.append(data)
        if len(self._to_write) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        gathered, self._to_write = self._to_write, []
        if gathered and self._transport is not None:
            self._transport.write(b"".join(gathered))

    def overdue(self, now_ms: int) -> bool:
        """Whether a frame has been incomplete for too long; the time in which the host is not read from is ours."""
        since_ms = self._frame_since_ms
        return since_ms is not None and not self._frames and now_ms - since_ms > self._link.frame_timeout_ms

    def close(self) -> None:
        """Close when what is buffered has been written."""
        self._end_reason = self._end_reason or "closed here"
        if self._transport is not None:
            self._flush()
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
        self._owner.connection_opened(self)

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
            self._owner.frame_received(self._frames.popleft())
        if self._end_reason:
            reason, _, detail = self._end_reason.partition(": ")
        elif exc is not None:
            reason, detail = reason_of(exc), str(exc)
        else:
            reason, detail = "closed by the host", ""
        self._owner.connection_lost(self, reason, detail)
        if not self.gone.done():
            self.gone.set_result((reason, detail))

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
            self._owner.frame_received(frames.popleft())

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


def reason_of(error: BaseException) -> str:
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
