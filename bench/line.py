"""One TCP connection of a simulated terminal: frames out, decoded messages in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from protocol.framing import FramingError
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message


class Line(asyncio.Protocol):
    """A connection to the gateway. Whatever arrives that is no message closes it."""

    def __init__(self, dialect: Dialect, answered: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._codec = dialect.codec
        self._reader = dialect.framing.reader()
        self._answered = answered
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    @property
    def open(self) -> bool:
        """Whether something can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._transport is None:
            return
        try:
            for frame in self._reader.feed(data):
                self._received(self._codec.decode(frame), frame)
        except (FramingError, CodecError):
            self.abort()

    def _received(self, message: Message, _frame: bytes) -> None:
        self._answered(message)

    def send(self, frame: bytes) -> None:
        """Hand a frame, length included, to the connection."""
        if self._transport is not None:
            self._transport.write(frame)

    def abort(self) -> None:
        """Reset the connection: the terminal has lost its power. Nothing that still arrives is read."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


async def dial(
    dialect: Dialect,
    endpoint: tuple[str, int],
    answered: Callable[[Message], None],
    lost: Callable[[], None],
) -> Line:
    """Connect.

    Raises:
        OSError: nobody listens there, or the connection was refused.
    """
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(lambda: Line(dialect, answered, lost), *endpoint)
    return line
