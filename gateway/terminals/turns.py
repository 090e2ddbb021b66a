"""How much of a turn of the loop new messages may take: a flood of them leaves time for what was taken before."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Waiting(Protocol):
    """A connection with messages that have not been taken."""

    def go_on(self) -> None:
        """Its turn has come: take what there is, asking `may_take` before each message."""


class NextTurn(Protocol):
    """A connection with something to do in the next turn of the loop."""

    def turn(self) -> None:
        """That turn has come."""


class Together:
    """Connections that have something to do in the next turn of the loop, in one callback of the loop for all.

    A callback for each would cost more than what most of them do.
    """

    def __init__(self) -> None:
        self._waiting: deque[NextTurn] = deque()
        self._going = False
        self._soon: Callable[[Callable[[], None]], object] | None = None

    def add(self, who: NextTurn) -> None:
        """Call its `turn` soon; what adds itself there is called in the turn after.

        In the next turn of the loop, or later in this one, where others wait for it already: a connection takes then at
        most twice in a turn what it may.
        """
        if not self._waiting:
            self._schedule()
        self._waiting.append(who)

    def now(self) -> None:
        """Call those that wait at once, for the rest of this turn of the loop may take long.

        Never raises: what one of them raises is reported by the loop, as if the loop had called it.
        """
        if not self._waiting or self._going:
            return
        try:
            self._go()
        except Exception as error:  # noqa: BLE001 - whoever calls is not concerned
            what = {"message": "a connection's turn failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(what)

    def _schedule(self) -> None:
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon
        self._soon(self._go)

    def _go(self) -> None:
        now, self._waiting = self._waiting, deque()
        self._going = True
        try:
            while now:
                now.popleft().turn()
        finally:
            self._going = False
            if now:  # one has raised, which the loop reports; the others are called all the same
                if not self._waiting:
                    self._schedule()
                self._waiting.extendleft(reversed(now))


class Turns:
    """Shares a bounded part of each turn of the loop among the connections of a listener, first come, first served.

    Without it a turn lasts as long as all connections together have brought messages for, and the journal, whose
    batches come back once a turn, stands still meanwhile: under a flood the gateway would do little but refuse.
    """

    def __init__(self, taking_ms_max: int) -> None:
        """`taking_ms_max`: of one turn, for the messages of all connections; one message always has its time."""
        self._taking_s = taking_ms_max / 1000
        self._line: dict[Waiting, None] = {}
        self._until_s = 0.0
        self._running = self._serving = False

    def may_take(self, who: Waiting) -> bool:
        """Whether there is time for a message now; else `go_on` is called when there is, in the order of asking."""
        if not self._running:
            self._begin()
            return True
        if (self._serving or not self._line) and time.perf_counter() < self._until_s:
            return True
        self._line.setdefault(who)
        return False

    def leave(self, who: Waiting) -> None:
        """A connection is gone."""
        self._line.pop(who, None)

    def _begin(self) -> None:
        self._running = True
        self._until_s = time.perf_counter() + self._taking_s
        asyncio.get_running_loop().call_soon(self._over)

    def _over(self) -> None:
        """The turn is over: those who stand in line come first in the next one."""
        self._running = False
        if not self._line:
            return
        self._begin()
        self._serving = True
        try:
            while self._line and time.perf_counter() < self._until_s:
                first = next(iter(self._line))
                del self._line[first]
                first.go_on()
        finally:
            self._serving = False
