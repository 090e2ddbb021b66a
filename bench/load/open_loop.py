"""Requests on a schedule, whether or not the server keeps up: a stall counts against everyone who had to wait.

Each client has one request in flight. One that is due while its client is busy waits, and its response time, which
counts from the moment it was due, says so.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Final

from bench.load.alarm import Alarm
from bench.load.closed_loop import Client
from bench.load.schedule import Schedule
from bench.load.tally import Outcome, Tally

LATE_NS: Final = 5_000_000
"""Beyond this lag of its own, 5 ms, the generator and not the server made a request wait."""
WAITING_MAX: Final = 2_000_000
"""Requests that wait for their clients at most; what is due beyond that counts as failed at once."""

_TICK_NS: Final = 200_000  # the alarm rings no sooner: answers look at the schedule, too
_PROBLEMS_MAX: Final = 5


class OpenLoop:
    """The loop. Add the clients, connected; `begin`, `take` from time to time, `stop`. On the event loop's thread."""

    def __init__(self) -> None:
        self._clients: list[Client] = []
        self._busy: list[bool] = []
        self._due_ns = array("q")
        self._begun_ns = array("q")
        self._numbers: list[int] = []
        self._waiting: list[deque[int]] = []
        self._in_wait = 0
        self._in_flight = 0
        self._schedule: Schedule | None = None
        self._base_ns = 0
        self._next_ns = _NEVER
        self._alarm: Alarm | None = None
        self._clock = time.perf_counter_ns
        self._idle = asyncio.Event()
        self._idle.set()
        self._dead: set[int] = set()
        self.problems: list[str] = []
        self._count_anew()

    def _count_anew(self) -> None:
        self._tally = Tally()
        self._service = self._tally.service_ns
        self._response = self._tally.response_ns
        self._outcomes = self._tally.outcomes

    @property
    def clients(self) -> Sequence[Client]:
        """Those that were added, by index."""
        return self._clients

    @property
    def in_flight(self) -> int:
        """Requests that were due and have no answer, those that wait for their client included."""
        return self._in_flight + self._in_wait

    @property
    def failed_clients(self) -> int:
        """Clients that send no more."""
        return len(self._dead)

    def add(self, client: Client) -> int:
        """Take a client in; returns the index by which it reports."""
        self._clients.append(client)
        self._busy.append(False)
        self._due_ns.append(0)
        self._begun_ns.append(0)
        self._numbers.append(0)
        self._waiting.append(deque())
        return len(self._clients) - 1

    # --- called by clients -----------------------------------------------------------------------------------------

    def acknowledged(self, index: int, outcome: int = Outcome.APPROVED) -> None:
        """The answer to the client's request is there; what it has waiting is sent before this returns."""
        now = self._clock()
        self._outcomes[outcome] += 1
        self._service.append(now - self._begun_ns[index])
        self._response.append(now - self._due_ns[index])
        waiting = self._waiting[index]
        if waiting:
            self._in_wait -= 1
            self._in_flight -= 1
            self._start(index, waiting.popleft(), now)
        else:
            self._busy[index] = False
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        if now >= self._next_ns:  # while answers come, the schedule need not wait for the timer
            self._pump(now)

    def failed(self, index: int, why: str) -> None:
        """The client's request, and all that it has waiting, will have no answer; it sends no more."""
        if index in self._dead:
            return
        self._dead.add(index)
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(f"client {index}: {why}")
        self._tally.failed += len(self._waiting[index])
        self._in_wait -= len(self._waiting[index])
        self._waiting[index].clear()
        if self._busy[index]:
            self._tally.failed += 1
            self._busy[index] = False
            self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    # --- called by whoever runs it ---------------------------------------------------------------------------------

    def begin(self, schedule: Schedule) -> None:
        """Let requests fall due from now on; also while a schedule is under way, which is given up."""
        self._schedule = schedule
        self._base_ns = self._clock()
        self._next_ns = self._base_ns + schedule.next_due_ns()
        if self._alarm is None:
            self._alarm = Alarm(self._tick)
        self._alarm.set(self._next_ns)

    def take(self) -> Tally:
        """What was counted since the last call; counting begins anew."""
        tally = self._tally
        self._count_anew()
        return tally

    def pause(self) -> None:
        """Let nothing fall due any more; what is in flight or waits goes on."""
        self._next_ns = _NEVER
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None

    async def stop(self, within_s: float) -> int:
        """Let nothing fall due any more and wait for what was; returns how many have no answer."""
        self.pause()
        try:
            async with asyncio.timeout(within_s):
                while self._in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            pass
        return self.in_flight

    # --- the schedule ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._clock()
        if now >= self._next_ns:
            self._pump(now)
        if self._alarm is not None:
            self._alarm.set(max(self._next_ns, now + _TICK_NS))

    def _pump(self, now: int) -> None:
        schedule = self._schedule
        assert schedule is not None
        busy = self._busy
        tally = self._tally
        while self._next_ns <= now:
            due = self._next_ns
            # set before anything is sent: an answer from within the call comes here again
            self._next_ns = self._base_ns + schedule.next_due_ns()
            index = schedule.next_terminal()
            tally.offered += 1
            if not busy[index] and index not in self._dead:
                now = self._clock()
                lag = now - due
                if lag > tally.lag_ns_max:  # noqa: PLR1730 - a call costs more
                    tally.lag_ns_max = lag
                if lag > LATE_NS:
                    tally.late += 1
                busy[index] = True
                self._start(index, due, now)
            elif index in self._dead or self._in_wait >= WAITING_MAX:
                tally.failed += 1
            else:
                self._in_wait += 1
                self._waiting[index].append(due)

    def _start(self, index: int, due: int, now: int) -> None:
        self._in_flight += 1
        self._due_ns[index] = due
        self._begun_ns[index] = now
        number = self._numbers[index]
        self._numbers[index] = number + 1
        self._clients[index].send(number)


_NEVER: Final = 1 << 62
