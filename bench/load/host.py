"""A lean acquirer for load, in its own process: answers by patching bytes, and still keeps books that can judge.

It books in memory: what it must tell in the end is how often each STAN of each terminal was booked and reversed, and
whether any came out of order or changed. `bench.acquirer` with its synced ledger is the one for faults of the host.

Run as `python -m bench.load.host`: orders, one JSON object a line, on standard input; answers likewise on standard
output. It ends with its input.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Final, cast

import msgspec
import uvloop

from bench.load.books import Books, Lane, save_books
from bench.load.frames import DECLINED_CENTS, Amounts, FrameWrong, Spans, cut
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.mti import answer_mti, first_mti, is_advice, is_repeat

ECHOED: Final[tuple[int, ...]] = (2, 3, 4, 7, 11, 12, 13, 25, 32, 41, 42, 49, 60, 70)
_GENERATED: Final = {37: 12, 38: 6, 39: 2}
_CENTS: Final = f"{DECLINED_CENTS:02}".encode()
_PREFIX: Final = 2


class HostOrder(msgspec.Struct, omit_defaults=True):
    """What the host is told to do. `act`: "back" (listen), "away" (hang up), "counts", "save"."""

    act: str
    path: str = ""


class HostCounts(msgspec.Struct):
    """Its answer to every order."""

    port: int
    messages: int = 0
    booked: int = 0
    reversed: int = 0
    declined: int = 0
    connections: int = 0
    cpu_s: float = 0.0
    problem: str = ""


class HostSettings(msgspec.Struct, frozen=True):
    """How it is started."""

    dialect: str
    port: int
    base: int = 10_000
    step: int = 100
    count: int = 300


class _Plan:
    """How requests of one shape are read and answered."""

    __slots__ = ("advice", "amount", "before", "between", "copies", "first", "head", "second", "stan", "terminal")

    def __init__(self, dialect: Dialect, spans: Spans, message: Message, frame: bytes) -> None:
        fields = message.fields
        self.advice = is_advice(message.mti)
        self.stan = _slice(spans, fields, 11)
        self.terminal = _slice(spans, fields, 41)
        self.amount = _slice(spans, fields, 4)
        echoed = [n for n in ECHOED if n in fields]
        low = [n for n in echoed if n < 37]
        high = [n for n in echoed if n > 39]
        answer: Fields = {n: fields[n] for n in echoed} | {n: "0" * size for n, size in _GENERATED.items()}
        built = dialect.codec.encode(_answering(message, answer))
        self.head = (len(built)).to_bytes(_PREFIX, "big") + built[: spans.of(answer, echoed[0])[0]]
        self.first = _runs(spans, fields, low)
        self.second = _runs(spans, fields, high)
        made = self.reply(frame, b"0" * 12, b"0" * 6, b"00")
        if made != built_with_length(built):
            raise FrameWrong("a patched answer is not what the codec makes of it")

    def reply(self, frame: bytes, reference: bytes, approval: bytes, code: bytes) -> bytes:
        """The answer to a request of this shape."""
        parts = [self.head]
        parts += [frame[one] for one in self.first]
        parts += [reference, approval, code]
        parts += [frame[one] for one in self.second]
        return b"".join(parts)


def built_with_length(frame: bytes) -> bytes:
    """A frame with a binary length of two bytes in front."""
    return len(frame).to_bytes(_PREFIX, "big") + frame


def _slice(spans: Spans, fields: Fields, number: int) -> slice:
    start, end = spans.of(fields, number)
    return slice(_PREFIX + start, _PREFIX + end)


def _runs(spans: Spans, fields: Fields, numbers: list[int]) -> list[slice]:
    """Where fields stand, those beside each other as one."""
    runs: list[slice] = []
    for number in numbers:
        here = _slice(spans, fields, number)
        if runs and runs[-1].stop == here.start:
            runs[-1] = slice(runs[-1].start, here.stop)
        else:
            runs.append(here)
    return runs


def _answering(message: Message, fields: Fields) -> Message:
    tpdu = message.tpdu
    return Message(answer_mti(message.mti), fields, tpdu[:1] + tpdu[3:5] + tpdu[1:3], message.header)


class Host:
    """The host: shapes, books, and a port that can be closed and opened.

    Attributes:
        messages, patched: how many it has answered, and how many of them without the codec.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.dialect = load_dialect(settings.dialect)
        self.books = Books(Amounts(base=settings.base, step=settings.step, count=settings.count))
        self.port = settings.port
        self.messages = 0
        self.patched = 0
        self.connections = 0
        self.problem = ""
        self._spans = Spans(self.dialect.codec)
        self._head = slice(0, _PREFIX + self._spans.head_bytes())
        self._plans: dict[bytes, _Plan | None] = {}
        self._server: asyncio.Server | None = None
        self._open: set[HostLine] = set()
        self._reference = 0

    async def back(self) -> None:
        """Listen. Raises: OSError."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: HostLine(self), "127.0.0.1", self.port, backlog=1024)
            self.port = cast("int", self._server.sockets[0].getsockname()[1])

    async def away(self) -> None:
        """Close the port and reset what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in tuple(self._open):
            line.abort()
        await asyncio.sleep(0)

    def opened(self, line: HostLine) -> None:
        """A connection was accepted."""
        self.connections += 1
        self._open.add(line)
        if self._server is None:
            line.abort()

    def lost(self, line: HostLine) -> None:
        """A connection is gone."""
        self._open.discard(line)

    def answer(self, frame: bytes) -> bytes:
        """Book a message and answer it; `frame` and answer have their length in front. Empty for no answer."""
        self.messages += 1
        head = frame[self._head]
        plan = self._plans.get(head)
        if plan is None:
            return self._answer_whole(frame, head)
        self.patched += 1
        stan_wire = frame[plan.stan]
        stan = int(stan_wire.hex() if len(stan_wire) == 3 else stan_wire)
        lane = self.books.lane(frame[plan.terminal])
        amount_wire = frame[plan.amount]
        amount = amount_wire.hex().encode() if len(amount_wire) == 6 else amount_wire
        code = b"51" if not plan.advice and amount.endswith(_CENTS) else b""
        if not code:
            code = self.books.book(lane, stan, int(amount), repeat=False, advice=plan.advice)
        else:
            self.books.decline(lane, stan, int(amount))
        self._reference += 1
        return plan.reply(frame, b"%012d" % self._reference, b"%06d" % stan, code)

    def _answer_whole(self, frame: bytes, head: bytes) -> bytes:
        """The same by the codec, for shapes that are new or not regular."""
        try:
            message = self.dialect.codec.decode(frame[_PREFIX:])
            answering = answer_mti(message.mti)
        except (CodecError, ValueError) as error:
            self.problem = f"a message of the gateway is not readable: {error}"
            return b""
        fields = message.fields
        if head not in self._plans:
            advice = message.mti == "0220"  # it carries the reference that the gateway gave it, and gets another
            plain = (advice or message.mti == "0200") and fields.get(3, "").startswith("00")
            plain = plain and (advice or 37 not in fields)
            regular = plain and self._spans.regular(fields) and 4 in fields
            self._plans[head] = _Plan(self.dialect, self._spans, message, frame) if regular else None
        answer: Fields = {n: fields[n] for n in ECHOED if n in fields}
        self._reference += 1
        answer |= {37: f"{self._reference:012}", 39: self._decide(message)}
        if answer[39] == "00" and answering[1] == "2":
            answer[38] = fields[11]
        made = _answering(message, answer)
        return built_with_length(self.dialect.codec.encode(made))

    def _decide(self, message: Message) -> str:
        """What the books say of any message."""
        fields, mti = message.fields, first_mti(message.mti)
        if mti[1] == "8" or 41 not in fields:
            return "00"
        lane: Lane = self.books.lane(f"{fields[41]:<8}".encode())
        stan, amount = int(fields[11]), int(fields.get(4, "0"))
        if mti[1] == "4":
            named = fields.get(90, "")[4:10]
            return self.books.reverse(lane, int(named) if named.strip("0") else stan).decode()
        if fields.get(3, "").startswith(("30", "31")):
            return "00"
        advice = is_advice(mti)
        if not advice and f"{amount:012}".endswith(_CENTS.decode()):
            self.books.decline(lane, stan, amount)
            return "51"
        return self.books.book(lane, stan, amount, repeat=is_repeat(message.mti), advice=advice).decode()


class HostLine(asyncio.Protocol):
    """One connection of a gateway."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the event loop."""
        self._transport = None
        self._host.lost(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: what came together is answered together."""
        frames: list[bytes] = []
        self._rest = cut(self._rest + data if self._rest else data, frames)
        answer = self._host.answer
        answers = b"".join([answer(frame) for frame in frames])
        if answers and self._transport is not None:
            self._transport.write(answers)

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()


async def _serve(settings: HostSettings) -> None:
    host = Host(settings)
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ready", flush=True)
    while line := await orders.readline():
        order = msgspec.json.decode(line, type=HostOrder)
        try:
            match order.act:
                case "back":
                    await host.back()
                case "away":
                    await host.away()
                case "save":
                    save_books(host.books, Path(order.path))
                case _:
                    pass
        except OSError as error:
            host.problem = str(error)
        print(msgspec.json.encode(_counts(host)).decode(), flush=True)
    await host.away()


def _counts(host: Host) -> HostCounts:
    books = host.books
    return HostCounts(
        port=host.port,
        messages=host.messages,
        booked=books.booked,
        reversed=books.reversed,
        declined=books.declined,
        connections=host.connections,
        cpu_s=time.process_time(),
        problem=host.problem,
    )


def main() -> None:
    """Serve until the input ends; the settings are the one argument, as JSON."""
    settings = msgspec.json.decode(sys.argv[1].encode(), type=HostSettings)
    gc.freeze()
    gc.disable()  # nothing here makes cycles for each message
    uvloop.run(_serve(settings))


if __name__ == "__main__":
    main()
