"""`holdfast-bench outage`: a shop's worth of terminals, an acquirer that fails, a gateway that loses its power.

Everything random follows from the seed (scenario.py, terminal.py). The clock is real, so two runs of a seed are alike
but not equal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bench.acquirer import NORMAL, Acquirer
from bench.child import Gateway, GatewayBroken, Setup
from bench.history import Defect, Verdict, check
from bench.interruption import through_phases
from bench.playing import add_traffic, by_code, finish_all, run_play
from bench.ports import free_ports
from bench.records import LedgerEvent, Owed, TerminalEvent, read_lines
from bench.scenario import Options, Step, plan
from bench.screen import Screen
from bench.terminal import Habits, History, Terminal
from protocol.iso8583.dialect import load_dialect

FINISH_WITHIN_S: Final = 45.0
"""How long terminals may take to finish what they had begun when the traffic stopped."""
DRAIN_WITHIN_S: Final = 90.0
"""How long the queue may take to become empty after that."""
HASTY_EVERY: Final = 8
"""Every eighth terminal waits too short a time, and reverses what is still under way."""
SHORT_CUT_S: Final = 0.5
"""A cut that the gateway lived through for a shorter time than this tests little."""
_NOTES: Final = {"connect_failed": "dials refused while the gateway was down"}
FIVE_ZEROS: Final = (Defect.LOST, Defect.DOUBLED, Defect.OUT_OF_ORDER, Defect.CHANGED, Defect.UNSETTLED)


@dataclass(slots=True)
class Result:
    """What came out of a run.

    Attributes:
        problems: what went wrong beside the transactions, e.g. a queue that did not drain.
        remarks: what makes the run show less than was planned; no failure.
        figures: rates, latencies and counts, by name.
        responses: answers to sales and reversals by DE 39.
        gateway_counters: the gateway's own counters since its last start.
        folder: where everything recorded was kept, if it was.
    """

    options: Options
    verdict: Verdict
    interrupted: bool = False
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    responses: dict[str, int] = field(default_factory=dict)
    gateway_counters: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def held(self) -> bool:
        """Whether the gateway kept its promises, all the way to an empty queue."""
        return self.kept()

    def kept(self) -> bool:
        """Whether the transactions are as they should be, and nothing went wrong beside them.

        A run in which nothing was acknowledged or booked shows nothing, and does not count as kept.
        """
        shown = self.verdict.acknowledged > 0 and self.verdict.booked > 0
        return shown and self.verdict.clean and not self.problems and not self.interrupted

    def json(self) -> dict[str, Any]:
        """Everything, by name."""
        return {
            **self.verdict.figures(),
            "held": self.held,
            "interrupted": self.interrupted,
            "seed": self.options.seed,
            "terminals": self.options.terminals,
            "seconds": self.options.seconds,
            "kill": self.options.kill,
            "dialect": self.options.dialect,
            "acquirer_dialect": self.options.acquirer_dialect,
            "problems": self.problems,
            "remarks": self.remarks,
            "findings": [str(finding) for finding in self.verdict.findings[:1000]],
            "figures": self.figures,
            "responses": self.responses,
            "gateway_counters": self.gateway_counters,
        }


@dataclass(slots=True)
class _Cut:
    """The cut that is on: its number, when it began, and for how long the gateway was down meanwhile."""

    number: int
    began: float
    gateway_down_s: float = 0.0


def cut_remark(number: int, lasted_s: float, gateway_down_s: float) -> str:
    """What to say of a cut that the gateway hardly noticed; empty for any other."""
    up_s = max(0.0, lasted_s - gateway_down_s)
    if up_s >= SHORT_CUT_S:
        return ""
    up = f", and the gateway was up for {up_s:.1f} s of it" if gateway_down_s else ""
    return f"cut {number} lasted {lasted_s:.1f} s{up}: tests little"


class Outage:
    """One run. `play` is called once."""

    def __init__(self, options: Options, folder: Path, screen: Screen) -> None:
        self._options = options
        self._folder = folder
        self._screen = screen
        self._ports = free_ports(3)
        self._acquirer = Acquirer(
            folder / "ledger.jsonl", dialect=options.acquirer_dialect, port=self._ports[2], seed=options.seed
        )
        setup = Setup(
            terminal_port=self._ports[0],
            operations_port=self._ports[1],
            acquirer_port=self._ports[2],
            terminal_dialect=options.dialect,
            acquirer_dialect=options.acquirer_dialect,
            terminals=options.terminals,
        )
        self._gateway = Gateway(folder, setup)
        self._history = History(folder / "history.jsonl")
        self._stop = asyncio.Event()
        self._terminals: list[Terminal] = []
        self._selling: list[asyncio.Task[None]] = []
        self._began = time.monotonic()
        self._queue: list[Owed] = []
        self._problems: list[str] = []
        self._remarks: list[str] = []
        self._cut: _Cut | None = None
        self._counters: dict[str, int] = {}
        self._figures: dict[str, float] = {}

    def _phase(self, text: str) -> None:
        self._show_counts()
        self._screen.phase(time.monotonic() - self._began, text)

    def _show_counts(self) -> None:
        counts, books = self._history.counts, self._acquirer.books
        self._screen.counts(
            {
                "approved": counts["approved"],
                "refused": counts["refused"],
                "reversed": counts["reversed"],
                "sends": counts["sent"],
                "time-outs": counts["timed_out"],
                "broken": counts["disconnected"],
                "booked upstream": books.booked,
                "reversed upstream": books.reversed,
                "starts": self._gateway.starts,
            }
        )

    async def play(self) -> Result:
        """Run everything; an interruption (SIGINT, SIGTERM) goes straight to the verdict."""
        interrupted = await through_phases(self._phases(), self._show_counts, self._end, self._problems)
        return self._judge(interrupted=interrupted)

    async def _phases(self) -> None:
        self._phase("starting the acquirer and the gateway")
        await self._acquirer.start()
        await self._gateway.prepare()
        await self._gateway.start()
        self._sell()
        self._began = time.monotonic()
        self._phase(f"{self._options.terminals} terminals sell")
        for step in plan(self._options):
            await self._wait_until(step.at_s)
            await self._take(step)
        await self._wait_until(self._options.seconds)
        await self._heal()

    def _sell(self) -> None:
        options = self._options
        dialect = load_dialect(options.dialect)
        endpoint = ("127.0.0.1", self._ports[0])
        steady = Habits(pause_s=1 / options.sales_per_second)
        hasty = replace(steady, answer_timeout_s=0.6, tries=2)  # waits less than the gateway does: D17 broken outside
        loop = asyncio.get_running_loop()
        for number in range(options.terminals):
            name = f"T{number + 1:07d}"
            habits = hasty if number % HASTY_EVERY == HASTY_EVERY - 1 else steady
            terminal = Terminal(dialect, endpoint, self._history, terminal=name, habits=habits, seed=options.seed)
            self._terminals.append(terminal)
            self._selling.append(loop.create_task(terminal.keep_selling(self._stop), name=name))

    async def _wait_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began + at_s - time.monotonic()))
        self._gateway.check_running()

    async def _take(self, step: Step) -> None:
        self._phase(step.text)
        if step.behaviour is not None:
            self._end_cut()
            await self._acquirer.set_behaviour(step.behaviour)
            self._cut = _Cut(step.cut, time.monotonic()) if step.cut else None
        if step.kill_for_s is not None:
            killed_at = time.monotonic()
            await self._gateway.kill()
            await asyncio.sleep(step.kill_for_s)
            await self._gateway.start()
            if self._cut is not None:
                self._cut.gateway_down_s += time.monotonic() - killed_at
            self._phase(f"the gateway is up again after {self._gateway.start_ms[-1]:.0f} ms")

    def _end_cut(self) -> None:
        cut, self._cut = self._cut, None
        if cut is not None and (remark := cut_remark(cut.number, time.monotonic() - cut.began, cut.gateway_down_s)):
            self._remarks.append(remark)

    async def _heal(self) -> None:
        self._figures["traffic_s"] = round(time.monotonic() - self._began, 2)
        await self._acquirer.set_behaviour(NORMAL)
        self._phase("the traffic stops; terminals finish what they have begun")
        await self._finish_selling(FINISH_WITHIN_S)
        self._phase("waiting until the queue is empty")
        healed = time.monotonic()
        if (depth := await self._gateway.drained(DRAIN_WITHIN_S)) != 0:
            self._problems.append(f"the queue was not empty after {DRAIN_WITHIN_S:g} s: {depth} left")
        self._figures["drain_s"] = round(time.monotonic() - healed, 2)

    async def _finish_selling(self, within_s: float) -> None:
        self._stop.set()
        for terminal in self._terminals:
            terminal.finish_by = time.monotonic() + within_s
        await finish_all(self._selling, within_s + 10)
        self._selling = []

    async def _end(self) -> None:
        """Stop everything that was started, in whatever state it is."""
        try:
            await self._finish_selling(3.0)
            if self._gateway.running:
                self._queue = await self._gateway.queue()
                self._counters = await self._gateway.counters()
                if (code := await self._gateway.stop()) != 0:
                    self._problems.append(f"the gateway ended with {code} on SIGTERM")
        except GatewayBroken as broken:
            self._problems.append(str(broken))
        finally:
            await self._gateway.kill()
            await self._acquirer.stop()
            self._history.close()

    def _judge(self, *, interrupted: bool) -> Result:
        history = read_lines(self._history.path, TerminalEvent)
        ledger = self._folder / "ledger.jsonl"
        verdict = check(history, read_lines(ledger, LedgerEvent) if ledger.exists() else [], self._queue)
        figures = self._figures
        add_traffic(figures, self._history, self._gateway, verdict.transactions)
        figures["upstream_messages"] = sum(self._acquirer.counts.values()) - self._acquirer.counts["connections"]
        return Result(
            self._options,
            verdict,
            interrupted,
            self._problems,
            figures,
            by_code(self._history),
            self._counters,
            self._remarks,
        )


def run(options: Options, json_path: Path | None = None) -> int:
    """Play one run, print its verdict, and give the exit status."""
    screen = Screen(f"Holdfast outage, seed {options.seed}")

    def play(folder: Path) -> Awaitable[Result]:
        return Outage(options, folder, screen).play()

    return run_play(screen, "holdfast-outage-", options.keep, json_path, play, _print)


def _again(options: Options) -> str:
    """The command that repeats a run."""
    kill = " --kill" if options.kill else ""
    return (
        f"holdfast-bench outage --terminals {options.terminals} --seconds {options.seconds:g}{kill} "
        f"--seed {options.seed} --rate {options.sales_per_second:g} "
        f"--dialect {options.dialect} --acquirer-dialect {options.acquirer_dialect}"
    )


def _print(result: Result, screen: Screen) -> None:
    verdict = result.verdict
    screen.line()
    if result.held:
        screen.line("HELD: nothing lost, nothing doubled, everything in order and settled.", "bold green")
    else:
        stopped = "INTERRUPTED: what was under way at that moment counts as unsettled."
        nothing = verdict.clean and not result.problems
        broken = "SHOWS NOTHING: no sale was both acknowledged and booked." if nothing else "BROKEN"
        screen.line(stopped if result.interrupted else broken, "bold red")
    numbers = verdict.figures()
    for name in ("acknowledged", "booked", *FIVE_ZEROS):
        wrong = name in FIVE_ZEROS and numbers[name] > 0
        screen.line(f"  {name.replace('_', ' '):<14}{numbers[name]:>9}", "bold red" if wrong else "")
    if verdict.count(Defect.PHANTOM):
        screen.line(f"  phantom       {verdict.count(Defect.PHANTOM):>9}", "bold red")
    for problem in result.problems:
        screen.line(f"  {problem}", "red")
    for finding in verdict.findings[:20]:
        screen.line(f"  {finding}", "red")
    if len(verdict.findings) > 20:
        screen.line(f"  ... and {len(verdict.findings) - 20} more", "red")
    for remark in result.remarks:
        screen.line(f"  worth a look: {remark}", "yellow")
    screen.line()
    rest = ("transactions", "declined", "reversed", "resent")
    for name, value in [*((name, numbers[name]) for name in rest), *result.figures.items()]:
        note = f"  {_NOTES[name]}" if name in _NOTES else ""
        screen.line(f"  {name:<20}{value:>12g}{note}")
    told = ", ".join(f"{code} {count}" for code, count in result.responses.items())
    screen.line(f"  {'answers by code':<20}{told:>12}")
    screen.line(f"  {'seed':<20}{result.options.seed:>12}")
    if result.folder is not None:
        screen.line(f"\nKept in {result.folder}: history.jsonl, ledger.jsonl, gateway.log and the gateway's journal.")
        screen.line(f"Again: {_again(result.options)}")
