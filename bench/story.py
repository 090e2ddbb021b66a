"""`make run`: a short story on screen, in which every claim is checked against what really happened.

An acquirer is simulated in this process; the gateway is a child process with its journal in `.demo/`, made afresh. On a
terminal everything stays up afterwards, until Ctrl-C; anywhere else the story plays once, and its exit status says
whether it came true.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop

from bench.acquirer import NORMAL, Acquirer, Behaviour, Mode
from bench.child import Gateway, GatewayBroken, Setup
from bench.history import check
from bench.ports import free_ports
from bench.records import LedgerEvent, TerminalEvent, read_lines
from bench.screen import Screen
from bench.terminal import GaveUp, Habits, History, Terminal, Told
from bench.till import TEST_CARDS, Prepared
from protocol.iso8583.dialect import load_dialect

FOLDER: Final = Path(".demo")
_MARK: Final = "made-by-the-story"
_TERMINAL_DIALECT: Final = "unionpay"
_ACQUIRER_DIALECT: Final = "iso87-binary"
_USUAL_PORTS: Final = (8583, 8580, 9583)
_WITHIN_S: Final = 10.0
_FLOOR_LIMIT_MINOR: Final = 20_000


class StoryFailed(Exception):
    """The story cannot go on; the message says why."""


def _ports() -> list[int]:
    """The usual ports where they are free, others where not."""
    chosen = free_ports(len(_USUAL_PORTS))
    for number, usual in enumerate(_USUAL_PORTS):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", usual))
            chosen[number] = usual
    return chosen


def _fresh(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise StoryFailed(f"{folder} exists and was not made by the story: remove it, or start elsewhere")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / _MARK).touch()
    return folder.absolute()


class Story:
    """The cast and the chapters. `tell` is called once."""

    def __init__(self, folder: Path, screen: Screen) -> None:
        terminal_port, operations_port, acquirer_port = _ports()
        self._folder = folder
        self._screen = screen
        self._setup = Setup(
            terminal_port=terminal_port,
            operations_port=operations_port,
            acquirer_port=acquirer_port,
            terminal_dialect=_TERMINAL_DIALECT,
            acquirer_dialect=_ACQUIRER_DIALECT,
            host_timeout_ms=400,
            reply_timeout_ms=800,
            longest_flight_ms=1000,
            floor_limit_minor=_FLOOR_LIMIT_MINOR,
        )
        self._gateway = Gateway(folder, self._setup)
        self._acquirer = Acquirer(folder / "ledger.jsonl", dialect=_ACQUIRER_DIALECT, port=acquirer_port)
        self._history = History(folder / "history.jsonl")
        self._till_1, self._till_2 = (self._terminal(name) for name in ("T0000001", "T0000002"))
        self._stood_in: list[tuple[Prepared, Told]] = []
        self._chapter = 0
        self.failed: list[str] = []

    def _terminal(self, name: str) -> Terminal:
        terminal = Terminal(
            load_dialect(_TERMINAL_DIALECT),
            ("127.0.0.1", self._setup.terminal_port),
            self._history,
            terminal=name,
            habits=Habits(answer_timeout_s=5.0),
        )
        terminal.finish_by = time.monotonic() + 60
        return terminal

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, title: str) -> None:
        self._chapter += 1
        self._screen.line()
        self._screen.line(f"{self._chapter}. {title}", "bold cyan")

    def _say(self, text: str) -> None:
        self._screen.line(f"   {text}")

    def _claim(self, text: str, true: bool) -> None:
        self._screen.line(f"   {'yes' if true else 'NO '}  {text}", "green" if true else "bold red")
        if not true:
            self.failed.append(text)

    async def _ask(self, terminal: Terminal, prepared: Prepared) -> Told:
        told = await terminal.attempt(prepared)
        if told is None:
            raise StoryFailed(f"no answer to the {prepared.message.mti} of terminal {terminal.till.terminal}")
        return told

    async def _comes_true(self, what: Callable[[], bool]) -> bool:
        until = time.monotonic() + _WITHIN_S
        while not what():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.02)
        return True

    def _arrivals(self, key: str) -> list[LedgerEvent]:
        return [event for event in self._acquirer.recent if (event.original or event.key) == key]

    def _net(self, sale: Prepared) -> int:
        return self._acquirer.books.net(sale.key)

    # --- the chapters ----------------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Tell the story from the beginning to the verdict.

        Raises:
            StoryFailed, GatewayBroken, GaveUp: it cannot go on.
        """
        chapters: tuple[Callable[[], Awaitable[None]], ...] = (
            self._opening,
            self._sale,
            self._reused_stan,
            self._doubt,
            self._outage,
            self._power_cut,
            self._replay,
            self._ending,
        )
        for chapter in chapters:
            await chapter()
            if not self._gateway.running:
                raise StoryFailed(f"the gateway ended by itself\n{self._gateway.log_end()}")

    async def _opening(self) -> None:
        self._tell("The shop opens")
        await self._acquirer.start()
        await self._gateway.prepare()
        await self._gateway.start()
        self._say(f"The gateway is up after {self._gateway.start_ms[0]:.0f} ms, with a new encrypted journal.")
        self._claim("and finds the acquirer", await self._gateway.online(_WITHIN_S))
        told = await self._ask(self._till_1, self._till_1.till.sign_on())
        self._claim(f"terminal 1 signs on (0800): answered {told.response}", told.response == "00")

    async def _sale(self) -> None:
        self._tell("A sale, and the answer is lost on its way to the printer")
        sale = self._till_1.till.sale(1250, TEST_CARDS[0])
        told = await self._ask(self._till_1, sale)
        self._claim(f"12.50 on card {sale.card}: approved, {told.approval}", told.approved and self._net(sale) == 1)
        self._till_1.hang_up()
        self._say("The terminal lost its line before it saw that. It dials again and sends the same bytes again.")
        again = await self._ask(self._till_1, sale)
        same = (again.response, again.approval) == (told.response, told.approval)
        self._claim(f"the retry gets the same answer: {again.response}, {again.approval}", same)
        self._claim("the acquirer saw it once and booked it once", len(self._arrivals(sale.key)) == 1)
        self._first_sale = sale

    async def _reused_stan(self) -> None:
        self._tell("A faulty terminal uses the same STAN for another amount")
        before = len(self._acquirer.recent)
        wrong = self._till_1.till.sale(99_900, TEST_CARDS[0], stan=self._first_sale.stan)
        told = await self._ask(self._till_1, wrong)
        forwarded = [event for event in list(self._acquirer.recent)[before:] if event.business != "network"]
        self._claim(f"refused with {told.response}, and nothing forwarded", told.response == "94" and not forwarded)

    async def _doubt(self) -> None:
        self._tell("The acquirer books a sale and then says nothing")
        self._acquirer.next_messages(Behaviour(mode=Mode.SILENT))
        sale = self._till_1.till.sale(4200, TEST_CARDS[2])
        told = await self._ask(self._till_1, sale)
        self._claim(f"the terminal is told no in time: {told.response}", not told.approved)
        self._say("Nobody can know whether the money was taken. The gateway owes a reversal, and has written it down.")
        reversed_ = await self._comes_true(lambda: any(e.act == "reversed" for e in self._arrivals(sale.key)))
        acts = ", ".join(f"{event.mti} {event.act}" for event in self._arrivals(sale.key))
        self._claim(f"the ledger nets to zero: {acts}", reversed_ and self._net(sale) == 0)
        self._claim("and nothing is owed any more", await self._gateway.drained(_WITHIN_S) == 0)

    async def _outage(self) -> None:
        self._tell("The acquirer goes away; the shop goes on selling")
        await self._acquirer.set_mode(Mode.AWAY)
        for number, terminal in enumerate([self._till_1, self._till_2, self._till_1, self._till_2]):
            sale = terminal.till.sale(1000 + 111 * number, TEST_CARDS[number + 1])
            told = await self._ask(terminal, sale)
            name = terminal.till.terminal.strip()
            self._claim(f"{name} sells {sale.amount_minor / 100:.2f}: approved offline, {told.approval}", told.approved)
            self._stood_in.append((sale, told))
        dear = self._till_2.till.sale(_FLOOR_LIMIT_MINOR + 1, TEST_CARDS[5])
        told = await self._ask(self._till_2, dear)
        self._claim(f"a sale over the floor limit is refused: {told.response}", not told.approved)
        self._claim("none of them has reached the acquirer", not any(self._arrivals(s.key) for s, _ in self._stood_in))

    async def _power_cut(self) -> None:
        self._tell("The power goes: kill -9, and the gateway starts again")
        await self._gateway.kill()
        await self._gateway.start()
        self._say(f"Ready again after {self._gateway.start_ms[-1]:.0f} ms.")
        sale, told = self._stood_in[1]
        again = await self._ask(self._till_2, sale)
        same = (again.response, again.approval) == (told.response, told.approval)
        self._claim(f"a retry from before the cut gets the same answer: {again.response}, {again.approval}", same)
        depth = await self._gateway.queue_depth()
        self._claim(f"{depth} sales are owed to the acquirer, as before the cut", depth == len(self._stood_in))

    async def _replay(self) -> None:
        self._tell("The acquirer is back")
        await self._acquirer.set_behaviour(NORMAL)
        booked = await self._comes_true(lambda: all(self._net(sale) == 1 for sale, _ in self._stood_in))
        self._claim(f"all {len(self._stood_in)} stand-in sales are booked", booked)
        for terminal in (self._till_1, self._till_2):
            name = terminal.till.terminal.strip()
            made = [sale.key for sale, _ in self._stood_in if f"/{name}/" in sale.key]
            came = [event.key for event in self._acquirer.recent if event.act == "booked" and event.key in made]
            stans = ", ".join(key.rpartition("/")[2] for key in came)
            self._claim(f"{name}'s came in the order in which they were made: {stans}", came == made)
        self._claim("the queue is empty", await self._gateway.drained(_WITHIN_S) == 0)
        sale = self._till_1.till.sale(2000, TEST_CARDS[1])
        told = await self._ask(self._till_1, sale)
        self._claim(f"sales go through to the acquirer again: {told.response}", told.approved and self._net(sale) == 1)

    async def _ending(self) -> None:
        self._tell("The verdict, from the terminals' histories and the acquirer's ledger")
        self._history.flush()
        verdict = check(
            read_lines(self._history.path, TerminalEvent),
            read_lines(self._folder / "ledger.jsonl", LedgerEvent),
            await self._gateway.queue(),
        )
        for name in ("acknowledged", "booked", "lost", "doubled", "out_of_order", "changed", "unsettled"):
            self._say(f"{name.replace('_', ' '):<13}{verdict.figures()[name]:>4}")
        self._claim("nothing lost, nothing doubled, everything in order and settled", verdict.clean)
        for finding in verdict.findings:
            self._say(str(finding))

    # --- afterwards ------------------------------------------------------------------------------------------------

    def invite(self) -> None:
        """Say what is up and what to try."""
        setup = self._setup
        config = FOLDER / self._gateway.config.name
        self._screen.line()
        self._screen.line("It stays up. Ctrl-C stops it.", "bold")
        self._say(f"terminals    127.0.0.1:{setup.terminal_port}   dialect {setup.terminal_dialect}")
        self._say(f"acquirer     127.0.0.1:{setup.acquirer_port}   dialect {setup.acquirer_dialect}, simulated")
        self._say(f"operations   http://127.0.0.1:{setup.operations_port}/metrics  /readyz  /livez")
        self._say("Try, in another window:")
        self._say(f"  holdfast status -c {config}")
        self._say(f"  holdfast queue list -c {config}")
        self._say(f"  holdfast-bench terminals 127.0.0.1:{setup.terminal_port} --dialect {setup.terminal_dialect}")
        self._say("  holdfast-bench outage --terminals 50 --seconds 20 --kill")

    async def stay(self, stopped: asyncio.Event) -> None:
        """Stay up until `stopped`, or until the gateway ends by itself."""
        while not stopped.is_set() and self._gateway.running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 0.5)

    async def close(self) -> None:
        """Stop everything."""
        for terminal in (self._till_1, self._till_2):
            terminal.hang_up()
        await self._gateway.stop()
        await self._acquirer.stop()
        self._history.close()


async def _play(screen: Screen, *, stay: bool) -> int:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    story = Story(_fresh(FOLDER), screen)
    telling = loop.create_task(story.tell())

    def stop() -> None:
        stopped.set()
        telling.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait({telling})
        if telling.cancelled():
            return 130
        problem = telling.exception()
        if isinstance(problem, GaveUp):
            story.failed.append("the gateway was reachable")
        elif isinstance(problem, StoryFailed | GatewayBroken):
            story.failed.append(str(problem))
        elif problem is not None:
            raise problem
        elif stay:
            story.invite()
            await story.stay(stopped)
    finally:
        await story.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    screen.line()
    if story.failed:
        screen.line("The story did not come true:", "bold red")
        for text in story.failed:
            screen.line(f"   {text}", "red")
        return 1
    screen.line("The story came true.", "bold green")
    return 0


def run() -> int:
    """Tell the story; the result is the exit status."""
    screen = Screen("")
    screen.line("Holdfast: a payment survives an outage", "bold")
    try:
        return uvloop.run(_play(screen, stay=sys.stdout.isatty()))
    except StoryFailed as failed:
        screen.line(str(failed), "bold red")
        return 1
