"""Reversals that terminals send, and answers that come too late (D12, D14, D15, D16).

A lane is held from the moment its reversal arrives until the reversal is durable, so that nothing that the reversal
may cancel is started in between.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from msgspec.structs import replace

from gateway.core.acceptance import new_transaction, stored_message, with_alias
from gateway.core.answers import local_answer
from gateway.core.batches import Batches
from gateway.core.effects import Change, Create, Severity, Update
from gateway.core.events import Committed, Existing, Found, LateAnswered, Lookup
from gateway.core.lanes import Lane, Run
from gateway.core.lifecycle import REPLAYABLE, EntryKind, State, after_reversal
from gateway.core.locating import Locating
from gateway.core.outgoing import stated_reason
from gateway.core.requests import BEHIND_MIDNIGHT_MS, DEBIT_LEFT_OPEN
from gateway.core.retries import Retries, within_horizon
from gateway.core.standin import counters_of
from gateway.core.transaction import (
    BATCH_CLOSED,
    PARKED_FROM,
    TERMINAL_REVERSAL,
    Answer,
    Kind,
    Request,
    Stored,
    StoredMessage,
    Transaction,
)
from gateway.core.work import Sent, Work, WriteResult
from protocol.response_codes import LOOK_UP_ORIGINAL, may_decline

_LATE_RETRY_MS = 200


class Reversals:
    """Takes terminals' reversals; `freed` is called when a lane may go on."""

    def __init__(self, work: Work, retries: Retries, batches: Batches, freed: Callable[[Lane], None]) -> None:
        self._work = work
        self._retries = retries
        self._batches = batches
        self._freed = freed
        self._locating = Locating(work, batches, undoes, self.arrive)

    def arrive(self, terminal_token: int, request: Request) -> None:
        """A terminal's reversal: always taken (D15)."""
        work = self._work
        if self._retries.settled_at_the_door(terminal_token, request):
            return
        run = Run(
            transaction=self._row(request),
            lane=work.lanes.of(request.lane),
            message=stored_message(request),
            sensitive={},
            request=request,
            waiting=[terminal_token],
            writing=True,
        )
        work.begin(run)
        work.counts["reversals"] += 1
        work.lanes.take_turn(run.lane, partial(self._look, run, request))

    def locate(self, terminal_token: int, request: Request) -> None:
        """A reversal that names no batch arrives when it is known which one it means."""
        self._locating.locate(terminal_token, request)

    def _row(self, request: Request) -> Transaction:
        row = new_transaction(request, State.APPROVED, self._work.utc_ms)
        row.response, row.reason = "00", TERMINAL_REVERSAL
        return row

    def _live(self, request: Request) -> list[Run]:
        """What is under way now under the keys of the original."""
        work = self._work
        live = []
        for key in request.original_keys:
            if (run := work.running.get(key)) is not None:
                live.append(run)
            if (run := work.replaying.get(key)) is not None and within_horizon(run.transaction, request, work.utc_ms):
                live.append(run)
        for key in request.keys_beside:
            runs = (work.running.get(key), work.replaying.get(key))
            live += [run for run in runs if run and sent_as_named(request, run.stored, work.utc_ms)]
        return live

    def _look(self, run: Run, request: Request) -> None:
        live = self._live(request)
        meant = [each for each in live if same_business(request, each.message) and undoes(request, each.transaction)]
        if meant:
            self._undo_live(run, request, meant[0])
        else:
            keys = (request.key, *request.original_keys, *request.keys_beside)
            if request.original_id:
                keys = (request.key,)  # the original is read by its id, for its key may be a newer one's by now (D1)
            self._work.find(keys, request.horizon_ms, partial(self._found, run, request, live))

    def _undo_live(self, run: Run, request: Request, live: Run) -> None:
        if live.writing:
            # Its row is with the journal: see what it is afterwards. A retry of the reversal itself joins this run.
            live.deferred.append(partial(self._look, run, request))
        else:
            self._undo(run, request, live.transaction, live)

    def _found(self, run: Run, request: Request, live_before: list[Run], event: Found) -> None:
        own, *found = event.results
        named = len(request.original_keys)
        originals, beside = found[:named], found[named:]
        if not isinstance(own, Lookup):
            self._retries.answer_existing(run.waiting, request, own)
            self._forget(run, None)
        elif own is Lookup.DAMAGED or Lookup.DAMAGED in originals:
            self._retries.answer_existing(run.waiting, request, None)
            self._forget(run, None)
        elif request.original_id:
            self._work.load(request.original_id, partial(self._loaded, run, request, live_before))
        elif not _all_still_live(live_before, live := self._live(request)):
            self._look(run, request)  # what has ended since may have written after it was read
        else:
            known = [stored for stored in originals if not isinstance(stored, Lookup)]
            utc_ms = self._work.utc_ms
            known += [
                stored for stored in beside if not isinstance(stored, Lookup) and sent_as_named(request, stored, utc_ms)
            ]
            self._choose(run, request, live, known)

    def _loaded(self, run: Run, request: Request, live_before: list[Run], event: Found) -> None:
        original = event.results[0]
        if isinstance(original, Lookup):  # its listener has read it: it is there
            self._retries.answer_existing(run.waiting, request, None)
            self._forget(run, None)
        elif not _all_still_live(live_before, live := self._live(request)):
            self._look(run, request)
        else:
            self._choose(run, request, live, [original])

    def _choose(self, run: Run, request: Request, live: list[Run], known: list[Stored]) -> None:
        """Undo what is meant of all that has one of the keys, under way or not."""
        # A STAN may stand for an authorisation and for a sale: the one of the same business first (D12).
        originals = [*(each.stored for each in live), *known]
        originals.sort(key=lambda stored: not same_business(request, stored.request))
        meant = next((found.transaction for found in originals if undoes(request, found.transaction)), None)
        if not originals:
            self._keep_unknown(run, request)
        elif meant is None:
            # Another card or amount than the transactions under this key: a STAN used again (D2).
            self._retries.reused(run.waiting, request)
            self._forget(run, None)
        else:
            # What is under way changes its row itself; it has no id yet while its first write is with the journal.
            same = (each for each in live if each.transaction.key == meant.key)
            under_way = next((each for each in same if each.transaction.id in (0, meant.id)), None)
            if under_way is None:
                self._undo(run, request, meant, None)
            else:
                self._undo_live(run, request, under_way)

    def _undo(self, run: Run, request: Request, known: Transaction, live: Run | None) -> None:
        """Take the reversal of an original that we know (D15); `live` is its run, where it is under way."""
        if live is None and request.rules.settles:  # the lane is held: nobody changes it while its batch is looked up
            self._batches.look_closing(known.key, partial(self._undo_in_batch, run, request, known))
        else:
            self._batches.note_late(request, known.key)
            self._undo_now(run, request, known, live)

    def _undo_in_batch(self, run: Run, request: Request, known: Transaction, closing: Stored | Lookup) -> None:
        self._batches.tell_late(known.key, closing)
        closed = closing is not Lookup.ABSENT and self._work.host.settles
        self._undo_now(run, request, known, None, BATCH_CLOSED if closed else "")

    def _undo_now(
        self, run: Run, request: Request, known: Transaction, live: Run | None, known_before: str = ""
    ) -> None:
        work = self._work
        with_alias(run.transaction, request)
        run.transaction.original = known.id
        answer = self._local(request, "00")
        run.answer = answer
        another = _may_be_another(known)
        state = State.PARKED if another else after_reversal(known.state, known.attempts, known.resume)
        own = Create(EntryKind.TAKEN, run.transaction, run.message, {}, answer, (), request.horizon_ms)
        changes: list[Change] = [own]
        changed: Transaction | None = None
        if another and known.resume is State.STORED:
            # A person looks first: what they release goes upstream as an advice, and its reversal behind it.
            changed = known.evolved(
                work.utc_ms,
                State.PARKED,
                resume=State.STORED_CANCELLED,
                reason=f"{known.reason.partition(PARKED_FROM)[0]}{PARKED_FROM}{reversal_reason(request)}",
            )
            changes.append(Update(EntryKind.TAKEN, changed))
        elif state is not known.state:
            # A reversal that was sent before it was parked is repeated as it was (D8, D9).
            newly_owed = state is State.REVERSING and known.resume is not State.REVERSING
            again = state is State.REVERSING and not newly_owed
            changed = known.evolved(
                work.utc_ms,
                state,
                reason=_taken_again(known.reason) if again else f"{reversal_reason(request)}{known_before}",
                # Reversal and newer sales go upstream in the order in which they were accepted (D14, INV-4).
                position=-1 if newly_owed else known.position,
                attempts=0 if newly_owed else min(known.attempts, 1) if again else known.attempts,
                not_before_ms=work.not_before_ms(run.lane, known.id, work.settings.longest_flight_ms)
                if known.state is State.PARKED
                else 0,
                exposed=known.exposed and state is State.STORED_CANCELLED,
                resume=None,
            )
            kind = EntryKind.CANCELLED if state is State.CANCELLED else EntryKind.TAKEN
            changes.append(Update(kind, changed, release=() if changed.exposed else counters_of(known)))
        if live is not None:
            live.writing = True
        work.write(tuple(changes), partial(self._taken, run, request, live, changed))

    def _taken(
        self, run: Run, request: Request, live: Run | None, changed: Transaction | None, event: WriteResult
    ) -> None:
        work = self._work
        if isinstance(event, Committed):
            # Durable: a crash from here on leaves the original cancelled, or its reversal owed (D15).
            if live is not None and changed is not None:
                live.transaction = changed
            if changed is not None:
                work.counts[f"reversed.{changed.state.name.lower()}"] += 1
                if changed.state in REPLAYABLE:
                    run.lane.owes_more(in_order=False)
            self._forget(run, run.answer)
        elif isinstance(event, Existing):
            self._retries.answer_existing(run.waiting, request, event.stored)
            self._forget(run, None)
        else:
            work.no_room()
            self._forget(run, self._local(request, "96"))
        if live is not None:
            live.writing = False
            work.go_on(live)

    def _keep_unknown(self, run: Run, request: Request) -> None:
        """The original is unknown to us: keep the reversal in its place and forward it (D15).

        Where the reversal does not say of which class its original is, or of which batch, its other keys are taken as
        well, with nothing owed: whichever it is, it must not be booked when it comes.
        """
        original_key = request.original_keys[0]
        placeholder = replace(
            new_transaction(request, State.REVERSING, self._work.utc_ms),
            key=original_key,
            kind=Kind.UNSEEN,
            stan=original_key.rpartition("|")[2],
            fingerprint=b"",
            reason="terminal.reversal-of-unknown",
        )
        answer = self._local(request, "00")
        run.answer = answer
        run.transaction.original = -1
        barred = [
            replace(placeholder, key=key, state=State.CANCELLED)
            for key in request.original_keys[1:]
            if request.batch_unknown or _but_class(key) == _but_class(original_key)
        ]
        horizon_ms = request.horizon_ms
        changes = (
            Create(EntryKind.TAKEN, placeholder, run.message, {}, None, (), horizon_ms),
            Create(EntryKind.TAKEN, run.transaction, run.message, {}, answer, (), horizon_ms),
            *(Create(EntryKind.TAKEN, row, run.message, {}, None, (), horizon_ms) for row in barred),
        )
        self._work.write(changes, partial(self._kept, run, request))

    def _kept(self, run: Run, request: Request, event: WriteResult) -> None:
        if isinstance(event, Existing) and event.stored and event.stored.transaction.key != request.key:
            self._look(run, request)  # the original was stored in between
            return
        if isinstance(event, Committed):
            self._work.counts["reversed.unknown"] += 1
            run.lane.owes_more(in_order=False)
        self._taken(run, request, None, None, event)

    def _forget(self, run: Run, answer: Answer | None) -> None:
        assert run.request is not None
        if answer is not None:
            for terminal_token in run.waiting:
                self._work.reply(terminal_token, answer)
        self._work.end(run)
        run.writing = False
        self._end_turn(run.lane)
        self._work.go_on(run)

    def _end_turn(self, lane: Lane) -> None:
        self._work.lanes.end_turn(lane)
        self._freed(lane)

    def _local(self, request: Request, code: str) -> Answer:
        return local_answer(request.mti, request.fields, code, request.rules, self._work.utc_ms)

    # Late answers (D16)

    def answered_late(self, event: LateAnswered) -> None:
        """An answer after its time: recorded, and never forwarded to a terminal that has one already."""
        work = self._work
        work.counts["late-answers"] += 1
        sent = work.unanswered.pop(event.token, None)
        if sent is not None:
            lane = work.lanes.of(sent.lane)
            work.lanes.take_turn(lane, partial(self._look_late, event, sent, lane))

    def _look_late(self, event: LateAnswered, sent: Sent, lane: Lane) -> None:
        work = self._work
        if work.under_way(sent.key):
            # What runs changes the row itself: let it end, and see.
            self._end_turn(lane)
            work.after(_LATE_RETRY_MS, partial(self._late_again, event, sent))
            return
        work.find((sent.key,), sent.horizon_ms, partial(self._late_found, event, sent, lane))

    def _late_again(self, event: LateAnswered, sent: Sent) -> None:
        lane = self._work.lanes.of(sent.lane)
        self._work.lanes.take_turn(lane, partial(self._look_late, event, sent, lane))

    def _late_found(self, event: LateAnswered, sent: Sent, lane: Lane, found: Found) -> None:
        work = self._work
        result = found.results[0]
        if isinstance(result, Lookup):
            self._end_turn(lane)
            return
        before = result.transaction
        code = event.fields.get(39, "")
        approved = code in work.host.approved_codes
        declined = may_decline(code) and not approved and code not in DEBIT_LEFT_OPEN and not sent.repeated
        state = after_late_answer(before, approved=approved, declined=declined)
        if approved and before.state is not State.APPROVED:
            parked = before.state is State.PARKED
            becomes = "it is parked, and a person decides" if parked else "it is reversed all the same"
            work.alarm(
                Severity.NOTICE, "late-approval", f"an approval came too late; {becomes}",
                key=before.key,
            )  # fmt: skip
        owed_again = state is State.REVERSING and before.state is not State.REVERSING
        # A reversal that has been sent is repeated as it was (D8): field 38 stays as the first one had it.
        learns = approved and before.attempts == 0
        refused = owed_again and before.state is State.REVERSED
        unheard = approved and before.attempts > 0 and _may_have_sent_reversal(before)
        after = before.evolved(
            work.utc_ms,
            state,
            approval=event.fields.get(38, "") if learns else before.approval,
            booked=before.booked or approved,
            reason=_refused(before.reason) if refused else _sent_before(before) if unheard else before.reason,
            position=-1 if owed_again else before.position,
            attempts=0 if before.state is State.DECLINED else before.attempts,  # those were of the request (D7)
            exposed=before.exposed and not owed_again,
        )
        change = Update(
            EntryKind.LATE_ANSWER,
            after,
            release=counters_of(before) if owed_again else (),
            detail=f"answered {code} after its time",
        )
        work.write((change,), lambda _: self._late_recorded(lane, after))

    def _late_recorded(self, lane: Lane, after: Transaction) -> None:
        if after.state is State.REVERSING:
            lane.owes_more(in_order=False)
        elif lane.blocked_by == "D13":
            # Where it is this one that is not owed any more, its lane goes on; another one's wait is found again.
            lane.blocked_until_ms, lane.blocked_by = 0, ""
        self._end_turn(lane)


def _refused(reason: str) -> str:
    """The reason of a reversal that is owed again, and behind it what the acquirer said to it before."""
    said, _, owed_for = reason.partition(PARKED_FROM)
    return f"{owed_for}{PARKED_FROM}{said}" if owed_for else reason


def _taken_again(reason: str) -> str:
    """The reason of a reversal that was parked, and that its terminal asks for once more: nobody has looked since."""
    said, _, owed_for = reason.partition(PARKED_FROM)
    return _refused(reason) if said.startswith("answer.code-") and PARKED_FROM not in owed_for else owed_for


def _unheard(reason: str) -> str:
    """The reason of a reversal that had been sent, with no answer, when the acquirer said that it had approved."""
    return reason if PARKED_FROM in reason else f"{reason}{PARKED_FROM}answer.none"


def _sent_before(before: Transaction) -> str:
    """The same, whether the reversal is owed or was parked meanwhile: a release gives back what stands behind that."""
    said, _, owed_for = before.reason.partition(PARKED_FROM)
    return f"{said}{PARKED_FROM}{_unheard(owed_for)}" if before.state is State.PARKED else _unheard(before.reason)


def _may_have_sent_reversal(before: Transaction) -> bool:
    """Whether its attempts are those of a reversal: owed, given up, or ended by a person."""
    return State.REVERSING in {before.state, before.resume} or before.state is State.CANCELLED


def after_late_answer(before: Transaction, *, approved: bool, declined: bool) -> State:
    """What an answer that came too late makes of its request (D16).

    A decline that proves that nothing was debited ends a reversal that is still unsent. An approval is reversed all
    the same; also where the acquirer had said that it did not know the original, because the reversal may have
    overtaken it (D13), and where a person or a late decline had ended the matter as never booked.
    """
    state = before.state
    if declined and state is State.REVERSING and before.attempts == 0:
        return State.DECLINED
    if approved and (
        state in {State.DECLINED, State.CANCELLED}
        or (state is State.REVERSED and before.reason.partition(PARKED_FROM)[0] in {"answer.code-12", "answer.code-25"})
    ):
        return State.REVERSING
    return state


def _may_be_another(known: Transaction) -> bool:
    """Whether it is parked because the acquirer knows its STAN, and had never been sent its advice (D4).

    A reversal under that STAN could undo the other transaction, so that none is sent before a person has looked.
    """
    said = known.reason.partition(PARKED_FROM)[0]
    advised = known.resume in {State.STORED, State.STORED_CANCELLED}
    return known.state is State.PARKED and advised and said.removeprefix("answer.code-") in LOOK_UP_ORIGINAL


def same_business(request: Request, original: StoredMessage) -> bool:
    """Whether field 3 of a reversal and of an original agree, as far as both have it (D12)."""
    return request.fields.get(3, "") in ("", original.fields.get(3, ""))


def reversal_reason(request: Request) -> str:
    """The reason that a reversed original has: by its terminal, and with the code that the terminal gave (D12)."""
    code = stated_reason(request.fields)
    return f"{TERMINAL_REVERSAL}-{code}" if code else TERMINAL_REVERSAL


def sent_as_named(request: Request, original: Stored, utc_ms: int) -> bool:
    """Whether what was found under another day's key, or under none, is the one that a reversal names in field 90.

    By its field 7 (or that of a repeat behind midnight, which may have one of its own), or where it has none, because
    it was taken a moment ago. Another day's transaction of the same STAN
    is not meant; one without a date is, within the horizon in which a retry would mean it (D1).
    """
    named = request.fields.get(90, "")[10:20]
    if sent := original.request.fields.get(7, ""):
        return sent == named or _moments_later(sent, named, utc_ms)
    undated = original.transaction.key.startswith("H|")
    within_ms = request.rules.horizon_hours * 3_600_000 if undated else BEHIND_MIDNIGHT_MS
    return abs(utc_ms - original.transaction.accepted_ms) <= within_ms


def _moments_later(sent: str, named: str, utc_ms: int) -> bool:
    """Whether the second field 7 is of a few minutes behind the first, and of the next day. Neither has a year."""
    year = datetime.fromtimestamp(utc_ms / 1000, UTC).year
    try:
        first, second = (
            datetime.strptime(f"{year:04}{text}", "%Y%m%d%H%M%S").replace(tzinfo=UTC) for text in (sent, named)
        )
        later = (second if first <= second else second.replace(year=year + 1)) - first
    except ValueError:  # no date, or none of these years
        return False
    return sent[:4] != named[:4] and later <= timedelta(milliseconds=BEHIND_MIDNIGHT_MS)


def undoes(request: Request, known: Transaction) -> bool:
    """Whether a reversal can mean this original: the one that it names, or the same amount and card, as far as said."""
    if request.original_id and known.id != request.original_id:
        return False
    if known.kind is Kind.UNSEEN:
        return True
    if 4 in request.fields and known.amount_minor != request.amount_minor:
        return False
    return not (request.card and known.card) or hmac.compare_digest(request.card, known.card)


def _all_still_live(before: list[Run], now: list[Run]) -> bool:
    return all(any(run is each for each in now) for run in before)


def _but_class(key: str) -> tuple[str, ...]:
    period, merchant, terminal, _, stan = key.split("|")
    return period, merchant, terminal, stan
