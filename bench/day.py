"""`holdfast-bench day`: a working day of UnionPay terminals through a gateway, from sign-on to sign-off.

Both lines are TLS with MACs, and both are tapped. In the middle the acquirer fails; some terminals' totals are wrong;
the acquirer doubts one batch. At the end everything is to be balanced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from bench.acquirer import NORMAL
from bench.batches import check_batches
from bench.child import Gateway, GatewayBroken
from bench.day_plan import DOUBTED, befalls, shift, terminal_name
from bench.day_report import DayResult, tell
from bench.day_setup import GATEWAY_TERMINAL, DaySetup, Secrets, make_secrets
from bench.day_shown import Seen, Shown, not_shown, surprises, worth_counting
from bench.day_worker import Worker
from bench.history import check
from bench.interruption import through_phases
from bench.playing import add_traffic, by_code, finish_all, run_play
from bench.ports import free_ports
from bench.records import LedgerEvent, Owed, TerminalBatch, TerminalEvent, read_lines
from bench.scenario import Options, Step
from bench.screen import Screen
from bench.tap import Tap, Watch
from bench.terminal import Habits, History
from bench.till import TEST_CARDS
from bench.unionpay_acquirer import UnionPayAcquirer
from bench.unionpay_books import UnionPayBooks
from bench.unionpay_terminal import UnionPayTerminal
from protocol.iso8583.dialect import load_dialect

FINISH_WITHIN_S: Final = 60.0
"""How long terminals may take to settle and sign off when the last sale is made."""
SETTLE_WITHIN_S: Final = 90.0
"""How long the gateway may take after that, until nothing is owed and the acquirer has closed every batch."""
_HABITS: Final = Habits(power_loss=0, answer_loss=0, double_send=0, connect_pause_s=0.3)
_HASTY: Final = replace(_HABITS, answer_timeout_s=0.6, tries=2)  # waits less than the gateway does: D17 broken outside
_WRONG_MACS: Final = 3
_LAST_SETTLEMENTS_TENTHS_S: Final = 50


class Day:
    """One day. `play` is called once."""

    def __init__(self, options: Options, folder: Path, screen: Screen, *, tls: bool = True) -> None:
        self._options = options
        self._folder = folder
        self._screen = screen
        self._names = [terminal_name(number) for number in range(options.terminals)]
        self._shifts = [shift(options, number) for number in range(options.terminals)]
        self._secrets = self._made_secrets()
        self._tls = tls
        ports = free_ports(5)
        self._watch = Watch(TEST_CARDS)
        self._taps = (
            Tap(self._watch, ("127.0.0.1", ports[1]), port=ports[0]),
            Tap(self._watch, ("127.0.0.1", ports[3]), port=ports[2]),
        )
        doubts = frozenset(self._names[DOUBTED : DOUBTED + 1])
        self._acquirer = UnionPayAcquirer(
            folder / "ledger.jsonl",
            {GATEWAY_TERMINAL: self._secrets.host_key},
            gateway=GATEWAY_TERMINAL,
            books=UnionPayBooks(doubts=doubts),
            tls=self._secrets.acquirer_tls if tls else None,
            port=ports[3],
            seed=options.seed,
        )
        setup = DaySetup(
            terminal_port=ports[1],
            operations_port=ports[4],
            acquirer_port=ports[2],
            terminal_dialect=options.dialect,
            acquirer_dialect=options.acquirer_dialect,
            terminals=options.terminals,
            tls=tls,
        )
        self._gateway = Gateway(folder, setup)
        self._history = History(folder / "history.jsonl")
        self._stop = asyncio.Event()
        self._workers: list[Worker] = []
        self._working: list[asyncio.Task[None]] = []
        self._began = time.monotonic()
        self._queue: list[Owed] = []
        self._problems: list[str] = []
        self._counters: dict[str, int] = {}
        self._figures: dict[str, float] = {}
        self._sign_ons_asked_for = 0

    def _made_secrets(self) -> Secrets:
        """Every second terminal that takes double-length keys has its PIN key from the acquirer."""
        given = [one.terminal for place, one in enumerate(self._shifts) if one.key_code != "001" and place % 2 == 0]
        return make_secrets(self._folder, self._names, frozenset(given))

    # --- showing ---------------------------------------------------------------------------------------------------

    def _phase(self, text: str) -> None:
        self._show_counts()
        self._screen.phase(time.monotonic() - self._began, text)

    def _show_counts(self) -> None:
        counts, books = self._history.counts, self._acquirer.books
        self._screen.counts(
            {
                "signed on": counts["signed on"],
                "approved": counts["approved"],
                "refused": counts["refused"],
                "reversed": counts["reversed"],
                "time-outs": counts["timed_out"],
                "broken": counts["disconnected"],
                "batches closed": counts["batches closed"],
                "booked upstream": books.booked,
                "settled upstream": sum(state.closed for state in books.batches.values()),
                "starts": self._gateway.starts,
            }
        )

    # --- the day ---------------------------------------------------------------------------------------------------

    async def play(self) -> DayResult:
        """Run everything; an interruption (SIGINT, SIGTERM) goes straight to the verdict."""
        interrupted = await through_phases(self._phases(), self._show_counts, self._end, self._problems)
        return self._judge(interrupted=interrupted)

    async def _phases(self) -> None:
        self._phase("starting the acquirer and the gateway")
        await self._acquirer.start()
        for tap in self._taps:
            await tap.start()
        await self._gateway.prepare()
        await self._gateway.start()
        self._began = time.monotonic()
        self._open_shop()
        self._phase(f"{self._options.terminals} terminals sign on and sell")
        await self._try_keys()
        self._sign_ons_asked_for = self._acquirer.sessions.sign_ons - 1
        for step in befalls(self._options):
            await self._wait_until(step.at_s)
            await self._take(step)
        await self._wait_until(self._options.seconds)
        await self._close_shop()

    async def _try_keys(self) -> None:
        """What a host may do with the keys of a session."""
        span = self._options.seconds
        await self._wait_until(span * 0.2)
        self._phase("the acquirer asks the gateway to sign on again")
        self._acquirer.sign_ons_wanted = 1
        await self._wait_until(span * 0.27)
        self._phase(f"{_WRONG_MACS} answers of the acquirer have a wrong MAC")
        self._acquirer.wrong_macs = _WRONG_MACS
        await self._wait_until(span * 0.34)
        self._phase("the acquirer loses the gateway's keys")
        self._acquirer.sessions.forget()
        await self._wait_until(span * 0.39)

    def _open_shop(self) -> None:
        dialect = load_dialect(self._options.dialect)
        loop = asyncio.get_running_loop()
        for one in self._shifts:
            terminal = UnionPayTerminal(
                dialect,
                ("127.0.0.1", self._taps[0].port),
                self._history,
                master_key=self._secrets.terminal_keys[one.terminal],
                terminal=one.terminal,
                key_code=one.key_code,
                habits=_HASTY if one.hasty else _HABITS,
                seed=self._options.seed,
                first_stan=one.first_stan,
                tls=self._secrets.terminal_tls[one.terminal] if self._tls else None,
            )
            worker = Worker(one, terminal, self._history, self._stop)
            self._workers.append(worker)
            self._working.append(loop.create_task(worker.work(self._began), name=one.terminal))

    async def _wait_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began + at_s - time.monotonic()))
        self._gateway.check_running()

    async def _take(self, step: Step) -> None:
        self._phase(step.text)
        if step.behaviour is not None:
            await self._acquirer.set_behaviour(step.behaviour)
        if step.kill_for_s is not None:
            await self._gateway.kill()
            await asyncio.sleep(step.kill_for_s)
            await self._gateway.start()
            self._phase(f"the gateway is up again after {self._gateway.start_ms[-1]:.0f} ms")

    async def _close_shop(self) -> None:
        self._figures["traffic_s"] = round(time.monotonic() - self._began, 2)
        await self._acquirer.set_behaviour(NORMAL)
        self._phase("the last sale is made; terminals settle and sign off")
        await self._finish(FINISH_WITHIN_S)
        self._phase("waiting until nothing is owed and every batch is settled with the acquirer")
        healed = time.monotonic()
        if (depth := await self._gateway.drained(SETTLE_WITHIN_S)) != 0:
            self._problems.append(f"the queue was not empty after {SETTLE_WITHIN_S:g} s: {depth} left")
        for _ in range(_LAST_SETTLEMENTS_TENTHS_S):  # taken off the queue may be a moment before it is in the ledger
            if not self._acquirer.unsettled():
                break
            await asyncio.sleep(0.1)
        self._figures["drain_s"] = round(time.monotonic() - healed, 2)

    async def _finish(self, within_s: float) -> None:
        """Let the terminals come to their ends, at most so long."""
        for worker in self._workers:
            worker.terminal.line.finish_by = time.monotonic() + within_s
        await finish_all(self._working, within_s + 10)
        self._working = []

    async def _end(self) -> None:
        """Stop everything that was started, in whatever state it is."""
        try:
            self._stop.set()
            await self._finish(3.0)
            if self._gateway.running:
                self._queue = await self._gateway.queue()
                self._counters = await self._gateway.counters()
                if (code := await self._gateway.stop()) != 0:
                    self._problems.append(f"the gateway ended with {code} on SIGTERM")
        except GatewayBroken as broken:
            self._problems.append(str(broken))
        finally:
            await self._gateway.kill()
            for tap in self._taps:
                await tap.stop()
            await self._acquirer.stop()
            self._history.close()
            own = [batch for worker in self._workers for batch in worker.terminal.memory.batches()]
            (self._folder / "batches.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(own))

    # --- the verdict -----------------------------------------------------------------------------------------------

    def _ledger(self) -> Iterator[LedgerEvent]:
        path = self._folder / "ledger.jsonl"
        return read_lines(path, LedgerEvent) if path.exists() else iter(())

    def _judge(self, *, interrupted: bool) -> DayResult:
        history = list(read_lines(self._history.path, TerminalEvent))
        verdict = check(history, self._ledger(), with_batches(self._queue, history))
        batches = check_batches(read_lines(self._folder / "batches.jsonl", TerminalBatch), self._ledger())
        counts = self._history.counts
        result = DayResult(
            self._options,
            verdict,
            interrupted,
            self._problems,
            self._figures,
            by_code(self._history),
            self._counters,
            batches=batches,
            pans_on_wire=self._watch.finish(),
            tapped_bytes=self._watch.tapped_bytes,
            mac_refused=self._acquirer.mac_refused + counts["code A0"] + counts["answers with a wrong MAC"],
            shop_counts=worth_counting(counts),
        )
        self._figure(verdict.transactions)
        if not interrupted:
            self._problems += not_shown(self._shown())
            self._problems += self._surprises()
        return result

    def _shown(self) -> Shown:
        """What the day had to look at."""
        return Shown(
            terminals=self._options.terminals,
            seconds=self._options.seconds,
            counts=self._history.counts,
            tapped_bytes=self._watch.tapped_bytes,
            sign_ons_asked_for=self._sign_ons_asked_for,
            pin_blocks=sum(bool(event.pin_hash) for event in self._ledger()),
            stans_wrapped=sum(worker.terminal.memory.wrapped for worker in self._workers),
            uploads=sum(event.act == "uploaded" for event in self._ledger()),
            wrong_macs_left=self._acquirer.wrong_macs,
        )

    def _surprises(self) -> list[str]:
        seen = [
            Seen(
                terminal=one.terminal,
                pin_key=worker.terminal.till.pin_key,
                given=self._secrets.pin_keys.get(one.terminal),
                loses_totals=one.loses_totals >= 0,
                uploaded=any(batch.uploaded for batch in worker.terminal.memory.batches()),
            )
            for worker, one in zip(self._workers, self._shifts, strict=True)
        ]
        return surprises(seen, self._ledger(), self._names[DOUBTED : DOUBTED + 1])

    def _figure(self, transactions: int) -> None:
        figures = self._figures
        add_traffic(figures, self._history, self._gateway, transactions)
        figures["gateway_sign_ons"] = self._acquirer.sessions.sign_ons
        figures |= {name: n for name, n in sorted(self._acquirer.counts.items()) if name.startswith("reversals for")}


def with_batches(queue: list[Owed], history: list[TerminalEvent]) -> list[Owed]:
    """A queue listing with the history's keys: the gateway lists terminal and STAN, the history knows the batch."""
    known: dict[str, str] = {}
    for event in history:
        if event.business in ("sale", "advice"):
            known[f"{event.merchant}/{event.terminal}/{event.stan}"] = event.key
    return [msgspec.structs.replace(owed, key=known.get(owed.key, owed.key)) for owed in queue]


def run(options: Options, json_path: Path | None = None, *, tls: bool = True) -> int:
    """Play one day, print its verdict, and give the exit status."""
    screen = Screen(f"Holdfast day, seed {options.seed}")

    def play(folder: Path) -> Awaitable[DayResult]:
        return Day(options, folder, screen, tls=tls).play()

    return run_play(screen, "holdfast-day-", options.keep, json_path, play, tell)
