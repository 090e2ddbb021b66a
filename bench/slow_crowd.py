"""The crowd of a slow-clients run: sockets that connect, and then waste the gateway's time in every way there is.

It is a process of its own, which runs only while nobody else wants to (SCHED_IDLE): it stands for other people's
machines, and its work must not be measured as the gateway's.
Orders come by standard input, a word a line: "enter", "leave"; the end of input ends it. Counts go to standard output,
a line of JSON twice a second. Everything random follows from the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections import Counter, deque
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, cast

import msgspec
import uvloop

from bench.till import TEST_CARDS, Till
from gateway.operations.process import raise_file_limit
from protocol.framing import PREFIX_BYTES
from protocol.iso8583.dialect import Dialect, load_dialect

OPENS_PER_S: Final = 300
"""Connections that the crowd opens a second on each listener, at first and again after the gateway closed them."""
HALF_CLOSED_AGAIN_S: Final = 2.0
"""How long a half-closed socket stays away. Every other comes back as soon as OPENS_PER_S lets it."""
ASKS_EVERY_S: Final = 5
"""Of sockets that ask and do not read, and of those that only keep their connection alive."""
HALF_CLOSED_SHARE: Final = 0.1
"""Half-closed sockets beside the others, as a part of them: the gateway closes those at once, so that none is held."""
_TICKS_PER_S: Final = 100
_GREEDY_SHARE: Final = 0.1
_GREEDY_ASKS: Final = 128
_RECEIVE_BUFFER_BYTES: Final = 4096


class Spoken(StrEnum):
    """What is spoken on the listener."""

    ISO8583 = "iso8583"
    HTTP = "http"


class Manner(StrEnum):
    """How a socket wastes time."""

    SILENT = "silent"  # says nothing
    HALF_HEADER = "half a header"  # half a length prefix; half a request's head
    HALF_BODY = "half a body"  # promises a message and sends half of it
    DRIBBLE = "a byte a second"
    DEAF = "reads no answers"  # asks now and then, some 128 times at once; takes nothing
    KEEPALIVE = "keep-alives"  # now and then an empty frame; a heartbeat
    HALF_CLOSED = "half-closed"  # half a header, and that was all it will send


HELD: Final[tuple[Manner, ...]] = tuple(manner for manner in Manner if manner is not Manner.HALF_CLOSED)


class Orders(msgspec.Struct, frozen=True):
    """Whom to visit, with how many, and which: the first argument of this program, as JSON."""

    iso_port: int
    http_port: int
    sockets: int
    seed: int
    dialect: str = "unionpay"


class Counts(msgspec.Struct):
    """How the crowd stands.

    Attributes:
        open: connections as the crowd sees them, by listener.
        opened: all that were made so far.
        closed: those that the gateway closed, by listener and manner ("http, silent").
        failed: attempts to connect that failed.
        present: half-closed ones aside, all are there, or have been.
    """

    open: dict[str, int]
    opened: int
    closed: dict[str, int]
    failed: int
    present: bool


def manners(sockets: int, dice: random.Random) -> list[Manner]:
    """The mix: `sockets` that want to stay, in equal parts as far as it goes, and the half-closed beside them."""
    mix = [HELD[number % len(HELD)] for number in range(sockets)]
    mix += [Manner.HALF_CLOSED] * max(1, round(sockets * HALF_CLOSED_SHARE))
    dice.shuffle(mix)
    return mix


class Script:
    """What sockets of one listener send."""

    def __init__(self, spoken: Spoken, dialect: Dialect, number: int) -> None:
        till = Till(dialect, f"S{number:07d}")
        if spoken is Spoken.ISO8583:
            self.message = till.sale(1000, TEST_CARDS[0]).frame
            self.header_bytes = PREFIX_BYTES[dialect.framing.length]
            self.question = till.sign_on().frame
            self.keepalive = dialect.framing.wrap(b"")
        else:
            body = b'{"type":"sale","merchant":"HOLDFASTBENCH01","terminal":"%s"}' % till.terminal.strip().encode()
            head = _head("POST /v1/transactions", len(body))
            self.message, self.header_bytes = head + body, len(head)
            self.question = b"GET /openapi.json HTTP/1.1\r\nHost: till\r\n\r\n"
            beat = b'{"clock":"%s"}' % datetime.now(UTC).isoformat().encode()
            path = f"POST /v1/terminals/{till.terminal.strip()}/heartbeat"
            self.keepalive = _head(path, len(beat)) + beat

    def opening(self, manner: Manner, dice: random.Random) -> bytes:
        """What is sent as soon as the connection is there."""
        match manner:
            case Manner.HALF_HEADER | Manner.HALF_CLOSED:
                return self.message[: self.header_bytes // 2]
            case Manner.HALF_BODY:
                return self.message[: (self.header_bytes + len(self.message)) // 2]
            case Manner.DEAF:
                return self.question * (_GREEDY_ASKS if dice.random() < _GREEDY_SHARE else 1)
            case _:
                return b""

    def after(self, manner: Manner, seconds: int) -> bytes:
        """What is sent that many seconds later."""
        match manner:
            case Manner.DRIBBLE:
                return self.message[seconds % len(self.message) :][:1]
            case Manner.DEAF if seconds % ASKS_EVERY_S == 0:
                return self.question
            case Manner.KEEPALIVE if seconds % ASKS_EVERY_S == 0:
                return self.keepalive
            case _:
                return b""


def _head(request: str, length: int) -> bytes:
    return (
        f"{request} HTTP/1.1\r\nHost: till\r\nIdempotency-Key: slow\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


class Slot(asyncio.Protocol):
    """The place of one socket, which opens again and again while the crowd is there."""

    def __init__(self, crowd: Crowd, spoken: Spoken, manner: Manner, script: Script, dice: random.Random) -> None:
        self.spoken, self.manner = spoken, manner
        self.tried = False
        self.waiting = False
        self._crowd, self._script, self._dice = crowd, script, dice
        self._transport: asyncio.Transport | None = None
        self._seconds = 0

    async def open(self, port: int) -> None:
        """Connect.

        Raises:
            OSError: nobody listens, or no descriptor is left.
        """
        self.tried, self.waiting = True, False
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if self.manner is Manner.DEAF:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.create_connection(lambda: self, sock=sock)
        except OSError:
            sock.close()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._seconds = 0
        self._crowd.made(self)
        if self.manner is Manner.DEAF:
            self._transport.pause_reading()
        if sent := self._script.opening(self.manner, self._dice):
            self._transport.write(sent)
        if self.manner is Manner.HALF_CLOSED:
            self._transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        self._crowd.lost(self)

    def second(self) -> None:
        """A second is over."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        sent = self._script.after(self.manner, self._seconds)
        self._seconds += 1
        if sent and transport.get_write_buffer_size() == 0:  # else the gateway does not read: nor is there more to say
            transport.write(sent)

    def leave(self) -> None:
        """Go, in good order or not."""
        if self._transport is not None:
            self._transport.abort()


class Crowd:
    """All the sockets."""

    def __init__(self, orders: Orders) -> None:
        dialect = load_dialect(orders.dialect)
        dice = random.Random(f"slow/{orders.seed}")
        self._ports = {Spoken.ISO8583: orders.iso_port, Spoken.HTTP: orders.http_port}
        self._slots = [
            Slot(self, spoken, manner, Script(spoken, dialect, number), dice)
            for spoken in Spoken
            for number, manner in enumerate(manners(orders.sockets, dice))
        ]
        self._away: dict[Spoken, deque[Slot]] = {spoken: deque() for spoken in Spoken}
        self._opening: set[asyncio.Task[None]] = set()
        self._here = False
        self._open: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._opened = self._failed = 0

    def enter(self) -> None:
        """Begin to connect."""
        self._here = True
        for slot in self._slots:
            slot.tried = False
            self._queue(slot)

    def leave(self) -> None:
        """Drop all connections, and make no more."""
        self._here = False
        for queue in self._away.values():
            queue.clear()
        for slot in self._slots:
            slot.waiting = False
            slot.leave()

    def made(self, slot: Slot) -> None:
        """A connection is there."""
        self._opened += 1
        self._open[slot.spoken] += 1
        if not self._here:
            slot.leave()

    def lost(self, slot: Slot) -> None:
        """A connection is gone; while the crowd is there, its socket comes back."""
        self._open[slot.spoken] -= 1
        if self._here:
            self._closed[f"{slot.spoken}, {slot.manner}"] += 1
            self._return(slot)

    def counts(self) -> Counts:
        """How things stand."""
        present = self._here and all(slot.tried for slot in self._slots)
        opened = {spoken.value: self._open[spoken] for spoken in Spoken}
        return Counts(opened, self._opened, dict(self._closed), self._failed, present)

    async def keep_going(self) -> None:
        """Open what is due, and give every socket its second, spread over the second."""
        loop = asyncio.get_running_loop()
        tick = 0
        while True:
            for spoken, queue in self._away.items():
                for _ in range(OPENS_PER_S // _TICKS_PER_S):
                    if not queue:
                        break
                    task = loop.create_task(self._open_one(queue.popleft(), self._ports[spoken]))
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
            for slot in self._slots[tick % _TICKS_PER_S :: _TICKS_PER_S]:
                slot.second()
            tick += 1
            await asyncio.sleep(1 / _TICKS_PER_S)

    async def _open_one(self, slot: Slot, port: int) -> None:
        try:
            await slot.open(port)
        except OSError:
            self._failed += 1
            if self._here:
                self._return(slot)

    def _return(self, slot: Slot) -> None:
        if slot.manner is Manner.HALF_CLOSED:
            asyncio.get_running_loop().call_later(HALF_CLOSED_AGAIN_S, self._queue, slot)
        else:
            self._queue(slot)

    def _queue(self, slot: Slot) -> None:
        if self._here and not slot.waiting:
            slot.waiting = True
            self._away[slot.spoken].append(slot)


async def _serve(orders: Orders) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    crowd = Crowd(orders)
    going = loop.create_task(crowd.keep_going())
    telling = loop.create_task(_tell(crowd))
    async for line in reader:
        if line.strip() == b"enter":
            crowd.enter()
        elif line.strip() == b"leave":
            crowd.leave()
    crowd.leave()
    for task in (going, telling):
        task.cancel()
    await asyncio.wait({going, telling})


async def _tell(crowd: Crowd) -> None:
    while True:
        sys.stdout.write(msgspec.json.encode(crowd.counts()).decode() + "\n")
        sys.stdout.flush()
        await asyncio.sleep(0.5)


def _step_back() -> None:
    """Take processor time that nobody else wants, where the system knows such a thing."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def main() -> None:
    """Read the orders and serve until the input ends."""
    raise_file_limit()
    _step_back()
    with contextlib.suppress(BrokenPipeError):
        uvloop.run(_serve(msgspec.json.decode(sys.argv[1], type=Orders)))


if __name__ == "__main__":
    main()
