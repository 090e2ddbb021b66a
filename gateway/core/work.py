"""What is under way: tokens, timers, the effects of one step, and the counts of what happened.

The rooms of the core (requests, reversals, replay, steering) share one `Work`. It knows no rule of the domain but one:
a change of a transaction's row waits for the one before it.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from gateway.core.effects import (
    Alarm,
    Change,
    Create,
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
    Severity,
    Update,
    Write,
)
from gateway.core.events import (
    Answered,
    BatchRead,
    Committed,
    Existing,
    Found,
    Heads,
    NotSent,
    OverLimit,
    TimedOut,
    WriteRefused,
)
from gateway.core.lanes import Lane, Lanes, Run
from gateway.core.link import LinkHealth, LinkSettings
from gateway.core.standin import Policy
from gateway.core.transaction import Answer, Transaction
from protocol.iso8583.message import Message
from protocol.iso8583.rules import HostRules

REFUSED_WRITE_RETRY_MS: Final = 250
LATE_REMEMBERED_MAX: Final = 20_000
ALARM_WINDOW_MS: Final = 60_000
ALARMS_PER_WINDOW: Final = 100
"""Alarms of one code in a window; those above are counted and not raised: a terminal must not flood a person."""

WriteResult = Committed | Existing | OverLimit | WriteRefused
SendResult = Answered | TimedOut | NotSent


@dataclass(slots=True, frozen=True, kw_only=True)
class EngineSettings:
    """The core's settings; durations in milliseconds.

    Attributes:
        reply_timeout_ms: how long an answer of the acquirer is waited for (D17).
        longest_flight_ms: longest time that a message may still be on its way after it was sent (D13).
        in_flight_max: transactions under way at once; above, a request is refused with 96 (INV-9).
        lane_wait_ms: how long a request waits for its lane to drain (D20).
        lane_waiting_max: requests that wait in one lane; beyond it, one is decided at once (D20).
        attempts_max: sends of one advice or reversal before it is parked (D18).
        backoff_min_ms, backoff_max_ms: pause after a failed replay; doubles, with jitter (D9).
        rate_per_s: replays a second at most; 0 for no limit (D19).
        heads_read_ahead: replays of one lane that are read at once.
    """

    reply_timeout_ms: int = 15_000
    longest_flight_ms: int = 30_000
    in_flight_max: int = 20_000
    lane_wait_ms: int = 3_000
    lane_waiting_max: int = 4
    attempts_max: int = 30
    backoff_min_ms: int = 500
    backoff_max_ms: int = 300_000
    rate_per_s: int = 0
    heads_read_ahead: int = 16
    link: LinkSettings = field(default_factory=LinkSettings)


@dataclass(slots=True, frozen=True)
class Sent:
    """A request whose answer stayed away: where to find it when the answer comes late (D16).

    Attributes:
        repeated: it was asked once more (D7): its late decline says nothing of the repeat.
    """

    key: str
    horizon_ms: int
    lane: str
    repeated: bool = False


class Work:
    """The state that the core's rooms share. Times are set once a step."""

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
        self.settings = settings
        self.host = host
        self.policy = policy
        self.jitter = jitter
        self.unencodable = unencodable
        self.mono_ms = mono_ms
        self.utc_ms = utc_ms
        self.link = LinkHealth(settings.link, mono_ms)
        self.lanes = Lanes()
        self.full_since_ms: int | None = None
        """Since when, monotonic, as much has been under way as the acquirer has room for; None where there is room."""
        self.joined = 0
        """Retries that wait for the outcome of what is under way: they are no transactions of their own."""
        self.running: dict[str, Run] = {}
        """Requests under way, by transaction key."""
        self.replaying: dict[str, Run] = {}
        """Replays under way, by transaction key; never two of one key, although a lane may owe them (D4)."""
        self.effects: list[Effect] = []
        self.counts: Counter[str] = Counter()
        self.unanswered: OrderedDict[int, Sent] = OrderedDict()
        """Requests that timed out, by token of the send, so that a late answer finds its transaction (D16). Bounded."""
        self._alarms: dict[str, tuple[int, int]] = {}
        self._full_told_ms: int | None = None
        self._started_ms = mono_ms
        self._last_token = 0
        self._last_timer = 0
        self._writes: dict[int, tuple[Callable[[WriteResult], None], tuple[Change, ...], Run | None]] = {}
        """Writes under way, by token: whom to tell, what was written, and the run whose row it is, if it is one's."""
        self._lookups: dict[int, Callable[[Found], None]] = {}
        self._fetches: dict[int, Callable[[Heads], None]] = {}
        self._batches: dict[int, Callable[[BatchRead], None]] = {}
        self._sends: dict[int, Callable[[SendResult], None]] = {}
        self.timers: list[tuple[int, int, Callable[[], None]]] = []
        """A heap: monotonic time, number, what to call."""

    # Asking the world

    def _token(self) -> int:
        self._last_token += 1
        return self._last_token

    def write(self, changes: tuple[Change, ...], then: Callable[[WriteResult], None]) -> None:
        """Hand changes to the journal. A refused update is handed over again until it is taken; a Create is not."""
        self._write(changes, then, None)

    def _write(self, changes: tuple[Change, ...], then: Callable[[WriteResult], None], run: Run | None) -> None:
        self._last_token = token = self._last_token + 1
        self._writes[token] = (then, changes, run)
        self.effects.append(Write(token, changes))

    def create(self, run: Run, changes: tuple[Change, ...], then: Callable[[WriteResult], None]) -> None:
        """Write a run's first row; afterwards, whoever waited for the row goes on."""
        run.writing = True
        self._write(changes, then, run)

    def update(self, run: Run, change: Update, then: Callable[[WriteResult], None]) -> None:
        """Write a run's next row. The run must not be writing already."""
        assert not run.writing
        run.writing = True
        self._write((change,), then, run)

    def update_both(self, run: Run, change: Update, following: Run, record: Update, then: Callable[[], None]) -> None:
        """Write the next rows of two runs in one commit. Neither run must be writing already."""
        assert not run.writing
        assert not following.writing
        run.writing = following.writing = True
        self.write((change, record), lambda _: self._both_written(run, following, then))

    def _both_written(self, run: Run, following: Run, then: Callable[[], None]) -> None:
        run.writing = following.writing = False
        then()
        self.go_on(run)
        self.go_on(following)

    def go_on(self, run: Run) -> None:
        """Call what was deferred on this run, one by one, for as long as its row is not being written."""
        while run.deferred and not run.writing:
            run.deferred.pop(0)()

    def find(self, keys: tuple[str, ...], horizon_ms: int, then: Callable[[Found], None]) -> None:
        """Look keys up in the journal."""
        token = self._token()
        self._lookups[token] = then
        self.effects.append(Find(token, keys, horizon_ms))

    def find_newest(self, lane: str, then: Callable[[Found], None]) -> None:
        """Look for the newest transaction of a lane that names a batch."""
        token = self._token()
        self._lookups[token] = then
        self.effects.append(FindNewest(token, lane))

    def load(self, transaction_id: int, then: Callable[[Found], None]) -> None:
        """Read one transaction by id."""
        token = self._token()
        self._lookups[token] = then
        self.effects.append(Load(token, transaction_id))

    def fetch_heads(self, lane: Lane, then: Callable[[Heads], None]) -> int:
        """Read the next replays of a lane; returns the token."""
        token = self._token()
        self._fetches[token] = then
        self.effects.append(FetchHeads(token, lane.name, self.settings.heads_read_ahead))
        return token

    def fetch_batch(self, batch: str, then: Callable[[BatchRead], None]) -> None:
        """Read the transactions of a terminal's batch."""
        token = self._token()
        self._batches[token] = then
        self.effects.append(FetchBatch(token, batch))

    def send(self, purpose: Purpose, message: Message, timeout_ms: int, then: Callable[[SendResult], None]) -> int:
        """Send upstream; returns the token."""
        token = self._token()
        self._sends[token] = then
        self.effects.append(Send(token, purpose, message, timeout_ms))
        return token

    def remember_unanswered(self, token: int, sent: Sent) -> None:
        """Keep what timed out, for a late answer (D16)."""
        self.unanswered[token] = sent
        if len(self.unanswered) > LATE_REMEMBERED_MAX:
            self.unanswered.popitem(last=False)

    def begin(self, run: Run) -> None:
        """A request is under way from now on."""
        self.running[run.transaction.key] = run
        run.lane.runs += 1

    def end(self, run: Run) -> None:
        """It is not any more. Its lane is to be freed next."""
        del self.running[run.transaction.key]
        run.lane.runs -= 1
        self.joined -= len(run.waiting) - 1

    def under_way(self, key: str) -> bool:
        """Whether something runs that may change the row of this key."""
        return key in self.running or key in self.replaying

    def not_before_ms(self, lane: Lane, transaction_id: int, wait_ms: int) -> int:
        """Let a transaction's earlier sends arrive before its reversal is sent (D13); 0 where none is on its way.

        Returns what its row says: UTC, for people to read. What counts is the monotonic clock, which nobody sets.
        """
        if not wait_ms:
            return 0
        lane.flight_over_ms[transaction_id] = self.mono_ms + wait_ms
        return self.utc_ms + wait_ms

    def flight_left_ms(self, lane: Lane, before: Transaction) -> int:
        """How long the transaction's reversal is to be held back; after a restart, from the start on (D13)."""
        if not before.not_before_ms:
            return 0
        over_ms = lane.flight_over_ms.get(before.id, self._started_ms + self.settings.longest_flight_ms)
        return max(0, over_ms - self.mono_ms)

    def block(self, lane: Lane, delay_ms: int, rule: str) -> None:
        """Let nothing be replayed in this lane for a while."""
        lane.blocked_until_ms = self.mono_ms + max(1, delay_ms)
        lane.blocked_by = rule
        self.after(max(1, delay_ms), partial(self._unblock, lane, lane.blocked_until_ms))

    def _unblock(self, lane: Lane, until_ms: int) -> None:
        if lane.blocked_until_ms == until_ms:
            lane.blocked_until_ms, lane.blocked_by = 0, ""
            self.lanes.ready(lane)

    def reply(self, terminal_token: int, answer: Answer, recorded: Transaction | None = None) -> None:
        """Answer a terminal; `recorded` is the row that the answer is about, where there is one at hand."""
        self.effects.append(Reply(terminal_token, answer, recorded))

    def reply_operator(self, operator_token: int, *, done: bool, text: str) -> None:
        """Answer an operator."""
        self.effects.append(OperatorReply(operator_token, done, text))

    def alarm(self, severity: Severity, code: str, text: str, **facts: str) -> None:
        """Tell a person."""
        self.counts[f"alarm.{code}"] += 1
        since_ms, raised = self._alarms.get(code, (self.mono_ms, 0))
        if self.mono_ms - since_ms >= ALARM_WINDOW_MS:
            since_ms, raised = self.mono_ms, 0
        self._alarms[code] = (since_ms, raised + 1)
        if raised < ALARMS_PER_WINDOW:
            self.effects.append(Alarm(severity, code, text, facts))
        else:
            self.counts["alarms-silenced"] += 1

    def no_room(self) -> None:
        """The journal has refused a request for want of room: a person is told once in a while, not of each."""
        self.counts["refused.journal-full"] += 1
        if self._full_told_ms is None or self.mono_ms - self._full_told_ms >= ALARM_WINDOW_MS:
            self._full_told_ms = self.mono_ms
            text = "the journal has no room: new transactions are refused with 96; `holdfast status` says why"
            self.alarm(Severity.ALARM, "journal-full", text)

    def after(self, delay_ms: int, call: Callable[[], None]) -> None:
        """Call back when `delay_ms` have passed."""
        self._last_timer += 1
        heapq.heappush(self.timers, (self.mono_ms + max(0, delay_ms), self._last_timer, call))

    # Hearing from the world

    def written(self, event: WriteResult) -> None:
        """The journal answered a write."""
        then, changes, run = self._writes[event.token]
        if isinstance(event, WriteRefused) and not isinstance(changes[0], Create):
            # What is under way must be recorded sooner or later: try again until there is room.
            self.counts["journal.update-refused"] += 1
            self.after(REFUSED_WRITE_RETRY_MS, partial(self._write_again, event.token))
            return
        del self._writes[event.token]
        if run is None:
            then(event)
            return
        run.writing = False
        then(event)
        if run.deferred:
            self.go_on(run)

    def _write_again(self, token: int) -> None:
        then, changes, run = self._writes.pop(token)
        self._write(changes, then, run)

    def found(self, event: Found) -> None:
        """The journal answered a lookup."""
        self._lookups.pop(event.token)(event)

    def fetched(self, event: Heads) -> None:
        """The journal answered a read of heads."""
        self._fetches.pop(event.token)(event)

    def batch_read(self, event: BatchRead) -> None:
        """The journal answered a read of a batch."""
        self._batches.pop(event.token)(event)

    def answered(self, event: SendResult) -> None:
        """The link answered a send."""
        self._sends.pop(event.token)(event)

    def run_timers(self) -> None:
        """Call everything whose time has come."""
        while self.timers and self.timers[0][0] <= self.mono_ms:
            heapq.heappop(self.timers)[2]()

    def next_timer_ms(self) -> int | None:
        """Monotonic time of the next timer."""
        return self.timers[0][0] if self.timers else None

    @property
    def quiet(self) -> bool:
        """Nothing is under way: no write, send or request is waited for."""
        return not (self._writes or self._sends or self.running or self.replaying)
