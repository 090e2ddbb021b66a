"""The two gateways of the growth run, their journals, and the load that they meet by turns."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.child import Gateway, GatewayBroken
from bench.filling import Filling
from bench.growth_verdict import Callers, Life, Resident, Size, Turn
from bench.load.frames import Amounts, Now, sale_message, terminal_name
from bench.load.generator import Generator, GeneratorBroken
from bench.load.setup import LoadSetup
from bench.load.tally import Outcome
from bench.load.terminals import Told
from bench.load.worker import Beat, WorkerSettings
from bench.ports import free_ports
from bench.screen import Screen
from bench.till import TEST_CARDS
from bench.usage import cpu_s, journal_bytes, resident_each, resident_peaks
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

WARM_UP_S: Final = 1.0
NEW_FROM: Final = 1_000_000
"""Index of the first terminal that no backlog has sales of."""
_READY_WITHIN_S: Final = 300.0
_ANSWERED_WITHIN_S: Final = 20.0
_QUIET_WITHIN_S: Final = 20.0
_QUIET_LOOK_S: Final = 0.25
_QUIET_SHARE: Final = 0.08
_WARM_UP, _MEASURED, _AFTER = 0, 1, 2


class Selling:
    """The sales of a backlog, by terminals of the load, so that the load can go on with the same ones."""

    def __init__(self, dialect: str) -> None:
        self._dialect = load_dialect(dialect)
        self._amounts = Amounts()
        self._now = Now()

    def __call__(self, terminal: int, stan: int) -> Message:
        """The sale with this STAN."""
        card = TEST_CARDS[terminal % len(TEST_CARDS)]
        amount = self._amounts.minor(stan)
        return sale_message(self._dialect, terminal_name(terminal), card, stan, amount, self._now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a gateway meets in one turn: `clients` terminals, each with one sale in flight."""

    round: int
    callers: Callers
    clients: int
    seconds: float
    warm_up_s: float
    first_terminal: int
    first_stan: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A turn, all sales that were approved from its warm-up to its end, and the most of one terminal."""

    turn: Turn
    approved: int
    of_one: int


class Side:
    """A gateway with a backlog; its acquirer is away for good."""

    def __init__(self, size: Size, folder: Path, transactions: int, terminals: int) -> None:
        self.size = size
        self.transactions = transactions
        self.terminals = min(terminals, transactions)
        self.folder = folder / size.value
        self.filled_s = 0.0
        self.stan = 0
        self._spare = folder / f"{size.value}-as-filled"
        ports = free_ports(3)
        self.setup = LoadSetup(
            terminal_port=ports[0], operations_port=ports[1], acquirer_port=ports[2], terminals=terminals
        )
        self.gateway = Gateway(self.folder, self.setup)
        self._at_start = Resident(gateway=0, journal=0)
        self._start_cpu_s = 0.0

    async def fill(self, screen: Screen) -> None:
        """Store the backlog. Raises: GatewayBroken, JournalError."""
        self.folder.mkdir()
        await self.gateway.prepare()
        sold = Selling(self.setup.terminal_dialect)
        filling = Filling(self.gateway.config, self.transactions, self.terminals, screen, sold=sold)
        self.filled_s = await filling.run()
        self.stan = max(filling.sales)

    @property
    def bytes(self) -> int:
        """Size of the journal's files."""
        return journal_bytes(self.folder)

    def keep(self) -> None:
        """Put a copy of the journal aside, for `put_back`. While no gateway is up."""
        shutil.copytree(self.folder, self._spare)

    def put_back(self) -> None:
        """Have the journal as it was when it was put aside. While no gateway is up."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._spare, self.folder)

    async def start(self) -> None:
        """Start the gateway. Raises: GatewayBroken."""
        await self.gateway.start(ready_within_s=_READY_WITHIN_S)
        self._start_cpu_s = cpu_s(self.gateway.pid)
        self._at_start = Resident.of(resident_each(self.gateway.pid))

    async def owed(self) -> int:
        """How many transactions it owes. Raises: GatewayBroken."""
        depth = await self.gateway.queue_depth()
        if depth is None:
            raise GatewayBroken(f"the gateway does not tell its status\n{self.gateway.log_end()}")
        return depth

    async def quiet(self) -> None:
        """Wait until the gateway does next to nothing, or long enough: what its start left behind is no sale's cost."""
        until = time.monotonic() + _QUIET_WITHIN_S
        while time.monotonic() < until:
            before_s, began = cpu_s(self.gateway.pid), time.monotonic()
            await asyncio.sleep(_QUIET_LOOK_S)
            if cpu_s(self.gateway.pid) - before_s <= _QUIET_SHARE * (time.monotonic() - began):
                return

    def life(self, number: int) -> Life:
        """What this start took so far."""
        most = Resident.of(resident_peaks(self.gateway.pid))
        return Life(
            round=number,
            size=self.size,
            start_ms=self.gateway.start_ms[-1],
            start_cpu_s=self._start_cpu_s,
            at_start=self._at_start,
            most=most,
        )

    async def play(self, load: Load, heard: Callable[[int], None]) -> Played:
        """Put load on the gateway; `heard` is told of answers as they come.

        Raises:
            GatewayBroken: a sale was not approved, or the gateway ended.
            GeneratorBroken: the generator did not work.
        """
        counted = _Counted(heard)
        generator = Generator(
            WorkerSettings(
                port=self.setup.terminal_port,
                protocol="iso8583",
                dialect=self.setup.terminal_dialect,
                terminals=load.clients,
                business="sales",
                closed=True,
                seed=load.round,
                answer_within_s=self.setup.terminal_timeout_ms / 1000,
                first_terminal=load.first_terminal,
                first_stan=load.first_stan,
            ),
            counted.heard,
        )
        try:
            await generator.start()
            await generator.begin()
            await asyncio.sleep(load.warm_up_s)
            await generator.mark(_MEASURED)
            before_s = cpu_s(self.gateway.pid)
            await asyncio.sleep(load.seconds)
            await generator.mark(_AFTER)
            taken_s = cpu_s(self.gateway.pid) - before_s
            beat = await generator.stop(_ANSWERED_WITHIN_S)
            told = await generator.told(self.folder.parent / "told.msgpack")
        finally:
            await generator.close()
        self.gateway.check_running()
        if beat.problems or beat.left:
            raise GeneratorBroken("; ".join(beat.problems) or f"{beat.left} sales had no answer")
        approved = sum(one.count(Told.APPROVED) for one in told.values())
        if refused := sum(len(one) for one in told.values()) - approved:
            raise GatewayBroken(f"{refused:,} sales were not approved\n{self.gateway.log_end()}")
        turn = Turn(
            round=load.round,
            size=self.size,
            callers=load.callers,
            approved=counted.approved,
            seconds=counted.seconds,
            cpu_s=taken_s,
            generator_share=counted.cpu_s / counted.seconds if counted.seconds else 0.0,
        )
        return Played(turn=turn, approved=approved, of_one=max(len(one) for one in told.values()))


class _Counted:
    """What the generator counted in the measured phase."""

    def __init__(self, heard: Callable[[int], None]) -> None:
        self._heard = heard
        self.approved = 0
        self.seconds = self.cpu_s = 0.0

    def heard(self, beat: Beat) -> None:
        """Enter a beat."""
        self._heard(sum(beat.outcomes))
        if beat.phase == _MEASURED:
            self.approved += beat.outcomes[Outcome.APPROVED]
            self.seconds += beat.seconds
            self.cpu_s += beat.cpu_s
