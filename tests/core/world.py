"""A small world around the engine: a journal, an acquirer, terminals and a clock, all of one thread and no asyncio.

Every effect's result is delivered only when it is asked for: one by one (`commit`, `report`, `look_up`, `deliver`), or
all at once (`run`). `advance` moves the clock and lets what is due happen. `crash` drops the engine and what was not
delivered. The invariants are checked after every step.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.core.effects import (
    Alarm,
    Effect,
    FetchBatch,
    FetchHeads,
    Find,
    FindNewest,
    Load,
    OperatorReply,
    Purpose,
    Reply,
    Send,
    Write,
)
from gateway.core.engine import Engine
from gateway.core.events import (
    NO_ROOM,
    Answered,
    Commanded,
    Connected,
    Event,
    JournalEvent,
    LateAnswered,
    NotSent,
    OperatorAct,
    Requested,
    Ticked,
    TimedOut,
)
from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.parts import BadRequest
from gateway.core.standin import Exposure, Policy
from gateway.core.transaction import Request
from gateway.core.work import EngineSettings
from protocol.iso8583.message import Message
from protocol.iso8583.mti import answer_mti
from protocol.iso8583.rules import HostRules, TerminalRules
from tests.core.acquirer import Acquirer, HostKey, lane_of
from tests.core.checks import Checks, Flight, Told
from tests.core.journal import Broken, MemoryJournal

HASHING = KeyedHash(bytes(range(32)))
START_UTC_MS = 1_763_726_400_000  # 2025-11-21 12:00:00
VISA = "4111111111111111"
MASTERCARD = "5555555555554444"
UNIONPAY = "6212345678900000003"


@dataclass(slots=True, order=True)
class Later:
    """Something that happens by itself; what is on the wire outlives the gateway's process."""

    at_ms: int
    number: int
    call: Callable[[], None] = field(compare=False)
    outlives: bool = field(compare=False)


class World(Checks):
    """One engine and everything around it."""

    def __init__(
        self,
        *,
        seed: int = 0,
        settings: EngineSettings | None = None,
        host: HostRules | None = None,
        policy: Policy | None = None,
        rules: TerminalRules | None = None,
        unencodable: Callable[[Message], str] = lambda _: "",
        utc_ms: int = START_UTC_MS,
        up: bool = True,
        journal: MemoryJournal | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.settings = settings or EngineSettings()
        self.host = host or HostRules()
        self.policy = policy or Policy(overall=Exposure(), terminal=Exposure(), card=Exposure())
        self.rules = rules or TerminalRules()
        self.unencodable = unencodable
        self.mono_ms = 1_000_000
        self.utc_ms = utc_ms
        self.journal = journal or MemoryJournal()
        self.acquirer = Acquirer()
        self.connected = False
        self.told: dict[int, Told] = {}
        self.outcomes: dict[str, str] = {}
        self.alarms: list[Alarm] = []
        self.operator_replies: dict[int, OperatorReply] = {}
        self.sends: list[Send] = []
        self.counts: Counter[str] = Counter()
        self.refused_at_link = ""
        self.exempt: set[int] = set()
        self.overdue: set[HostKey] = set()
        self._last_token = 0
        self._last_event = 0
        self._later: list[Later] = []
        self.engine = self._start()
        if up:
            self.up()

    # The engine's life

    def _start(self) -> Engine:
        self.writes: deque[Write] = deque()
        self.reports: deque[JournalEvent] = deque()
        self.lookups: deque[Find | FindNewest | FetchHeads | FetchBatch | Load] = deque()
        self.flights: dict[int, Flight] = {}
        self.link_events: deque[Event] = deque()
        self._later = [later for later in self._later if later.outlives]
        heapq.heapify(self._later)
        return Engine(
            self.settings,
            self.host,
            self.policy,
            jitter=self.random.random,
            unencodable=self.unencodable,
            mono_ms=self.mono_ms,
            utc_ms=self.utc_ms,
        )

    def crash(self, *, keep: int = 0) -> None:
        """The process dies: of the writes that wait, the first `keep` are found on the disk afterwards."""
        for write in list(self.writes)[:keep]:
            self.journal.commit(write, self.utc_ms)
        self.connected = False
        for told in self.told.values():
            told.lost = told.lost or told.answer is None

    def restart(self) -> None:
        """A new engine over the same journal, as the application starts it."""
        self.engine = self._start()
        owing = self.journal.owing_lanes()
        self._carry_out(self.engine.recover(self.journal.in_doubt(), self.utc_ms))
        self.engine.owing(owing)

    def crash_and_restart(self, *, keep: int = 0, up: bool = True) -> None:
        """`crash`, `restart`, and the link comes back."""
        self.crash(keep=keep)
        self.restart()
        if up:
            self.up()

    # Steps

    def step(self, event: Event) -> list[Effect]:
        """One event, its effects, and the invariants."""
        effects = self.engine.step(event, self.mono_ms, self.utc_ms)
        self._carry_out(effects)
        return effects

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Write():
                    self.writes.append(effect)
                case Find() | FindNewest() | FetchHeads() | FetchBatch() | Load():
                    self.lookups.append(effect)
                case Send():
                    self._send(effect)
                case Reply():
                    self._reply(effect)
                case OperatorReply():
                    self.operator_replies[effect.operator_token] = effect
                case Alarm():
                    self.alarms.append(effect)

    # The journal's side

    def commit(self, count: int = 1_000_000) -> None:
        """Writes reach the disk; their reports wait."""
        while self.writes and count:
            self.reports.append(self.journal.commit(self.writes.popleft(), self.utc_ms))
            count -= 1

    def report(self, count: int = 1_000_000) -> None:
        """Deliver what was committed."""
        while self.reports and count:
            self.step(self.reports.popleft())
            count -= 1

    def read(self) -> JournalEvent:
        """The first lookup is answered, with what is on the disk now; the event is not delivered."""
        lookup = self.lookups.popleft()
        if isinstance(lookup, Find):
            return self.journal.find(lookup, self.utc_ms)
        if isinstance(lookup, FindNewest):
            return self.journal.newest(lookup)
        if isinstance(lookup, FetchBatch):
            return self.journal.batch(lookup)
        return self.journal.load(lookup) if isinstance(lookup, Load) else self.journal.heads(lookup)

    def look_up(self) -> None:
        """Answer lookups, those included that follow."""
        while self.lookups:
            self.step(self.read())

    def settle_journal(self) -> None:
        """Commit, report and look up until the journal has nothing to do."""
        while self.writes or self.reports or self.lookups:
            self.commit()
            self.report()
            self.look_up()

    # The link's side

    def up(self) -> None:
        """Connect, and let the first probe be answered."""
        self.connected = True
        self.step(Connected(True))
        self.run()

    def down(self) -> None:
        """The connection goes."""
        self.connected = False
        self.step(Connected(False))

    def _send(self, send: Send) -> None:
        lane = lane_of(send.message)
        if send.purpose is Purpose.PROBE:
            self._probe(send)
            return
        self.sends.append(send)
        if send.purpose is not Purpose.INQUIRY:
            self._check_send(send, lane)
        mood = self.acquirer.next_mood()
        flight = Flight(send, lane, self.mono_ms + send.timeout_ms, mood)
        self.flights[send.token] = flight
        if not self.connected or not mood.sent:
            self._end(flight, NotSent(send.token, "nothing connected"))
            return
        if self.refused_at_link:
            self._end(flight, NotSent(send.token, self.refused_at_link))
            return
        if mood.breaks:
            self._end(flight, TimedOut(send.token))
        else:
            self._at(flight.deadline_ms, lambda: self._end(flight, TimedOut(send.token)))
        if mood.arrives:
            self._at_arrival(flight)

    def _at_arrival(self, flight: Flight) -> None:
        send, mood = flight.send, flight.mood
        engine = self.engine

        def arrive() -> None:
            fields = self.acquirer.arrive(send.purpose, send.message, mood)
            if mood.twice:
                self.acquirer.arrive(send.purpose, send.message, mood)
            if not mood.answers or engine is not self.engine:
                return
            mti = answer_mti(send.message.mti)
            if not flight.over:
                self._end(flight, Answered(send.token, mti, fields, mood.verified))
            elif mood.verified:  # a late answer whose MAC is wrong is nobody's
                self.link_events.append(LateAnswered(send.token, mti, fields))

        if mood.after_ms:
            self._at(self.mono_ms + mood.after_ms, arrive, outlives=True)
        else:
            arrive()

    def _probe(self, send: Send) -> None:
        if not self.connected:
            self.link_events.append(NotSent(send.token, "nothing connected"))
        elif self.refused_at_link == NO_ROOM:
            self.link_events.append(NotSent(send.token, NO_ROOM))
        elif self.acquirer.alive:
            self.link_events.append(Answered(send.token, answer_mti(send.message.mti), {39: "00"}))
        else:
            self._at(self.mono_ms + send.timeout_ms, lambda: self.link_events.append(TimedOut(send.token)))

    def _end(self, flight: Flight, event: Event) -> None:
        if not flight.over:
            flight.over = True
            self.link_events.append(event)

    def deliver(self, count: int = 1_000_000) -> None:
        """Deliver what the link has to tell."""
        while self.link_events and count:
            event = self.link_events.popleft()
            if isinstance(event, Answered | TimedOut | NotSent):
                self.flights.pop(event.token, None)
            self.step(event)
            count -= 1

    # Time

    def _at(self, mono_ms: int, call: Callable[[], None], *, outlives: bool = False) -> None:
        self._last_event += 1
        heapq.heappush(self._later, Later(mono_ms, self._last_event, call, outlives))

    def jump(self, ms: int) -> None:
        """The wall clock is set; the monotonic clock knows nothing of it."""
        self.utc_ms += ms

    @property
    def pending(self) -> bool:
        """Something is waiting to be delivered now."""
        return bool(self.writes or self.reports or self.lookups or self.link_events)

    def run(self) -> None:
        """Deliver everything there is, in order, until nothing more follows. No time passes."""
        for _ in range(200_000):
            if not self.pending:
                return
            self.commit()
            self.report()
            self.look_up()
            self.deliver()
        raise AssertionError("the world does not come to rest")

    def run_randomly(self, most: int) -> None:
        """Deliver up to `most` things, each chosen by the seed."""
        for _ in range(most):
            ways: list[Callable[[], object]] = []
            if self.writes:
                ways.append(lambda: self.commit(self.random.randint(1, 3)))
            if self.reports:
                ways.append(lambda: self.report(1))
            if self.lookups:
                ways.append(lambda: self.step(self.read()))
            if self.link_events:
                ways.append(lambda: self.deliver(1))
            if not ways:
                return
            self.random.choice(ways)()

    def due_ms(self) -> int | None:
        """When something happens next by itself."""
        wakeup = self.engine.next_wakeup_ms()
        times = [t for t in (wakeup, self._later[0].at_ms if self._later else None) if t is not None]
        return min(times, default=None)

    def advance(self, ms: int, *, run: bool = True) -> None:
        """Let time pass; both clocks go on together."""
        until = self.mono_ms + ms
        if run:
            self.run()
        for _ in range(100_000):
            due = self.due_ms()
            if due is None or due > until:
                break
            self._pass(max(0, due - self.mono_ms))
            while self._later and self._later[0].at_ms <= self.mono_ms:
                heapq.heappop(self._later).call()
            wakeup = self.engine.next_wakeup_ms()
            if wakeup is not None and wakeup <= self.mono_ms:
                self.step(Ticked())
                wakeup = self.engine.next_wakeup_ms()
                assert wakeup is None or wakeup > self.mono_ms, "a wakeup that never goes away"
            if run:
                self.run()
        else:
            raise AssertionError("time does not get on")
        self._pass(until - self.mono_ms)

    def _pass(self, ms: int) -> None:
        self.mono_ms += ms
        self.utc_ms += ms

    # Terminals

    def request(self, mti: str, fields: dict[int, str]) -> Request:
        """A terminal's message as the listener hands it over."""
        return request_from(Message(mti, dict(fields)), self.rules, HASHING, self.utc_ms)

    def ask(self, mti: str, fields: dict[int, str]) -> int:
        """A terminal sends a message; returns its token."""
        try:
            request = self.request(mti, fields)
        except BadRequest as bad:
            raise AssertionError(bad.reason) from bad
        return self.hear(request)

    def hear(self, request: Request) -> int:
        """A request reaches the core, whichever listener made it; returns its token."""
        self._last_token += 1
        self.told[self._last_token] = Told(request)
        self.step(Requested(self._last_token, request))
        return self._last_token

    def code(self, token: int) -> str:
        """Field 39 of what a token was told; "" while it was told nothing."""
        answer = self.told[token].answer
        return "" if answer is None else answer.fields[39]

    def command(self, act: OperatorAct, transaction_id: int = 0) -> str:
        """An operator's act, carried out at once; returns what the operator is told, "" while that is nothing."""
        self._last_token += 1
        self.step(Commanded(self._last_token, act, transaction_id, "operator", "a reason"))
        self.run()
        reply = self.operator_replies.get(self._last_token)
        return reply.text if reply else ""

    def _reply(self, reply: Reply) -> None:
        told = self.told[reply.terminal_token]
        if told.answer is not None:
            raise Broken("answered twice", told.request.key)
        told.answer = reply.answer
        self._check_reply(told)
