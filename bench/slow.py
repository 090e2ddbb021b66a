"""`holdfast-bench slow`: a thousand sockets on each listener that waste its time, and whether honest sales notice.

Quiet and slow phases alternate, so that whatever else goes on in this machine falls on both alike. The clock is real:
two runs of a seed are alike but not equal.
"""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.acquirer import Acquirer
from bench.child import GatewayBroken
from bench.interruption import SIGNALS
from bench.ports import free_ports
from bench.screen import Screen, write_json
from bench.slow_crowd import HALF_CLOSED_SHARE, OPENS_PER_S, Orders, Spoken
from bench.slow_honest import Caller, HttpTill, Tally, Terminal, sell_openly
from bench.slow_rig import CrowdProcess, Look, SlowGateway, SlowSetup
from bench.slow_verdict import QUANTILES, RATIO_LIMIT, Condition, Scenario, Shown, Who, risen, spread
from bench.usage import resident_bytes
from protocol.iso8583.dialect import load_dialect

PER_ADDRESS_DEFAULT: Final = 500
"""The gateway's default of connections_per_address_max: what the second scenario runs into."""
WARM_UP_S: Final = 2.0
SETTLE_S: Final = 0.5
"""Between a change of the crowd and the phase that is compared."""
LEFT_WITHIN_S: Final = 10.0
"""How long the gateway may take to see that the crowd has gone."""
_HONEST_ADDRESS: Final = {Scenario.ADMITTED: "127.0.0.1", Scenario.BEYOND: "127.0.0.2"}
_DIALECT: Final = "unionpay"
_TITLES: Final = {
    Scenario.ADMITTED: "every socket admitted",
    Scenario.BEYOND: "more than one address may have; the honest ones come from another",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowOptions:
    """What to run.

    Attributes:
        sockets: hostile ones on each listener.
        seconds: of each phase; there are two a round.
        callers: honest terminals, and as many tills.
        sales_per_second: of each of them.
        beyond: also run with the default limit for one address.
    """

    sockets: int = 1_000
    seconds: float = 10.0
    rounds: int = 3
    seed: int = 0
    callers: int = 20
    sales_per_second: float = 4.0
    beyond: bool = False

    @property
    def per_address_max(self) -> int:
        """What the second scenario admits of one address: the default, or half of a crowd that is no larger."""
        return min(PER_ADDRESS_DEFAULT, max(1, self.sockets // 2))


class Slow:
    """One scenario. `play` is called once."""

    def __init__(self, options: SlowOptions, scenario: Scenario, folder: Path, screen: Screen) -> None:
        self._options, self._screen = options, screen
        crowd = options.sockets + round(options.sockets * HALF_CLOSED_SHARE) + 100
        beyond = scenario is Scenario.BEYOND
        ports = free_ports(4)
        setup = SlowSetup(
            terminal_port=ports[0],
            http_port=ports[1],
            operations_port=ports[2],
            acquirer_port=ports[3],
            connections_max=max(2_000, crowd + options.callers),
            connections_per_address_max=options.per_address_max if beyond else crowd + options.callers,
        )
        self._shown = Shown(scenario, options.sockets, setup.connections_per_address_max)
        self._gateway = SlowGateway(folder, setup)
        self._acquirer = Acquirer(folder / "ledger.jsonl", port=ports[3], seed=options.seed)
        self._crowd = CrowdProcess(Orders(ports[0], ports[1], options.sockets, options.seed))
        self._condition = Condition.CHANGING
        self._since = 0.0
        self._began = time.monotonic()
        self._stop = asyncio.Event()

    async def play(self) -> Shown:
        """Run everything; whatever was started is stopped, whatever happens."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._acquirer.stop)
            stack.push_async_callback(self._gateway.kill)
            stack.push_async_callback(self._crowd.stop)
            try:
                await self._acquirer.start()
                await self._gateway.prepare()
                await self._gateway.start()
                await self._crowd.start()
                await self._measure()
                if (code := await self._gateway.stop()) != 0:
                    self._shown.troubles.append(f"the gateway ended with {code} on SIGTERM")
            except GatewayBroken as broken:
                self._shown.troubles.append(str(broken))
            except asyncio.CancelledError:
                self._shown.troubles.append("interrupted")
        return self._shown

    async def _measure(self) -> None:
        """Have everybody sell, and take the crowd through its rounds. Raises: GatewayBroken."""
        loop = asyncio.get_running_loop()
        selling: list[asyncio.Task[None]] = []
        try:
            for who, number, caller in self._callers():
                await caller.connect()
                selling.append(loop.create_task(self._sell(who, number, caller)))
            await self._rounds()
        except OSError as error:
            raise GatewayBroken(f"an honest caller could not connect: {error}") from error
        finally:
            self._stop.set()
            await self._crowd.stop()
            await asyncio.gather(*selling)

    def _callers(self) -> Sequence[tuple[Who, int, Caller]]:
        setup, source = self._gateway.setup, _HONEST_ADDRESS[self._shown.scenario]
        assert isinstance(setup, SlowSetup)
        dialect = load_dialect(_DIALECT)
        callers: list[tuple[Who, int, Caller]] = []
        for number in range(self._options.callers):
            terminal = Terminal(dialect, f"T{number:07d}", ("127.0.0.1", setup.terminal_port), source)
            till = HttpTill(f"H{number:07d}", ("127.0.0.1", setup.http_port), source)
            callers += [(Who.TERMINALS, number, terminal), (Who.TILLS, number, till)]
        return callers

    async def _sell(self, who: Who, number: int, caller: Caller) -> None:
        dice = random.Random(f"honest/{self._options.seed}/{who}/{number}")

        def tally(due: float) -> Tally:
            condition = self._condition if due >= self._since else Condition.CHANGING
            return self._shown.tallies[who, condition]

        await sell_openly(caller, self._options.sales_per_second, dice, self._stop, tally)

    async def _rounds(self) -> None:
        shown, options = self._shown, self._options
        self._enter(Condition.CHANGING, f"{options.callers} terminals and {options.callers} tills warm up")
        await asyncio.sleep(WARM_UP_S)
        before = await self._gateway.look()
        shown.memory_mib["before"] = self._memory_mib()
        for number in range(1, options.rounds + 1):
            of = f"round {number} of {options.rounds}"
            await self._phase(Condition.QUIET, f"{of}: quiet")
            self._enter(Condition.CHANGING, f"{of}: {options.sockets} slow sockets connect to each listener")
            self._crowd.tell("enter")
            await self._until_present()
            await self._phase(Condition.SLOW, f"{of}: they are there")
            self._enter(Condition.CHANGING, f"{of}: they leave")
            self._crowd.tell("leave")
            await self._until_gone()
        shown.memory_mib["after"] = self._memory_mib()
        shown.counted = risen((await self._gateway.look()).counters, before.counters)
        shown.crowd_opened, shown.crowd_closed = self._crowd.counts.opened, self._crowd.counts.closed

    def _enter(self, condition: Condition, text: str) -> None:
        self._condition = condition
        self._since = time.monotonic()
        self._screen.counts(
            {
                "honest sales": sum(tally.sales for tally in self._shown.tallies.values()),
                "failed": self._shown.failed.total(),
                "hostile open": sum(self._crowd.counts.open.values()),
                "hostile closed": sum(self._crowd.counts.closed.values()),
            }
        )
        self._screen.phase(time.monotonic() - self._began, text)

    async def _phase(self, condition: Condition, text: str) -> None:
        """A phase that is compared. Both kinds are looked at as often, so that looking costs both the same."""
        await asyncio.sleep(SETTLE_S)
        self._enter(condition, text)
        until = self._since + self._options.seconds
        while (left_s := until - time.monotonic()) > 0:
            look = await self._gateway.look()
            memory_mib = self._memory_mib()
            if condition is Condition.SLOW:
                most = max(memory_mib, self._shown.memory_mib.get("most", 0.0))
                self._shown.memory_mib["most"] = most
                for spoken, count in self._hostile(look).items():
                    self._shown.held[spoken].append(count)
            await asyncio.sleep(min(1.0, left_s))

    def _hostile(self, look: Look) -> dict[Spoken, int]:
        """Connections beside the honest ones."""
        counts = [listener.connections - self._options.callers for listener in look.terminals]
        return dict(zip((Spoken.ISO8583, Spoken.HTTP), counts, strict=True))

    async def _until_present(self) -> None:
        slots = self._options.sockets * (1 + HALF_CLOSED_SHARE)
        deadline = time.monotonic() + 10 + 3 * slots / OPENS_PER_S
        while not self._crowd.counts.present:
            if time.monotonic() > deadline:
                raise GatewayBroken(f"the crowd could not connect: {self._crowd.counts.failed} attempts failed")
            await asyncio.sleep(0.1)

    async def _until_gone(self) -> None:
        deadline = time.monotonic() + LEFT_WITHIN_S
        while True:
            hostile = self._hostile(await self._gateway.look())
            self._shown.left_open = {spoken.value: count for spoken, count in hostile.items()}
            if not any(hostile.values()) or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.2)

    def _memory_mib(self) -> float:
        return round(resident_bytes(self._gateway.pid) / 2**20, 1)


def run(options: SlowOptions, json_path: Path | None = None) -> int:
    """Play every scenario, print what it showed, and give the exit status: 0 where all of them hold."""
    if problem := _too_many(options):
        print(f"holdfast-bench: {problem}", file=sys.stderr)
        return 2
    scenarios = [Scenario.ADMITTED, Scenario.BEYOND] if options.beyond else [Scenario.ADMITTED]
    shown: list[Shown] = []
    screen = Screen(f"Holdfast slow clients, seed {options.seed}")
    with screen:
        for scenario in scenarios:
            folder = Path(tempfile.mkdtemp(prefix="holdfast-slow-"))
            try:
                shown.append(uvloop.run(_play(Slow(options, scenario, folder, screen))))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    write_json(json_path, report(options, shown), indent=1)
    for one in shown:
        _print(one, screen)
    screen.line(f"\n  seed {options.seed}")
    return 1 if any(one.problems() for one in shown) else 0


def report(options: SlowOptions, shown: Sequence[Shown]) -> dict[str, Any]:
    """Everything, by name."""
    return {
        "held": not any(one.problems() for one in shown),
        "seed": options.seed,
        "sockets": options.sockets,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "honest_sales_per_s": 2 * options.callers * options.sales_per_second,
        "ratio_limit": RATIO_LIMIT,
        "scenarios": {one.scenario.value: one.json() for one in shown},
    }


def _too_many(options: SlowOptions) -> str:
    """Why this machine cannot hold so many sockets; empty where it can."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = round(2 * options.sockets * (1 + HALF_CLOSED_SHARE)) + 2 * options.callers + 400
    if most != resource.RLIM_INFINITY and wanted > most:
        return f"{wanted} open files are needed, a process may have {most}: fewer --sockets, or a higher `ulimit -Hn`"
    return ""


async def _play(slow: Slow) -> Shown:
    loop = asyncio.get_running_loop()
    playing = asyncio.ensure_future(slow.play())
    for number in SIGNALS:
        loop.add_signal_handler(number, playing.cancel)
    return await playing


def _print(shown: Shown, screen: Screen) -> None:
    problems = shown.problems()
    screen.line()
    verdict = "HELD" if not problems else "BROKEN"
    screen.line(f"{verdict}: {_TITLES[shown.scenario]}", "bold red" if problems else "bold green")
    for problem in problems:
        screen.line(f"  {problem}", "red")
    screen.line(f"  {'':<11}{'':<10}{'sales':>7}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>10}")
    told = shown.json()
    for who in Who:
        figures = told["honest"][who]
        for condition in Condition:
            row = figures[condition]
            times = [_number(row[name]) for name in QUANTILES]
            counts = f"{row['sales']:>7}{row['failed']:>8}"
            screen.line(f"  {who:<11}{condition:<10}{counts}{times[0]:>9}{times[1]:>9}{times[2]:>10}")
        times = [_number(figures["ratio"][name]) for name in QUANTILES]
        screen.line(f"  {'':<11}{'slow/quiet':<25}{times[0]:>9}{times[1]:>9}{times[2]:>10}", "bold")
    screen.line(f"  honest sales approved at once: {shown.answered_share:.3%}")
    for spoken, samples in shown.held.items():
        held = spread(samples)
        text = f"{held['mean']} on average (least {held['least']}, most {held['most']})"
        screen.line(f"  hostile sockets held, {spoken:<8} {text} of {shown.sockets}")
    closed = ", ".join(f"{name} {count}" for name, count in shown.counted.items())
    screen.line(f"  the gateway counted: {closed}")
    memory = ", ".join(f"{when} {mib:g} MiB" for when, mib in shown.memory_mib.items())
    screen.line(f"  gateway's memory: {memory};  connections left over: {sum(shown.left_open.values())}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
