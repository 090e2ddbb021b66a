"""A large backlog: how fast it is stored, how soon the gateway is up with it, what memory it takes, how it drains.

The backlog is stored by the gateway's own core and journal without sockets in front, as if the acquirer had been away;
then the gateway is started as its own process, and an acquirer comes back.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench.acquirer import Acquirer
from bench.child import Gateway, GatewayBroken, Setup, free_ports
from bench.records import LedgerEvent, read_lines
from bench.screen import Screen
from bench.usage import resident_bytes, resident_peaks
from gateway.clock import SystemClock
from gateway.conductor import Conductor
from gateway.config import load_config
from gateway.config.key_source import load_keys
from gateway.core.effects import Alarm, OperatorReply, Send
from gateway.core.engine import Engine
from gateway.core.events import JournalEvent, NotSent, Requested
from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.transaction import Answer, Transaction
from gateway.journal.port import JournalError
from gateway.journal.sqlite import SqliteJournal, SqliteJournalSettings
from gateway.wiring import engine_settings, policy
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

START_MS_MAX: Final = 2_000
RESIDENT_BYTES_MAX: Final = 250 * 1024 * 1024
_CARDS: Final = ("4111111111111111", "5555555555554444", "6212345678900000003", "4012888888881881")
_PROGRESS_S: Final = 1.0
_LINE_EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogOptions:
    """How much is stored, by how many terminals, and how long the drain may take."""

    transactions: int
    terminals: int
    drain_within_s: float


@dataclass(slots=True, kw_only=True)
class BacklogReport:
    """What was measured; the verdict is in `held`.

    Attributes:
        stored_per_s: by core and journal alone, each terminal one in flight.
        bytes_per_transaction: of the journal's files.
        start_ms: from the spawn of the process to the first 200 of /readyz.
        resident_at_start_bytes, resident_most_bytes: of the gateway and the journal's process together: when ready, and
            at most until drained.
        gateway_most_bytes, journal_most_bytes: the most of each by itself.
        drained_per_s: 0 where it did not drain.
        left: still owed at the end; out_of_order, doubled, missing: from the acquirer's ledger.
    """

    transactions: int
    terminals: int
    stored_per_s: float = 0.0
    bytes_per_transaction: float = 0.0
    start_ms: float = 0.0
    resident_at_start_bytes: int = 0
    resident_most_bytes: int = 0
    gateway_most_bytes: int = 0
    journal_most_bytes: int = 0
    drain_s: float = 0.0
    drained_per_s: float = 0.0
    left: int = 0
    out_of_order: int = 0
    doubled: int = 0
    missing: int = 0

    @property
    def held(self) -> bool:
        """Whether everything was booked once and in order, soon and small enough."""
        wrong = self.left + self.out_of_order + self.doubled + self.missing
        return wrong == 0 and self.start_ms < START_MS_MAX and 0 < self.resident_most_bytes < RESIDENT_BYTES_MAX


def run(options: BacklogOptions, json_path: Path | None) -> int:
    """Run, print, and return the exit code: 0 when it held."""
    with tempfile.TemporaryDirectory(prefix="holdfast-backlog-") as name, Screen("A large backlog") as screen:
        try:
            report = uvloop.run(_measure(Path(name), options, screen))
        except (GatewayBroken, JournalError) as broken:
            print(f"BROKEN: {broken}")
            return 1
    print("HELD" if report.held else "DID NOT HOLD")
    figures = {"held": report.held, **{field: getattr(report, field) for field in report.__dataclass_fields__}}
    for field, value in figures.items():
        print(f"  {field:<26}{value:>16,.1f}" if isinstance(value, float) else f"  {field:<26}{value:>16,}")
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if report.held else 1


async def _measure(folder: Path, options: BacklogOptions, screen: Screen) -> BacklogReport:
    report = BacklogReport(transactions=options.transactions, terminals=options.terminals)
    began = time.monotonic()
    ports = free_ports(3)
    setup = Setup(terminal_port=ports[0], operations_port=ports[1], acquirer_port=ports[2], terminals=options.terminals)
    gateway = Gateway(folder, setup)
    await gateway.prepare()
    screen.phase(0.0, f"storing {options.transactions:,} sales of {options.terminals:,} terminals")
    stored_s = await Filling(gateway.config, options, screen).run()
    report.stored_per_s = options.transactions / stored_s
    report.bytes_per_transaction = journal_bytes(folder) / options.transactions
    screen.phase(time.monotonic() - began, "starting the gateway; the acquirer is away")
    await gateway.start()
    try:
        report.start_ms = gateway.start_ms[-1]
        report.resident_at_start_bytes = resident_bytes(gateway.pid)
        ledger = folder / "ledger.jsonl"
        acquirer = Acquirer(ledger, dialect=setup.acquirer_dialect, port=setup.acquirer_port)
        screen.phase(time.monotonic() - began, "the acquirer is back: replay")
        await acquirer.start()
        drain_began = time.monotonic()
        report.left = await _drain(gateway, report, drain_began + options.drain_within_s, screen)
        report.drain_s = time.monotonic() - drain_began
        report.drained_per_s = 0.0 if report.left else options.transactions / report.drain_s
        await acquirer.stop()
    finally:
        await gateway.stop()
    screen.phase(time.monotonic() - began, "reading the acquirer's ledger")
    _judge(ledger, report)
    return report


async def _drain(gateway: Gateway, report: BacklogReport, until: float, screen: Screen) -> int:
    """Wait until nothing is owed; returns what is left. Memory is looked at all the while."""
    left = report.transactions
    while left and time.monotonic() < until:
        await asyncio.sleep(_PROGRESS_S)
        depth = await gateway.queue_depth()
        left = left if depth is None else depth
        _look(gateway, report)
        screen.counts({"owed": left, "resident MB": report.resident_most_bytes >> 20})
    return left


def _look(gateway: Gateway, report: BacklogReport) -> None:
    """Note the most memory so far; of both processes together it is at most the sum."""
    own, *others = resident_peaks(gateway.pid) or [0]
    report.gateway_most_bytes = max(report.gateway_most_bytes, own)
    report.journal_most_bytes = max(report.journal_most_bytes, sum(others))
    report.resident_most_bytes = report.gateway_most_bytes + report.journal_most_bytes


def _judge(ledger: Path, report: BacklogReport) -> None:
    """Count what the ledger says against what was stored: terminal number and STAN name each sale."""
    newest: dict[str, int] = {}
    booked: set[tuple[str, int]] = set()
    for event in read_lines(ledger, LedgerEvent):
        if event.act != "booked":
            continue
        stan = int(event.stan)
        if (event.terminal, stan) in booked:
            report.doubled += 1
        booked.add((event.terminal, stan))
        if stan < newest.get(event.terminal, 0):
            report.out_of_order += 1
        newest[event.terminal] = max(stan, newest.get(event.terminal, 0))
    report.missing = report.transactions - len(booked)


def pace(stored: int, transactions: int, took_s: float) -> dict[str, int]:
    """How far it is, for the screen: stored, a second, seconds left at that rate; 0 left while none is stored."""
    left_s = took_s * (transactions - stored) / stored if stored else 0.0
    return {"stored": stored, "a second": round(stored / max(took_s, 0.001)), "seconds left": round(left_s)}


def journal_bytes(folder: Path) -> int:
    """Size of the journal's files."""
    return sum(path.stat().st_size for path in folder.glob("journal.sqlite3*"))


class Filling:
    """Stores the backlog through core and journal: every terminal has one sale in flight until all are stored."""

    def __init__(
        self,
        config_path: Path,
        options: BacklogOptions,
        screen: Screen,
        *,
        sold: Callable[[int, int], Message] | None = None,
    ) -> None:
        """Make core and journal as the configuration says.

        Args:
            sold: the sale of a terminal's index and a STAN; where not given, `sale`.
        """
        config = load_config(config_path)
        clock = SystemClock()
        keyring = load_keys(config.journal)
        self._options = options
        self._screen = screen
        self._clock = clock
        self._hashing = KeyedHash(keyring.fingerprint_key)
        self._rules = load_dialect(config.terminals[0].dialect).terminal
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._journal = SqliteJournal(
            SqliteJournalSettings(path=config.journal.path),
            keyring,
            self._journalled,
            self._failed,
            clock.utc_ms,
        )
        engine = Engine(
            engine_settings(config),
            load_dialect(config.acquirer.dialect).host,
            policy(config.standin),
            jitter=lambda: 0.5,
            unencodable=lambda _: "",
            mono_ms=clock.mono_ms(),
            utc_ms=clock.utc_ms(),
        )
        self._conductor = Conductor(
            engine,
            clock,
            self._journal,
            send=self._away,
            reply=self._replied,
            reply_operator=_ignore_operator,
            alarm=_ignore_alarm,
        )
        self._stans = [0] * options.terminals
        self._sent = self._stored = 0
        self._sold = sale if sold is None else sold
        self._line_at = time.monotonic() + _LINE_EVERY_S

    @property
    def sales(self) -> list[int]:
        """How many each terminal has sold; their STANs begin with 1."""
        return list(self._stans)

    async def run(self) -> float:
        """Store everything; returns the seconds that it took.

        Raises:
            JournalError: the journal stopped; GatewayBroken: a sale was refused.
        """
        await self._journal.open()
        began = time.monotonic()
        try:
            for terminal in range(min(self._options.terminals, self._options.transactions)):
                self._sell(terminal)
            while not self._ended.done():
                await asyncio.wait([self._ended], timeout=_PROGRESS_S)
                self._show(time.monotonic() - began)
            self._ended.result()
            return time.monotonic() - began
        finally:
            self._conductor.close()
            await self._journal.close()

    def _show(self, took_s: float) -> None:
        """How far it is; a line now and then where there is no terminal to draw on."""
        self._screen.counts(pace(self._stored, self._options.transactions, took_s))
        if not self._screen.live and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            self._screen.phase(took_s, "storing")

    def _sell(self, terminal: int) -> None:
        if self._sent >= self._options.transactions:
            return
        self._sent += 1
        self._stans[terminal] += 1
        request = request_from(
            self._sold(terminal, self._stans[terminal]), self._rules, self._hashing, self._clock.utc_ms()
        )
        self._conductor.submit(Requested(terminal, request))

    def _replied(self, terminal: int, answer: Answer, _: Transaction | None) -> None:
        if answer.fields[39] != "00":
            self._fail(GatewayBroken(f"a sale of the backlog was answered {answer.fields[39]}"))
            return
        self._stored += 1
        if self._stored == self._options.transactions and not self._ended.done():
            self._ended.set_result(None)
        asyncio.get_running_loop().call_soon(self._sell, terminal)

    def _journalled(self, events: Sequence[JournalEvent]) -> None:
        self._conductor.submit_all(events)

    def _away(self, send: Send) -> None:
        self._conductor.submit(NotSent(send.token, "the acquirer is away"))

    def _failed(self, error: JournalError) -> None:
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)


def sale(terminal: int, stan: int) -> Message:
    """A keyed sale of a UnionPay terminal, about 250 bytes with what the gateway keeps of it."""
    return Message(
        "0200",
        {
            2: _CARDS[(terminal + stan) % len(_CARDS)],
            3: "000000",
            4: f"{100 + stan % 900:012}",
            11: f"{stan:06}",
            12: "120000",
            13: "1121",
            14: "2912",
            22: "021",
            25: "00",
            41: f"B{terminal:07}",
            42: "HOLDFASTBACKLOG",
            49: "156",
            60: "22000001000500",
        },
    )


def _ignore_alarm(_: Alarm) -> None:
    """Nobody watches the filling."""


def _ignore_operator(_: OperatorReply) -> None:
    """Nobody steers the filling."""
