"""The simulated acquirer: a TCP host that keeps honest books and can misbehave in every way that a network knows.

Whatever it answers is in its ledger, synced, before the answer leaves. Behaviour is switched while it runs: for all
messages, for a share of them (seeded), for a time, or for the next few.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, assert_never, cast

from bench.books import NORMALLY, Books, Order
from bench.ledger import Ledger
from bench.listening import close_port
from bench.records import LedgerEvent
from protocol.framing import FramingError
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import answer_mti


class Mode(StrEnum):
    """What the acquirer does with messages."""

    NORMAL = "normal"
    AWAY = "away"  # the port is closed; open connections are reset
    BLACKHOLE = "blackhole"  # accepts and reads, books nothing, answers nothing, not even echo tests
    SILENT = "silent"  # books and does not answer; echo tests are answered
    LATE = "late"  # books at once and answers after delay_ms; echo tests are answered at once
    SLOW = "slow"  # every answer takes delay_ms
    DROP = "drop"  # books, then closes the connection instead of answering
    CODE = "code"  # answers `code`, booking or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """A mode with its particulars.

    Attributes:
        share: part of the messages that it applies to, 0 to 1; the others are treated normally. Not for AWAY.
        delay_ms: for LATE and SLOW.
        code, booking: for CODE: DE 39 of the answer, and whether the message has its effect all the same.
    """

    mode: Mode = Mode.NORMAL
    share: float = 1.0
    delay_ms: int = 0
    code: str = "96"
    booking: bool = False


NORMAL: Final = Behaviour()
_ECHOED: Final = (2, 3, 4, 7, 11, 12, 13, 25, 32, 41, 42, 49, 60, 70)
_RECENT_MESSAGES: Final = 50_000


@dataclass(slots=True)
class _Outgoing:
    """What is to be done with a connection once the ledger's batch is on the disk."""

    connection: Connection
    frame: bytes
    delay_ms: int
    drop: bool


class Acquirer:
    """The simulated acquirer.

    `start` binds; a port of 0 becomes the real one in `port`. All calls are made on the event loop's thread.
    """

    def __init__(
        self,
        ledger: Path,
        *,
        dialect: str = "iso87-binary",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        duplicate_advice_code: str = "00",
        books: Books | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.dialect: Dialect = load_dialect(dialect)
        self.host, self.port = host, port
        self.counts: Counter[str] = Counter()
        self.recent: deque[LedgerEvent] = deque(maxlen=_RECENT_MESSAGES)
        self.books = Books(duplicate_advice_code=duplicate_advice_code) if books is None else books
        self._tls = tls
        self._ledger_path = ledger
        self._ledger: Ledger | None = None
        self._behaviour = NORMAL
        self._next: deque[Behaviour] = deque()
        self._dice = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._events: list[LedgerEvent] = []
        self._outgoing: list[_Outgoing] = []
        self._writing = False
        self._written_out = asyncio.Event()
        self._written_out.set()
        self._writer = ThreadPoolExecutor(1, "ledger")
        self._until: asyncio.TimerHandle | None = None
        self._return: asyncio.Task[None] | None = None
        self._rrn = 0

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the ledger back and listen.

        Raises:
            OSError: the address is taken, or the ledger cannot be opened.
        """
        self._ledger = Ledger(self._ledger_path)
        for event in self._ledger.events():
            self.books.apply(event)
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self), self.host, self.port, backlog=1024, ssl=self._tls
            )
            self.port = cast("int", self._server.sockets[0].getsockname()[1])

    async def _leave(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await close_port(server)
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    async def stop(self) -> None:
        """Close the port and the connections, and finish the ledger. Safe to call twice."""
        self._cancel_return()
        await self._leave()
        await self._written_out.wait()
        await asyncio.get_running_loop().run_in_executor(None, self._writer.shutdown)
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    # --- behaviour -------------------------------------------------------------------------------------------------

    @property
    def behaviour(self) -> Behaviour:
        """What applies now to messages that have no behaviour of their own."""
        return self._behaviour

    async def set_behaviour(self, behaviour: Behaviour, for_s: float | None = None) -> None:
        """Behave like this from now on, or for `for_s` seconds and then normally again."""
        self._cancel_return()
        self._behaviour = behaviour
        if behaviour.mode is Mode.AWAY:
            await self._leave()
        else:
            await self._listen()
        if for_s is not None:
            self._until = asyncio.get_running_loop().call_later(for_s, self._return_to_normal)

    async def set_mode(self, mode: Mode, for_s: float | None = None) -> None:
        """`set_behaviour` for modes without particulars."""
        await self.set_behaviour(Behaviour(mode=mode), for_s)

    def next_messages(self, *behaviours: Behaviour) -> None:
        """Treat the next transactions (echo tests do not count), one each, like this. AWAY is not for one message."""
        self._next.extend(behaviours)

    def _return_to_normal(self) -> None:
        self._until = None
        self._behaviour = NORMAL
        self._return = asyncio.get_running_loop().create_task(self._listen())

    def _cancel_return(self) -> None:
        if self._until is not None:
            self._until.cancel()
            self._until = None
        if self._return is not None:
            self._return.cancel()
            self._return = None

    # --- messages --------------------------------------------------------------------------------------------------

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        """Decide about frames; their answers leave when the ledger has them on the disk."""
        now = time.time()
        for frame in frames:
            try:
                message = self.dialect.codec.decode(frame)
                answer = answer_mti(message.mti)
                self._take(connection, message, frame, answer, now)
            except (CodecError, ValueError):
                self.counts["unreadable"] += 1
        if self._events and not self._writing:
            self._writing = True
            self._written_out.clear()
            asyncio.get_running_loop().call_soon(self._write_batch)

    def _take(self, connection: Connection, message: Message, frame: bytes, answer: str, now: float) -> None:
        network = message.mti[1] == "8"
        behaviour = self._behaviour_for(network=network)
        order, delay_ms, drop = _treatment(behaviour, network=network)
        event = self._decided(message, frame, now, order)
        self.counts[event.act] += 1
        self._events.append(event)
        self.recent.append(event)
        if drop:
            self._outgoing.append(_Outgoing(connection, b"", 0, drop=True))
        elif event.answered and event.act != "ignored":
            told = self._answer_frame(message, answer, event)
            self._outgoing.append(_Outgoing(connection, told, delay_ms, drop=False))

    def _decided(self, message: Message, _frame: bytes, now: float, order: Order) -> LedgerEvent:
        """What the books say of a message; the frame is for those who look at its MAC."""
        return self.books.decide(message, now, order)

    def _behaviour_for(self, *, network: bool) -> Behaviour:
        if self._next and not network:
            return self._next.popleft()
        behaviour = self._behaviour
        if behaviour.share < 1 and self._dice.random() >= behaviour.share:
            return NORMAL
        return behaviour

    def _answer_frame(self, message: Message, mti: str, event: LedgerEvent) -> bytes:
        dialect = self.dialect
        return dialect.framing.wrap(dialect.codec.encode(self._answer(message, mti, event)))

    def _answer(self, message: Message, mti: str, event: LedgerEvent) -> Message:
        fields = message.fields
        answer: Fields = {number: fields[number] for number in _ECHOED if number in fields}
        self._rrn += 1
        answer[37] = f"{self._rrn:012d}"
        answer[39] = event.answer
        if event.approval:
            answer[38] = event.approval
        tpdu = message.tpdu
        swapped = tpdu[:1] + tpdu[3:5] + tpdu[1:3]
        return Message(mti, answer, swapped, message.header)

    # --- ledger first, then answers --------------------------------------------------------------------------------

    def _write_batch(self) -> None:
        events, self._events = self._events, []
        outgoing, self._outgoing = self._outgoing, []
        if not events or self._ledger is None:
            self._writing = False
            self._written_out.set()
            return
        written = asyncio.get_running_loop().run_in_executor(self._writer, self._ledger.append, events)
        written.add_done_callback(partial(self._written, outgoing))

    def _written(self, outgoing: list[_Outgoing], written: asyncio.Future[None]) -> None:
        if written.exception() is not None:  # nothing of this batch may be answered
            self.counts["ledger-failed"] += 1
            for connection in tuple(self._connections):
                connection.abort()
            self._writing = False
            self._written_out.set()
            return
        now: dict[Connection, list[bytes]] = {}
        loop = asyncio.get_running_loop()
        for out in outgoing:
            if out.drop:
                out.connection.abort()
            elif out.delay_ms:
                loop.call_later(out.delay_ms / 1000, out.connection.send, out.frame)
            else:
                now.setdefault(out.connection, []).append(out.frame)
        for connection, frames in now.items():
            connection.send(b"".join(frames))
        self._write_batch()

    def connected(self, connection: Connection) -> None:
        """A connection was accepted."""
        self.counts["connections"] += 1
        self._connections.add(connection)
        if self._server is None:  # accepted by the kernel just before the port was closed
            connection.abort()

    def disconnected(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)


def _treatment(behaviour: Behaviour, *, network: bool) -> tuple[Order, int, bool]:
    """What a behaviour means for one message: the order to the books, the answer's delay, whether to hang up."""
    mode = behaviour.mode
    match mode:
        case Mode.NORMAL | Mode.AWAY:
            return NORMALLY, 0, False
        case Mode.BLACKHOLE:
            return Order(ignored=True, answered=False), 0, False
        case Mode.SILENT:
            return (NORMALLY if network else Order(answered=False)), 0, False
        case Mode.LATE:
            return NORMALLY, (0 if network else behaviour.delay_ms), False
        case Mode.SLOW:
            return NORMALLY, behaviour.delay_ms, False
        case Mode.DROP:
            return (NORMALLY, 0, False) if network else (Order(answered=False), 0, True)
        case Mode.CODE:
            return (NORMALLY if network else Order(code=behaviour.code, booking=behaviour.booking)), 0, False
        case _:
            assert_never(mode)


class Connection(asyncio.Protocol):
    """One connection of a gateway to the simulated acquirer."""

    def __init__(self, acquirer: Acquirer) -> None:
        self._acquirer = acquirer
        self._reader = acquirer.dialect.framing.reader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._acquirer.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        self._acquirer.disconnected(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            frames = self._reader.feed(data)
        except FramingError as broken:
            frames = broken.frames
            self.abort()
        if frames:
            self._acquirer.received(self, frames)

    def pause_writing(self) -> None:
        """The peer does not read its answers: read no more of its messages."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer has read its answers."""
        if self._transport is not None:
            self._transport.resume_reading()

    def send(self, frame: bytes) -> None:
        """Send, if the connection is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()
