"""A small host that speaks ISO 8583 over real sockets, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import cast

from bench.listening import close_port
from bench.ports import free_ports
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Message
from protocol.iso8583.mti import answer_mti
from tests.acquirers.waiting import DEADLINE_S, until


class HostConnection(asyncio.Protocol):
    """One connection that the host has accepted."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reader = host.dialect.framing.reader()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._host.connections.append(self)
        self._host.accepted += 1
        self._host.on_connect(self)

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            exchange = Exchange(self, self._host.dialect.codec.decode(frame), frame)
            if self._host.takes(exchange):
                continue
            self._host.received.append(exchange.message)
            self._host.exchanges.put_nowait(exchange)
            if self._host.answers_at_once:
                exchange.answer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections.remove(self)

    def send(self, message: Message) -> None:
        """Send any message."""
        self.transport.write(self._host.framed(message))

    def reset(self) -> None:
        """Send a TCP reset in place of an orderly end."""
        sock = cast("socket.socket", self.transport.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Exchange:
    """A message that the host has read, and what the host does about it."""

    def __init__(self, connection: HostConnection, message: Message, frame: bytes = b"") -> None:
        self.connection = connection
        self.message = message
        self.frame = frame
        self._host = connection._host

    def reply(self, code: str = "00", **more: str) -> Message:
        """The answer that a host would give; `more` are fields by name `f37`."""
        fields = {n: v for n, v in self.message.fields.items() if n in (3, 4, 11, 41, 42, 60)}
        fields[39] = code
        fields.update({int(name[1:]): value for name, value in more.items()})
        return Message(answer_mti(self.message.mti), fields, self.message.tpdu, self.message.header)

    def answer(self, code: str = "00", **more: str) -> None:
        """Answer over the connection that the message came by."""
        self.connection.send(self.reply(code, **more))

    def answer_partly_and_reset(self) -> None:
        """Break off within the answer."""
        framed = self._host.framed(self.reply())
        self.connection.transport.write(framed[: len(framed) // 2])
        self.connection.reset()


class Host:
    """Listens on a port of its own, which it keeps when it comes back after `stop`."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.port = 0
        self.accepted = 0
        self.connections: list[HostConnection] = []
        self.exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self.received: list[Message] = []
        self.answers_at_once = False
        self.receive_buffer_bytes = 0
        self.tls: ssl.SSLContext | None = None
        self.on_connect: Callable[[HostConnection], None] = lambda _: None
        self._server: asyncio.Server | None = None

    def takes(self, exchange: Exchange) -> bool:
        """Whether the host settles a message by itself, before any test sees it."""
        return False

    def framed(self, message: Message) -> bytes:
        """A message as bytes of the stream."""
        return self.dialect.framing.wrap(self.dialect.codec.encode(message))

    async def start(self) -> int:
        """Listen; the same port each time."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer_bytes:  # before listening, so that connections inherit it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        self.port = self.port or free_ports(1)[0]
        listening.bind(("127.0.0.1", self.port))
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HostConnection(self), sock=listening, ssl=self.tls
        )
        return self.port

    async def reserve(self) -> int:
        """Take a port that refuses connections until `start`."""
        await self.start()
        await self.stop()
        return self.port

    async def stop(self) -> None:
        """Hang up on everybody and refuse connections."""
        if self._server is not None:
            await close_port(self._server)
            for connection in tuple(self.connections):
                connection.transport.abort()
            await self._server.wait_closed()
            self._server = None
        await until(lambda: not self.connections, "all connections closed")

    async def next(self) -> Exchange:
        """The next message that the host reads."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.exchanges.get()
