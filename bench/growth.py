"""`holdfast-bench growth`: what a sale costs with millions in the journal, beside what it costs with a few.

Both backlogs are stored beforehand by the gateway's own core and journal. Then a gateway is started on each, and both
meet the same load by turns, in pairs whose order alternates. The cost is processor time of the gateway's processes, so
that other work on the machine changes a rate and not the verdict. Both gateways start anew for each round, with the
small journal put back as it was filled: else it would not stay small for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench.child import GatewayBroken
from bench.growth_rig import NEW_FROM, WARM_UP_S, Load, Side
from bench.growth_verdict import Callers, Growth, Size, figures, lines
from bench.interruption import INTERRUPTED, SIGNALS, patience, undisturbed
from bench.load.frames import STAN_MAX
from bench.load.generator import GeneratorBroken
from bench.load.options import OptionsWrong
from bench.screen import Screen, write_json
from gateway.journal.port import JournalError
from gateway.journal.room import OUTCOME_BYTES

BYTES_PER_SALE: Final = 1_600
"""The most that a stored sale may take on disk."""
RATE_MAX_PER_S: Final = 20_000
"""More than any load here reaches; bounds what it adds to the disk."""
_SPARE_BYTES: Final = 512_000_000
_GB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthOptions:
    """What is stored, and what it meets.

    Attributes:
        transactions, beside: in the large and in the small journal.
        seconds, warm_up_s: of each turn.
        terminals: that the stored sales are of.
        clients: terminals of the load, each with one sale in flight.
        folder: parent of everything that is stored; None for the system's temporary folder.
    Raises:
        OptionsWrong: they do not go together.
    """

    transactions: int = 5_000_000
    beside: int = 10_000
    rounds: int = 9
    seconds: float = 2.0
    terminals: int = 1_000
    clients: int = 64
    warm_up_s: float = WARM_UP_S
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.beside >= self.transactions:
            raise OptionsWrong("--beside is less than --transactions")
        if self.transactions / self.terminals > STAN_MAX / 2:
            raise OptionsWrong("--terminals: too few, they would use up their STANs")

    @property
    def known(self) -> int:
        """Terminals of the load that both journals have sales of."""
        return min(self.clients, self.terminals, self.beside)

    @property
    def disk_bytes(self) -> int:
        """The most disk that a run takes, with what the gateway keeps free for the outcomes of what is stored."""
        turn = round(len(Callers) * (self.seconds + self.warm_up_s) * RATE_MAX_PER_S)
        sales = self.transactions + self.rounds * turn + 2 * self.beside + turn  # the small one and its copy
        return sales * (BYTES_PER_SALE + OUTCOME_BYTES) + _SPARE_BYTES


def free_bytes(folder: Path) -> int:
    """Disk space that can be had in a folder."""
    return shutil.disk_usage(folder).free


def run(options: GrowthOptions, json_path: Path | None = None, *, free: Callable[[Path], int] = free_bytes) -> int:
    """Run, print, and give the exit status.

    Args:
        free: how much disk there is in a folder.
    Returns:
        0 where it held; 1 where not; 2 where there is too little disk, and nothing was started; 130 after Ctrl-C.
    """
    parent = options.folder or Path(tempfile.gettempdir())
    there = free(parent)
    print(f"needs at most {options.disk_bytes / _GB:.1f} GB of disk in {parent}; {there / _GB:.1f} GB are free")
    if there < options.disk_bytes:
        print("holdfast-bench: too little disk: take fewer --transactions, or a --folder on another disk")
        return 2
    growth = Growth(transactions=options.transactions, beside=options.beside, rounds=options.rounds)
    with contextlib.ExitStack() as afterwards:
        with tempfile.TemporaryDirectory(prefix="holdfast-growth-", dir=parent) as name, Screen("Growth") as screen:
            interrupted = uvloop.run(_measured(Path(name), options, growth, screen))
            afterwards.enter_context(undisturbed())
        print("\n".join(lines(growth)))
        write_json(json_path, figures(growth))
    if interrupted:
        return INTERRUPTED
    return 0 if growth.held else 1


async def _measured(folder: Path, options: GrowthOptions, growth: Growth, screen: Screen) -> bool:
    """Measure; what goes wrong is among the problems. Returns whether it was interrupted."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for caught in SIGNALS:
        loop.add_signal_handler(caught, task.cancel)
    rig = _Rig(folder, options, growth, screen)
    interrupted = False
    try:
        await rig.fill()
        for number in range(1, options.rounds + 1):
            await rig.round(number)
    except asyncio.CancelledError:
        interrupted = True
        task.uncancel()
        growth.problems.append("interrupted")
    except (GatewayBroken, GeneratorBroken, JournalError, OSError) as broken:
        growth.problems.append(str(broken))
    finally:
        for caught in SIGNALS:
            loop.add_signal_handler(caught, patience)
        await rig.stop()
        for caught in SIGNALS:
            loop.remove_signal_handler(caught)
    return interrupted


class _Rig:
    """Both sides, and who is next."""

    def __init__(self, folder: Path, options: GrowthOptions, growth: Growth, screen: Screen) -> None:
        self._options = options
        self._growth = growth
        self._screen = screen
        self._began = time.monotonic()
        self._answers = 0
        self._large = Side(Size.LARGE, folder, options.transactions, options.terminals)
        self._small = Side(Size.SMALL, folder, options.beside, options.terminals)
        self._known_stan = 0

    async def fill(self) -> None:
        """Store both backlogs. Raises: GatewayBroken, JournalError."""
        for side in (self._large, self._small):
            self._show(f"storing {side.transactions:,} sales of {side.terminals:,} terminals")
            await side.fill(self._screen)
        self._small.keep()
        self._growth.filled_s = self._large.filled_s
        self._growth.bytes_per_transaction = self._large.bytes / self._large.transactions
        self._known_stan = self._large.stan + 1

    async def round(self, number: int) -> None:
        """Start both gateways, load each by turns, and stop them. Raises: GatewayBroken, GeneratorBroken, OSError."""
        if number > 1:
            self._small.put_back()
        sides = self._ordered(number)
        self._show(f"round {number} of {self._options.rounds}: starting both gateways")
        for side in sides:
            await side.start()
            expected = side.transactions + (self._growth.large_grew if side is self._large else 0)
            if (owed := await side.owed()) != expected:
                raise GatewayBroken(f"the {side.size} journal owes {owed:,} after its start in place of {expected:,}")
        for side in sides:
            await side.quiet()
        for place, callers in enumerate(Callers):
            load = self._load(number, callers)
            of_one = 0
            for side in self._ordered(number + place):
                of_one = max(of_one, await self._turn(side, load))
            if callers is Callers.KNOWN:
                self._known_stan += of_one
        self._growth.lives += [side.life(number) for side in (self._large, self._small)]
        if codes := [code for code in await self.stop() if code]:
            raise GatewayBroken(f"a gateway that was asked to stop ended with {codes[0]}")

    async def stop(self) -> tuple[int, int]:
        """Stop both gateways; returns how they ended, 0 where one was not there. Safe to call twice."""
        return await asyncio.gather(self._large.gateway.stop(), self._small.gateway.stop())

    def _ordered(self, number: int) -> tuple[Side, Side]:
        """Who is first: by turns, so that none always meets the machine as the other has left it."""
        return (self._large, self._small) if number % 2 else (self._small, self._large)

    def _load(self, number: int, callers: Callers) -> Load:
        options = self._options
        new = callers is Callers.NEW
        return Load(
            round=number,
            callers=callers,
            clients=options.clients if new else options.known,
            seconds=options.seconds,
            warm_up_s=options.warm_up_s,
            first_terminal=NEW_FROM + options.clients * (number - 1) if new else 0,
            first_stan=1 if new else self._known_stan,
        )

    async def _turn(self, side: Side, load: Load) -> int:
        """One turn; returns the most sales of one terminal. All that was approved must be owed afterwards."""
        self._show(f"round {load.round} of {self._options.rounds}: {load.callers} terminals, the {side.size} journal")
        before = await side.owed()
        played = await side.play(load, self._heard)
        missing = before + played.approved - await side.owed()
        if missing:
            self._growth.problems.append(f"round {load.round}: {missing:,} approved sales are not owed")
        if side is self._large:
            self._growth.large_grew += played.approved
        self._growth.turns.append(played.turn)
        return played.of_one

    def _heard(self, answers: int) -> None:
        self._answers += answers
        self._screen.counts({"answers": self._answers})

    def _show(self, text: str) -> None:
        self._screen.phase(time.monotonic() - self._began, text)
