"""`holdfast-bench soak`: troubles at random for minutes or hours, judged all the while; figures that must stay flat.

Rounds of traffic under trouble come by turns with healing windows, in which everything has to settle within a bound.
What is judged is forgotten, so that the bench does not grow either. The first finding ends the soak.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

from bench.acquirer import NORMAL, Acquirer
from bench.child import Gateway, GatewayBroken
from bench.history import Finding
from bench.interruption import SIGNALS
from bench.playing import run_play
from bench.ports import free_ports
from bench.screen import Screen
from bench.soak_flat import judge_all
from bench.soak_plan import SoakOptions, Step, round_steps
from bench.soak_report import SoakResult, tell
from bench.soak_rig import ForgetfulBooks, Networks, Operator, SoakSetup, records_of
from bench.soak_samples import Samples, journal_pages_bytes, look
from bench.soak_shop import Shop
from bench.soak_windows import Windows
from bench.terminal import History
from gateway.operations.client import NotRunningError, RefusedError

FINISH_WITHIN_S: Final = 45.0
"""How long callers may take to finish what they had begun when all is well again."""
SETTLE_WITHIN_S: Final = 60.0
"""How long the queue may take to become empty after that."""
CHECK_EVERY_S: Final = 5.0
QUIET_S: Final = 3.2
"""How long everything is left alone behind each window, so that samples of it are alike."""
_PERSON_ROUNDS: Final = 5


class SoakFailed(Exception):
    """A promise was broken, or something went wrong beside the transactions.

    Attributes:
        findings: of the checker; empty where the message says it all.
    """

    def __init__(self, text: str, findings: list[Finding] | None = None) -> None:
        super().__init__(text)
        self.findings = findings or []


class Soak:
    """One soak. `play` is called once."""

    def __init__(self, options: SoakOptions, folder: Path, screen: Screen) -> None:
        self._options, self._folder, self._screen = options, folder, screen
        ports = free_ports(7)
        history, ledger = records_of(folder)
        self._setup = SoakSetup(
            terminal_port=ports[0],
            http_port=ports[1],
            operations_port=ports[2],
            acquirer_port=ports[3],
            terminal_dialect=options.dialect,
            acquirer_dialect=options.acquirer_dialect,
            terminals=options.terminals + options.tills,
        )
        self._books = ForgetfulBooks()
        self._acquirer = Acquirer(
            ledger, dialect=options.acquirer_dialect, port=ports[4], seed=options.seed, books=self._books
        )
        self._gateway = Gateway(folder, self._setup)
        self._networks = Networks(self._setup, ports[4], ports[5], ports[6], options.seed)
        self._operator = Operator(self._gateway, self._books, options.seed, folder / "operator.jsonl")
        self._history = History(history)
        self._shop = Shop(options, self._history, ("127.0.0.1", ports[5]), ("127.0.0.1", ports[6]))
        self._dice = random.Random(f"soak/{options.seed}")
        self._windows = Windows(history, ledger)
        self._judging = asyncio.Lock()
        self._samples = Samples(folder / "samples.jsonl")
        self._events: Counter[str] = Counter()
        self._interrupt = asyncio.Event()
        self._began = self._started = time.monotonic()
        self._round = 0
        self._up = self._quiet = self._maintained = False
        self._checks = 0

    # --- showing ---------------------------------------------------------------------------------------------------

    @property
    def _at_s(self) -> float:
        return time.monotonic() - self._began

    def _phase(self, text: str) -> None:
        self._show_counts()
        self._screen.phase(self._at_s, text)

    def _show_counts(self) -> None:
        counts, newest = self._history.counts, self._samples.newest
        memory = newest.rss_bytes if newest else None
        self._screen.counts(
            {
                "round": self._round,
                "approved": counts["approved"],
                "refused": counts["refused"],
                "reversed": counts["reversed"],
                "booked": self._books.booked,
                "settled": self._windows.counts["transactions"],
                "checks": self._checks,
                "starts": self._gateway.starts,
                "queue": (newest.queued or 0) if newest else 0,
                "MiB": (memory or 0) >> 20,
            }
        )

    # --- the soak --------------------------------------------------------------------------------------------------

    async def play(self) -> SoakResult:
        """Run everything. The first interruption ends the round and judges it, the second ends at once."""
        loop = asyncio.get_running_loop()
        result = SoakResult(self._options)
        phases = loop.create_task(self._phases())
        watching = loop.create_task(self._watch())

        def interrupted() -> None:
            if self._interrupt.is_set():
                phases.cancel()
            self._interrupt.set()

        for number in SIGNALS:
            loop.add_signal_handler(number, interrupted)
        try:
            await asyncio.wait({phases, watching}, return_when=asyncio.FIRST_COMPLETED)
            for task in (phases, watching):
                self._ended(task, result)
        finally:
            for task in (phases, watching):
                task.cancel()
            await asyncio.wait({phases, watching})
            await self._end(result)
            for number in SIGNALS:
                loop.remove_signal_handler(number)
        result.ended_early = self._interrupt.is_set()
        result.minutes = self._at_s / 60
        result.rounds = self._round
        result.checks = self._checks
        result.events = self._events
        result.counts = self._windows.counts
        result.windows = self._samples.windows
        result.judgements = judge_all(self._samples.windows)
        result.restarts = max(0, self._gateway.starts - 1)
        return result

    def _ended(self, task: asyncio.Task[None], result: SoakResult) -> None:
        """Take over how a task ended, if it did."""
        if not task.done():
            return
        if task.cancelled():
            result.problems.append("stopped in the middle: the last round was not judged")
            return
        failure = task.exception()
        if failure is None:
            return
        if not isinstance(failure, SoakFailed | GatewayBroken | RefusedError | NotRunningError | TimeoutError):
            raise failure
        result.failed_at_s = self._at_s
        if isinstance(failure, SoakFailed) and failure.findings:
            result.findings = failure.findings
        else:
            result.problems.append(str(failure) or type(failure).__name__)

    async def _phases(self) -> None:
        self._phase("starting the acquirer and the gateway")
        await self._acquirer.start()
        await self._networks.start()
        await self._gateway.prepare()
        await self._start()
        self._began = time.monotonic()
        while self._at_s < self._options.minutes * 60 and not self._interrupt.is_set():
            await self._trouble(round_steps(self._options, self._round))
            await self._heal()

    async def _start(self) -> None:
        await self._gateway.start()
        self._started = time.monotonic()
        self._up = True

    async def _trouble(self, steps: list[Step]) -> None:
        """One round of traffic with its troubles."""
        self._round += 1
        began = time.monotonic()
        self._phase(f"round {self._round}: everybody sells")
        self._shop.open()
        for step in steps:
            if await self._waited(began + step.at_s):
                await self._take(step)
        await self._waited(began + self._options.trouble_s)

    async def _waited(self, until: float) -> bool:
        """Wait; False where an interruption, or the end of the soak, has come before."""
        until = min(until, self._began + self._options.minutes * 60)
        try:
            await asyncio.wait_for(self._interrupt.wait(), max(0.0, until - time.monotonic()))
        except TimeoutError:
            return self._at_s < self._options.minutes * 60
        return False

    async def _take(self, step: Step) -> None:
        self._phase(step.text)
        if step.counted:
            self._events[step.counted] += 1
        if step.behaviour is not None:
            await self._acquirer.set_behaviour(step.behaviour)
        if step.near is not None:
            await self._networks.near_weather(step.near)
        if step.far is not None:
            await self._networks.far_weather(step.far)
        if step.leave_share:
            self._shop.leave(step.leave_share, step.leave_for_s, self._dice)
        if step.maintenance is not None:
            await self._maintenance(on=step.maintenance)
        if step.kill_for_s is not None:
            self._up = False
            await self._gateway.kill()
            await asyncio.sleep(step.kill_for_s)
            await self._start()
        if step.restart:
            self._up = False
            if (code := await self._gateway.stop()) != 0:
                raise SoakFailed(f"the gateway ended with {code} on SIGTERM\n{self._gateway.log_end()}")
            await self._start()

    async def _maintenance(self, *, on: bool) -> None:
        await self._operator.maintenance(on=on)
        self._maintained = on

    # --- healing ---------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        """Everything is well; everything has to settle, and is judged."""
        self._phase("healing: callers finish what they have begun, and everything settles")
        await self._acquirer.set_behaviour(NORMAL)
        await self._networks.heal()
        if self._maintained:
            await self._maintenance(on=False)
        healed = time.monotonic()
        if late := await self._shop.close(FINISH_WITHIN_S):
            raise SoakFailed(f"within {FINISH_WITHIN_S:g} s of healing were not done: {', '.join(late)}")
        await self._drained()
        for _ in range(_PERSON_ROUNDS):
            if not await self._decide():
                break
            await self._drained()
        if not await self._gateway.online(SETTLE_WITHIN_S):
            raise SoakFailed(f"{SETTLE_WITHIN_S:g} s after healing the gateway does not believe in the acquirer")
        settled_s = time.monotonic() - healed
        await self._judge()
        self._quiet = True
        await asyncio.sleep(QUIET_S)
        self._quiet = False
        self._samples.end_window(settled_s, await asyncio.to_thread(journal_pages_bytes, self._folder))
        self._books.end_window()
        self._acquirer.recent.clear()
        del self._history.latencies_ms[:]

    async def _drained(self) -> None:
        if (depth := await self._gateway.drained(SETTLE_WITHIN_S)) != 0:
            raise SoakFailed(f"the queue was not empty {SETTLE_WITHIN_S:g} s after healing: {depth} left")

    async def _decide(self) -> bool:
        """The operator decides about everything that is parked; False where nothing was."""
        parked = await self._operator.parked()
        for identifier, key in parked:
            for act in self._operator.chosen(key):
                self._windows.decided_by_person(key, ended=act != "release")  # before it can show in the ledger
                if await self._operator.steer(identifier, act, key):
                    self._events[f"operator {act}"] += 1
                    break
        return bool(parked)

    async def _judge(self) -> None:
        async with self._judging:
            queue = await self._gateway.queue()
            self._history.flush()
            findings = await asyncio.to_thread(self._windows.settled, self._windows.end(), queue)
            self._checks += 1
        if findings:
            raise SoakFailed("at the end of a window", findings)

    # --- all the while ---------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Sample every second, check every few; ends only by a failure."""
        due = time.monotonic()
        check_at = due + CHECK_EVERY_S
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1.0, time.monotonic())
            if self._up:
                self._gateway.check_running()
            if (failed := self._shop.failed()) is not None:
                raise failed
            if unexpected := [name for name in self._history.counts if name.startswith("unexpected")]:
                raise SoakFailed(f"a till was answered otherwise than it may be: {', '.join(unexpected)}")
            await self._sample()
            if time.monotonic() >= check_at:
                await self._check()
                check_at = time.monotonic() + CHECK_EVERY_S

    async def _sample(self) -> None:
        life, quiet = self._gateway.starts, self._quiet
        queued = await self._gateway.queue_depth() if self._up else None
        running = self._up and self._gateway.running and life == self._gateway.starts
        sample = look(
            self._folder,
            self._gateway.pid if running else None,
            at_s=self._at_s,
            life=life,
            life_s=time.monotonic() - self._started,
            quiet=quiet and self._quiet and running,
            queued=queued,
            sold=self._windows.counts["transactions"],
        )
        self._samples.add(sample)
        self._show_counts()

    async def _check(self) -> None:
        """Judge what is decided, in the middle of a round. What is acknowledged before the queue is listed counts."""
        async with self._judging:
            self._history.flush()
            acknowledged = self._windows.end().history
            try:
                queue = await self._gateway.queue() if self._up else None
            except GatewayBroken:  # it was killed meanwhile; if it has ended by itself, the next look tells
                queue = None
            self._history.flush()
            findings = await asyncio.to_thread(self._windows.decided, acknowledged, self._windows.end(), queue)
            self._checks += 1
        if findings:
            raise SoakFailed("in the middle of a round", findings)

    # --- the end ---------------------------------------------------------------------------------------------------

    async def _end(self, result: SoakResult) -> None:
        """Stop everything that was started, in whatever state it is."""
        self._up = False
        try:
            await self._shop.close(0.5)
            failed = result.findings or result.problems
            if self._gateway.running and not failed and (code := await self._gateway.stop()) != 0:
                result.problems.append(f"the gateway ended with {code} on SIGTERM")
        finally:
            await self._gateway.kill()
            await self._networks.stop()
            await self._acquirer.stop()
            self._history.close()


def run(options: SoakOptions, json_path: Path | None = None) -> int:
    """Play one soak, print its verdict, and give the exit status: 0 where it held, else 1."""
    screen = Screen(f"Holdfast soak, {options.minutes:g} minutes, seed {options.seed}")

    def play(folder: Path) -> Awaitable[SoakResult]:
        return Soak(options, folder, screen).play()

    return run_play(screen, "holdfast-soak-", options.keep, json_path, play, tell)
