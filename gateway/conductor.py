"""Carries the core's effects to journal, link and terminals, and their events back to the core.

It decides nothing. Everything runs on the event loop's thread; an event that arrives while a step is being carried out
waits its turn, so that the core never sees two at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.clock import Clock
from gateway.core.effects import (
    Alarm,
    Effect,
    FetchBatch,
    FetchHeads,
    Find,
    FindNewest,
    Load,
    OperatorReply,
    Reply,
    Send,
    Write,
)
from gateway.core.engine import Engine
from gateway.core.events import Committed, Event, Existing, OverLimit, Requested, Ticked, WriteRefused
from gateway.core.transaction import Answer, Transaction
from gateway.journal.port import Journal

_EVENTS_OF_A_TIME: Final = 32
"""Of events that wait together, so many are told the same time: a millisecond or two passes meanwhile."""
_EVENTS_AT_ONCE: Final = 32
_WRITE_RESULTS: Final = (Committed, Existing, OverLimit, WriteRefused)
_MEASURED_FROM: Final = 64
"""Writes in a group commit from which on it tells what a write costs: in a small one, the disk's sync is most of it."""
_NEWEST_SHARE: Final = 0.3
_CREDIBLE_MS: Final = 2.0
"""What a write is believed to cost where only one commit says so."""
_FALLS_TO: Final = 2.0
"""Of what the newest large commit has cost: however slow the others were, it is not believed to cost more."""
_FORECAST_MS_MAX: Final = 30_000
"""No forecast goes further beyond what the oldest write has waited."""
_WRITES_AHEAD: Final = 2
"""A transaction that begins now is written behind those that wait, and its outcome behind their outcomes: for each
write that waits now, so many will have gone before its answer leaves."""


class JournalWait:
    """How long a transaction that begins now will wait for the journal: by what waits already, and what writes cost.

    It is what tells overload early: whoever is let in beyond what the journal keeps up with waits for everybody before
    them. Writes are answered in the order in which they were handed over. Times are monotonic milliseconds.

    A commit has a cost of its own and one for each write. A large one tells what a write costs, a small one only that
    it costs no more than the commit took for each of its writes. A rise is believed when two commits in a row tell of
    it, so that a machine or a disk that stood still once teaches nothing; a fall is believed at once. Else the estimate
    would keep out the very writes that could prove it wrong.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._write_ms = 0.0
        self._before_ms = _CREDIBLE_MS
        self._answered_ms = 0

    def handed_over(self, token: int, now_ms: int) -> None:
        """The journal has a write more."""
        self._waiting.append((token, now_ms))

    def answered(self, token: int, now_ms: int) -> None:
        """It has answered all writes up to this one."""
        waiting = self._waiting
        if not waiting or waiting[0][0] > token:
            return
        began_ms = max(waiting[0][1], self._answered_ms)
        before = len(waiting)
        while waiting and waiting[0][0] <= token:
            waiting.popleft()
        count = before - len(waiting)
        self._answered_ms = now_ms
        self._learn(now_ms - began_ms, count)

    def _learn(self, took_ms: int, count: int) -> None:
        """A commit of so many writes has taken so long."""
        each_ms = took_ms / count
        if count < _MEASURED_FROM:
            each_ms = (took_ms + 1) / count  # it may have been nearly a whole one more
            self._write_ms = min(self._write_ms, each_ms)
            self._before_ms = min(self._before_ms, each_ms)
            return
        credible_ms = min(each_ms, max(self._before_ms, self._write_ms))
        share = _NEWEST_SHARE if self._write_ms else 1.0
        self._write_ms = min(self._write_ms + (credible_ms - self._write_ms) * share, _FALLS_TO * each_ms)
        self._before_ms = each_ms

    def wait_ms(self, now_ms: int) -> int:
        """What a new transaction would wait; at least what the oldest write has waited. 0 where none waits."""
        waiting = self._waiting
        if not waiting:
            return 0
        oldest_ms = now_ms - waiting[0][1]
        forecast_ms = int(_WRITES_AHEAD * len(waiting) * self._write_ms)
        return max(oldest_ms, min(forecast_ms, oldest_ms + _FORECAST_MS_MAX))


class Conductor:
    """One engine and the world around it."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        journal: Journal,
        *,
        send: Callable[[Send], None],
        room: Callable[[], int] = lambda: 0,
        reply: Callable[[int, Answer, Transaction | None], None],
        reply_operator: Callable[[OperatorReply], None],
        alarm: Callable[[Alarm], None],
    ) -> None:
        self.engine = engine
        self._clock = clock
        self._journal = journal
        self._reply = reply
        self._room = room
        self._journal_wait = JournalWait()
        self._do: dict[type[Effect], Callable[[Any], None]] = {
            Write: self._write,
            Reply: self._tell,
            Send: send,
            Find: journal.find,
            FindNewest: journal.find_newest,
            FetchHeads: journal.fetch_heads,
            FetchBatch: journal.fetch_batch,
            Load: journal.load,
            Alarm: alarm,
            OperatorReply: reply_operator,
        }
        self._events: deque[Event] = deque()
        self._unanswered = 0
        self._turn_scheduled = False
        self._now_ms = 0
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._closed = False
        self._quiet = asyncio.Event()

    def submit(self, event: Event) -> None:
        """Hand one event to the core and carry out what follows."""
        self._events.append(event)
        self._run()

    def submit_soon(self, event: Event) -> None:
        """Hand one event to the core in the loop's next turn, with what else comes in this one.

        What terminals ask and what the acquirer answers come so: many at once cost less for each. So many at once are
        not kept waiting for the turn's end, so that the journal begins while it goes on.
        """
        self._events.append(event)
        if type(event) is Requested:
            self._unanswered += 1
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)
        elif len(self._events) >= _EVENTS_AT_ONCE:
            self._run()

    def _turn(self) -> None:
        self._turn_scheduled = False
        self._run()
        self._journal.begin()

    def submit_all(self, events: Sequence[Event]) -> None:
        """Hand events to the core in order; a batch of the journal comes so."""
        answered = next((event.token for event in reversed(events) if isinstance(event, _WRITE_RESULTS)), 0)
        if answered:
            self._journal_wait.answered(answered, self._clock.mono_ms())
        self._events.extend(events)
        self._run()
        self._journal.begin()

    def journal_wait_ms(self) -> int:
        """How long a transaction that begins now will wait for the journal, as far as that can be told (INV-9)."""
        return self._journal_wait.wait_ms(self._clock.mono_ms())

    def acquirer_full(self) -> bool:
        """Whether a transaction that begins now would find no room with the acquirer, although it answers (INV-9)."""
        return self.engine.overruns(self._unanswered, self._room(), self._clock.mono_ms())

    async def until_quiet(self, timeout_s: float) -> None:
        """Wait until nothing is under way in the core, at most `timeout_s`. Cancellation: nothing changes."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not ((self.engine.quiet and not self._events) or self._closed):
            self._quiet.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._quiet.wait()
            except TimeoutError:
                return

    def close(self) -> None:
        """Take no further events and set no further timers."""
        self._closed = True
        self._quiet.set()
        self._events.clear()
        if self._timer is not None:
            self._timer.cancel()

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Do what the core asks for, in its order."""
        do = self._do
        self._now_ms = self._clock.mono_ms()
        for effect in effects:
            do[type(effect)](effect)

    def _write(self, write: Write) -> None:
        self._journal_wait.handed_over(write.token, self._now_ms)
        self._journal.write(write)

    def _tell(self, reply: Reply) -> None:
        self._unanswered -= 1
        self._reply(reply.terminal_token, reply.answer, reply.recorded)

    def _run(self) -> None:
        if self._stepping or self._closed:
            return
        self._stepping = True
        try:
            events, clock, step, do = self._events, self._clock, self.engine.step, self._do
            while events:
                self._now_ms, utc_ms = clock.mono_ms(), clock.utc_ms()
                for _ in range(_EVENTS_OF_A_TIME):
                    if not events:
                        break
                    for effect in step(events.popleft(), self._now_ms, utc_ms):
                        do[type(effect)](effect)
        finally:
            self._stepping = False
        if self.engine.quiet:
            self._quiet.set()
        self._set_timer()

    def _set_timer(self) -> None:
        wakeup_ms = self.engine.next_wakeup_ms()
        if self._timer is not None:
            if wakeup_ms == self._timer_ms:
                return
            self._timer.cancel()
            self._timer = None
        if wakeup_ms is None or self._closed:
            return
        self._timer_ms = wakeup_ms
        delay_s = max(0, wakeup_ms - self._clock.mono_ms()) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.submit(Ticked())
