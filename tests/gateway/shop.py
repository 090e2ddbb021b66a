"""A shop: a gateway as a child process with its journal on disk, an acquirer beside it, and terminals at the counter.

Everything goes over real sockets; nothing of the gateway runs in the test's own process. Waiting is always for a
condition, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bench.acquirer import NORMAL, Acquirer, Connection, Mode
from bench.child import LOG_NAME, Gateway, Setup
from bench.line import Line
from bench.ports import free_ports
from bench.records import LedgerEvent
from bench.terminal import Told
from bench.till import Prepared, Till
from gateway.operations.installing import install
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect, load_dialect
from protocol.iso8583.message import Fields, Message

DEADLINE_S: Final = 30.0
_TEST_WITHIN_S: Final = 100.0
_POLL_S: Final = 0.02

Overrides = Mapping[str, Mapping[str, object]]


def play(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; it has some time, and leaves no task behind."""

    async def bounded() -> None:
        async with asyncio.timeout(_TEST_WITHIN_S):
            await test
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    asyncio.run(bounded())


async def comes_true(
    what: str, condition: Callable[[], bool] | Callable[[], Awaitable[bool]], within_s: float = DEADLINE_S
) -> float:
    """Wait until a condition holds and return how many seconds that took; fail when it does not in time."""
    began = time.monotonic()
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return time.monotonic() - began
        assert time.monotonic() - began < within_s, f"in vain, for {within_s:g} s: {what}"
        await asyncio.sleep(_POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class House(Setup):
    """The bench's configuration with some of its keys changed: by table, then key; `terminals` are added listeners."""

    overrides: Overrides = field(default_factory=dict)
    more_terminals: tuple[Mapping[str, object], ...] = ()

    def toml(self) -> str:
        """The gateway's configuration file."""
        tables = tomllib.loads(Setup.toml(self))
        tables["terminals"] += [{**tables["terminals"][0], **changed} for changed in self.more_terminals]
        for name, values in self.overrides.items():
            there = tables.setdefault(name, {})
            for table in there if isinstance(there, list) else [there]:
                table.update(values)
        lines = []
        for name, content in tables.items():
            for table in content if isinstance(content, list) else [content]:
                lines.append(f"[[{name}]]" if isinstance(content, list) else f"[{name}]")
                lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        return "\n".join(lines) + "\n"


class Host(Acquirer):
    """The simulated acquirer, which also keeps every message that it was sent."""

    def __init__(self, ledger: Path, *, dialect: str, port: int) -> None:
        super().__init__(ledger, dialect=dialect, port=port)
        self.messages: list[Message] = []

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        """Keep the messages, echo tests excepted, then decide about them."""
        for frame in frames:
            with contextlib.suppress(CodecError):
                message = self.dialect.codec.decode(frame)
                if message.mti[1] != "8":
                    self.messages.append(message)
        super().received(connection, frames)

    def arrivals(self, prepared: Prepared) -> list[LedgerEvent]:
        """What reached the acquirer about a transaction: itself, and reversals of it."""
        return [event for event in self.recent if (event.original or event.key) == prepared.key]

    def acts(self, prepared: Prepared) -> list[str]:
        """The same in short: `0200 booked`."""
        return [f"{event.mti} {event.act}" for event in self.arrivals(prepared)]

    def net(self, prepared: Prepared) -> int:
        """1 where the sale stands in the books, else 0."""
        return self.books.net(prepared.key)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a terminal prints."""

    response: str
    approval: str
    rrn: str


def outcome(told: Told) -> Outcome:
    """The part of an answer that must be the same each time."""
    return Outcome(told.response, told.approval, told.rrn)


class Counter:
    """A terminal at the counter, driven by hand: any number of messages in flight over one line."""

    def __init__(self, dialect: str, port: int, terminal: str) -> None:
        self.till = Till(load_dialect(dialect), terminal)
        self._endpoint = ("127.0.0.1", port)
        self._line: Line | None = None
        self._waiting: dict[tuple[str, str], asyncio.Future[Message]] = {}

    async def connect(self) -> Line:
        """The line, dialled if need be. Raises OSError where nobody listens."""
        if self._line is None or not self._line.open:
            loop = asyncio.get_running_loop()
            dialect = self.till.dialect
            _, self._line = await loop.create_connection(
                lambda: Line(dialect, self._answered, self._lost), *self._endpoint
            )
        return self._line

    async def send(self, prepared: Prepared) -> None:
        """Send, and do not wait."""
        (await self.connect()).send(prepared.frame)

    async def ask(self, prepared: Prepared, within_s: float = DEADLINE_S) -> Told:
        """Send and wait for the answer. Raises OSError where the line cannot be had or breaks."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        await self.send(prepared)
        self._waiting[prepared.answer_mti, prepared.stan] = future
        try:
            message = await asyncio.wait_for(future, within_s)
        except TimeoutError:
            raise AssertionError(f"no answer to {prepared.message.mti} {prepared.key} in {within_s:g} s") from None
        fields = message.fields
        return Told(message.mti, fields.get(39, ""), fields.get(38, "").strip(), fields.get(37, ""), message)

    def hang_up(self) -> None:
        """Reset the line, as a power cut would; answers that are under way are lost."""
        if self._line is not None:
            self._line.abort()
            self._line = None

    def _answered(self, message: Message) -> None:
        future = self._waiting.pop((message.mti, message.fields.get(11, "")), None)
        if future is not None and not future.done():
            future.set_result(message)

    def _lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the line broke"))


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


class Shop:
    """The cast of a test."""

    def __init__(self, folder: Path, setup: House, host: Host) -> None:
        self.folder = folder
        self.setup = setup
        self.host = host
        self.gateway = Gateway(folder, setup)
        self._counters: list[Counter] = []

    def terminal(self, name: str = "T0000001", dialect: str = "", port: int = 0) -> Counter:
        """A terminal of that name."""
        counter = Counter(dialect or self.setup.terminal_dialect, port or self.setup.terminal_port, name)
        self._counters.append(counter)
        return counter

    async def start(self, *, online: bool = True) -> None:
        """Start the gateway; `online` waits until it believes that the acquirer answers."""
        await self.gateway.start()
        if online:
            await self.link_is("up")

    async def kill(self) -> None:
        """kill -9."""
        await self.gateway.kill()

    async def end(self, how: str) -> None:
        """End the gateway by "SIGKILL" or "SIGTERM"."""
        if how == "SIGKILL":
            await self.gateway.kill()
        else:
            assert await self.gateway.stop() == 0

    async def close(self) -> None:
        """End everything."""
        for counter in self._counters:
            counter.hang_up()
        await self.gateway.kill()
        await self.host.stop()
        await asyncio.sleep(0)

    async def host_leaves(self) -> None:
        """The acquirer goes away, and the gateway knows."""
        await self.host.set_mode(Mode.AWAY)
        await self.link_is("down")

    async def host_returns(self) -> None:
        """The acquirer is back. What is owed then follows."""
        await self.host.set_behaviour(NORMAL)

    async def link_is(self, state: str) -> None:
        """Wait until the gateway's status says so."""

        async def so() -> bool:
            return bool((await self.status())["acquirer"]["link"] == state)

        await comes_true(f"the link is {state}", so)

    async def drained(self) -> None:
        """Wait until nothing is owed that the gateway can do by itself."""

        async def so() -> bool:
            return await self.gateway.queue_depth() == 0

        await comes_true("the queue is empty", so)

    # --- what operators see -----------------------------------------------------------------------------------------

    async def get(self, target: str) -> tuple[int, str]:
        """Status and body of an answer of the operations listener. Raises OSError where nobody listens."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.setup.operations_port)
            try:
                writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        return int(head.split(b" ", 2)[1]), body.decode()

    async def status(self) -> Any:
        """The status report."""
        code, body = await self.get("/v1/status")
        assert code == 200, body
        return json.loads(body)

    async def stored(self) -> int:
        """How many transactions the journal holds, whatever their state."""
        return sum((await self.status())["queue"]["by_state"].values())

    async def metric(self, sample: str) -> float:
        """One sample of /metrics, named as it stands there, labels included; 0 where it is not there yet."""
        _, body = await self.get("/metrics")
        found = [line.rpartition(" ")[2] for line in body.splitlines() if line.rpartition(" ")[0] == sample]
        return float(found[0]) if found else 0.0

    async def holdfast(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Ran:
        """Run a command of the gateway's to its end, with this shop's configuration."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            "-c",
            str(self.gateway.config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**clean, **(environment or {})},
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(child.communicate(), 2 * DEADLINE_S)
        except (TimeoutError, asyncio.CancelledError):
            child.kill()
            await child.wait()
            raise
        return Ran(child.returncode or 0, out.decode(), err.decode())

    def log(self) -> list[dict[str, Any]]:
        """The gateway's structured lines of all its runs; what it prints when it has opened is left out."""
        text = (self.folder / LOG_NAME).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.log() if line["event"] == event]


def saying(sale: Prepared, more: Fields, dialect: Dialect) -> Prepared:
    """The same sale with more fields."""
    plain = sale.message
    message = Message(plain.mti, plain.fields | more, plain.tpdu, plain.header)
    return replace(sale, message=message, frame=dialect.framing.wrap(dialect.codec.encode(message)))


def setup(**changes: Any) -> House:
    """A configuration with ports of its own and short time limits."""
    terminal_port, operations_port, acquirer_port = free_ports(3)
    usual: dict[str, Any] = {
        "terminal_port": terminal_port,
        "operations_port": operations_port,
        "acquirer_port": acquirer_port,
        "host_timeout_ms": 500,
        "reply_timeout_ms": 1000,
        "longest_flight_ms": 1200,
    }
    return House(**usual | changes)


@contextlib.asynccontextmanager
async def open_shop(folder: Path, house: House | None = None, *, start: bool = True) -> AsyncIterator[Shop]:
    """A shop that is open for business: acquirer and gateway are up and know each other.

    Args:
        start: False leaves the gateway to the test; keys and configuration are made, and the acquirer is up.
    """
    house = house or setup()
    install(folder)
    host = Host(folder / "ledger.jsonl", dialect=house.acquirer_dialect, port=house.acquirer_port)
    shop = Shop(folder, house, host)
    shop.gateway.config.write_text(house.toml(), encoding="utf-8")
    await host.start()
    try:
        if start:
            await shop.start()
        yield shop
    except BaseException as error:
        error.add_note(f"the gateway's log ends:\n{shop.gateway.log_end()}")
        raise
    finally:
        await shop.close()
