"""The callers of a soak: terminals and tills that sell, leave and come back, round after round."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Final

from bench.soak_plan import SoakOptions
from bench.soak_till import HttpTill
from bench.terminal import Habits, History, Terminal
from protocol.iso8583.dialect import load_dialect

_HASTY_EVERY: Final = 6
"""Every sixth terminal waits too short a time, and reverses what is still under way."""
_GRACE_S: Final = 10.0


class Shop:
    """All callers. `open` and `close` come by turns; the callers stay the same and count their STANs on."""

    def __init__(
        self, options: SoakOptions, history: History, terminals: tuple[str, int], tills: tuple[str, int]
    ) -> None:
        steady = Habits(pause_s=1 / options.sales_per_second)
        hasty = replace(steady, answer_timeout_s=0.6, tries=2)  # waits less than the gateway does: D17 broken outside
        dialect = load_dialect(options.dialect)
        self._callers: dict[str, Terminal | HttpTill] = {}
        for number in range(options.terminals):
            name = f"T{number + 1:07d}"
            habits = hasty if number % _HASTY_EVERY == _HASTY_EVERY - 1 else steady
            self._callers[name] = Terminal(dialect, terminals, history, terminal=name, habits=habits, seed=options.seed)
        for number in range(options.tills):
            name = f"H{number + 1:07d}"
            self._callers[name] = HttpTill(tills, history, name=name, habits=steady, seed=options.seed)
        self._open = False
        self._stops: dict[str, asyncio.Event] = {}
        self._selling: dict[str, asyncio.Task[None]] = {}
        self._away: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Everybody sells."""
        self._open = True
        for name, caller in self._callers.items():
            caller.finish_by = None
            self._start(name)

    def _start(self, name: str) -> None:
        self._stops[name] = asyncio.Event()
        selling = self._callers[name].keep_selling(self._stops[name])
        self._selling[name] = asyncio.get_running_loop().create_task(selling, name=name)

    def leave(self, share: float, for_s: float, dice: random.Random) -> None:
        """Some callers finish what they do, are switched off, and come back after so long if the shop is open then."""
        for name in sorted(self._callers):
            if dice.random() < share:
                task = asyncio.get_running_loop().create_task(self._leave(name, for_s))
                self._away.add(task)
                task.add_done_callback(self._away.discard)

    async def _leave(self, name: str, for_s: float) -> None:
        self._stops[name].set()
        await asyncio.wait({self._selling[name]})
        await asyncio.sleep(for_s)
        if self._open and not self._selling[name].cancelled() and self._selling[name].exception() is None:
            self._start(name)

    async def close(self, within_s: float) -> list[str]:
        """Everybody finishes what they have begun, and hangs up.

        Returns:
            The names of those who did not come to an end in time.
        """
        self._open = False
        for task in tuple(self._away):
            task.cancel()
        if self._away:
            await asyncio.wait(tuple(self._away))
        for name, caller in self._callers.items():
            caller.finish_by = time.monotonic() + within_s
            if name in self._stops:
                self._stops[name].set()
        tasks, self._selling = self._selling, {}
        if not tasks:
            return []
        _, late = await asyncio.wait(tasks.values(), timeout=within_s + _GRACE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        for task in tasks.values():
            if not task.cancelled() and (problem := task.exception()) is not None:
                raise problem
        return sorted(name for name, task in tasks.items() if task in late)

    def failed(self) -> BaseException | None:
        """What ended a caller that should be selling; None where nothing did."""
        for task in self._selling.values():
            if task.done() and not task.cancelled() and (problem := task.exception()) is not None:
                return problem
        return None
