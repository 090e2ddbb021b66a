"""A large backlog: how fast it is stored, how soon the gateway is up with it, what memory it takes, how it drains.

The backlog is stored by the gateway's own core and journal without sockets in front, as if the acquirer had been away;
then the gateway is started as its own process, and an acquirer comes back.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench.acquirer import Acquirer
from bench.child import Gateway, GatewayBroken, Setup
from bench.filling import Filling
from bench.ports import free_ports
from bench.records import LedgerEvent, read_lines
from bench.screen import Screen, write_json
from bench.usage import journal_bytes, resident_bytes, resident_peaks
from gateway.journal.port import JournalError

START_MS_MAX: Final = 2_000
RESIDENT_BYTES_MAX: Final = 250 * 1024 * 1024
_PROGRESS_S: Final = 1.0


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
    write_json(json_path, figures)
    return 0 if report.held else 1


async def _measure(folder: Path, options: BacklogOptions, screen: Screen) -> BacklogReport:
    report = BacklogReport(transactions=options.transactions, terminals=options.terminals)
    began = time.monotonic()
    ports = free_ports(3)
    setup = Setup(terminal_port=ports[0], operations_port=ports[1], acquirer_port=ports[2], terminals=options.terminals)
    gateway = Gateway(folder, setup)
    await gateway.prepare()
    screen.phase(0.0, f"storing {options.transactions:,} sales of {options.terminals:,} terminals")
    stored_s = await Filling(gateway.config, options.transactions, options.terminals, screen).run()
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
