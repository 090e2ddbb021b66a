"""The generator's own process: terminals, their lines and a loop; it is told by its input and tells by its output.

Run as `python -m bench.load.worker`. Orders are JSON objects, one a line; what it tells are MessagePack objects, each
with its length in four bytes in front. Twice a second it hands over what it has counted, raw: sorting and adding up is
the parent's work. It ends with its input.
"""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.load.business import RETRIES_MAX, MixedTerminal, RepeatingTerminal
from bench.load.closed_loop import ClosedLoop
from bench.load.frames import Amounts, AnswerReader, FrameWrong, Now, SaleFrames
from bench.load.http_clients import HttpTill, SaleRequests
from bench.load.lines import Dialled, IsoLine, Line, Patience, connect_all
from bench.load.open_loop import OpenLoop
from bench.load.schedule import Schedule
from bench.load.tally import Tally
from bench.load.terminals import Terminal
from protocol.iso8583.dialect import load_dialect

BEAT_S: Final = 0.5
LENGTH: Final = struct.Struct(">I")


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How it is started.

    Attributes:
        business: "sales", "duplicates" or "mixed".
        closed: each terminal one in flight as fast as it goes, else on a schedule.
        connections: terminals share so many; 0 for one each. HTTP: always one each.
        ca_file: of the server's certificate; empty for no TLS.
        poisson: arrivals know nothing of each other, else they are evenly spaced.
        first_terminal, first_stan: where names and STANs begin; for sales over ISO 8583.
    """

    port: int
    protocol: str
    dialect: str
    terminals: int
    business: str
    closed: bool
    seed: int
    poisson: bool = True
    connections: int = 0
    ca_file: str = ""
    answer_within_s: float = 5.0
    first_terminal: int = 0
    first_stan: int = 1


class Order(msgspec.Struct, omit_defaults=True):
    """`act`: "begin" (at this rate), "mark" (a new phase), "pause", "stop" (within so long), "save" (to this path)."""

    act: str
    rate: float = 0.0
    phase: int = 0
    within_s: float = 0.0
    path: str = ""


class Beat(msgspec.Struct):
    """What was counted since the last beat, of one phase; times as bytes of array("q"), nanoseconds.

    Attributes:
        answer_to: the order that this answers; empty for a beat of its own accord.
        seconds: that it covers.
        left: requests without an answer.
    """

    phase: int
    seconds: float
    offered: int
    outcomes: list[int]
    failed: int
    service: bytes
    response: bytes
    lag_ns_max: int
    late: int
    cpu_s: float
    left: int
    resent: int
    lost_lines: int
    stale: int
    disagreed: int
    verified: int
    answer_to: str = ""
    problems: list[str] = []


class Worker:
    """Terminals and their loop."""

    def __init__(self, settings: WorkerSettings, out: asyncio.WriteTransport) -> None:
        self._settings = settings
        self._out = out
        self._closed = ClosedLoop() if settings.closed else None
        self._open = None if settings.closed else OpenLoop()
        self._loop: ClosedLoop | OpenLoop = self._closed or self._open or ClosedLoop()
        self._amounts = Amounts()
        self._now = Now()
        self._reader = AnswerReader(load_dialect(settings.dialect)) if settings.protocol == "iso8583" else None
        self._problems: list[str] = []
        self._dialled = Dialled(("127.0.0.1", settings.port), _tls(settings), settings.seed, self._broken)
        self._terminals: list[Terminal | HttpTill] = []
        self._lines: list[Line] = []
        self._make()
        self._patience = Patience(self._lines, settings.answer_within_s)
        self._phase = 0
        self._since_ns = time.perf_counter_ns()
        self._cpu_s = time.process_time()
        self._begun = 0

    def _make(self) -> None:
        settings = self._settings
        if self._reader is None:
            retries = range(1, RETRIES_MAX + 1) if settings.business == "duplicates" else (0,)
            for index in range(settings.terminals):
                till = HttpTill(index, SaleRequests(index, self._amounts), self._loop, self._dialled, retries=retries)
                self._loop.add(till)
                self._terminals.append(till)
                self._lines.append(till)
            return
        dialect = load_dialect(settings.dialect)
        lines = [IsoLine(self._dialled, self._reader) for _ in range(settings.connections or settings.terminals)]
        for index in range(settings.terminals):
            line = lines[index % len(lines)]
            frames = SaleFrames(dialect, settings.first_terminal + index, self._now, self._amounts)
            terminal = self._terminal(index, frames, line)
            self._loop.add(terminal)
            line.carry(terminal)
            self._terminals.append(terminal)
        self._lines += lines

    def _terminal(self, index: int, frames: SaleFrames, line: IsoLine) -> Terminal:
        settings = self._settings
        if settings.business == "duplicates":
            return RepeatingTerminal(index, frames, self._loop, line, settings.seed)
        if settings.business == "mixed":
            return MixedTerminal(index, frames, self._loop, line, settings.seed, self._amounts)
        return Terminal(index, frames, self._loop, line, settings.first_stan)

    def _broken(self, error: Exception) -> None:
        """The bench is wrong, or the gateway's answers are: whoever reads the results must know."""
        if len(self._problems) < 5:
            self._problems.append(f"{type(error).__name__}: {error}")

    async def connect(self) -> None:
        """Connect every line. Raises: OSError, TimeoutError."""
        await connect_all(self._lines)
        self._patience.start()
        loop = asyncio.get_running_loop()
        loop.call_later(BEAT_S, self._beat_again)
        loop.call_later(1.0, self._second)

    def _second(self) -> None:
        self._now.refresh()
        asyncio.get_running_loop().call_later(1.0 - time.time() % 1.0, self._second)

    def _beat_again(self) -> None:
        asyncio.get_running_loop().call_later(BEAT_S, self._beat_again)
        self.beat()

    def beat(self, answer_to: str = "") -> None:
        """Hand over what was counted."""
        tally: Tally = self._loop.take()
        now, cpu_s = time.perf_counter_ns(), time.process_time()
        terminals = self._terminals
        beat = Beat(
            phase=self._phase,
            seconds=(now - self._since_ns) / 1e9,
            offered=tally.offered,
            outcomes=list(tally.outcomes),
            failed=tally.failed,
            service=tally.service_ns.tobytes(),
            response=tally.response_ns.tobytes(),
            lag_ns_max=tally.lag_ns_max,
            late=tally.late,
            cpu_s=cpu_s - self._cpu_s,
            left=self._loop.in_flight,
            resent=sum(one.resent for one in terminals),
            lost_lines=sum(line.lost for line in self._lines),
            stale=sum(one.stale for one in terminals),
            disagreed=sum(one.disagreed for one in terminals),
            verified=self._reader.verified if self._reader is not None else 0,
            answer_to=answer_to,
            problems=self._problems + self._loop.problems,
        )
        self._since_ns, self._cpu_s = now, cpu_s
        body = msgspec.msgpack.encode(beat)
        self._out.write(LENGTH.pack(len(body)) + body)

    async def obey(self, order: Order) -> None:
        """Do as told, and answer with a beat."""
        match order.act:
            case "begin":
                self._begin(order.rate)
            case "mark":
                self.beat()
                self._phase = order.phase
            case "pause":
                if self._open is not None:
                    self._open.pause()
            case "stop":
                await self._loop.stop(order.within_s)
            case "save":
                self._save(Path(order.path))
            case _:
                raise ValueError(f"no such order: {order.act}")
        self.beat(order.act)

    def _begin(self, rate: float) -> None:
        settings = self._settings
        if self._open is not None:
            self._begun += 1
            seed = settings.seed + 1_000_003 * self._begun
            self._open.begin(Schedule(rate, settings.terminals, seed, poisson=settings.poisson))
        elif self._closed is not None:
            self._closed.begin()

    def _save(self, path: Path) -> None:
        """Give up on what is not answered, and write down what every terminal was told."""
        told: dict[str, bytes] = {}
        for index, terminal in enumerate(self._terminals):
            terminal.give_up()
            name = terminal.frames.terminal if isinstance(terminal, Terminal) else terminal.terminal
            told[name] = bytes(terminal.told)
            assert terminal.index == index
        path.write_bytes(msgspec.msgpack.encode(told))

    def close(self) -> None:
        """Hang up."""
        self._patience.stop()
        if self._open is not None:
            self._open.pause()  # an alarm that is still set would keep the event loop from closing
        for line in self._lines:
            line.close()


def _tls(settings: WorkerSettings) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else None


async def _work(settings: WorkerSettings) -> int:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    try:
        worker = Worker(settings, out)
        await worker.connect()
    except (OSError, TimeoutError, FrameWrong) as error:
        print(f"the generator cannot begin: {error}", file=sys.stderr)
        return 1
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles for each request
    worker.beat("ready")
    while line := await orders.readline():
        await worker.obey(msgspec.json.decode(line, type=Order))
    worker.close()
    return 0


def main() -> None:
    """Work until the input ends; the settings are the one argument, as JSON."""
    settings = msgspec.json.decode(sys.argv[1].encode(), type=WorkerSettings)
    sys.exit(uvloop.run(_work(settings)))


if __name__ == "__main__":
    main()
