"""A TCP proxy that is a bad network: it refuses, swallows, resets, delays and dribbles, all by one seed.

It stands between two parties and knows nothing of what they say. With a framing it cuts both directions into frames,
so that a fault hits one message whole; without one a message is whatever was read at once.

What happens to a connection is drawn when it is accepted, what happens to a reply when it is read, both from dice of
that connection's own (seed and number), so that connections do not disturb each other's draws.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, assert_never, cast

from bench.listening import close_port
from protocol.framing import FrameReader, Framing, FramingError

_READ_BYTES: Final = 16 * 1024
_WAITING_MAX: Final = 1024
"""Messages of one direction that wait to be sent; reading stops there, and a late one too many is lost."""
_TEAR_S: Final = 0.005
"""Between the last bytes of a torn message and the reset, which would throw them away unread."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Way(StrEnum):
    """The direction of a message: from whoever dialled, or to it."""

    REQUEST = "request"
    REPLY = "reply"


class Fault(StrEnum):
    """What can happen to one message."""

    DROP = "drop"  # it is swallowed, the connection goes on
    RESET = "reset"  # the connection is reset in its place
    RESET_INSIDE = "reset-inside"  # some of its bytes arrive, then the connection is reset
    LATE = "late"  # it arrives after `late_ms`; others overtake it
    BLACKHOLE = "blackhole"  # it and all that follows on this connection, either way, is read and thrown away


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The state of the network. Shares are probabilities, 0 to 1.

    Attributes:
        refuse: connections that are reset at once; with 1 the port is closed, which is a refusal proper.
        blackhole: connections that are accepted and never heard of again; the other party is not dialled.
        reset: connections that are reset by themselves within `reset_within_ms`.
        dribble: connections on which messages trickle, `dribble_bytes` at a time with `dribble_pause_ms` between.
        drop_reply, reset_reply, reset_inside_reply, late_reply, blackhole_reply: replies with that fault; together at
            most 1. `late_ms` is from least to most.
        delay_ms: what every message takes longer, from least to most, both ways and in order.
        bytes_per_s: the most that either way of a connection carries; 0 for no limit.
    """

    refuse: float = 0.0
    blackhole: float = 0.0
    reset: float = 0.0
    reset_within_ms: int = 1000
    dribble: float = 0.0
    dribble_bytes: int = 3
    dribble_pause_ms: int = 2
    drop_reply: float = 0.0
    reset_reply: float = 0.0
    reset_inside_reply: float = 0.0
    late_reply: float = 0.0
    blackhole_reply: float = 0.0
    late_ms: tuple[int, int] = (100, 500)
    delay_ms: tuple[int, int] = (0, 0)
    bytes_per_s: int = 0


CALM: Final = Weather()


@dataclass(frozen=True, slots=True)
class Spell:
    """A weather that begins `at_s` seconds after the schedule does."""

    at_s: float
    weather: Weather


_Waiting = asyncio.Queue[tuple[bytes, bool] | None]
"""Bytes to send, and whether the connection is reset behind them; None where the sender has hung up."""

Choice = Callable[[Way, bytes], Fault | None]
"""Decides about each message in place of the dice; what it gets has no length prefix. None lets the message pass."""


class Proxy:
    """A listener that hands connections on to one address, as the weather lets it.

    All calls are made on the event loop's thread. `counts` says what it did: connections, requests, replies, refused,
    blackholed, reset, dribbled, unreachable, overflowed, and each Fault by its name.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        seed: int,
        port: int = 0,
        host: str = "127.0.0.1",
        framing: Framing | None = None,
        weather: Weather = CALM,
        choose: Choice | None = None,
    ) -> None:
        self.host, self.port = host, port
        self.target = target
        self.framing = framing
        self.choose = choose
        self.counts: Counter[str] = Counter()
        self._weather = weather
        self._seed = seed
        self._numbers = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def weather(self) -> Weather:
        """What applies now."""
        return self._weather

    async def start(self) -> None:
        """Listen, unless the weather refuses everybody; a port of 0 becomes the real one.

        Raises:
            OSError: the address is taken.
        """
        await self.change(self._weather)

    async def change(self, weather: Weather) -> None:
        """Let another weather apply from now on: to new connections, and to replies of those that are there."""
        self._weather = weather
        if weather.refuse >= 1:
            await self._close_port()
        elif self._server is None:
            self._server = await asyncio.start_server(self._accepted, self.host, self.port, backlog=1024)
            self.port = cast("int", self._server.sockets[0].getsockname()[1])

    async def follow(self, schedule: Iterable[Spell]) -> None:
        """Change the weather as a schedule has it, in order of time; returns with its last spell begun.

        Cancellation: the weather stays as it is.
        """
        began = asyncio.get_running_loop().time()
        for spell in sorted(schedule, key=lambda spell: spell.at_s):
            await asyncio.sleep(max(0.0, began + spell.at_s - asyncio.get_running_loop().time()))
            await self.change(spell.weather)

    async def cut(self) -> None:
        """Reset every connection that is there."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Listen no more, and reset every connection. Safe to call twice."""
        await self._close_port()
        await self.cut()

    async def _close_port(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await close_port(server)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._numbers += 1
        if self._server is None:  # accepted in the turn in which the port was closed
            _reset(writer)
            return
        connection = _Connection(self, random.Random(f"{self._seed}/{self._numbers}"))
        task = asyncio.get_running_loop().create_task(connection.serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(partial(self._ended, writer))

    def _ended(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        _reset(writer)  # a task that is cancelled before it begins never comes to its own end
        self._connections.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # our own mistake: the loop's exception handler tells it


class _Torn(Exception):
    """The connection is to be reset, on both sides."""


class _Connection:
    """One connection with its two sides: `serve` reads both and sends to both until one of them ends."""

    def __init__(self, proxy: Proxy, dice: random.Random) -> None:
        self._proxy = proxy
        self._dice = dice
        self._dark = False
        self._dribbles = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the connection to its end. Cancellation: both sides are reset."""
        proxy, dice, weather = self._proxy, self._dice, self._proxy.weather
        proxy.counts["connections"] += 1
        refused, dark, torn, dribbles = (dice.random() for _ in range(4))
        life_s = dice.random() * weather.reset_within_ms / 1000 if torn < weather.reset else None
        self._dribbles = dribbles < weather.dribble
        proxy.counts["dribbled"] += self._dribbles
        far: asyncio.StreamWriter | None = None
        try:
            if refused < weather.refuse:
                proxy.counts["refused"] += 1
            elif dark < weather.blackhole:
                proxy.counts["blackholed"] += 1
                await _swallow(reader)
            else:
                far_reader, far = await asyncio.open_connection(*proxy.target)
                await self._carry((reader, far), (far_reader, writer), life_s)
                await _close(far)
                await _close(writer)
        except OSError:
            proxy.counts["unreachable" if far is None else "broken"] += 1
        except _Torn:
            pass
        finally:
            _reset(writer)
            if far is not None:
                _reset(far)

    async def _carry(
        self,
        requests: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        replies: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        life_s: float | None,
    ) -> None:
        """Carry both ways until one side hangs up and has been handed on.

        Raises:
            _Torn: a fault, or the end of a life that the weather has made short.
            OSError: a side was reset.
        """
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        for way, (reader, writer) in ((Way.REQUEST, requests), (Way.REPLY, replies)):
            waiting: _Waiting = asyncio.Queue(_WAITING_MAX)
            sending = loop.create_task(self._send(waiting, writer))
            tasks += [sending, loop.create_task(self._read(way, reader, waiting, sending))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=life_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self._proxy.counts["reset"] += 1
                raise _Torn
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self, way: Way, reader: asyncio.StreamReader, waiting: _Waiting, sending: asyncio.Task[None]
    ) -> None:
        frames = self._proxy.framing.reader() if self._proxy.framing is not None else None
        while data := await reader.read(_READ_BYTES):
            for message in _messages(frames, data):
                await self._treat(way, message, waiting)
        await waiting.put(None)
        await sending

    async def _treat(self, way: Way, message: bytes, waiting: _Waiting) -> None:
        """Let one message pass or give it its fault. Raises _Torn where that ends the connection."""
        proxy = self._proxy
        if self._dark:
            return
        proxy.counts["requests" if way is Way.REQUEST else "replies"] += 1
        fault = self._fault(way, message)
        wire = message if proxy.framing is None else proxy.framing.wrap(message)
        if fault is None:
            await waiting.put((wire, False))
            return
        proxy.counts[fault.value] += 1
        match fault:
            case Fault.DROP:
                pass
            case Fault.LATE:
                late_s = self._dice.uniform(*proxy.weather.late_ms) / 1000
                asyncio.get_running_loop().call_later(late_s, self._put_late, waiting, wire)
            case Fault.BLACKHOLE:
                self._dark = True
            case Fault.RESET:
                raise _Torn
            case Fault.RESET_INSIDE:
                await waiting.put((wire[: self._dice.randint(1, max(1, len(wire) - 1))], True))
            case _:
                assert_never(fault)

    def _fault(self, way: Way, message: bytes) -> Fault | None:
        if self._proxy.choose is not None:
            return self._proxy.choose(way, message)
        if way is Way.REQUEST:
            return None
        weather, drawn = self._proxy.weather, self._dice.random()
        for fault, share in (
            (Fault.DROP, weather.drop_reply),
            (Fault.RESET, weather.reset_reply),
            (Fault.RESET_INSIDE, weather.reset_inside_reply),
            (Fault.LATE, weather.late_reply),
            (Fault.BLACKHOLE, weather.blackhole_reply),
        ):
            drawn -= share
            if drawn < 0:
                return fault
        return None

    def _put_late(self, waiting: _Waiting, wire: bytes) -> None:
        try:
            if not self._dark:
                waiting.put_nowait((wire, False))
        except asyncio.QueueFull:
            self._proxy.counts["overflowed"] += 1

    async def _send(self, waiting: _Waiting, writer: asyncio.StreamWriter) -> None:
        """Send what waits, in order. Raises _Torn behind what was the last of this connection."""
        while (sent := await waiting.get()) is not None:
            wire, is_torn = sent
            weather = self._proxy.weather
            if any(weather.delay_ms):
                await asyncio.sleep(self._dice.uniform(*weather.delay_ms) / 1000)
            step = max(1, weather.dribble_bytes) if self._dribbles else len(wire) or 1
            for at in range(0, len(wire), step):
                writer.write(wire[at : at + step])
                await writer.drain()
                if self._dribbles and at + step < len(wire):
                    await asyncio.sleep(weather.dribble_pause_ms / 1000)
            if weather.bytes_per_s:
                await asyncio.sleep(len(wire) / weather.bytes_per_s)
            if is_torn:
                await asyncio.sleep(_TEAR_S)
                raise _Torn


def _messages(frames: FrameReader | None, data: bytes) -> list[bytes]:
    """The messages that a piece of the stream completes. Raises _Torn where it is no stream of frames."""
    if frames is None:
        return [data]
    before = frames.keepalives
    try:
        whole = frames.feed(data)
    except FramingError:
        raise _Torn from None
    # An empty frame is a keep-alive, and is handed on as one; where it stood among the others does not matter.
    return whole + [b""] * (frames.keepalives - before)


async def _swallow(reader: asyncio.StreamReader) -> None:
    """Read and throw away, until the other side gives up."""
    while await reader.read(_READ_BYTES):
        pass


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close when everything was sent."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Make the other side see a reset rather than an end. Nothing where the connection is closed."""
    transport = writer.transport
    if not transport.is_closing():
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
