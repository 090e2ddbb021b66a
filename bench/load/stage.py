"""Everything that takes part in a run: gateway, host, generator, and who watches them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.certificates import Authority
from bench.child import Gateway, GatewayBroken
from bench.filling import Filling, sale
from bench.load.books import SavedLane
from bench.load.frames import Amounts
from bench.load.generator import Generator
from bench.load.host import HostSettings
from bench.load.host_process import HostProcess
from bench.load.options import RunOptions, Scenario
from bench.load.phases import Parts
from bench.load.setup import TLS_FOLDER, LoadSetup
from bench.load.tally import Outcome
from bench.load.terminals import Told
from bench.load.truth import Truth, judge
from bench.load.watching import Watch
from bench.load.worker import Beat, WorkerSettings
from bench.overload_verdict import STOOD_IN
from bench.ports import free_ports
from bench.screen import Screen
from bench.usage import journal_bytes

HOST_DIALECT: Final = "iso87-binary"
_BUSINESS: Final = {Scenario.DUPLICATES: "duplicates", Scenario.MIXED: "mixed"}
_BACKLOG_AMOUNTS: Final = Amounts(base=100, step=1, count=900)  # what bench.filling.sale makes of a STAN
_ONLINE_WITHIN_S: Final = 20.0
_ANSWERED_WITHIN_S: Final = 20.0
_LOOK_S: Final = 0.25
_SAMPLE_MIN_S: Final = 0.25


@dataclass(slots=True)
class Findings:
    """What came of a run, beside its phases.

    Attributes:
        problems: anything that makes it fail.
        remarks: anything that makes it show less than it seems.
        left: still owed at the end; -1 where nobody could tell.
        host_share: of one core, what the simulated acquirer took.
        disk_bytes, stored: growth of the journal's files, and the transactions that it is of.
    """

    truth: Truth = field(default_factory=lambda: Truth(compared=False))
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    left: int = 0
    drained: bool = False
    gateway_cpu_s: float = 0.0
    disk_bytes: int = 0
    stored: int = 0
    commits: int = 0
    syncs: int = -1
    host_share: float = 0.0


class Rig:
    """A run's stage (`scenarios.Stage`)."""

    def __init__(self, options: RunOptions, folder: Path, screen: Screen) -> None:
        self.options = options
        self.folder = folder
        self.parts = Parts()
        self.findings = Findings()
        ports = free_ports(3)
        self.setup = LoadSetup(
            terminal_port=ports[0],
            operations_port=ports[1],
            acquirer_port=ports[2],
            terminal_dialect=options.dialect,
            acquirer_dialect=HOST_DIALECT,
            terminals=options.terminals,
            speaks=options.protocol,
            tls=options.tls,
            commit_delay_ms=options.commit_delay_ms,
        )
        self.gateway = Gateway(folder, self.setup)
        self.watch = Watch(self.gateway)
        amounts = _BACKLOG_AMOUNTS if options.scenario is Scenario.DRAIN else Amounts()
        self._host = HostProcess(
            HostSettings(HOST_DIALECT, ports[2], base=amounts.base, step=amounts.step, count=amounts.count)
        )
        self._screen = screen
        self._generator: Generator | None = None
        self._there = False
        self._answers = 0
        self._sampled_s = 0.0
        self._newest: Beat | None = None
        self._disk_before = 0
        self._cpu_before_s = 0.0
        self._commits_before = self._syncs_before = 0
        self._began = self._ended = False
        self._backlog_of: list[int] = []
        self._host_began_s = self._host_cpu_s = 0.0

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everybody. Raises: GatewayBroken, HostBroken, GeneratorBroken."""
        options = self.options
        self._show("preparing")
        await self.gateway.prepare()
        ca_file = ""
        if options.tls:
            authority = Authority(self.folder / TLS_FOLDER)
            authority.server("gateway")
            ca_file = str(authority.ca_file)
        if options.scenario is Scenario.DRAIN:
            self._show(f"storing {options.backlog:,} sales of {options.terminals:,} terminals")
            filling = Filling(self.gateway.config, options.backlog, options.terminals, self._screen)
            await filling.run()
            self._backlog_of = filling.sales
        await self._host.start()
        if options.there_at_first:
            await self.heal()
        await self.gateway.start(ready_within_s=60)
        if options.there_at_first and not await self.gateway.online(_ONLINE_WITHIN_S):
            raise GatewayBroken(f"the gateway does not reach its acquirer\n{self.gateway.log_end()}")
        if options.scenario is not Scenario.DRAIN:
            settings = WorkerSettings(
                port=self.setup.terminal_port,
                protocol=options.protocol,
                dialect=options.dialect,
                terminals=options.terminals,
                business=_BUSINESS.get(options.scenario, "sales"),
                closed=options.closed,
                seed=options.seed,
                poisson=options.arrivals == "poisson",
                connections=options.connections,
                ca_file=ca_file,
                answer_within_s=self.setup.terminal_timeout_ms / 1000,
            )
            self._generator = Generator(settings, self._heard)
            await self._generator.start()
        self.watch.start()

    async def stop(self) -> None:
        """Stop everybody. Safe to call twice."""
        await self.watch.stop()
        try:
            if self._generator is not None:
                await self._generator.close()
        finally:
            await self.gateway.stop()
            await self._host.close()

    # --- what scenarios do -----------------------------------------------------------------------------------------

    async def begin(self, rate: float) -> None:
        """Let the load begin."""
        self._disk_before = journal_bytes(self.folder)
        assert self._generator is not None
        self._began = True
        await self._generator.begin(rate)

    async def phase(self, name: str, seconds: float, *, outage: bool = False, measured: bool = True) -> None:
        """Begin a phase, and let time pass."""
        await self._turn(name, outage=outage, measured=measured)
        await self.pass_time(seconds)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass. Raises: GatewayBroken, where the gateway ends meanwhile."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, 1.0))
            self.gateway.check_running()

    async def cut(self) -> None:
        """The acquirer goes away."""
        self._there = False
        await self._host.away()

    async def heal(self) -> None:
        """The acquirer comes back."""
        self._there = True
        await self._host.back()

    async def kill(self) -> None:
        """kill -9 the gateway, and start it again."""
        await self.watch.count_commits()
        _ = self.watch.cpu_s
        await self.gateway.kill()
        await self.gateway.start(ready_within_s=60)

    async def deliver(self) -> None:
        """Bring the acquirer back to a backlog, and wait until it is delivered."""
        await self._count_from_here()
        number = self.parts.begin("drain")
        self._show("the acquirer is back: drain")
        began = time.monotonic()
        await self.heal()
        booked = 0
        looked = began
        while booked < self.options.backlog and time.monotonic() - began < self.options.drain_within_s:
            await asyncio.sleep(_LOOK_S)
            self.gateway.check_running()
            now_booked = (await self._host.counts()).booked
            now = time.monotonic()
            self._sample(self.parts.at_s, (now_booked - booked) / (now - looked), 0)
            booked, looked = now_booked, now
        self.parts.end()
        part = self.parts.all[number]
        part.offered = self.options.backlog
        part.outcomes[Outcome.APPROVED] = booked
        self.findings.gateway_cpu_s = self.watch.cpu_s - self._cpu_before_s
        await self._host_share_since(began, 0.0)
        self._disk_before, self.findings.stored = 0, self.options.backlog

    # --- the end ---------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Stop the load, settle what is owed, and judge."""
        findings = self.findings
        if self._generator is not None:
            await self._end_load(self._generator)
        await self.watch.count_commits()
        findings.commits = self.watch.commits - self._commits_before
        findings.syncs = self.watch.syncs - self._syncs_before if self.watch.syncs >= 0 else -1
        await self._note_stood_in()
        findings.disk_bytes = journal_bytes(self.folder) - self._disk_before
        told = await self._told()
        if self.options.drain or self.options.scenario is Scenario.DRAIN:
            await self._settle(told)
        else:
            await self._count(told)

    async def _end_load(self, generator: Generator) -> None:
        """Nothing falls due any more; what is under way still counts in its phase."""
        if not self._began:
            return
        await generator.pause()
        beat = await generator.stop(_ANSWERED_WITHIN_S)
        self.parts.end()  # only now: what was due is answered in the time of its phase, or its rate would be too high
        self._ended = True
        await self._host_share_since(self._host_began_s, self._host_cpu_s)
        self.findings.gateway_cpu_s = self.watch.cpu_s - self._cpu_before_s
        if beat.left:
            self.parts.all[-1].failed += beat.left
            self.findings.problems.append(f"{beat.left} requests had no answer {_ANSWERED_WITHIN_S:g} s after the load")
        self.findings.problems += [f"generator: {problem}" for problem in beat.problems]

    async def _count_from_here(self) -> None:
        """What the gateway has taken and committed until now is not of what is measured."""
        await self.watch.count_commits()
        self._commits_before, self._syncs_before = self.watch.commits, max(0, self.watch.syncs)
        self._cpu_before_s = self.watch.cpu_s

    async def _note_stood_in(self) -> None:
        """Where the acquirer was there all the time, say how many sales the gateway approved in its place."""
        options = self.options
        if not options.there_at_first or options.scenario in (Scenario.OUTAGE, Scenario.FLAPPING):
            return
        if stood_in := (await self.gateway.counters()).get(STOOD_IN, 0):
            self.findings.remarks.append(
                f"{stood_in:,} sales were approved by the gateway in place of the acquirer, which was to answer all of "
                "them: rates and times are in part of what is stored"
            )

    async def _host_share_since(self, began: float, cpu_s: float) -> None:
        """Note what the simulated acquirer took of a core since then."""
        taken_s = (await self._host.counts()).cpu_s - cpu_s
        self.findings.host_share = taken_s / max(0.001, time.monotonic() - began)

    async def _told(self) -> dict[str, bytes]:
        """What terminals were told; of a backlog, that every sale was approved."""
        if self._generator is not None:
            told = await self._generator.told(self.folder / "told.msgpack")
            self.findings.stored = sum(len(one) for one in told.values())
            return told
        names = (sale(terminal, 1).fields[41].strip() for terminal in range(self.options.terminals))
        return {name: bytes([Told.APPROVED]) * count for name, count in zip(names, self._backlog_of, strict=True)}

    async def _settle(self, told: dict[str, bytes]) -> None:
        """Have everything delivered, and compare what was told with what is booked."""
        if not self._there:
            self._show("the acquirer is back: drain")
            await self.heal()
        else:
            self._show("waiting until nothing is owed")
        number = None
        if self.options.scenario is not Scenario.DRAIN:
            number = self.parts.begin("drain", measured=False)
        left = await self._drained()
        self.parts.end()
        if number is not None and not self.parts.all[number].seconds:
            self.parts.all.pop()
        if left:
            self.findings.problems.append(
                "the gateway does not tell what it owes"
                if left < 0
                else f"{left} transactions are still owed after {self.options.drain_within_s:g} s"
            )
        self.findings.left = left
        self.findings.drained = True
        self._show("comparing what was told with what is booked")
        lanes: dict[str, SavedLane] = await self._host.books(self.folder / "books.msgpack")
        self.findings.truth = judge(told, lanes)
        if self._newest is not None:
            self.findings.truth.disagreed = self._newest.disagreed

    async def _drained(self) -> int:
        """Wait until nothing is owed; returns what is left, -1 where nobody tells."""
        until = time.monotonic() + self.options.drain_within_s
        while True:
            await self.watch.look()
            self._sample(self.parts.at_s, 0.0, 0)
            if self.watch.depth == 0 or time.monotonic() > until:
                return self.watch.depth
            self.gateway.check_running()
            await asyncio.sleep(_LOOK_S)

    async def _count(self, told: dict[str, bytes]) -> None:
        """Compare the number of approvals with the gateway's queue."""
        await self.watch.look()
        owed = max(0, self.watch.depth)
        truth = Truth(counted_only=True, compared=self.watch.depth >= 0)
        truth.approvals = sum(one.count(Told.APPROVED) for one in told.values())
        truth.booked = (await self._host.counts()).booked
        missing = truth.approvals - truth.booked - owed
        if self.watch.depth < 0:
            self.findings.problems.append("the gateway does not tell what it owes")
        elif missing > 0:
            truth.lost = missing
        elif missing < 0:
            truth.doubled = -missing
        self.findings.left = owed
        self.findings.remarks.append(f"counted only: {owed:,} are owed to the acquirer, which was not waited for")
        if self._newest is not None:
            truth.disagreed = self._newest.disagreed
        self.findings.truth = truth

    # --- beats -----------------------------------------------------------------------------------------------------

    async def _turn(self, name: str, *, outage: bool, measured: bool) -> None:
        """From now on it is another phase."""
        number = self.parts.begin(name, outage=outage, measured=measured)
        assert self._generator is not None
        await self._generator.mark(number)
        if measured and not any(part.measured for part in self.parts.all[:-1]):
            self._host_began_s, self._host_cpu_s = time.monotonic(), (await self._host.counts()).cpu_s
            await self._count_from_here()
        self._show(name)

    def _heard(self, beat: Beat) -> None:
        self._newest = beat
        if not self.parts.all or self._ended:
            return
        part = self.parts.all[beat.phase]
        answers, p99_us = part.add(beat)
        self._answers += answers
        self._sampled_s += beat.seconds
        if self._sampled_s >= _SAMPLE_MIN_S:
            if self.parts.all[-1].name != "drain":
                self._sample(self.parts.at_s, self._answers / self._sampled_s, p99_us)
            self._answers, self._sampled_s = 0, 0.0

    def _sample(self, at_s: float, rate_per_s: float, p99_us: int) -> None:
        sample = self.watch.enter(at_s, rate_per_s, p99_us)
        self._screen.counts(
            {
                "answers/s": round(sample.rate_per_s),
                "p99 us": p99_us,
                "owed": max(0, sample.depth),
                "resident MB": sample.resident_bytes >> 20,
                "log MB": sample.log_bytes >> 20,
            }
        )

    def _show(self, text: str) -> None:
        self._screen.phase(self.parts.at_s, text)
