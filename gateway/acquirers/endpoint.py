"""One endpoint of an acquirer: a TCP connection that is kept up, with its limits and numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from gateway.acquirers.connection import Connection, reason_of
from gateway.acquirers.port import EndpointState, EndpointStatus
from gateway.acquirers.settings import EndpointSettings, LinkSettings
from gateway.acquirers.silence import Hearing
from protocol.framing import Framing


class EndpointDownError(Exception):
    """No connection, or not for long: try again after a pause."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class EndpointOwner(Protocol):
    """The link, as its endpoints see it. Every call is made on the event loop's thread."""

    def opened(self, endpoint: Endpoint) -> None:
        """A connection is there; it counts as connected once the owner calls `admit`."""

    def received(self, endpoint: Endpoint, frame: bytes) -> None:
        """A frame has come."""

    def lost(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """The connection is gone; what was in flight on it is in doubt."""

    def given_up(self, endpoint: Endpoint) -> None:
        """A connection that was never admitted is gone; `connect_failed` follows."""

    def connect_failed(self, endpoint: Endpoint, reason: str, detail: str) -> None:
        """An attempt to connect has failed."""


class Endpoint(Hearing):
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
        super().__init__()
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
        self._connection: Connection | None = None
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        """Whether there is a connection that has not begun to close."""
        connection = self._connection
        return connection is not None and not connection.closing

    @property
    def connected(self) -> bool:
        """Whether there is an admitted connection that has not begun to close."""
        connection = self._connection
        return connection is not None and connection.admitted_ms is not None and not connection.closing

    @property
    def awaits_admission(self) -> bool:
        """Whether there is a live connection that its owner has not admitted yet."""
        connection = self._connection
        return connection is not None and connection.admitted_ms is None and not connection.closing

    @property
    def has_room(self) -> bool:
        """Whether a message may be written now."""
        connection = self._connection
        return (
            connection is not None
            and connection.admitted_ms is not None
            and not connection.closing
            and not connection.congested
            and self.in_flight < self._link.in_flight_max
        )

    def start(self) -> None:
        """Begin to connect."""
        self._upkeep = asyncio.get_running_loop().create_task(self._keep_up(), name=f"endpoint {self.name}")
        self._upkeep.add_done_callback(self._upkeep_ended)

    def admit(self) -> None:
        """Count the connection as connected from now on. There must be a live one."""
        if self._connection is None:
            raise RuntimeError("admission without a connection")
        self._connection.admitted_ms = self._mono_ms()
        self._enter(EndpointState.CONNECTED)

    def abort(self, reason: str) -> None:
        """End the connection at once; `reason` is "word: detail" with words of a small fixed set."""
        if self._connection is not None:
            self._connection.abort(reason)

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
            silent=self.silent,
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

    def connection_opened(self, connection: Connection) -> None:
        self._connection = connection
        self._enter(EndpointState.SIGNING_ON)  # for an instant, where there is nothing to wait for
        self._owner.opened(self)

    def connection_lost(self, connection: Connection, reason: str, detail: str) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._last_error = f"{reason}: {detail}" if detail else reason
        self._enter(EndpointState.WAITING)
        if connection.admitted_ms is None:
            self._owner.given_up(self)
        else:
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
            EndpointDownError: it could not be made, was never admitted, or did not last for `reconnect_stable_ms`.
        """
        self._enter(EndpointState.CONNECTING)
        connection = Connection(self, self._framing, self._link, self._mono_ms)
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
            raise EndpointDownError(reason_of(error), str(error)) from error
        reason, detail = await connection.gone
        if connection.admitted_ms is None:  # however long it took to fail: this host has served nothing
            raise EndpointDownError(reason, detail)
        if self._mono_ms() - connection.admitted_ms < self._link.reconnect_stable_ms:
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
