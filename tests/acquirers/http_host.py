"""A small host that speaks JSON over HTTP on real sockets, byte by byte where it has to, and misbehaves on demand.

It has the face of `tests.acquirers.host.Host`, so that the conformance suite runs on an HTTP link too: all connections
of a client together are the one *line* that the suite knows as a connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
from typing import Any, cast

from bench.listening import close_port
from bench.ports import free_ports
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import answer_mti
from tests.acquirers.waiting import DEADLINE_S, until

MAPPING = """
name = "conformance"
[fields]
{fields}
4 = {{ path = "amount", type = "minor", required = true }}
[answer]
11 = {{ path = "f11" }}
41 = {{ path = "f41" }}
42 = {{ path = "f42" }}
37 = {{ path = "f37" }}
38 = {{ path = "f38" }}
39 = {{ path = "code", iso = true }}
[messages.0100]
path = "/0100"
[messages.0120]
path = "/0120"
[messages.0200]
path = "/0200"
[messages.0220]
path = "/0220"
[messages.0400]
path = "/0400"
[probe]
path = "/health"
[status]
422 = "30"
503 = "91"
402 = "answer"
""".format(fields="\n".join(f'{n} = {{ path = "f{n}" }}' for n in (2, 3, 11, 22, 25, 41, 42, 49, 62)))


def response(body: bytes, status: str = "200 OK", *, kind: str = "application/json", more: str = "") -> bytes:
    """A whole response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Line:
    """All connections of the host's client."""

    def __init__(self, host: HttpHost) -> None:
        self._host = host

    @property
    def transport(self) -> Line:
        """The suite pauses a transport."""
        return self

    def pause_reading(self) -> None:
        self._host.paused = True
        for connection in self._host.tcp:
            connection.transport.pause_reading()

    def resume_reading(self) -> None:
        self._host.paused = False
        for connection in self._host.tcp:
            connection.transport.resume_reading()

    def reset(self) -> None:
        """Reset every connection; while reading is paused, as soon as something lies unread on one of them."""
        if self._host.paused:
            self._host.reset_when_unread()
            return
        for connection in tuple(self._host.tcp):
            connection.reset()


class HttpConnection(asyncio.Protocol):
    """One connection that the host has accepted; reads requests."""

    def __init__(self, host: HttpHost) -> None:
        self._host = host
        self._unread = b""
        self.transport: asyncio.Transport
        self.requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._host.tcp.append(self)
        self._host.accepted += 1
        if self._host.hangs_up:
            self.reset()
        elif self._host.paused:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._pause)  # uvloop, and asyncio up to 3.11.2, read after this call

    def _pause(self) -> None:
        if self._host.paused and not self.transport.is_closing():
            self.transport.resume_reading()  # else one that calls itself paused would not pause
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            head, _, rest = self._unread.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            self._unread = rest[length:]
            self.requests += 1
            method, path, _ = first.split(" ")
            exchange = HttpExchange(self._host, self, method, path, headers, rest[:length])
            self._host.took(exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.tcp.remove(self)

    def reset(self) -> None:
        """Send a TCP reset in place of an orderly end."""
        sock = cast("socket.socket", self.transport.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def has_unread(self) -> bool:
        """Whether bytes lie in the kernel."""
        sock = cast("socket.socket", self.transport.get_extra_info("socket"))
        with socket.socket(fileno=os.dup(sock.fileno())) as peeking:
            try:
                return bool(peeking.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except BlockingIOError:
                return False


class HttpExchange:
    """A request that the host has read, and what the host does about it."""

    def __init__(
        self,
        host: HttpHost,
        connection: HttpConnection,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
    ) -> None:
        self._host = host
        self.tcp = connection
        self.connection = host.line
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.json: dict[str, Any] = json.loads(body) if body else {}
        fields: Fields = {int(name[1:]): value for name, value in self.json.items() if name[0] == "f"}
        if "amount" in self.json:
            fields[4] = f"{self.json['amount']:012}"
        self.message = Message(path[1:] if path[1:].isdecimal() else "0800", dict(sorted(fields.items())))

    def reply(self, code: str = "00", **more: str) -> Message:
        """The answer that a host would give; `more` are fields by name `f37`."""
        fields = {n: v for n, v in self.message.fields.items() if n in (11, 41, 42)}
        fields[39] = code
        fields.update({int(name[1:]): value for name, value in more.items()})
        return Message(answer_mti(self.message.mti), fields)

    def framed(self, message: Message) -> bytes:
        """A response with the fields of a message."""
        named = {f"f{number}" if number != 39 else "code": value for number, value in message.fields.items()}
        return response(json.dumps(named).encode())

    def answer(self, code: str = "00", **more: str) -> None:
        """Answer."""
        self.write(self.framed(self.reply(code, **more)))

    def write(self, raw: bytes) -> None:
        """Send anything over the connection of the request."""
        self.tcp.transport.write(raw)

    def answer_partly_and_reset(self) -> None:
        """Break off within the answer."""
        framed = self.framed(self.reply())
        self.write(framed[: len(framed) // 2])
        self.connection.reset()


class HttpHost:
    """Listens on a port of its own, which it keeps when it comes back after `stop`."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self.tcp: list[HttpConnection] = []
        self.exchanges: asyncio.Queue[HttpExchange] = asyncio.Queue()
        self.received: list[Message] = []
        self.answers_at_once = False
        self.receive_buffer_bytes = 0
        self.paused = False
        self.hangs_up = False
        self.tls: ssl.SSLContext | None = None
        self.line = Line(self)
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> list[Line]:
        """The line, while the host is there."""
        return [] if self._server is None else [self.line]

    def took(self, exchange: HttpExchange) -> None:
        """A request is there."""
        self.received.append(exchange.message)
        self.exchanges.put_nowait(exchange)
        if self.answers_at_once:
            exchange.answer()

    def reset_when_unread(self) -> None:
        """Reset every connection as soon as the kernel holds bytes that nobody has read."""
        if any(connection.has_unread() for connection in self.tcp):
            self.paused = False
            self.line.reset()
        elif self._server is not None:
            asyncio.get_running_loop().call_later(0.001, self.reset_when_unread)

    async def start(self) -> int:
        """Listen; the same port each time."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port = self.port or free_ports(1)[0]
        listening.bind(("127.0.0.1", self.port))
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self), sock=listening, ssl=self.tls
        )
        return self.port

    async def reserve(self) -> int:
        """Take a port that refuses connections until `start`."""
        await self.start()
        await self.stop()
        return self.port

    def refuse_new(self) -> None:
        """Refuse new connections, and keep those that there are."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Hang up on everybody and refuse connections."""
        if self._server is not None:
            await close_port(self._server)
            for connection in tuple(self.tcp):
                connection.transport.abort()
            await self._server.wait_closed()
            self._server = None
        await until(lambda: not self.tcp, "all connections closed")

    async def next(self) -> HttpExchange:
        """The next request that the host reads."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.exchanges.get()
