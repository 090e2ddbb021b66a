"""`holdfast-bench overload`: far more than the gateway can take, and what becomes of it.

For each scenario: the capacity is measured in a closed loop, the normal latency at half of it; then many times as much
is offered for a while, whatever is answered; then half the capacity again, and a storm in which every terminal that is
refused tries again at once. The clock is real: two runs are alike but not equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.acquirer import Acquirer, Mode
from bench.child import Gateway, GatewayBroken
from bench.history import check
from bench.interruption import until_signal
from bench.overload_crowd import Orders, Phase, Told
from bench.overload_frames import CARD
from bench.overload_records import history, read_records
from bench.overload_rig import CrowdProcess, OverloadSetup
from bench.overload_verdict import (
    MEMORY_MIB_MAX,
    NORMAL_FACTOR,
    NORMAL_FLOOR_MS,
    RECOVERED_WITHIN_S,
    REFUSED_WITHIN_MS,
    STOOD_IN,
    Played,
    Scenario,
    without_owed,
)
from bench.ports import free_ports
from bench.records import LedgerEvent, read_lines
from bench.screen import Screen, write_json
from bench.till import MERCHANT
from bench.usage import resident_bytes

TILLS: Final = 40
HTTP_SHARE: Final = 0.01
_SAMPLE_S: Final = 1.0
_COUNTED: Final = (
    "overload", "refused", "in_progress", "reading_", "closed_", "stopping", "standin", "unanswered", STOOD_IN
)  # fmt: skip
_DOWN_WITHIN_S: Final = 20.0
_TITLES: Final = {
    Scenario.ANSWERING: "the acquirer answers",
    Scenario.AWAY: "the acquirer is away: what is taken is stored",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadOptions:
    """What to run.

    Attributes:
        seconds: of the flood.
        times: the capacity that is offered in it.
        capacity_s, normal_s, after_s, storm_s: of the other phases.
        storm_tries: how often a refused sale of the storm is sent in all.
        connections: ISO 8583 connections, shared by the terminals.
        terminals: each has one sale in flight at most.
        closed_loop: terminals that sell at once while the capacity is measured.
        drain_s: how long the acquirer's return may take at the end; what is owed then is looked up in the queue.
        scenarios: which to play.
    """

    seconds: float = 60.0
    times: float = 10.0
    capacity_s: float = 8.0
    normal_s: float = 10.0
    after_s: float = 12.0
    storm_s: float = 10.0
    storm_tries: int = 5
    connections: int = 400
    terminals: int = 20_000
    closed_loop: int = 400
    drain_s: float = 30.0
    scenarios: tuple[Scenario, ...] = field(default=(Scenario.ANSWERING, Scenario.AWAY))

    def phases(self) -> tuple[Phase, ...]:
        """In their order."""
        return (
            Phase(name="capacity", seconds=self.capacity_s, times=0),
            Phase(name="normal", seconds=self.normal_s, times=0.5),
            Phase(name="flood", seconds=self.seconds, times=self.times),
            Phase(name="after the flood", seconds=self.after_s, times=0.5),
            Phase(name="storm", seconds=self.storm_s, times=self.times / 2, tries=self.storm_tries),
            Phase(name="after the storm", seconds=self.after_s, times=0.5),
        )


class Overload:
    """One scenario."""

    def __init__(self, options: OverloadOptions, scenario: Scenario, folder: Path, screen: Screen) -> None:
        self._options, self._folder, self._screen = options, folder, screen
        self._played = Played(scenario=scenario)
        ports = free_ports(4)
        connections = options.connections + TILLS + 100
        setup = OverloadSetup(
            terminal_port=ports[0], operations_port=ports[1], acquirer_port=ports[2], http_port=ports[3],
            connections=connections,
        )  # fmt: skip
        self._gateway = Gateway(folder, setup)
        self._ledger = folder / "ledger.jsonl"
        self._acquirer = Acquirer(self._ledger, dialect=setup.acquirer_dialect, port=setup.acquirer_port)
        self._records = folder / "records.bin"
        self._orders = Orders(
            iso_port=ports[0], http_port=ports[3], connections=options.connections, terminals=options.terminals,
            tills=TILLS, closed_loop=options.closed_loop, http_share=HTTP_SHARE, records=str(self._records),
            phases=options.phases(),
        )  # fmt: skip
        self._phase = ""
        self._began = time.monotonic()

    async def play(self) -> Played:
        """Play it to its end, and judge what was recorded. Trouble becomes part of what is returned."""
        played = self._played
        try:
            await self._gateway.prepare()
            await self._acquirer.start()
            await self._gateway.start()
            await self._flood()
        except GatewayBroken as broken:
            played.troubles.append(str(broken))
        except asyncio.CancelledError:
            played.troubles.append("interrupted")
        finally:
            if await self._gateway.stop():
                played.troubles.append(f"the gateway's exit status was not 0\n{self._gateway.log_end()}")
            await self._acquirer.stop()
        return played

    async def _flood(self) -> None:
        """Raises: GatewayBroken."""
        played = self._played
        if not await self._gateway.online(_DOWN_WITHIN_S):
            raise GatewayBroken("the gateway did not find the acquirer")
        if played.scenario is Scenario.AWAY:
            await self._acquirer.set_mode(Mode.AWAY)
            await self._until_away()
        sampling = asyncio.get_running_loop().create_task(self._sample())
        try:
            told = await CrowdProcess(self._orders, self._told).run()
        finally:
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling
        played.phases = told.phases or []
        played.capacity_per_s = told.capacity_per_s
        played.lost_connections, played.unmatched = told.lost_connections, told.unmatched
        counters = await self._gateway.counters()
        played.counted = {name: n for name, n in counters.items() if any(part in name for part in _COUNTED)}
        if played.scenario is Scenario.AWAY:
            await self._acquirer.set_mode(Mode.NORMAL)
        self._say("what is owed is replayed")
        await self._gateway.drained(self._options.drain_s)
        await self._acquirer.set_mode(Mode.AWAY)  # so that the ledger and the queue are of one moment
        await self._until_away()
        owed = await self._gateway.queue()
        events = history(read_records(self._records), self._ledger, CARD, MERCHANT)
        verdict = check(events, read_lines(self._ledger, LedgerEvent), owed)
        played.figures = verdict.figures()
        played.owed = len(owed)
        played.findings = without_owed(verdict.findings, frozenset(one.key for one in owed))

    async def _until_away(self) -> None:
        until = time.monotonic() + _DOWN_WITHIN_S
        while await self._gateway.online(0.1):
            if time.monotonic() > until:
                raise GatewayBroken("the gateway did not notice that the acquirer is away")

    async def _sample(self) -> None:
        while True:
            if self._phase:
                mib = round(resident_bytes(self._gateway.pid) / 2**20, 1)
                self._played.memory_mib.setdefault(self._phase, []).append(mib)
            await asyncio.sleep(_SAMPLE_S)

    def _told(self, told: Told) -> None:
        if told.phase:
            self._phase = told.phase
            capacity = f"; the capacity is {told.capacity_per_s:.0f} sales/s" if told.capacity_per_s else ""
            self._say(f"{told.phase}{capacity}")
        elif told.counts:
            mib = self._played.memory_mib.get(self._phase, [0.0])[-1]
            self._screen.counts({**told.counts, "MiB": int(mib)})

    def _say(self, text: str) -> None:
        self._screen.phase(time.monotonic() - self._began, text)


def run(options: OverloadOptions, json_path: Path | None = None) -> int:
    """Play every scenario, print what it showed, and give the exit status: 0 where all of them hold."""
    wanted = options.connections + TILLS + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        print(f"{wanted} open files are needed, a process may have {hard}: fewer connections, or a higher limit")
        return 2
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    played: list[Played] = []
    with Screen("Holdfast overload") as screen:
        for scenario in options.scenarios:
            folder = Path(tempfile.mkdtemp(prefix="holdfast-overload-"))
            try:
                played.append(uvloop.run(until_signal(Overload(options, scenario, folder, screen).play)))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if "interrupted" in played[-1].troubles:
                break
    write_json(json_path, report(options, played), indent=1)
    held = not any(one.problems() for one in played)
    screen.line(f"\n{headline(options.times, played, held=held)}", _style(held))
    for one in played:
        _print(one, screen)
    return 0 if held else 1


def headline(times: float, played: Sequence[Played], *, held: bool) -> str:
    """The verdict, over so many times the capacity as were wanted and as the machine could offer."""
    floods = [(one, flood) for one in played if (flood := one.phase("flood")) is not None]
    offered = " and ".join(f"{one.offered_times(flood):.1f}" for one, flood in floods)
    said = f"{'HELD' if held else 'BROKEN'}: {times:g} times the capacity wanted"
    return f"{said}, {offered} offered" if offered else said


def report(options: OverloadOptions, played: Sequence[Played]) -> dict[str, Any]:
    """Everything, by name."""
    return {
        "held": not any(one.problems() for one in played),
        "times": options.times,
        "seconds": options.seconds,
        "connections": options.connections,
        "terminals": options.terminals,
        "limits": {
            "memory_mib": MEMORY_MIB_MAX,
            "normal_factor": NORMAL_FACTOR,
            "normal_floor_ms": NORMAL_FLOOR_MS,
            "recovered_within_s": RECOVERED_WITHIN_S,
            "refused_within_ms": REFUSED_WITHIN_MS,
        },
        "scenarios": {one.scenario.value: one.json() for one in played},
    }


def _style(held: bool) -> str:
    return "bold green" if held else "bold red"


def _print(played: Played, screen: Screen) -> None:
    problems = played.problems()
    screen.line(f"\n{'HELD' if not problems else 'BROKEN'}: {_TITLES[played.scenario]}", _style(not problems))
    for problem in problems:
        screen.line(f"  {problem}", "red")
    screen.line(f"  capacity {played.capacity_per_s:.0f} sales/s; normal p99 {played.normal_ms:.1f} ms")
    screen.line(
        f"  {'':<17}{'offered/s':>10}{'times':>7}{'approved':>10}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'refused':>9}{'p50 ms':>9}{'p99 ms':>9}{'silent':>8}"
    )
    for shown in played.phases:
        offered = shown.sent / shown.seconds if shown.seconds else 0.0
        screen.line(
            f"  {shown.name:<17}{offered:>10.0f}{played.offered_times(shown):>7.1f}"
            f"{shown.approved:>10}{shown.approved_ms[0]:>9.1f}{shown.approved_ms[1]:>9.1f}"
            f"{shown.refused:>9}{shown.refused_ms[0]:>9.1f}{shown.refused_ms[1]:>9.1f}{shown.silent:>8}"
        )
    for after in ("after the flood", "after the storm"):
        took_s = played.recovered_after_s(after)
        seconds = (played.phase(after) or played.phases[0]).by_second if played.phases else []
        line = " ".join("-" if s.p99_ms is None else f"{s.p99_ms:.0f}" for s in seconds)
        screen.line(f"  {after}: normal after {'?' if took_s is None else took_s} s; p99 by second: {line}")
    for name, samples in played.memory_mib.items():
        if samples:
            screen.line(f"  memory, {name:<16} {min(samples):g} to {max(samples):g} MiB, at its end {samples[-1]:g}")
    storm = played.phase("storm")
    if storm is not None:
        screen.line(f"  storm: {storm.repeats} repeats, {storm.taken_after_refusal} approved after a refusal")
    figures = played.figures
    wrong = ", ".join(f"{name} {figures.get(name, 0)}" for name in ("lost", "doubled", "out_of_order", "changed"))
    told = f"acknowledged {figures.get('acknowledged', 0)}, booked {figures.get('booked', 0)}, owed {played.owed}"
    screen.line(f"  {told}; {wrong}")
    screen.line("  the gateway counted: " + ", ".join(f"{name} {n}" for name, n in played.counted.items()))
