"""Terminals over real sockets, and what stands in the place of the core behind a listener."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self

from gateway.core.answers import local_answer
from gateway.core.events import Requested
from gateway.core.fingerprint import KeyedHash
from gateway.core.transaction import Answer
from gateway.terminals.asked import Asked
from gateway.terminals.iso8583 import Iso8583Listener
from gateway.terminals.limits import ListenerSettings
from gateway.tls import ReloadableServerContext
from protocol.iso8583.dialect import Dialect
from protocol.iso8583.message import Fields, Message
from tests.acquirers.waiting import DEADLINE_S, until

PAN = "4111111111111111"  # a published test number
TPDU = bytes.fromhex("6000030001")
TPDU_BACK = bytes.fromhex("6000010003")
HEADER = bytes.fromhex("603100311234")


def sale(dialect: Dialect, stan: int, **more: str) -> Message:
    """A sale as a terminal of this dialect sends it; `more` are fields by name `f4`."""
    fields: Fields = {
        2: PAN, 3: "000000", 4: "000000001000", 11: f"{stan:06}", 13: "1121", 22: "051", 25: "00", 41: "T0000001",
        42: "M00000000000001", 49: "156",
    }  # fmt: skip
    if dialect.name == "unionpay":
        fields[60] = "22000001000"
    fields.update({int(name[1:]): value for name, value in more.items()})
    return Message("0200", fields, TPDU if dialect.tpdu else b"", HEADER[: dialect.header_bytes])


def since_long() -> Asked:
    """What a gateway remembers that has been up for more than a generation."""
    asked = Asked()
    asked.begin(-(10**9))
    return asked


class Terminal:
    """One connection to a listener."""

    def __init__(self, dialect: Dialect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dialect = dialect
        self._reader = reader
        self._frames = dialect.framing.reader()
        self._messages: list[Message] = []
        self.writer = writer

    def framed(self, message: Message) -> bytes:
        return self.dialect.framing.wrap(self.dialect.codec.encode(message))

    def send(self, *messages: Message) -> None:
        """Send messages in one write."""
        self.writer.write(b"".join(map(self.framed, messages)))

    async def receive(self) -> Message:
        """The next answer."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._messages:
                data = await self._reader.read(65_536)
                assert data, "the listener hung up"
                self._messages += map(self.dialect.codec.decode, self._frames.feed(data))
        return self._messages.pop(0)

    async def hung_up(self) -> None:
        """Wait until the listener closes the connection, without a word."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                rest = await self._reader.read(1)
            except ConnectionError:
                return
        assert rest == b""

    def reset(self) -> None:
        """Lose power, more or less."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Shop:
    """A listener, and a recorder of what it submits."""

    def __init__(self, dialect: Dialect, settings: ListenerSettings) -> None:
        self.dialect = dialect
        self.requested: list[Requested] = []
        self.reports: list[tuple[str, dict[str, str]]] = []
        self.approves = True
        self.utc_ms = 1_795_000_000_000
        self.listener = Iso8583Listener(
            settings, dialect, KeyedHash(bytes(32)), self._submit, lambda: self.utc_ms, self._report,
            asked=since_long(),
        )  # fmt: skip
        self.address = ("", 0)

    def approve(self, requested: Requested, **more: str) -> None:
        """Answer a request 00."""
        request = requested.request
        answer = local_answer(request.mti, request.fields, "00", request.rules, self.utc_ms)
        extra = {int(name[1:]): value for name, value in more.items()}
        self.listener.reply(requested.terminal_token, Answer(answer.mti, answer.fields | extra))

    async def terminal(self, tls: ssl.SSLContext | None = None) -> Terminal:
        """A new connection."""
        reader, writer = await asyncio.open_connection(
            *self.address, ssl=tls, server_hostname="localhost" if tls else None
        )
        return Terminal(self.dialect, reader, writer)

    async def submitted(self, count: int) -> None:
        """Wait until as many requests have been submitted in all."""
        await until(lambda: len(self.requested) >= count, f"{count} requests submitted")

    async def counted(self, name: str, count: int = 1) -> None:
        """Wait for a counter."""
        await until(lambda: self.listener.counters()[name] >= count, f"{name} reaches {count}")

    async def serves_others(self, other: Terminal) -> None:
        """Check that a terminal which was there before is served as ever."""
        self.approves = True
        message = sale(self.dialect, 424242)
        other.send(message)
        answer = await other.receive()
        assert (answer.fields[11], answer.fields[39]) == ("424242", "00")

    def _submit(self, requested: Requested) -> None:
        self.requested.append(requested)
        if self.approves:
            self.approve(requested)

    def _report(self, name: str, facts: dict[str, str]) -> None:
        assert PAN not in repr((name, facts))
        self.reports.append((name, facts))


@asynccontextmanager
async def shop(dialect: Dialect, tls: ReloadableServerContext | None = None, **settings: int) -> AsyncIterator[Shop]:
    """A started listener; nothing of it may be left when it is closed."""
    made = Shop(dialect, replace(ListenerSettings(tls=tls, sweep_interval_ms=20), **settings))  # type: ignore[arg-type]
    made.address = await made.listener.start()
    try:
        yield made
    finally:
        await made.listener.close()
        await made.listener.close()
        assert made.listener.gauges()["connections"] == 0


__all__ = ["HEADER", "PAN", "TPDU", "TPDU_BACK", "Shop", "Terminal", "sale", "shop", "since_long"]
