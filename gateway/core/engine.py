"""The engine: one event in, its effects out. It routes; the rooms beside it decide.

    requests.py   a terminal's requests and advices        retries.py    what was asked before
    reversals.py  a terminal's reversals, late answers      replay.py     what is owed goes upstream
    settlement.py a batch is closed                         closing.py    and settled with the acquirer
    batches.py    which batch a terminal is in              inquiries.py  what is asked and not stored
    locating.py   which batch a reversal without one means  steering.py   operators
    standin.py    the policy

The engine has no clock: each step is told the monotonic time (durations) and UTC (times of record).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gateway.core.answers import local_answer
from gateway.core.batches import Batches
from gateway.core.effects import Effect, Purpose, Severity, Update
from gateway.core.events import (
    Answered,
    BatchRead,
    Commanded,
    Committed,
    Connected,
    Damaged,
    Event,
    Existing,
    Found,
    Heads,
    LateAnswered,
    NotSent,
    OperatorAct,
    OverLimit,
    Requested,
    Stopping,
    Ticked,
    TimedOut,
    WriteRefused,
)
from gateway.core.inquiries import Inquiries
from gateway.core.lanes import Lane, Run
from gateway.core.lifecycle import IN_DOUBT_AFTER_CRASH, EntryKind, State, after_crash
from gateway.core.link import LinkState
from gateway.core.outgoing import probe_message
from gateway.core.replay import Replay
from gateway.core.requests import Requests
from gateway.core.retries import Retries
from gateway.core.reversals import Reversals
from gateway.core.settlement import Settlement
from gateway.core.standin import Policy
from gateway.core.steering import Explained, Steering
from gateway.core.transaction import DEFAULT_RULES, Kind, Stored, Transaction
from gateway.core.work import EngineSettings, SendResult, Work
from protocol.iso8583.message import Message
from protocol.iso8583.rules import HostRules

# Names of what every message is compared with: a member of an enumeration costs ten times as much to come by.
_NETWORK: Final = Kind.NETWORK
_INQUIRY: Final = Kind.INQUIRY
_SETTLEMENT: Final = Kind.SETTLEMENT
_UPLOAD: Final = Kind.UPLOAD
_REVERSAL: Final = Kind.REVERSAL

_RECEIVED: Final = {kind: f"received.{kind.name.lower()}" for kind in Kind}


@dataclass(slots=True, frozen=True, kw_only=True)
class EngineStatus:
    """What the engine knows of itself now. Counts are since its start."""

    link: LinkState
    link_since_ms: int
    window: int
    outages: int
    in_flight: int
    replaying: int
    lanes_owing: int
    lanes_in_memory: int
    waiting: int
    counts: dict[str, int]


class Engine:
    """Decides for one acquirer. All calls on one thread; every call is finished before the next."""

    def __init__(
        self,
        settings: EngineSettings,
        host: HostRules,
        policy: Policy,
        *,
        jitter: Callable[[], float],
        unencodable: Callable[[Message], str],
        mono_ms: int,
        utc_ms: int,
    ) -> None:
        """Make an engine that knows nothing yet.

        Args:
            settings, host, policy: see their types.
            jitter: gives numbers in [0, 1) that spread retries (D9).
            unencodable: why a message cannot be encoded for the acquirer, or "" (so that nothing is approved that
                cannot be forwarded).
            mono_ms, utc_ms: now.
        """
        self._work = Work(
            settings, host, policy, jitter=jitter, unencodable=unencodable, mono_ms=mono_ms, utc_ms=utc_ms
        )
        retries = Retries(self._work)
        self._batches = Batches(self._work, retries)
        self._requests = Requests(self._work, retries, self._batches)
        freed: Callable[[Lane], None] = self._requests.lane_freed
        self._inquiries = Inquiries(self._work)
        self._settlement = Settlement(self._work, retries, self._batches, freed)
        self._replay = Replay(self._work, freed)
        self._reversals = Reversals(self._work, retries, self._batches, freed)
        self._steering = Steering(self._work, self._replay, self._batches, freed)
        self._probe_stan = utc_ms // 1000
        self._link_seen = self._work.link.state
        self._away = True
        """Whether an outage is not over: its beginning is told once, and its end too."""
        written, answered = self._work.written, self._work.answered
        self._take_of: dict[type[Event], Callable[[Any], None]] = {
            Committed: written, Existing: written, OverLimit: written, WriteRefused: written,
            Requested: self._requested,
            Answered: answered, TimedOut: answered, NotSent: answered,
            Found: self._work.found, Heads: self._work.fetched, BatchRead: self._work.batch_read,
            LateAnswered: self._reversals.answered_late,
            Connected: self._connected, Damaged: self._damaged, Commanded: self._commanded,
            Stopping: self._stopping, Ticked: self._ticked,
        }  # fmt: skip

    def recover(self, in_doubt: Iterable[Stored], utc_ms: int) -> list[Effect]:
        """Settle what a crash left in doubt, by the recovery table (lifecycle.after_crash), before anything else.

        The terminal was told nothing: its retry gets 68, and the reversal is owed (D7, D11).
        """
        work = self._work
        work.utc_ms = utc_ms
        for stored in in_doubt:
            transaction = stored.transaction
            if transaction.state not in IN_DOUBT_AFTER_CRASH or transaction.key in work.replaying:
                continue
            answer = local_answer(stored.request.mti, stored.request.fields, "68", DEFAULT_RULES, utc_ms)
            changed = transaction.evolved(
                utc_ms,
                after_crash(transaction.state),
                response="68",
                reason="recovered.in-doubt" if transaction.state is State.ASKING else transaction.reason,
                attempts=0,
                not_before_ms=utc_ms + work.settings.longest_flight_ms,
            )
            self._recover(stored, Update(EntryKind.RECOVERED, changed, answer))
        return self._effects()

    def _recover(self, stored: Stored, update: Update) -> None:
        """Write one row of the recovery table; until it is durable, whoever asks for the row waits for it."""
        work = self._work
        lane = work.lanes.of(stored.transaction.lane)
        run = Run(stored.transaction, lane, stored.request, stored.sensitive)
        work.replaying[stored.transaction.key] = run
        lane.holds += 1
        work.update(run, update, lambda _: self._recovered(run))

    def _recovered(self, run: Run) -> None:
        work = self._work
        work.counts["recovered"] += 1
        del work.replaying[run.transaction.key]
        run.lane.holds -= 1
        run.lane.owes_more(in_order=False)
        self._requests.lane_freed(run.lane)

    def owing(self, lanes: Iterable[str]) -> None:
        """Tell the engine at start-up which lanes have something to replay."""
        for name in lanes:
            lane = self._work.lanes.of(name)
            lane.owes_more(in_order=False)
            self._work.lanes.ready(lane)

    def step(self, event: Event, mono_ms: int, utc_ms: int) -> list[Effect]:
        """Take one event; return what is to be done, in order."""
        work = self._work
        work.mono_ms, work.utc_ms = mono_ms, utc_ms
        self._take_of[type(event)](event)
        # After most events nothing of this is due: whether it may be is one look each, here.
        timers, link, lanes = work.timers, work.link, work.lanes
        if timers and timers[0][0] <= mono_ms:
            work.run_timers()
        if link.connected and link.probe_at_ms <= mono_ms:
            self._probe_when_due()
        if link.state is not self._link_seen:
            self._link_changed()
        if link.usable and (lanes.line or lanes.sooner):
            self._replay.pump()
        effects = work.effects
        work.effects = []
        return effects

    def _effects(self) -> list[Effect]:
        effects = self._work.effects
        self._work.effects = []
        return effects

    def _connected(self, event: Connected) -> None:
        self._work.link.connection(event.connected, self._work.mono_ms)

    def _stopping(self, _: Stopping) -> None:
        self._replay.stopping = True

    def _ticked(self, _: Ticked) -> None:
        """What is due is done in every step."""

    def _requested(self, event: Requested) -> None:
        request = event.request
        work = self._work
        work.counts[_RECEIVED[request.kind]] += 1
        kind = request.kind
        if kind is _NETWORK and request.batch:
            self._batches.sign_on(event.terminal_token, request)
        elif kind is _NETWORK:
            # Echo, sign-off: answered here, because the gateway is the terminal's host; never stored.
            answer = local_answer(request.mti, request.fields, "00", request.rules, work.utc_ms)
            work.reply(event.terminal_token, answer)
        elif kind is _INQUIRY:
            self._inquiries.arrive(event.terminal_token, request)
        elif kind is _SETTLEMENT or kind is _UPLOAD:
            self._settlement.arrive(event.terminal_token, request)
        elif kind is _REVERSAL:
            self._reversed(event)
        else:
            self._requests.arrive(event.terminal_token, request)

    def _reversed(self, event: Requested) -> None:
        request = event.request
        if self._batches.waits_behind(request.lane, partial(self._reversed, event)):
            return
        if request.batch_unknown:
            self._reversals.locate(event.terminal_token, request)
        else:
            self._reversals.arrive(event.terminal_token, request)

    def _damaged(self, event: Damaged) -> None:
        self._work.alarm(
            Severity.ALARM,
            "record-damaged",
            f"record {event.sequence} of the journal is damaged ({event.what}); it is in quarantine",
            sequence=str(event.sequence),
        )

    def _commanded(self, event: Commanded) -> None:
        work = self._work
        if event.act in {OperatorAct.MAINTENANCE_ON, OperatorAct.MAINTENANCE_OFF}:
            on = event.act is OperatorAct.MAINTENANCE_ON
            work.link.maintenance(on, work.mono_ms)
            work.alarm(Severity.NOTICE, event.act.value, f"{event.who}: {event.why}")
            text = "the link is closed; new sales stand in" if on else "the link opens after an answered probe"
            work.reply_operator(event.operator_token, done=True, text=text)
        else:
            self._steering.command(event)

    # Link

    def _probe_when_due(self) -> None:
        work = self._work
        due = work.link.probe_due_ms()
        if due is None or due > work.mono_ms:
            return
        self._probe_stan += 1
        work.link.probe_sent()
        message = probe_message(work.host, self._probe_stan, work.utc_ms)
        work.send(Purpose.PROBE, message, work.settings.link.echo_timeout_ms, self._probed)

    def _probed(self, event: SendResult) -> None:
        work = self._work
        if isinstance(event, Answered):
            work.link.probe_answered(work.mono_ms)
        elif isinstance(event, NotSent):
            work.link.probe_not_sent(work.mono_ms)
        else:
            work.link.probe_failed(work.mono_ms)

    def _link_changed(self) -> None:
        work = self._work
        before, now = self._link_seen, work.link.state
        self._link_seen = now
        if now is LinkState.DOWN and before is not LinkState.MAINTENANCE and not self._away:
            work.alarm(Severity.WARNING, "acquirer-away", "the acquirer does not answer; new sales stand in")
        if now is LinkState.DOWN:
            self._away = True
        if now is LinkState.UP and self._away:
            self._away = False
            work.alarm(Severity.NOTICE, "acquirer-back", "the acquirer answers; what is owed is replayed")
            work.lanes.unblock_all("D9")
        if not work.link.usable:
            self._requests.link_down()

    # What others may know

    def next_wakeup_ms(self) -> int | None:
        """Monotonic time at which a Ticked is wanted; None when only events matter."""
        earliest_ms = self._work.next_timer_ms()
        for at_ms in (self._work.link.probe_due_ms(), self._replay.rate_wakeup_ms()):
            if at_ms is not None and (earliest_ms is None or at_ms < earliest_ms):
                earliest_ms = at_ms
        return earliest_ms

    @property
    def link(self) -> LinkState:
        """What is believed of the acquirer now."""
        return self._work.link.state

    @property
    def on_trial(self) -> bool:
        """Whether the acquirer answers probes alone, so that all sales but one at a time stand in."""
        return self._work.link.on_trial

    def overruns(self, unanswered: int, room: int, mono_ms: int) -> bool:
        """Whether a new request would be one more than the acquirer has room for, although it answers (INV-9).

        It would be stood in for then: without this, whoever sends enough at once would be approved without being
        asked for. What finds no room with a host that hangs is no overload, but the beginning of an outage. To be asked
        before each request: it remembers since when there is no room.

        Args:
            unanswered: requests of terminals that have no answer yet, wherever they are.
            room: messages that the link may have in flight.
            mono_ms: now.
        """
        work = self._work
        asking = unanswered - work.joined - work.lanes.waiting_count
        if room <= 0 or asking < max(1, room - len(work.replaying)):  # what is replayed leaves room for one at least
            work.full_since_ms = None
            return False
        if work.full_since_ms is None:
            work.full_since_ms = mono_ms
        return work.link.answers(work.full_since_ms, mono_ms)

    @property
    def quiet(self) -> bool:
        """Nothing is under way: a clean stop loses nothing and leaves nothing in doubt."""
        return self._work.quiet

    def status(self) -> EngineStatus:
        """A snapshot for operators and metrics."""
        work = self._work
        return EngineStatus(
            link=work.link.state,
            link_since_ms=work.link.since_ms,
            window=work.link.window,
            outages=work.link.outages,
            in_flight=len(work.running),
            replaying=len(work.replaying),
            lanes_owing=work.lanes.owing_count(),
            lanes_in_memory=len(work.lanes),
            waiting=work.lanes.waiting_count,
            counts=dict(work.counts),
        )

    def explain(self, transaction: Transaction) -> Explained:
        """Why a transaction waits: what blocks it, by which rule, and when it is tried next."""
        return self._steering.explain(transaction)
