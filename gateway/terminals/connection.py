"""One terminal's connection: bytes to frames, back-pressure, answers gathered into one write per turn of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol, cast

from gateway.terminals.accepting import Accepted
from gateway.terminals.limits import Count, ListenerSettings
from gateway.tls import TerminalNames
from protocol.framing import Framing, FramingError, KeepAliveFloodError

_SECOND_MS: Final = 1_000


class ConnectionOwner(Protocol):
    """The listener, as its connections see it."""

    def opened(self, connection: TerminalConnection) -> None:
        """A connection is there."""

    def lost(self, connection: TerminalConnection) -> None:
        """The connection is gone."""

    def may_take(self, connection: TerminalConnection) -> bool:
        """Whether this turn of the loop has time for a frame; else `go_on` is called when there is."""

    def schedule(self, connection: TerminalConnection) -> None:
        """Call its `turn` in the next turn of the loop."""

    def take(self, connection: TerminalConnection, frame: bytes) -> None:
        """A frame has come and its turn too."""

    def bad_framing(self, connection: TerminalConnection, detail: str) -> None:
        """The stream cannot be read any further; it is hung up by itself."""

    def keepalive_flood(self, connection: TerminalConnection) -> None:
        """More keep-alives have come than a second may bring; the connection is hung up by itself."""

    def count(self, count: Count) -> None:
        """Count something."""


class TerminalConnection(Accepted):
    """Callbacks of one connection. Nothing here awaits, and there is no task; a timer only while it is slowed down.

    Frames wait in `_frames` while as many requests are unanswered as the high-water mark allows, and when a turn of the
    loop or a second has brought as many as it may; nothing is read from the socket meanwhile, so it holds what one read
    brought at most. uvloop reads a socket many times in a turn until it is told to pause, so that without this one
    connection's frames would come before everybody else's for seconds.

    Attributes:
        address, name: of the peer: "192.0.2.7", and "192.0.2.7:40312" for reports.
        in_flight: requests of it that the core has and has not answered.
        gone: the connection is closed; an answer for it is dropped.
        names: terminals that it may speak for, by its certificate; None where it is bound to none.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        settings: ListenerSettings,
        framing: Framing,
        loop: asyncio.AbstractEventLoop,
        peer: tuple[str, str],
    ) -> None:
        self.address, self.name = peer
        self.in_flight = 0
        self.gone = False
        self.names: TerminalNames | None = None
        self._owner = owner
        self._settings = settings
        self._loop = loop
        self._reader = framing.reader()
        self._transport: asyncio.Transport | None = None
        self._frames: deque[bytes] = deque()
        self._answers: list[bytes] = []
        self._turn_scheduled = False
        self._reading = True
        self._full = False  # of unanswered requests: from the high-water mark down to the low one
        self._hanging_up = False
        self._taken_in_turn = 0
        self._second_began_ms = self._now_ms()
        self._taken_in_second = 0
        self._keepalives_before_second = 0
        self._slowed: asyncio.TimerHandle | None = None
        self._frame_since_ms: int | None = None
        self._active_ms = self._now_ms()

    # --- called by the listener ------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether an answer has a chance to arrive."""
        return self._transport is not None and not self._transport.is_closing()

    def answer(self, framed: bytes) -> None:
        """Queue an answer; what is queued in one turn of the loop leaves in one write."""
        self._answers.append(framed)
        self._schedule_turn()

    def settled(self) -> None:
        """One request of this connection is not awaited any more."""
        self.in_flight -= 1
        self._schedule_turn()

    def go_on(self) -> None:
        """There is time for its frames."""
        self._take_or_read()

    def hang_up(self, *, drop_frames: bool) -> None:
        """Read no more; close as soon as what was taken is answered, so that good requests before a bad one are served.

        Args:
            drop_frames: do not take the frames either that have already been cut.
        """
        self._hanging_up = True
        self._pause_reading()
        if drop_frames:
            self._frames.clear()
        self._schedule_turn()

    def close(self) -> None:
        """Close when the answers that are queued have been written; `overdue` tells when that takes too long."""
        self._write_answers()
        self._active_ms = self._now_ms()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def overdue(self, now_ms: int) -> Count | None:
        """Which timeout has passed, if any. Only the peer's own time counts: none runs while it is not read from."""
        if self._transport is None:
            return None
        if self._transport.is_closing():  # its last answers are not being read
            return Count.CLOSED_WRITE_BUFFER if now_ms - self._active_ms > self._settings.close_timeout_ms else None
        if not self._reading:
            return None
        since_ms = self._frame_since_ms
        if since_ms is not None and now_ms - since_ms > self._settings.frame_timeout_ms:
            return Count.CLOSED_FRAME_TIMEOUT
        if self.in_flight == 0 and now_ms - self._active_ms > self._settings.idle_timeout_ms:
            return Count.CLOSED_IDLE
        return None

    # --- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._settings.write_buffer_limit_bytes)
        self._active_ms = self._now_ms()
        if self._settings.tls is not None:
            self.names = self._settings.tls.names_of(transport.get_extra_info("peercert"))
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        keepalives_before = reader.keepalives
        bad: FramingError | None = None
        now_ms = self._now_ms()
        self._begin_second(now_ms)
        keepalives_left = self._settings.keepalives_per_s_max - keepalives_before + self._keepalives_before_second
        try:
            frames = reader.feed(data, keepalives_left)
        except FramingError as error:
            frames, bad = error.frames, error
        progressed = bool(frames) or reader.keepalives != keepalives_before
        if progressed:
            self._active_ms = now_ms
        if reader.pending_bytes == 0:
            self._frame_since_ms = None
        elif progressed or self._frame_since_ms is None:
            self._frame_since_ms = now_ms
        self._frames.extend(frames)
        if bad is not None:
            if isinstance(bad, KeepAliveFloodError):
                self._owner.keepalive_flood(self)
            else:
                self._owner.bad_framing(self, str(bad))
            self.hang_up(drop_frames=False)
        self._take_frames(now_ms)

    def eof_received(self) -> None:
        self._write_answers()  # those queued in this turn; the transport closes after them
        self._active_ms = self._now_ms()

    def pause_writing(self) -> None:
        # The limit is a limit: a terminal that does not read its answers does not get to hold memory.
        self._owner.count(Count.CLOSED_WRITE_BUFFER)
        self._frames.clear()  # nor to be asked further
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.gone = True
        self._transport = None
        self._frames.clear()
        self._answers.clear()
        if self._slowed is not None:
            self._slowed.cancel()
            self._slowed = None
        self._owner.lost(self)

    # --- turns -----------------------------------------------------------------------------------------------------

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._owner.schedule(self)

    def turn(self) -> None:
        """Once per turn of the loop where there is something to do: write answers, then take frames and read again."""
        self._turn_scheduled = False
        self._taken_in_turn = 0
        if self._transport is None:
            return
        if self._answers:
            self._write_answers()
            self._active_ms = self._now_ms()
        if self._full and self.in_flight <= self._settings.in_flight_per_connection_low:
            self._full = False
        if not self._reading:
            self._take_or_read()
        if self._hanging_up and self.in_flight == 0 and not self._frames and not self._answers:
            self.close()

    def _take_or_read(self) -> None:
        if not self._reading and not self._full and self._transport is not None:
            self._take_frames(self._now_ms())
            if not self._frames and not self._hanging_up and not self.gone:
                self._resume_reading()

    def _take_frames(self, now_ms: int) -> None:
        settings = self._settings
        frames = self._frames
        if frames:
            self._begin_second(now_ms)
        while frames:
            if self.in_flight >= settings.in_flight_per_connection_high:
                if not self._full:
                    self._full = True
                    self._owner.count(Count.PAUSED)
                self._pause_reading()
                return
            if self._taken_in_second >= settings.frames_per_s_max:
                self._slow_down()
                return
            if self._taken_in_turn >= settings.frames_per_turn_max or not self._owner.may_take(self):
                self._pause_reading()  # who stands in line is called, and need not ask in each turn
                return
            if not self._taken_in_turn:
                self._schedule_turn()  # what this turn has taken is forgotten there
            self._taken_in_turn += 1
            self._taken_in_second += 1
            self._owner.take(self, frames.popleft())

    def _begin_second(self, now_ms: int) -> None:
        if now_ms - self._second_began_ms >= _SECOND_MS:
            self._second_began_ms = now_ms
            self._taken_in_second = 0
            self._keepalives_before_second = self._reader.keepalives

    def _slow_down(self) -> None:
        """Go on when the second is over."""
        self._pause_reading()
        if self._slowed is None:
            self._owner.count(Count.SLOWED)
            left_ms = self._second_began_ms + _SECOND_MS - self._now_ms()
            self._slowed = self._loop.call_later(max(1, left_ms) / 1000, self._second_over)

    def _second_over(self) -> None:
        self._slowed = None
        self._schedule_turn()

    def _write_answers(self) -> None:
        answers, transport = self._answers, self._transport
        if answers and transport is not None and not transport.is_closing():
            self._answers = []
            transport.write(answers[0] if len(answers) == 1 else b"".join(answers))

    def _pause_reading(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            if not self._transport.is_closing():  # uvloop lets nothing be done to a transport that was aborted
                self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.writable and self._transport is not None:
            self._reading = True
            if self._frame_since_ms is not None:
                self._frame_since_ms = self._now_ms()
            self._transport.resume_reading()

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)
