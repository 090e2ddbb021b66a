"""Carries out the steps of a script: the engine, and around it a journal, a link, terminals and operators that err.

After every step the invariants are checked; `heal` ends every fault, lets HEAL_MS of simulated time pass, and then
everything must be settled.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from gateway.core.effects import Effect, Purpose
from gateway.core.engine import Engine
from gateway.core.events import (
    Commanded,
    Committed,
    Connected,
    Damaged,
    Event,
    JournalEvent,
    LateAnswered,
    OperatorAct,
    Requested,
    Stopping,
    TimedOut,
)
from gateway.core.lifecycle import State
from gateway.core.link import LinkSettings
from gateway.core.standin import Exposure, Policy
from gateway.core.transaction import Request, Stored
from gateway.core.work import EngineSettings
from tests.core.acquirer import HostKey, host_key
from tests.core.checks import Flight, Told, key_of
from tests.core.journal import Broken
from tests.core.world import World
from tests.simulation import nameless, tills
from tests.simulation import steps as s
from tests.simulation.invariants import KNOWN, Watched, WatchedJournal
from tests.simulation.moods import MOODS
from tests.simulation.trace import Trace

HEAL_MS: Final = 900_000
"""Everything is settled so long after the last fault has healed: backoffs of 20 s at most, six attempts, 30 s of
flight, batches behind their sales."""

_DAY_MS: Final = 86_400_000
_ALL: Final = 1_000_000
_ASKED_AGAIN: Final = 12
_ACTS: Final = {act.value: act for act in OperatorAct}


class PowerCut(Exception):
    """The power goes between two effects."""


class Simulated(Watched):
    """One run's world, moved by steps."""

    journal: WatchedJournal

    def __init__(self, setup: s.Setup, trace: Trace | None = None, excused: frozenset[str] = frozenset(KNOWN)) -> None:
        self.setup = setup
        self.excused = excused
        self.trace = trace
        self.kinds = tuple(setup.tills.split(","))
        self.reads: deque[JournalEvent] = deque()
        self.fuse: int | None = None
        self.kept = 0
        self.asked: dict[s.Step, None] = {}
        self.reached: Counter[str] = Counter()
        """What the engines before this one have counted, and what was done to them, by names that begin with "did."."""
        self.commands: set[int] = set()
        self._said: dict[s.Step, Request | None] = {}
        self._undone: dict[s.Undo, tuple[Stored, Request]] = {}
        settings = EngineSettings(
            attempts_max=setup.attempts,
            backoff_max_ms=20_000,
            rate_per_s=setup.rate,
            heads_read_ahead=setup.ahead,
            in_flight_max=setup.flights,
            lane_waiting_max=setup.line,
            link=LinkSettings(window_max=setup.window),
        )
        policy = Policy(
            floor_limit_minor=setup.floor,
            terminal=Exposure(count_max=setup.stored),
            card=Exposure(),
            overall=Exposure(total_minor_max=100_000),
            allow_track_dropped=True,
        )
        World.__init__(
            self, seed=setup.dice, settings=settings, host=tills.HOSTS[setup.host], policy=policy, up=False,
            journal=WatchedJournal(),
        )  # fmt: skip
        self.exempt = self.journal.by_hand
        self.acquirer.remembers = bool(setup.remembers)
        self._watch()

    def did(self, what: str) -> None:
        """Count something that was done to the engine."""
        self.reached[f"did.{what}"] += 1

    # What World does, watched and cut

    def commit(self, count: int = _ALL) -> None:
        """Writes reach the disk; their reports wait."""
        while self.writes and count:
            token = self.writes[0].token
            super().commit(1)
            self.kept_until[token] = len(self.journal.log)
            count -= 1

    def _start(self) -> Engine:
        self.reads.clear()
        self.commands.clear()
        self.kept_until: dict[int, int] = {}
        self.heard = len(self.journal.log)
        """How much of the log the engine has heard of: the length at the last commit that was reported to it."""
        return super()._start()

    def step(self, event: Event) -> list[Effect]:
        """One event, its effects, and the invariants."""
        if self.trace is not None:
            self.trace.event(event)
        if isinstance(event, Committed):
            self.heard = self.kept_until.pop(event.token)
        effects = super().step(event)
        self.check_now()
        return effects

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        if self.fuse is None and self.trace is None:
            super()._carry_out(effects)
            return
        for effect in effects:
            if self.fuse is not None:
                if self.fuse <= 0:
                    self.did("power-cut-between-effects")
                    raise PowerCut
                self.fuse -= 1
            if self.trace is not None:
                self.trace.effect(effect)
            super()._carry_out((effect,))

    def _at_arrival(self, flight: Flight) -> None:
        if flight.mood.denies and not self._may_deny(flight):
            flight.mood = MOODS["approve"]
        purpose, after_ms = flight.send.purpose, flight.mood.after_ms
        if flight.mood.twice:
            self.did("message-twice")
        if flight.mood.after_ms and flight.mood.answers:
            self.did("answer-late" if after_ms > flight.send.timeout_ms else "answer-slow")
        if after_ms > self.settings.longest_flight_ms:
            if purpose is not Purpose.REQUEST:
                return  # only a request's late answer is waited for: anything else is lost
            self.overdue.add(host_key(purpose, flight.send.message))
        elif after_ms and purpose in {Purpose.REQUEST, Purpose.ADVICE}:
            key = host_key(purpose, flight.send.message)
            self.wire[key] = self.wire.get(key, 0) + 1
            self._at(self.mono_ms + after_ms, lambda: self._left_the_wire(key), outlives=True)
        super()._at_arrival(flight)

    def _may_deny(self, flight: Flight) -> bool:
        """Whether it is the first that asks to reverse what the acquirer has said that it booked, and that is recorded.

        Of anything else nobody can know that it is not what the acquirer says it is (D13).
        """
        key = host_key(flight.send.purpose, flight.send.message)
        if flight.send.purpose is not Purpose.REVERSAL or self.row_of(flight.send).attempts > 1:
            return False
        if not (key in self.journal.heard_booked and self.acquirer.net(key)):
            return False
        self.did("reversal-denied")
        return True

    def _left_the_wire(self, key: HostKey) -> None:
        self.wire[key] -= 1

    # Waiting things

    @property
    def pending(self) -> bool:
        """Something is waiting to be delivered now."""
        return bool(self.writes or self.reports or self.lookups or self.reads or self.link_events)

    def look_up(self) -> None:
        """Answer lookups, those included that follow."""
        while self.lookups or self.reads:
            while self.lookups:
                self.reads.append(self.read())
            self.step(self.reads.popleft())

    def flow(self, way: str) -> None:
        """Let one waiting thing go on; nothing happens where none waits."""
        if way == "c":
            self.commit(1)
        elif way == "t":
            self.report(1)
        elif way in "rR" and self.lookups:
            if way == "R":
                self.did("lookups-reordered")
                self.lookups.rotate(1)
            self.reads.append(self.read())
        elif way in "az" and self.reads:
            self.step(self.reads.popleft() if way == "a" else self.reads.pop())
        elif way == "e":
            self.deliver(1)
        elif way == "x" and self.link_events:
            if len(self.link_events) > 1 and not self._follows_its_time_out(self.link_events[-1]):
                self.did("answers-reordered")
                self.link_events.rotate(1)
            self.deliver(1)

    def _follows_its_time_out(self, event: Event) -> bool:
        """A late answer is told after its TimedOut (Send)."""
        return isinstance(event, LateAnswered) and any(
            isinstance(other, TimedOut) and other.token == event.token for other in self.link_events
        )

    def ways(self) -> str:
        """The letters that make sense now."""
        return (
            ("c" if self.writes else "")
            + ("tt" if self.reports else "")
            + ("rR" if len(self.lookups) > 1 else "r" if self.lookups else "")
            + ("az" if len(self.reads) > 1 else "a" if self.reads else "")
            + ("ex" if len(self.link_events) > 1 else "ee" if self.link_events else "")
        )

    # Steps

    def apply(self, step: s.Step) -> None:
        """Carry out one step; the power may go in the middle of it."""
        if self.trace is not None:
            self.trace.step(s.line_of(step), self.mono_ms, self.utc_ms)
        try:
            self._apply(step)
        except PowerCut:
            self.power_cut()

    def power_cut(self) -> None:
        """The process dies, and the gateway is started again over what is on the disk."""
        self._restart_with(self.kept)

    def _restart_with(self, kept: int) -> None:
        if self.trace is not None:
            self.trace.note(f"the power goes; {min(kept, len(self.writes))} of {len(self.writes)} writes are kept")
        self.fuse = None
        self.reached.update(self.engine.status().counts)
        if self.writes:
            self.did("commit-kept" if kept else "commit-lost")
        self.crash(keep=kept)
        # A late answer may be lost with the process, and so may the first refusal to reverse what is booked.
        self.strays |= (self.overdue - self.journal.heard_late) | (self.acquirer.denied - self.journal.heard_denied)
        self.journal.crash()
        self.restart()

    def _apply(self, step: s.Step) -> None:
        match step:
            case s.Flow():
                for way in step.ways:
                    self.flow(way)
            case s.Ask() | s.Undo() | s.Settle() | s.Upload() | s.EndUpload() | s.SignOn() | s.Inquire():
                if (request := self._request(step)) is not None:
                    self.asked[step] = None
                    self._hear(request)
            case s.Pass():
                self.advance(step.ms, run=bool(step.run))
            case _:
                self._disturb(step)

    def _disturb(self, step: s.Step) -> None:
        """What is no terminal's doing."""
        match step:
            case s.Mood():
                self.acquirer.mood = MOODS[step.name]
            case s.Moods():
                self.acquirer.moods.extend(MOODS[name] for name in step.names.split(","))
            case s.Link():
                self.connected = bool(step.up)
                self.acquirer.alive = bool(step.alive)
                self.did(f"link-{'up' if step.up else 'down'}")
                self.step(Connected(self.connected))
            case s.Cut():
                self.fuse, self.kept = step.after, step.keep
                if not step.after:
                    raise PowerCut
            case s.Doubt():
                if self.writes:
                    self.did("commit-failed-but-kept" if step.kept else "commit-failed-and-lost")
                self._restart_with(step.group * step.kept)
            case s.Disk():
                self.did(f"disk-{step.room}")
                self.journal.full, self.journal.short = step.room == "none", step.room != "ok"
            case s.Clock():
                self.did("clock-forward" if step.ms > 0 else "clock-back")
                self.jump(step.ms)
            case s.Operate():
                self._operate(step)
            case s.Damage():
                if step.id in self.journal.rows and step.id not in self.journal.damaged:
                    self.journal.damaged.add(step.id)
                    self.step(Damaged(step.id, "damaged by the script"))
            case s.Stop():
                self.step(Stopping())
                self.advance(step.ms)
                self._restart_with(_ALL)

    def _hear(self, request: Request) -> None:
        self._last_token += 1
        token = self._last_token
        self.told[token] = Told(request, asked_at=self.heard)
        self.step(Requested(token, request))

    def _operate(self, step: s.Operate) -> None:
        act = _ACTS[step.act]
        row = self.journal.rows.get(step.id)
        if act is OperatorAct.CANCEL and (row is None or row.transaction.state is not State.STORED):
            return  # to cancel what is parked is to say that it was never booked, and here nobody knows
        self._last_token += 1
        self.commands.add(self._last_token)
        self.did(f"operator-{step.act}")
        self.step(Commanded(self._last_token, act, step.id, "operator", "a reason"))

    def _request(self, step: tills.Asking) -> Request | None:
        """A terminal's message; None where it makes no sense. The same settling line is always the same message."""
        if not 0 < step.till <= len(self.kinds):
            return None
        kind, host = self.kinds[step.till - 1], self.setup.host
        noon_ms = self.utc_ms // _DAY_MS * _DAY_MS + _DAY_MS // 2
        match step:
            case s.Ask():
                return tills.asked(step, kind, host, noon_ms)
            case s.Undo() if kind in {"http", "named"}:
                return self._undone_by_http(step, kind, noon_ms)
            case s.Undo():
                if kind == "brief":
                    if not nameless.may_be_sent(step, self.asked, self.told.values(), self.journal):
                        return None
                    self.did(f"reversal-without-batch-of-{nameless.original_is(step, self.journal)}")
                return tills.undone(step, kind, host, noon_ms)
            case s.Inquire():
                return tills.inquired(step, kind, host, noon_ms)
            case _ if kind not in tills.SETTLING or nameless.is_awaited(step.till, self.told.values()):
                return None
            case _:
                if step not in self._said:
                    prefix = tills.batch_of(step.till, step.batch)
                    rows = [r.stored for r in self.journal.rows.values() if r.transaction.key.startswith(prefix)]
                    self._said[step] = tills.settling(step, rows, self.host, noon_ms)
                return self._said[step]

    def _undone_by_http(self, step: s.Undo, kind: str, noon_ms: int) -> Request | None:
        asked = s.Ask(step.till, step.mti, step.code, step.of, step.amount, step.card, step.batch)
        key = key_of(tills.asked(asked, kind, self.setup.host, noon_ms))
        if key not in self.journal.by_key or self.journal.by_key[key][-1] in self.journal.damaged:
            return None
        if step not in self._undone:
            original = self.journal.stored(key)
            request = tills.undone_by_http(step, original, kind, self.setup.host, noon_ms)
            self._undone[step] = original, request
        original, request = self._undone[step]
        return tills.of_any_age(request, original, self.utc_ms)

    # The end

    def heal(self) -> None:
        """Every fault is gone; within HEAL_MS everything is settled, and stays so whatever is asked again."""
        if self.trace is not None:
            self.trace.step("heal", self.mono_ms, self.utc_ms)
        self.fuse = None
        self._calm()
        self.step(Commanded(0, OperatorAct.MAINTENANCE_OFF, 0, "operator", "healed"))
        self.up()
        self.advance(HEAL_MS)
        self._judge()
        self._ask_again()
        self.crash_and_restart()
        self._ask_again()

    def _calm(self) -> None:
        self.acquirer.mood = MOODS["approve"]
        self.acquirer.moods.clear()
        self.acquirer.alive = True
        self.journal.full = self.journal.short = False
        self.run()

    def _ask_again(self) -> None:
        """The last that were asked ask once more (INV-6)."""
        for step in list(self.asked)[-_ASKED_AGAIN:]:
            self.apply(step)
            self.run()
        self.advance(HEAL_MS)
        self._judge()

    def _judge(self) -> None:
        if self.pending or any(count for count in self.wire.values()):
            raise Broken("liveness", "something is still under way")
        self.check_settled()
        self.check_told()
        if not self.commands <= self.operator_replies.keys():
            raise Broken("liveness", "an operator is unanswered")
