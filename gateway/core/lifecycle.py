"""The life of a transaction: states, what each owes upstream, and the table of legal changes (D5-D16, D18).

The state of a transaction is one row in the journal, changed only in the same commit as the entry that tells of the
change. What the gateway owes upstream follows from the state alone, so that there is one obligation at most and it is
always durable. The journal's queue is nothing but the rows whose state owes something.

                     answered            +--> APPROVED --(reversal)--> REVERSING --> REVERSED
    (new) --> ASKING ---------------------+--> DECLINED
      |         | not sent --> STORED or DECLINED
      |         | in doubt --> REVERSING
      |
      +--> STORED --taken--> APPROVED      STORED --(reversal, never sent)--> CANCELLED
      |       +--(reversal, once tried)--> STORED_CANCELLED --taken--> REVERSING
      +--> DECLINED (refused here)         any that owes --> PARKED --(a person)--> back, CANCELLED or REVERSING
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """Where a transaction stands. Numbers are stored: never renumber.

    Each comment says who moves it on, and what a crash leaves.
    """

    ASKING = 1  # committed for sending; the answer moves it. After a crash: in doubt, recovery moves it
    ASKING_CANCELLED = 2  # the same, and the terminal has reversed it since
    STORED = 3  # approved offline; replay moves it. After a crash: still owed
    STORED_CANCELLED = 4  # its advice had been tried when the terminal reversed it: advice first, then reversal
    REVERSING = 5  # a reversal is owed; replay moves it. After a crash: still owed
    APPROVED = 6  # final: booked upstream (a terminal's own reversal: durably taken)
    DECLINED = 7  # final: not booked upstream
    REVERSED = 8  # final: nets to zero upstream
    CANCELLED = 9  # final: was never booked upstream, and nothing is owed
    PARKED = 10  # in a person's hands


class Obligation(IntEnum):
    """What the gateway owes upstream for a transaction."""

    NONE = 0
    ANSWER = 1  # an answer to await
    ADVICE = 2
    REVERSAL = 3
    PERSON = 4  # a person's decision


OBLIGATION: dict[State, Obligation] = {
    State.ASKING: Obligation.ANSWER,
    State.ASKING_CANCELLED: Obligation.ANSWER,
    State.STORED: Obligation.ADVICE,
    State.STORED_CANCELLED: Obligation.ADVICE,
    State.REVERSING: Obligation.REVERSAL,
    State.APPROVED: Obligation.NONE,
    State.DECLINED: Obligation.NONE,
    State.REVERSED: Obligation.NONE,
    State.CANCELLED: Obligation.NONE,
    State.PARKED: Obligation.PERSON,
}


def named(value: State | Obligation) -> str:
    """A state or obligation as people write it: stored-cancelled."""
    return value.name.lower().replace("_", "-")


REPLAYABLE = frozenset({State.STORED, State.STORED_CANCELLED, State.REVERSING})
"""States whose obligation is sent in lane order when service returns."""

IN_DOUBT_AFTER_CRASH = frozenset({State.ASKING, State.ASKING_CANCELLED})
"""States that recovery must settle before the gateway admits anything."""

FINAL = frozenset({State.APPROVED, State.DECLINED, State.REVERSED, State.CANCELLED})


class EntryKind(IntEnum):
    """What a journal entry tells of. Numbers are stored and hashed: never renumber."""

    ACCEPTED = 1  # a request, committed for sending (D5)
    STOOD_IN = 2  # approved offline by the policy (D21)
    REFUSED = 3  # refused by the policy, never sent
    TAKEN = 4  # a terminal's advice or reversal, durably taken (D15, D18)
    SENDING = 5  # an advice or reversal is about to be sent (D9)
    ANSWERED = 6  # the acquirer answered; the outcome is this entry's state
    UNANSWERED = 7  # no outcome in time: the obligation is in the state (D11)
    NOT_SENT = 8  # no byte left; stood in or refused instead (D6)
    LATE_ANSWER = 9  # an answer after its time (D16)
    CANCELLED = 10  # original and reversal met before anything was sent (D15)
    PARKED = 11  # handed to a person (D18)
    OPERATOR = 12  # a person's act: who and why are in the detail
    RECOVERED = 13  # settled by the recovery table after a crash
    KEY = 14  # a key was created, activated, retired, destroyed or wrapped anew: which, by whom and why, in the detail
    MAINTENANCE = 15  # a maintenance window was opened or closed: by whom and why, in the detail
    DISCLOSED = 16  # one record's part was opened to an auditor: which, by whom, approved by whom, in the detail
    LOG_BROKEN = 17  # the log was continued over a break: by whom and why, in the detail
    DAMAGE_SETTLED = 18  # two people have settled a damaged record: which, what was wrong, who and why, in the detail


ABOUT_NO_TRANSACTION = frozenset(
    {EntryKind.KEY, EntryKind.MAINTENANCE, EntryKind.DISCLOSED, EntryKind.LOG_BROKEN, EntryKind.DAMAGE_SETTLED}
)
"""Kinds of entries that belong to no transaction: their state and transaction are 0."""


_AFTER_REVERSAL: dict[State, State] = {
    State.ASKING: State.ASKING_CANCELLED,
    State.APPROVED: State.REVERSING,
    State.PARKED: State.REVERSING,
}
"""What a terminal's reversal makes of its original. States that are not here stay as they are: they are undone
already, or were never booked (D15)."""


def after_reversal(state: State, attempts: int, resume: State | None = None) -> State:
    """The original's state once its reversal is durably taken (D15).

    Args:
        state: of the original.
        attempts: sends of its advice so far; one that was never sent is cancelled without a word upstream.
        resume: of a parked one. CANCELLED says that its key may be another transaction's at the host: a reversal under
            it could undo that one, so that none is sent before a person has looked.
    """
    if state is State.PARKED and resume is State.CANCELLED:
        return State.PARKED
    if state is State.STORED:
        return State.STORED_CANCELLED if attempts else State.CANCELLED
    return _AFTER_REVERSAL.get(state, state)


def after_crash(state: State) -> State:
    """The recovery table: what a transaction's state becomes at start-up.

    A request that was committed for sending is in doubt whether or not a byte had left, because nobody can know any
    more: it is reversed (D7). What was owed before is owed after.
    """
    return State.REVERSING if state in IN_DOUBT_AFTER_CRASH else state
