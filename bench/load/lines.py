"""Connections of a load: many in one process, no coroutine for a transaction, connected again when they are lost."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from bench.load.frames import AnswerReader, FrameWrong, cut
from bench.load.terminals import Terminal
from protocol.iso8583.codec import CodecError

_CONNECT_WITHIN_S: Final = 5.0
_AGAIN_MIN_S: Final = 0.05
_AGAIN_MAX_S: Final = 0.5
_SWEEP_S: Final = 0.25
_AT_ONCE: Final = 64


class Asking(Protocol):
    """A terminal, as its line sees it."""

    pending: bytes
    sent_at: float

    def ask_again(self) -> None:
        """The same frame once more."""


class Line(asyncio.Protocol):
    """One connection to a server, which dials again by itself until it is closed.

    Attributes:
        lost: how often it was lost.
    """

    def __init__(self, dialled: Dialled) -> None:
        self._dialled = dialled
        self._transport: asyncio.Transport | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._closed = False
        self.lost = 0

    @property
    def open(self) -> bool:
        """Whether there is a connection now."""
        return self._transport is not None

    @property
    def asking(self) -> Sequence[Asking]:
        """The terminals on this line. Subclasses say."""
        raise NotImplementedError

    async def connect(self) -> None:
        """Dial once. Raises: OSError, TimeoutError."""
        address, tls = self._dialled.address, self._dialled.tls
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            if tls is None:
                await loop.create_connection(lambda: self, *address)
            else:
                await loop.create_connection(lambda: self, *address, ssl=tls, server_hostname="localhost")

    def close(self) -> None:
        """Hang up for good."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: whatever awaits an answer is asked again."""
        self._transport = cast("asyncio.Transport", transport)
        for terminal in self.asking:
            if terminal.pending:
                terminal.ask_again()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        if not self._closed:
            self.lost += 1
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        wait_s = _AGAIN_MIN_S
        while not self._closed:
            await asyncio.sleep(wait_s * self._dialled.dice.uniform(0.5, 1.5))
            try:
                await self.connect()
            except (OSError, TimeoutError):
                wait_s = min(2 * wait_s, _AGAIN_MAX_S)
            else:
                return


class Dialled:
    """Where lines go, and whom they tell that the bench itself is wrong."""

    def __init__(
        self,
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
        seed: int,
        broken: Callable[[Exception], None],
    ) -> None:
        self.address = address
        self.tls = tls
        self.dice = random.Random(f"dial-{seed}")
        self.broken = broken


class IsoLine(Line):
    """Carries one terminal or several; what several send in one turn of the event loop leaves in one write."""

    def __init__(self, dialled: Dialled, reader: AnswerReader) -> None:
        super().__init__(dialled)
        self._reader = reader
        self._terminals: dict[bytes, Terminal] = {}
        self._only: Terminal | None = None
        self._rest = b""
        self._outbox: list[bytes] = []
        self.stale = 0

    @property
    def asking(self) -> Sequence[Terminal]:
        """The terminals on this line."""
        return list(self._terminals.values())

    def carry(self, terminal: Terminal) -> None:
        """Take a terminal on this line."""
        self._terminals[f"{terminal.frames.terminal:<8}".encode()] = terminal
        self._only = terminal if len(self._terminals) == 1 else None

    def write(self, frame: bytes) -> None:
        """Send, if there is a connection."""
        if self._only is not None:
            if self._transport is not None:
                self._transport.write(frame)
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(frame)

    def _flush(self) -> None:
        if self._outbox:
            frames = b"".join(self._outbox)
            self._outbox.clear()
            if self._transport is not None:
                self._transport.write(frames)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            if len(data) > 2 and (data[0] << 8 | data[1]) == len(data) - 2:
                self._take(data)
            else:
                frames: list[bytes] = []
                self._rest = cut(data, frames)
                for frame in frames:
                    self._take(frame)
        except (FrameWrong, CodecError) as error:
            self._dialled.broken(error)
        self._flush()

    def _take(self, frame: bytes) -> None:
        answer = self._reader.read(frame)
        terminal = self._only or self._terminals.get(answer.terminal)
        if terminal is None:
            self.stale += 1
        else:
            terminal.answered(answer, frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._rest = b""
        self._outbox.clear()
        super().connection_lost(exc)


async def connect_all(lines: Sequence[Line]) -> None:
    """Dial all, some at once. Raises: OSError, TimeoutError."""
    for start in range(0, len(lines), _AT_ONCE):
        await asyncio.gather(*(line.connect() for line in lines[start : start + _AT_ONCE]))


class Patience:
    """Has whoever has waited too long for an answer ask again; one timer for all."""

    def __init__(self, lines: Sequence[Line], answer_within_s: float) -> None:
        self._lines = lines
        self._within_s = answer_within_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look now and then."""
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self.start()
        before = time.monotonic() - self._within_s
        for line in self._lines:
            if line.open:
                for terminal in line.asking:
                    if terminal.pending and terminal.sent_at < before:
                        terminal.ask_again()
