"""A terminal's request or advice: asked online, stood in for, refused, or joined to one that is running (D3-D8, D20).

After each step a comment says what a crash leaves behind.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from gateway.core.acceptance import new_transaction, retained, stored_message, with_alias, with_assigned_stan
from gateway.core.answers import approval_code, local_answer, relayed_answer
from gateway.core.batches import Batches
from gateway.core.effects import Change, Create, Purpose, Severity, Update
from gateway.core.events import (
    NO_ROOM,
    Answered,
    Committed,
    Existing,
    Found,
    Lookup,
    NotSent,
    OverLimit,
    TimedOut,
    WriteRefused,
)
from gateway.core.lanes import Lane, Run
from gateway.core.lifecycle import EntryKind, State
from gateway.core.outgoing import advice_message, request_message
from gateway.core.retries import Retries
from gateway.core.standin import Refusal, decide
from gateway.core.transaction import Answer, Kind, Request, Stored, StoredMessage, Transaction
from gateway.core.work import SendResult, Sent, Work, WriteResult
from protocol.iso8583.message import Fields
from protocol.response_codes import (
    DEBIT_POSSIBLE,
    LOOK_UP_ORIGINAL,
    NO_WORD_OF_THE_FIRST,
    OUTCOME_UNKNOWN,
    RETRY_LATER,
    SIGN_ON_FIRST,
    may_decline,
)

# Names of what every request meets: a member of an enumeration costs ten times as much to come by.
_ADVICE: Final = Kind.ADVICE
_REQUEST: Final = Purpose.REQUEST
_ASKING: Final = State.ASKING
_ASKING_CANCELLED: Final = State.ASKING_CANCELLED
_STORED: Final = State.STORED
_REVERSING: Final = State.REVERSING
_APPROVED: Final = State.APPROVED
_PARKED: Final = State.PARKED
_ACCEPTED_ENTRY: Final = EntryKind.ACCEPTED
_STOOD_IN_ENTRY: Final = EntryKind.STOOD_IN
_ANSWERED_ENTRY: Final = EntryKind.ANSWERED
_OUTCOME: Final = {state: f"outcome.{state.name.lower()}" for state in State}

_IN_DOUBT_CODES: Final = OUTCOME_UNKNOWN | DEBIT_POSSIBLE | {"A0"}
"""Answers to a request that leave open whether the card was debited: reverse (response codes)."""

_PUT_OFF: Final = RETRY_LATER | SIGN_ON_FIRST
"""Answers of a host that decides nothing now."""

BEHIND_MIDNIGHT_MS: Final = 900_000
"""So long after the first a message is taken to mean the one of the day before, where no time of day says so."""

DEBIT_LEFT_OPEN: Final = _IN_DOUBT_CODES | LOOK_UP_ORIGINAL
"""Answers that are no proof of a decline."""


class Requests:
    """Decides what becomes of requests and advices."""

    def __init__(self, work: Work, retries: Retries, batches: Batches) -> None:
        self._work = work
        self._retries = retries
        self._batches = batches
        self._asking = 0
        retries.begin = self.arrive

    def arrive(self, terminal_token: int, request: Request) -> None:
        """A new request, or a retry of one."""
        work = self._work
        if request.assigned:
            free = self._retries.with_free_stan(request)
            if free is None:
                self._retries.none_free([terminal_token], request)
                return
            request = free
        if request.keys_beside and not self._work.under_way(request.key):
            self._look_back(terminal_token, request)
            return
        if self._retries.settled_at_the_door(terminal_token, request):
            return
        # What an advice tells of has happened, in whatever batch (D18).
        is_advice = request.kind is _ADVICE
        if request.batch and not is_advice and not self._batches.may_begin(terminal_token, request, self.arrive):
            return
        run = Run(
            transaction=with_alias(new_transaction(request, _ASKING, work.utc_ms), request),
            lane=work.lanes.of(request.lane),
            message=stored_message(request),
            sensitive=request.sensitive,
            request=request,
            waiting=[terminal_token],
            writing=True,
        )
        work.begin(run)
        if is_advice:
            self._take_advice(run, request)
        elif not self._may_ask():
            self._stand_in(run, request)
        elif run.lane.free:
            self._ask(run, request)
        else:
            # A retry must not wait for the lane to drain, so look first (D3, D20).
            work.find((request.key,), request.horizon_ms, partial(self._looked, run, request))

    def _look_back(self, terminal_token: int, request: Request) -> None:
        """A repeat behind midnight may have a new date, and its first sending the one of the day before (D1)."""
        work, earlier = self._work, request.keys_beside[0]
        run = work.running.get(earlier) or work.replaying.get(earlier)
        if run is not None:
            self._looked_back(terminal_token, request, Lookup.ABSENT, run.stored)
            return
        keys = (request.key, earlier)
        work.find(keys, 0, lambda event: self._looked_back(terminal_token, request, *event.results))

    def _looked_back(
        self, terminal_token: int, request: Request, own: Stored | Lookup, before: Stored | Lookup
    ) -> None:
        today = replace(request, keys_beside=())
        if own is Lookup.ABSENT and isinstance(before, Stored) and self._is_repeat_of(request, before.transaction):
            self._work.counts["retry.of-the-day-before"] += 1
            today = replace(today, key=request.keys_beside[0])
        self.arrive(terminal_token, today)

    def _is_repeat_of(self, request: Request, known: Transaction) -> bool:
        return (
            known.kind is request.kind
            and abs(self._work.utc_ms - known.accepted_ms) <= BEHIND_MIDNIGHT_MS
            and hmac.compare_digest(known.fingerprint, request.fingerprint)
        )

    def link_down(self) -> None:
        """Who waited for a lane waits for nothing now."""
        lanes = self._work.lanes
        for lane in lanes.with_waiting():
            while run := lanes.first_waiting(lane):
                assert run.request is not None
                self._stand_in(run, run.request)

    def lane_freed(self, lane: Lane) -> None:
        """Let the lane go on: first what is owed, then who waits, first in line first (D14, D20)."""
        work = self._work
        if lane.busy or lane.holds:
            return
        if lane.owing:
            work.lanes.ready(lane)
        elif work.link.usable and (run := work.lanes.first_waiting(lane)):
            assert run.request is not None
            if self._may_ask():
                self._ask(run, run.request)
            else:
                self._stand_in(run, run.request)
        else:
            work.lanes.forget_if_idle(lane)

    def _may_ask(self) -> bool:
        """Whether the acquirer can be asked; one request at a time while it answers nothing but probes."""
        link = self._work.link
        return link.usable and not (self._asking and link.on_trial)

    # Online

    def _ask(self, run: Run, request: Request) -> None:
        work = self._work
        run.lane.busy = run
        self._asking += 1
        change = Create(_ACCEPTED_ENTRY, run.transaction, run.message, retained(request), None, (), request.horizon_ms)
        work.create(run, (change,), partial(self._accepted, run, request))

    def _accepted(self, run: Run, request: Request, event: WriteResult) -> None:
        if not isinstance(event, Committed):
            self._not_created(run, request, event)
            return
        run.transaction.id = event.ids[0]
        # A crash from here on leaves it in doubt: recovery owes a reversal (D5, D7).
        if self._work.link.usable:
            self._send(run, request, repeat=False)
        else:
            self._not_sent(run, request, "the link went down before the send")

    def _send(self, run: Run, request: Request, *, repeat: bool) -> None:
        work = self._work
        message = request_message(
            StoredMessage(request.mti, request.fields), run.sensitive, run.transaction, work.host, repeat=repeat
        )
        work.counts["sent.request"] += 1
        run.sent_at_ms = work.mono_ms
        run.first_sent_ms = run.first_sent_ms if repeat else work.mono_ms
        work.send(_REQUEST, message, work.settings.reply_timeout_ms, partial(self._sent, run, request, repeat))

    def _sent(self, run: Run, request: Request, repeat: bool, event: SendResult) -> None:
        work = self._work
        if isinstance(event, Answered):
            work.link.answered(work.mono_ms, put_off=event.fields.get(39) in _PUT_OFF)
        elif isinstance(event, TimedOut):
            work.link.timed_out(work.mono_ms)
            work.counts["timed-out.request"] += 1
            work.remember_unanswered(event.token, Sent(request.key, request.horizon_ms, request.lane))
        if run.writing:  # a terminal's reversal is being recorded on this row
            run.deferred.append(partial(self._decide, run, request, repeat, event))
        else:
            self._decide(run, request, repeat, event)

    def _decide(self, run: Run, request: Request, repeat: bool, event: SendResult) -> None:
        if isinstance(event, Answered) and not event.verified:
            self._in_doubt(run, request, "answer.mac-wrong")  # it proves nothing, whatever it says (D12)
        elif isinstance(event, Answered):
            self._answered(run, request, event.fields, repeat=repeat)
        elif isinstance(event, NotSent):
            if repeat:
                self._in_doubt(run, request, "answer.none")
            else:
                self._not_sent(run, request, event.reason)
        elif self._work.host.repeat_request and not repeat and run.transaction.state is _ASKING:
            # The repeat's answer counts now; of this one an approval alone does (D16).
            sent = Sent(request.key, request.horizon_ms, request.lane, repeated=True)
            self._work.remember_unanswered(event.token, sent)
            self._repeat(run, request)
        else:
            self._in_doubt(run, request, "answer.none")

    def _repeat(self, run: Run, request: Request) -> None:
        """Send 0101/0201 once, where the profile is certified for it (D7)."""
        change = run.transaction.evolved(self._work.utc_ms, _ASKING, attempts=1)
        run.transaction = change
        self._work.update(run, Update(EntryKind.SENDING, change), lambda _: self._send(run, request, repeat=True))

    def _answered(self, run: Run, request: Request, fields: Fields, *, repeat: bool) -> None:
        work = self._work
        code = fields.get(39, "")
        if code in work.host.approved_codes:
            if changed := changed_by_host(request.fields, request.currency, request.pan, fields):
                work.alarm(
                    Severity.ALARM, "answer-changed", f"the acquirer approved another {changed}; reversing",
                    key=request.key,
                )  # fmt: skip
                self._in_doubt(run, request, f"answer.{changed}-changed", approved=fields)
            elif run.transaction.state is _ASKING_CANCELLED:
                self._in_doubt(run, request, "answer.approved", approved=fields)
            else:
                answer = relayed_answer(request.mti, request.fields, fields, request.rules)
                self._settle(run, _ANSWERED_ENTRY, _APPROVED, answer, "answer.approved")
        elif not may_decline(code):
            # A blank, malformed or unheard-of code is no proof of a decline, nor is an approval of other hosts: the
            # money may have been taken.
            self._in_doubt(run, request, "answer.code-unknown")
        elif code in SIGN_ON_FIRST and code in _IN_DOUBT_CODES:
            # It concerns the gateway's own session: the terminal, whose keys are others, is told 68.
            self._in_doubt(run, request, f"answer.code-{code}")
        elif code in _IN_DOUBT_CODES or (repeat and code in NO_WORD_OF_THE_FIRST):
            self._in_doubt(run, request, f"answer.code-{code}", fields)
        elif code == "94":
            # Never "declined": the host holds another transaction under this key (response codes, 94).
            answer = relayed_answer(request.mti, request.fields, fields, request.rules)
            self._settle(run, EntryKind.PARKED, _PARKED, answer, "answer.code-94")
            work.alarm(
                Severity.ALARM, "request-duplicate-at-host", "the acquirer knows this STAN as another transaction",
                key=request.key,
            )  # fmt: skip
        else:
            answer = relayed_answer(request.mti, request.fields, fields, request.rules)
            self._settle(run, _ANSWERED_ENTRY, State.DECLINED, answer, f"answer.code-{code}")

    def _in_doubt(
        self,
        run: Run,
        request: Request,
        reason: str,
        fields: Fields | None = None,
        *,
        approved: Fields | None = None,
    ) -> None:
        """Tell the terminal no, and owe the reversal in the same commit (D11).

        Args:
            reason: why it is reversed; "answer.none" where no answer came.
            fields: of an answer that is handed on; None where the terminal is told 68.
            approved: the acquirer's approval, where it gave one: its field 38 goes into the reversal (D12).
        """
        if fields is None or not fields.get(39):
            answer = self._local(request, "68")
        else:
            answer = relayed_answer(request.mti, request.fields, fields, request.rules)
        unanswered = reason == "answer.none"
        if unanswered:
            wait_ms = self._still_in_flight_ms(run.sent_at_ms)
        else:  # the answer to a repeat says nothing of where the first send is
            wait_ms = self._still_in_flight_ms(run.first_sent_ms) if run.transaction.attempts else 0
        if run.transaction.state is _ASKING_CANCELLED:
            reason = run.transaction.reason  # the terminal's
        kind = EntryKind.UNANSWERED if unanswered else _ANSWERED_ENTRY
        self._settle(run, kind, _REVERSING, answer, reason, approved=approved, wait_ms=wait_ms)

    def _settle(
        self,
        run: Run,
        kind: EntryKind,
        state: State,
        answer: Answer,
        reason: str,
        *,
        approved: Fields | None = None,
        wait_ms: int = 0,
    ) -> None:
        work = self._work
        transaction = run.transaction.evolved(work.utc_ms, state)
        transaction.response = answer.fields[39]
        transaction.reason = reason
        if state is _REVERSING:
            transaction.attempts = 0
        if state is _APPROVED:
            approved = answer.fields
        if approved is not None:
            transaction.approval, transaction.booked = approved.get(38, ""), True
        transaction.not_before_ms = work.not_before_ms(run.lane, transaction.id, wait_ms) if wait_ms else 0
        transaction.resume = State.CANCELLED if state is _PARKED else None
        run.transaction = transaction
        run.answer = answer
        work.update(run, Update(kind, transaction, answer), lambda _: self._settled(run, answer))

    def _still_in_flight_ms(self, sent_at_ms: int) -> int:
        """How long what was sent then may still be on its way: the reversal must not overtake it (D13)."""
        return max(0, sent_at_ms + self._work.settings.longest_flight_ms - self._work.mono_ms)

    def _settled(self, run: Run, answer: Answer) -> None:
        # The outcome is durable. A crash before the reply reaches the terminal: its retry gets this outcome (D3).
        self._work.counts[_OUTCOME[run.transaction.state]] += 1
        self._conclude(run, answer)

    # Stand-in

    def _not_sent(self, run: Run, request: Request, reason: str) -> None:
        if run.transaction.state is _ASKING_CANCELLED:
            answer = self._local(request, "12")
            self._settle(run, EntryKind.CANCELLED, State.CANCELLED, answer, run.transaction.reason)
        elif reason.startswith("unencodable"):
            answer = self._local(request, "30")
            self._settle(run, EntryKind.NOT_SENT, State.DECLINED, answer, "request.unencodable")
        elif reason == NO_ROOM and self._too_many():
            self._refuse(run, request, "91", "acquirer.full")
        else:
            self._stand_in(run, request)

    def _too_many(self) -> bool:
        """Whether nothing but their number keeps requests from an acquirer that answers: no reason to stand in.

        What an outage has left, and is being replayed, is one; so is an echo test that has the only place.
        """
        work = self._work
        since_ms = work.mono_ms if work.full_since_ms is None else work.full_since_ms
        return not (work.replaying or work.link.probing) and work.link.answers(since_ms, work.mono_ms)

    def _stand_in(self, run: Run, request: Request) -> None:
        decision = decide(request, self._work.policy, self._work.utc_ms)
        if isinstance(decision, Refusal):
            self._refuse(run, request, "91", decision.reason)
            return
        work = self._work
        approval = approval_code(request.key)
        before = run.transaction
        answer = local_answer(
            request.mti, run.message.fields, "00", request.rules, before.accepted_ms,
            approval=approval, stan=before.sent_stan,
        )  # fmt: skip
        transaction = before.evolved(work.utc_ms, _STORED)
        transaction.response, transaction.reason, transaction.approval = "00", "standin.approved", approval
        transaction.exposed = transaction.advised = True
        if not before.id:
            transaction.revision = 1
        if not request.fits and self._unencodable(transaction, run.message, request, answer):
            self._refuse(run, request, "30", "request.unencodable")
            return
        run.transaction, run.answer = transaction, answer
        then = partial(self._stood_in, run, request, before)
        if before.id:
            change = Update(EntryKind.NOT_SENT, transaction, answer, reserve=decision.limits)
            work.update(run, change, then)
        else:
            create = Create(
                _STOOD_IN_ENTRY, transaction, run.message, retained(request), answer, decision.limits,
                request.horizon_ms,
            )  # fmt: skip
            self._create_beside(run, (create,), then)

    def _unencodable(self, transaction: Transaction, message: StoredMessage, request: Request, answer: Answer) -> str:
        """Why the advice of this transaction could not be encoded, or ""."""
        if request.fits:
            return ""
        stored = Stored(transaction, message, retained(request), answer)
        work = self._work
        return work.unencodable(advice_message(stored, work.host, repeat=False, utc_ms=work.utc_ms))

    def _create_beside(self, run: Run, changes: tuple[Change, ...], then: Callable[[WriteResult], None]) -> None:
        """Write a first row without asking upstream. Its lane is held until then: nothing newer overtakes (INV-4)."""
        run.lane.holds += 1
        self._work.create(run, changes, partial(self._created_beside, run, then))

    def _created_beside(self, run: Run, then: Callable[[WriteResult], None], event: WriteResult) -> None:
        run.lane.holds -= 1
        then(event)

    def _stood_in(self, run: Run, request: Request, before: Transaction, event: WriteResult) -> None:
        if isinstance(event, Committed):
            # Durable: from here a crash leaves an advice owed, and a retry gets this answer (INV-1, INV-6).
            run.transaction.id = event.ids[0]
            self._work.counts["outcome.stored"] += 1
            assert run.answer is not None
            self._conclude(run, run.answer)
        elif isinstance(event, OverLimit):
            run.transaction, run.answer = before, None
            self._refuse(run, request, "91", event.reason)
        else:
            self._not_created(run, request, event)

    def _refuse(self, run: Run, request: Request, code: str, reason: str) -> None:
        """Say no without asking upstream; recorded with its reason (D21)."""
        work = self._work
        answer = local_answer(request.mti, run.message.fields, code, request.rules, work.utc_ms)
        asked = run.transaction.id != 0
        transaction = run.transaction.evolved(work.utc_ms, State.DECLINED, response=code, reason=reason)
        run.transaction, run.answer = transaction, answer
        work.counts[f"refused.{reason}"] += 1
        if asked:
            work.update(run, Update(EntryKind.NOT_SENT, transaction, answer), lambda _: self._settled(run, answer))
            return
        transaction.revision = 1
        create = Create(EntryKind.REFUSED, transaction, run.message, {}, answer, (), request.horizon_ms)
        self._create_beside(run, (create,), partial(self._recorded, run, request, answer))

    def _take_advice(self, run: Run, request: Request) -> None:
        """A terminal's advice tells of something done: durable, then 00, then forwarded (D18)."""
        work = self._work
        self._batches.note_late(request, request.key)
        answer = local_answer(request.mti, run.message.fields, "00", request.rules, work.utc_ms)
        transaction = with_alias(new_transaction(request, _STORED, work.utc_ms), request)
        transaction.response, transaction.reason, transaction.advised = "00", "terminal.advice", True
        if self._unencodable(transaction, run.message, request, answer):
            self._refuse(run, request, "30", "request.unencodable")
            return
        run.transaction, run.answer = transaction, answer
        create = Create(EntryKind.TAKEN, transaction, run.message, retained(request), answer, (), request.horizon_ms)
        self._create_beside(run, (create,), partial(self._recorded, run, request, answer))

    def _recorded(self, run: Run, request: Request, answer: Answer, event: WriteResult) -> None:
        if isinstance(event, Committed):
            run.transaction.id = event.ids[0]
            self._settled(run, answer)
        else:
            self._not_created(run, request, event)

    # Waiting for the lane (D20)

    def _looked(self, run: Run, request: Request, event: Found) -> None:
        work = self._work
        result = event.results[0]
        if not isinstance(result, Lookup):
            self._retries.answer_existing(run.waiting, request, result)
            self._forget(run)
        elif result is Lookup.DAMAGED:
            self._retries.answer_existing(run.waiting, request, None)
            self._forget(run)
        elif not self._may_ask():
            self._stand_in(run, request)
        elif run.lane.free:
            self._ask(run, request)
        elif len(run.lane.waiting) >= work.settings.lane_waiting_max:
            if run.lane.owing:
                self._stand_in(run, request)  # the line is full: decided at once, behind what the lane owes
            else:
                self._refuse(run, request, "91", "lane.busy")  # behind its own terminal's requests only
        else:
            work.lanes.wait(run)
            work.counts["waited"] += 1
            work.after(work.settings.lane_wait_ms, partial(self._waited, run, request))

    def _waited(self, run: Run, request: Request) -> None:
        if self._work.lanes.waits_no_more(run):
            self._stand_in(run, request)  # behind what the lane owes, or what is not answered: it never overtakes

    # Ends

    def _not_created(self, run: Run, request: Request, event: WriteResult) -> None:
        if isinstance(event, Existing):
            self._retries.answer_existing(run.waiting, request, event.stored)
            self._forget(run)
        else:
            assert isinstance(event, WriteRefused)
            self._work.no_room()
            self._forget_with(run, self._local(request, "96"))

    def _conclude(self, run: Run, answer: Answer) -> None:
        state = run.transaction.state
        if state is _STORED or state is _REVERSING:
            run.lane.owes_more(in_order=state is _STORED)
        self._forget_with(run, answer)

    def _forget_with(self, run: Run, answer: Answer) -> None:
        answer = with_assigned_stan(answer, run.transaction)
        recorded = run.transaction if run.transaction.id else None
        for terminal_token in run.waiting:
            self._work.reply(terminal_token, answer, recorded)
        self._forget(run)

    def _forget(self, run: Run) -> None:
        assert run.request is not None
        self._work.end(run)
        run.writing = False
        lane = run.lane
        if lane.busy is run:
            lane.busy = None
            self._asking -= 1
        self.lane_freed(lane)
        if run.deferred:
            self._work.go_on(run)

    def _local(self, request: Request, code: str) -> Answer:
        return local_answer(request.mti, request.fields, code, request.rules, self._work.utc_ms)


def changed_by_host(sent: Fields, currency: str, pan: str, fields: Fields) -> str:
    """What an approval says otherwise than was sent: "amount", "currency" or "card"; "" where it agrees (INV-5)."""
    if fields.get(4, sent[4]) != sent[4]:
        return "amount"
    if fields.get(49, currency) != currency:
        return "currency"
    if pan and fields.get(2, pan) != pan:
        return "card"
    return ""
