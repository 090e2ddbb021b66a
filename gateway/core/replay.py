"""Replay: what is owed goes upstream, lane by lane in order, as wide as the window allows (D8, D9, D13, D14, D18, D19).

A send is recorded before it leaves, so that after a crash the next one is known to be a repeat. Where the next one of
the lane is known, its record is in the commit of the outcome before it: one commit for each transaction, not two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gateway.core.closing import Closing
from gateway.core.effects import Purpose, Severity, Update
from gateway.core.events import Answered, Heads, NotSent, TimedOut
from gateway.core.lanes import Lane, Run
from gateway.core.lifecycle import EntryKind, Obligation, State
from gateway.core.outgoing import outgoing
from gateway.core.requests import changed_by_host
from gateway.core.standin import counters_of
from gateway.core.transaction import BATCH_CLOSED, PARKED_FROM, Kind, Stored, Transaction
from gateway.core.work import SendResult, Work
from protocol.iso8583.message import Fields
from protocol.iso8583.rules import OriginalForm
from protocol.response_codes import (
    ADVICE_TAKEN,
    LOOK_UP_ORIGINAL,
    NOT_TAKEN_IN,
    RETRY_LATER,
    REVERSAL_DONE,
    SIGN_ON_FIRST,
    may_decline,
)

# Names of what every replay meets: a member of an enumeration costs ten times as much to come by.
_REVERSING: Final = State.REVERSING
_STORED_CANCELLED: Final = State.STORED_CANCELLED
_APPROVED: Final = State.APPROVED
_REVERSED: Final = State.REVERSED
_SENDING: Final = EntryKind.SENDING
_ANSWERED: Final = EntryKind.ANSWERED
_SETTLEMENT: Final = Kind.SETTLEMENT
_STOOD_IN: Final = frozenset({Kind.SALE, Kind.AUTHORISATION})
"""Asked by their terminals: as an advice, none but the gateway has sent them."""
_REVERSAL: Final = Obligation.REVERSAL
_SEND_REVERSAL: Final = Purpose.REVERSAL
_SEND_ADVICE: Final = Purpose.ADVICE

_TRY_AGAIN: Final = RETRY_LATER | SIGN_ON_FIRST
_SUSPECT_ATTEMPTS: Final = 3
_REPLAYED: Final = {state: f"replayed.{state.name.lower()}" for state in State}


class Replay:
    """Sends what is owed. `freed` is called when a lane may go on."""

    def __init__(self, work: Work, freed: Callable[[Lane], None]) -> None:
        self._work = work
        self._freed = freed
        self._closing = Closing(work)
        self.active = 0
        self.stopping = False
        self._allowance = 0.0
        self._allowance_at_ms = work.mono_ms

    def pump(self) -> None:
        """Start as many replays as the window and the rate allow."""
        work = self._work
        while self._may_start() and self._within_rate():
            lane = work.lanes.next_ready()
            if lane is None:
                return
            if lane.heads:
                self._begin(lane)
            elif lane.more:
                self._fetch(lane)
            else:
                lane.owing = False
                self._freed(lane)

    def _may_start(self) -> bool:
        """The link and the window allow another one, a lane stands in the line, and the gateway is to go on."""
        link = self._work.link
        return self.active < link.window and self._work.lanes.any_ready and link.usable and not self.stopping

    def _within_rate(self) -> bool:
        """A bucket of one second's worth; refilled by time (D19)."""
        rate = self._work.settings.rate_per_s
        if not rate:
            return True
        now = self._work.mono_ms
        self._allowance = min(rate, self._allowance + (now - self._allowance_at_ms) * rate / 1000)
        self._allowance_at_ms = now
        return self._allowance >= 1.0

    def rate_wakeup_ms(self) -> int | None:
        """When the rate allows the next replay, if only the rate holds it back."""
        rate = self._work.settings.rate_per_s
        if self.stopping or not rate or self._allowance >= 1.0 or not self._may_start():
            return None
        return self._allowance_at_ms + int((1.0 - self._allowance) * 1000 / rate) + 1

    def _fetch(self, lane: Lane) -> None:
        self.active += 1
        lane.more = False  # what is added from now on may be missing from this read, and sets it again
        lane.fetching = self._work.fetch_heads(lane, partial(self._fetched, lane))

    def _fetched(self, lane: Lane, event: Heads) -> None:
        self.active -= 1
        if lane.fetching != event.token:
            # What is owed has changed since: read again.
            self._work.lanes.ready(lane)
            return
        lane.fetching = 0
        lane.heads.extend(event.stored)
        lane.more = lane.more or event.more
        if lane.heads or lane.more:
            # First in line: what is read ahead stays in memory only for as many lanes as the window has (INV-9).
            self._work.lanes.ready(lane, first=bool(lane.heads))
        else:
            lane.owing = False
            self._freed(lane)

    def _begin(self, lane: Lane) -> None:
        work = self._work
        stored = lane.heads[0]
        before = stored.transaction
        if wait_ms := work.flight_left_ms(lane, before):
            work.block(lane, wait_ms, "D13")
            return
        run = self._take_head(lane)
        self.active += 1
        work.update(run, Update(_SENDING, run.transaction), lambda _: self._recorded(run))

    def _take_head(self, lane: Lane) -> Run:
        """The lane's head is under way from now on; what it takes to record it is left to the caller."""
        work = self._work
        stored = lane.heads.popleft()
        before = stored.transaction
        lane.flight_over_ms.pop(before.id, None)
        row = before.evolved(work.utc_ms, before.state)
        row.attempts += 1
        row.not_before_ms = 0
        run = Run(
            transaction=row,
            lane=lane,
            message=stored.request,
            sensitive=stored.sensitive,
            answer=stored.answer,
        )
        lane.busy = run
        work.replaying[before.key] = run
        if work.settings.rate_per_s:
            self._allowance -= 1.0
        return run

    def _may_follow(self, run: Run) -> bool:
        """Whether the next one of the lane may go in the place of this one, which is settled in the next commit.

        A reversal that waits for this one's row goes first (D14), and so does whoever holds the lane. Two of one key,
        which comes again beyond its horizon (D4), are never under way at once: `replaying` knows them by it.
        """
        lane, link = run.lane, self._work.link
        if not lane.heads or lane.holds or lane.blocked_until_ms or run.deferred:
            return False
        if self.stopping or not link.usable or self.active > link.window or not self._within_rate():
            return False
        following = lane.heads[0].transaction
        if following.kind is _SETTLEMENT or following.key == run.transaction.key:
            return False
        return not self._work.flight_left_ms(lane, following)

    def _recorded(self, run: Run) -> None:
        # A crash from here on: the next send is a repeat (D9).
        work = self._work
        if not work.link.usable:
            self._not_taken_in(run)
            self._give_back(run)
            return
        if run.transaction.kind is _SETTLEMENT:
            self._closing.begin(run, partial(self._sent, run))
            return
        message = outgoing(run.stored, work.host, utc_ms=work.utc_ms)
        is_reversal = run.transaction.obligation is _REVERSAL
        work.counts["sent.reversal" if is_reversal else "sent.advice"] += 1
        work.send(
            _SEND_REVERSAL if is_reversal else _SEND_ADVICE,
            message,
            work.settings.reply_timeout_ms,
            partial(self._sent, run),
        )

    def _sent(self, run: Run, event: SendResult) -> None:
        work = self._work
        if isinstance(event, Answered):
            work.link.answered(work.mono_ms, put_off=event.fields.get(39) in _TRY_AGAIN)
        elif isinstance(event, TimedOut):
            work.link.timed_out(work.mono_ms)
            work.counts["timed-out.replay"] += 1
        if run.writing:  # a terminal's reversal is being recorded on this row
            run.deferred.append(partial(self._decide, run, event))
        else:
            self._decide(run, event)

    def _decide(self, run: Run, event: SendResult) -> None:
        if isinstance(event, Answered) and not event.verified:
            self._retry_later(run, "answer.mac-wrong")
        elif isinstance(event, Answered) and run.transaction.kind is _SETTLEMENT and self._closing.unclear(event):
            self._park(run, f"answer.code-{event.fields[39]}")
        elif isinstance(event, Answered):
            self._answered(run, event.fields)
        elif isinstance(event, NotSent) and event.reason.startswith("unencodable"):
            self._park(run, "replay.unencodable", left=False)
        elif isinstance(event, TimedOut) and self._tries(run) >= self._work.settings.attempts_max:
            # However the link is: this very message may be what takes it down each time (D9, D18).
            self._park(run, f"replay.attempts-{self._tries(run)}")
        else:
            self._retry_later(run, "answer.none", left=not isinstance(event, NotSent))

    def _answered(self, run: Run, fields: Fields) -> None:
        state, code = run.transaction.state, fields.get(39, "")
        if state is _REVERSING:
            if code == "00":
                self._undone(run, _changed(run, fields))
            elif code in LOOK_UP_ORIGINAL and self._has_a_stan_of_its_own(run):
                # Nothing of it has left before: the acquirer knows its STAN as another message's (D12, D13).
                self._park(run, f"answer.code-{code}")
            elif code in REVERSAL_DONE and self._denies_its_booking(run):
                self._park(run, f"answer.code-{code}")
            elif code in REVERSAL_DONE:
                if run.transaction.kind is Kind.UNSEEN and self._sends(run) == 1 and code not in LOOK_UP_ORIGINAL:
                    self._nobody_knows(run)
                # A late approval may make it owed again; it is then repeated with the reason that it had (D8, D16).
                self._settle(run, _REVERSED, f"answer.code-{code}{PARKED_FROM}{run.transaction.reason}")
            elif code in _TRY_AGAIN:
                self._put_off(run, code)
            else:
                self._park(run, f"answer.code-{code}")
        elif code in LOOK_UP_ORIGINAL and run.transaction.kind in _STOOD_IN and self._sends(run) == 1:
            # Nothing of it has left before: what the acquirer knows under this STAN is another transaction (D4).
            self._park(run, f"answer.code-{code}")
        elif code in ADVICE_TAKEN or code in self._work.host.approved_codes:
            if state is _STORED_CANCELLED:
                self._settle(run, _REVERSING, run.transaction.reason, booked=True)
            elif changed := _changed(run, fields):
                # It may be booked as the acquirer says, and not as the terminal was told (INV-5).
                self._park(run, f"answer.{changed}-changed", booked=True)
            else:
                self._settle(run, _APPROVED, f"answer.code-{code}", booked=True)
        elif code in _TRY_AGAIN:
            self._put_off(run, code)
        elif state is _STORED_CANCELLED and run.transaction.attempts == 1 and may_decline(code):
            self._settle(run, State.CANCELLED, f"answer.code-{code}")
        elif state is _STORED_CANCELLED:
            # Refused now; but an earlier send of it may still be on its way, and be booked (D13).
            self._settle(run, _REVERSING, run.transaction.reason, wait_ms=self._work.settings.longest_flight_ms)
        else:
            self._park(run, f"answer.code-{code}")

    def _undone(self, run: Run, changed: str) -> None:
        """The acquirer has reversed. Where it says another amount, it may have given back that, and not what was
        booked (INV-5)."""
        if changed:
            self._park(run, f"answer.{changed}-changed")
        else:
            self._settle(run, _REVERSED, "answer.code-00")

    def _has_a_stan_of_its_own(self, run: Run) -> bool:
        """Whether a reversal is sent for the first time, under a STAN that is not its original's."""
        return self._work.host.original is OriginalForm.DE_90 and self._sends(run) == 1

    def _denies_its_booking(self, run: Run) -> bool:
        """Whether the acquirer has approved or taken what it now refuses to reverse, at the first time of asking (D13).

        It has not overtaken its original then, and no earlier send of it has undone that: its batch may be settled, and
        the money gone. Nor has one that was sent before the acquirer said that it had approved: the answer to its
        repeat may be that of the first time, out of the memory of a host that knows each message by a key. Where the
        batch is settled, the first time of asking was too late as well.
        """
        row = run.transaction
        return row.booked and (self._sends(run) == 1 or sent_before_approval(row) or _behind_settlement(row))

    def _nobody_knows(self, run: Run) -> None:
        """Neither side has what a terminal's reversal undoes: its sale was lost on the way, or goes by other names."""
        row = run.transaction
        self._work.alarm(
            Severity.NOTICE,
            "reversal-of-unknown",
            "neither the gateway nor the acquirer knows what this reversal undoes",
            id=str(row.id),
            terminal=row.terminal,
            stan=row.stan,
        )

    def _settle(self, run: Run, state: State, reason: str, *, wait_ms: int = 0, booked: bool = False) -> None:
        work = self._work
        before = run.transaction
        after = before.evolved(work.utc_ms, state)
        after.reason = reason
        after.exposed = False
        after.booked = before.booked or booked
        if state is _REVERSING:
            after.attempts = 0
        after.not_before_ms = work.not_before_ms(run.lane, before.id, wait_ms)
        run.transaction = after
        run.lane.forget_attempts(before.id)
        change = Update(_ANSWERED, after, release=counters_of(before))
        if state is _REVERSING or not self._may_follow(run):
            work.update(run, change, lambda _: self._settled(run))
            return
        following = self._take_head(run.lane)
        record = Update(_SENDING, following.transaction)
        work.update_both(run, change, following, record, partial(self._followed, run, following))

    def _followed(self, run: Run, following: Run) -> None:
        """One is settled and the next recorded: that one has its place in the window now."""
        work = self._work
        work.counts[_REPLAYED[run.transaction.state]] += 1
        work.replaying.pop(run.transaction.key, None)
        self._recorded(following)

    def _settled(self, run: Run) -> None:
        state = run.transaction.state
        self._work.counts[_REPLAYED[state]] += 1
        if state is _REVERSING:
            run.lane.owes_more(in_order=False)
        self._release(run)

    def _put_off(self, run: Run, code: str) -> None:
        """The acquirer wants it later."""
        if code in NOT_TAKEN_IN:
            self._not_taken_in(run)
        self._retry_later(run, f"answer.code-{code}")

    def _retry_later(self, run: Run, reason: str, *, left: bool = True) -> None:
        """Leave it the head of its lane, after a pause; `left` is False where no byte of it left (D6)."""
        work = self._work
        attempts = run.transaction.attempts
        if not left:
            self._not_taken_in(run)
        # What never left, nobody has seen; and where all else is put off, too, the reason is none of its own (D9). That
        # counts for the pause, and is no reason to give up, now or later.
        if not left or (reason.startswith("answer.code-") and self._all_is_put_off(run)):
            uncounted = run.lane.uncounted
            uncounted[run.transaction.id] = uncounted.get(run.transaction.id, 0) + 1
        elif (tries := self._tries(run)) >= work.settings.attempts_max and work.link.usable:
            self._park(run, f"replay.attempts-{tries}")
            return
        work.counts["replay.retry-later"] += 1
        settings = work.settings
        pause = min(settings.backoff_max_ms, settings.backoff_min_ms * 2 ** min(attempts - 1, 20))
        # A block by an outage ("D9") ends with the outage; one by an answer ("D9 answer") runs its time.
        # Who was in flight again and again when the link broke may be the reason for it: it no longer goes first.
        rule = "D9" if reason == "answer.none" and attempts < _SUSPECT_ATTEMPTS else "D9 answer"
        work.block(run.lane, int(pause * (0.5 + work.jitter() / 2)), rule)
        run.lane.forget_heads()  # a lane that waits keeps nothing in memory (INV-9)
        self._give_back(run)

    def _all_is_put_off(self, run: Run) -> bool:
        """Whether the acquirer has decided nothing since it put this off last, or since the start: a host that is being
        serviced answers 91 or 96 to everything, and nobody should have to release what came meanwhile."""
        number, decided = run.transaction.id, self._work.link.decided
        before = run.lane.put_off.get(number, 0)
        run.lane.put_off[number] = decided
        return before == decided

    @staticmethod
    def _tries(run: Run) -> int:
        """Attempts that count; those before the start all do."""
        return run.transaction.attempts - run.lane.uncounted.get(run.transaction.id, 0)

    @staticmethod
    def _not_taken_in(run: Run) -> None:
        untaken = run.lane.untaken
        untaken[run.transaction.id] = untaken.get(run.transaction.id, 0) + 1

    @staticmethod
    def _sends(run: Run) -> int:
        """Attempts that the acquirer may have taken in; those before the start all may."""
        return run.transaction.attempts - run.lane.untaken.get(run.transaction.id, 0)

    def _park(self, run: Run, reason: str, *, booked: bool = False, left: bool = True) -> None:
        """Out of the lane and into a person's hands: one poison message never blocks the others (D9, D18).

        Args:
            left: False where no byte of it left this time: once it is released, that counts for no send (D6).
        """
        work = self._work
        before = run.transaction
        # What it was owed for stays behind the reason: a reversal says it in each of its repeats (D8, D12).
        after = before.evolved(
            work.utc_ms, State.PARKED, reason=f"{reason}{PARKED_FROM}{before.reason}", resume=before.state
        )
        after.booked = before.booked or booked
        after.attempts -= not left
        run.transaction = after
        run.lane.forget_attempts(before.id)
        work.alarm(
            Severity.ALARM,
            "parked",
            f"transaction {before.id} is parked ({reason}): release, void or cancel it",
            id=str(before.id),
            key=before.key,
            reason=reason,
        )
        work.update(run, Update(EntryKind.PARKED, after), lambda _: self._settled(run))

    def _give_back(self, run: Run) -> None:
        """Nothing was settled: the transaction stays the head of its lane, if nothing was put before it meanwhile."""
        if run.lane.heads or not run.lane.more:
            run.lane.heads.appendleft(run.stored)
        self._release(run)

    def _release(self, run: Run) -> None:
        work = self._work
        self.active -= 1
        work.replaying.pop(run.transaction.key, None)
        run.lane.busy = None
        self._freed(run.lane)
        work.go_on(run)

    def head_of(self, lane: Lane) -> Stored | None:
        """The transaction that this lane replays next, as far as it is known in memory."""
        if lane.busy is not None and lane.busy.request is None:
            return lane.busy.stored
        return lane.heads[0] if lane.heads else None


def sent_before_approval(row: Transaction) -> bool:
    """Whether a reversal had been sent before the acquirer said that it had approved; behind its reason stands what
    the acquirer had said to it, or that it had said nothing (D16)."""
    return row.reason.partition(PARKED_FROM)[2].startswith(("answer.code-", "answer.none"))


def _behind_settlement(row: Transaction) -> bool:
    """Whether it was to be undone when its batch was closed already, and nobody has looked at that since."""
    return BATCH_CLOSED in row.reason


def _changed(run: Run, fields: Fields) -> str:
    """What the acquirer says that it has booked or undone otherwise than it was told; "" where it agrees."""
    sent = run.message.fields
    return changed_by_host(sent, run.transaction.currency, sent.get(2, ""), fields) if 4 in sent else ""
