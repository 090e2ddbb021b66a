"""What operators do, and what they are told about why a transaction waits (D18)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.core.batches import Batches
from gateway.core.effects import Update
from gateway.core.events import Commanded, Found, Lookup, OperatorAct
from gateway.core.lanes import Lane
from gateway.core.lifecycle import FINAL, REPLAYABLE, EntryKind, State, named
from gateway.core.link import LinkState
from gateway.core.replay import Replay
from gateway.core.standin import counters_of
from gateway.core.transaction import BATCH_CLOSED, PARKED_FROM, Kind, Stored, Transaction
from gateway.core.work import Work
from protocol.response_codes import may_decline

_SETTLING = frozenset({Kind.SETTLEMENT, Kind.UPLOAD})
_ADVISED = frozenset({State.STORED, State.STORED_CANCELLED})

_ANOTHER_AT_HOST = (
    "the acquirer may hold another transaction under this STAN, and a reversal would undo that one: ask the acquirer, "
    "then void it here if this very sale is booked, else cancel it"
)


@dataclass(slots=True, frozen=True)
class Explained:
    """Why a transaction is where it is.

    Attributes:
        blocked_by: what it waits for, in words; empty when nothing blocks it.
        rule: the D-rule that says so; empty where none applies.
        next_try_in_ms: when it is tried next, as far as that is known; None where it depends on something else.
    """

    blocked_by: str
    rule: str
    next_try_in_ms: int | None


class Steering:
    """Operators' acts on parked and stored transactions."""

    def __init__(self, work: Work, replay: Replay, batches: Batches, freed: Callable[[Lane], None]) -> None:
        self._work = work
        self._replay = replay
        self._batches = batches
        self._freed = freed

    def command(self, event: Commanded) -> None:
        """Carry out an act on a transaction; maintenance is the engine's."""
        self._work.load(event.id, partial(self._located, event))

    def _located(self, event: Commanded, found: Found) -> None:
        """Its lane is known now: take a turn in it, and read the row again."""
        result = found.results[0]
        if isinstance(result, Lookup):
            text = (
                f"there is no transaction {event.id}"
                if result is Lookup.ABSENT
                else f"record {event.id} is damaged, or its key was destroyed"
            )
            self._work.reply_operator(event.operator_token, done=False, text=text)
            return
        lane = self._work.lanes.of(result.transaction.lane)
        self._work.lanes.take_turn(lane, partial(self._begin, event, result.transaction.key, lane))

    def _begin(self, event: Commanded, key: str, lane: Lane) -> None:
        if self._work.under_way(key):
            self._refuse(event, lane, "it is being sent at this moment; ask again when that is over")
        else:
            self._work.load(event.id, partial(self._loaded, event, lane))

    def _loaded(self, event: Commanded, lane: Lane, found: Found) -> None:
        result = found.results[0]
        if isinstance(result, Lookup):
            self._refuse(event, lane, f"record {event.id} is damaged, or its key was destroyed")
            return
        transaction = result.transaction
        if event.act is OperatorAct.RELEASE and transaction.state in REPLAYABLE:
            after = transaction.evolved(self._work.utc_ms, transaction.state)
            change = Update(EntryKind.OPERATOR, after, detail=_act(event))
            self._work.write((change,), lambda _: self._hastened(event, lane))
            return
        state, refused = next_state(event.act, transaction)
        if state is None:
            self._refuse(event, lane, refused)
        elif self._work.host.settles and transaction.kind not in _SETTLING:
            then = partial(self._change, event, transaction, state, lane)
            self._batches.look_closing(transaction.key, then)
        else:
            self._change(event, transaction, state, lane, Lookup.ABSENT)

    def _hastened(self, event: Commanded, lane: Lane) -> None:
        if lane.blocked_by != "D13":
            lane.blocked_until_ms, lane.blocked_by = 0, ""
        lane.owes_more(in_order=False)
        self._work.counts["operator.release"] += 1
        self._work.reply_operator(
            event.operator_token, done=True, text="it is tried as soon as its lane and the link allow"
        )
        self._end_turn(lane)

    def _refuse(self, event: Commanded, lane: Lane, text: str) -> None:
        self._work.reply_operator(event.operator_token, done=False, text=text)
        self._end_turn(lane)

    def _end_turn(self, lane: Lane) -> None:
        self._work.lanes.end_turn(lane)
        self._freed(lane)

    def _change(
        self, event: Commanded, before: Transaction, state: State, lane: Lane, closing: Stored | Lookup
    ) -> None:
        """Record what the act makes of it.

        Args:
            closing: what has closed its batch, where the acquirer settles batches.
        """
        work = self._work
        reversing_anew = state is State.REVERSING and before.resume is not State.REVERSING
        attempts = 0 if reversing_anew else before.attempts
        if before.state is State.PARKED:  # what waits keeps them, and what is known of each
            attempts = min(attempts, 1)
            lane.forget_attempts(before.id)
        keeps_exposure = before.exposed and state in _ADVISED
        reason = f"operator.{event.act.value}"
        if event.act is OperatorAct.RELEASE or (state is State.REVERSING and not reversing_anew):
            said, _, owed_for = before.reason.partition(PARKED_FROM)
            if said.startswith("answer.code-"):  # somebody has looked at that: what was refused before it is forgotten
                owed_for = owed_for.partition(PARKED_FROM)[0]
            reason = owed_for or reason
        elif reversing_anew and closing is not Lookup.ABSENT:
            reason += BATCH_CLOSED
        behind_settlement = state in _ADVISED and _is_being_settled(closing)
        after = before.evolved(
            work.utc_ms, state, reason=reason, resume=None, attempts=attempts,
            exposed=keeps_exposure, position=-1 if reversing_anew or behind_settlement else before.position,
            not_before_ms=work.not_before_ms(lane, before.id, work.settings.longest_flight_ms)
            if reversing_anew and before.state is State.PARKED
            else 0,
        )  # fmt: skip
        change = Update(
            EntryKind.OPERATOR,
            after,
            release=() if keeps_exposure else counters_of(before),
            detail=_act(event),
        )
        if state in _ADVISED:
            self._batches.tell_late(before.key, closing)
        warned = _may_be_booked(event.act, before)
        work.write((change,), lambda _: self._changed(event, after, lane, warned))

    def _changed(self, event: Commanded, after: Transaction, lane: Lane, warned: str) -> None:
        work = self._work
        work.counts[f"operator.{event.act.value}"] += 1
        if after.state in REPLAYABLE:
            lane.owes_more(in_order=False)
        work.reply_operator(
            event.operator_token, done=True, text=f"transaction {after.id} is now {named(after.state)}{warned}"
        )
        self._end_turn(lane)

    def explain(self, transaction: Transaction) -> Explained:
        """Say what blocks a transaction, by which rule, and when it is tried next."""
        work, link = self._work, self._work.link
        if transaction.state in FINAL:
            return Explained("nothing: it is settled", "", None)
        if transaction.state is State.PARKED:
            return Explained(f"a person's decision ({transaction.reason.partition(PARKED_FROM)[0]})", "D18", None)
        if transaction.state not in REPLAYABLE:
            return Explained("the acquirer's answer, or its time limit", "D7", None)
        if link.state is LinkState.MAINTENANCE:
            return Explained("the link is closed for maintenance", "D19", None)
        if not link.usable:
            probe = link.probe_due_ms()
            wait = None if probe is None else max(0, probe - work.mono_ms)
            return Explained("the acquirer is away; it is tried after the next answered probe", "D19", wait)
        lane = work.lanes.get(transaction.lane)
        if lane is None:
            return Explained("", "", 0)
        head = self._replay.head_of(lane)
        if head is not None and head.transaction.id != transaction.id:
            return Explained(f"transaction {head.transaction.id} is before it in its lane", "D14", None)
        if lane.busy is not None:
            return Explained("it is being sent now" if head else "its lane has a request in flight", "D14", None)
        if lane.blocked_until_ms:
            why = (
                "its original may still be on its way" if lane.blocked_by == "D13" else "it failed before and backs off"
            )
            return Explained(why, lane.blocked_by[:3].strip(), max(0, lane.blocked_until_ms - work.mono_ms))
        if self._replay.active >= link.window:
            return Explained(f"the window after the outage ({link.window} lanes at once) is full", "D19", None)
        if (at_ms := self._replay.rate_wakeup_ms()) is not None:
            return Explained("the rate limit", "D19", max(0, at_ms - work.mono_ms))
        return Explained("", "", 0)


def _is_being_settled(closing: Stored | Lookup) -> bool:
    """Whether the totals of a batch have been sent and not answered: what would change them waits behind (D8, D14)."""
    if isinstance(closing, Lookup):
        return False
    return closing.transaction.state is State.STORED and closing.transaction.attempts > 0


def _act(event: Commanded) -> str:
    """What the entry of an act says: what was done, by whom, and why."""
    return f"{event.act.value} by {event.who}: {event.why}"


def _may_be_booked(act: OperatorAct, before: Transaction) -> str:
    """What a person has to see to who ends what may be booked upstream: nobody else will ask for it."""
    if act is not OperatorAct.CANCEL or before.state is not State.PARKED:
        return ""
    if before.resume in {State.REVERSING, State.STORED_CANCELLED}:
        return "; no reversal is sent any more: where the acquirer has booked the sale, have it undone there by hand"
    if before.resume is not State.STORED or before.kind is Kind.SETTLEMENT:
        return ""
    if before.booked:
        return "; the acquirer has said that it has booked it: have it undone there by hand"
    said = before.reason.partition(PARKED_FROM)[0]
    # A decline of the only one that was sent is the one proof that nothing is booked.
    if before.attempts > 1 or not (said == "replay.unencodable" or may_decline(said.removeprefix("answer.code-"))):
        times = "once" if before.attempts == 1 else f"{before.attempts} times"
        return f"; its advice was sent {times} and may be booked: where the acquirer has it, have it undone by hand"
    return ""


def next_state(act: OperatorAct, transaction: Transaction) -> tuple[State | None, str]:
    """What an operator's act makes of a transaction, or why it may not (D18)."""
    state, tried = transaction.state, transaction.attempts > 0
    if transaction.kind is Kind.REVERSAL:
        return None, f"it is a terminal's reversal of transaction {transaction.original}: act on that one"
    if transaction.kind is Kind.SETTLEMENT and act is OperatorAct.VOID:
        return None, "it settles a batch, there is nothing to void: release it (settle with the acquirer) or cancel it"
    if transaction.kind is Kind.UPLOAD and act is OperatorAct.VOID:
        return None, "it is a terminal's upload of its batch, there is nothing to void"
    if act is OperatorAct.RELEASE:
        if state is State.PARKED and transaction.resume is State.CANCELLED:
            return None, _ANOTHER_AT_HOST
        if state is State.PARKED:
            return transaction.resume or State.REVERSING, ""
        return None, f"only a parked or waiting transaction can be released; this one is {named(state)}"
    if act is OperatorAct.CANCEL:
        if state is State.PARKED or (state is State.STORED and not tried):
            return State.CANCELLED, ""
        if state is State.STORED:
            return None, "its advice has been sent and may be booked: void it instead, or wait"
        return None, f"a transaction that is {named(state)} cannot be cancelled"
    if act is OperatorAct.VOID:
        if state is State.STORED and not tried:
            return State.CANCELLED, ""
        if state is State.STORED:
            return State.STORED_CANCELLED, ""
        if state in {State.PARKED, State.APPROVED}:
            return State.REVERSING, ""
        return None, f"a transaction that is {named(state)} has nothing to void"
    return None, "this act is not about a transaction"
