"""Which rule decided, by what an entry says: one table, in the order in which it is read; the first that fits counts.

An entry has its kind, the state that it leaves, and a reason (core/standin.py, requests.py, replay.py, reversals.py,
settlement.py, steering.py). The D-numbers are those of the domain's rules that the core cites.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import PARKED_FROM

_K = EntryKind
_S = State


class Decision(NamedTuple):
    """What decided. `rule` is the D-number, or several; empty where none is needed."""

    rule: str
    words: str


class _Case(NamedTuple):
    kind: EntryKind
    state: State | None
    reason: str
    rule: str
    words: str


_CASES: Final[tuple[_Case, ...]] = (
    # core/requests.py
    _Case(_K.ACCEPTED, None, "", "D5", "committed before the first byte left; asked upstream"),
    _Case(_K.STOOD_IN, None, "", "D21", "approved offline: the policy allows it, and it is owed upstream as an advice"),
    _Case(_K.REFUSED, None, "settlement.", "response code 95", "the terminal's totals differ from the journal's"),
    _Case(_K.REFUSED, None, "request.unencodable", "D21", "refused: its advice could not be encoded for the acquirer"),
    _Case(_K.REFUSED, None, "standin.", "D21", "refused by the stand-in policy, never sent"),
    _Case(_K.NOT_SENT, _S.STORED, "", "D6, D21", "no byte had left: approved offline, owed as an advice"),
    _Case(_K.NOT_SENT, _S.DECLINED, "standin.", "D6, D21", "no byte had left, and the stand-in policy refuses"),
    _Case(_K.NOT_SENT, _S.DECLINED, "", "D6", "no byte had left: it could not be encoded"),
    _Case(_K.UNANSWERED, None, "", "D7, D11", "no outcome in time: the terminal is told no, and the reversal is owed"),
    # reversals
    _Case(_K.TAKEN, _S.ASKING_CANCELLED, "", "D15", "its terminal reversed it while it was asked"),
    _Case(_K.TAKEN, _S.STORED_CANCELLED, "", "D15", "its terminal reversed it: the advice was tried, so it goes first"),
    _Case(_K.TAKEN, _S.PARKED, "", "D15, D4", "its terminal reversed it: its STAN may be another's, a person looks"),
    _Case(_K.TAKEN, _S.REVERSING, "terminal.reversal-of-unknown", "D15", "stands for the unknown original"),
    _Case(_K.TAKEN, _S.CANCELLED, "terminal.reversal-of-unknown", "D15", "barred: its reversal came first"),
    _Case(_K.TAKEN, _S.APPROVED, "terminal.reversal", "D15", "a terminal's reversal, durably taken"),
    _Case(_K.TAKEN, _S.REVERSING, "", "D15, D14", "its terminal reversed it: the reversal is owed, in lane order"),
    _Case(_K.TAKEN, None, "terminal.advice", "D18", "a terminal's advice tells of what has happened: durably taken"),
    _Case(_K.TAKEN, None, "settlement.detail", "response code 95", "details of a terminal's batch, kept"),
    _Case(_K.TAKEN, None, "settlement.", "response code 95", "the batch is closed: the totals agree"),
    _Case(_K.CANCELLED, None, "", "D15", "original and reversal met before anything was sent"),
    # replay
    _Case(_K.SENDING, _S.ASKING, "", "D7", "asked once more, where the profile allows repeats"),
    _Case(_K.SENDING, _S.REVERSING, "", "D13, D9", "the reversal is about to be sent; the next send is a repeat"),
    _Case(_K.SENDING, None, "", "D8, D9", "the advice is about to be sent; the next send is a repeat"),
    _Case(_K.ANSWERED, _S.REVERSED, "", "D13", "the acquirer took the reversal, or had nothing to reverse"),
    _Case(_K.ANSWERED, _S.APPROVED, "answer.approved", "D5", "the acquirer approved; told once that was durable"),
    _Case(_K.ANSWERED, _S.APPROVED, "", "D18", "the acquirer took the advice"),
    _Case(_K.ANSWERED, _S.DECLINED, "", "D5", "the acquirer declined"),
    _Case(_K.ANSWERED, _S.CANCELLED, "", "D15", "the acquirer refused the advice: nothing is left to reverse"),
    _Case(_K.ANSWERED, _S.REVERSING, "answer.mac-wrong", "D11, D12", "the answer's MAC is wrong: it proves nothing"),
    _Case(_K.ANSWERED, _S.REVERSING, "answer.", "D11", "the answer leaves open whether it was booked: it is reversed"),
    _Case(_K.ANSWERED, _S.REVERSING, "terminal.reversal", "D15", "its terminal had reversed it: the reversal is owed"),
    _Case(_K.ANSWERED, _S.REVERSING, "", "D15, D18", "the advice was answered; the reversal is owed now"),
    _Case(_K.LATE_ANSWER, None, "", "D16", "an answer after its time: recorded, not forwarded"),
    # persons
    _Case(
        _K.PARKED, None, "settlement.differs", "D18, response code 95", "the terminal's upload and the journal disagree"
    ),
    _Case(_K.PARKED, None, "answer.code-94", "response code 94", "the acquirer knows this STAN as another transaction"),
    _Case(_K.PARKED, None, "replay.attempts", "D18, D9", "out of attempts: a person decides"),
    _Case(_K.PARKED, None, "replay.unencodable", "D18", "it cannot be encoded for the acquirer: a person decides"),
    _Case(_K.PARKED, None, "", "D18", "refused for good by the acquirer: a person decides"),
    _Case(_K.OPERATOR, None, "", "D18", "a person's act"),
    _Case(_K.RECOVERED, None, "", "D7, D11", "in doubt after a crash: the terminal gets 68, and the reversal is owed"),
    # about no transaction
    _Case(_K.KEY, None, "", "", "a key event"),
    _Case(_K.MAINTENANCE, None, "", "D19", "the link was closed or opened by a person"),
    _Case(_K.DISCLOSED, None, "", "", "one record's part was disclosed"),
    _Case(_K.LOG_BROKEN, None, "", "INV-7", "the log was continued over a break"),
    _Case(_K.DAMAGE_SETTLED, None, "", "", "two people have settled a damaged record"),
)


def decision(kind: int, state: int, reason: str) -> Decision:
    """The rule that led to an entry, in words; an empty one where this release knows none."""
    said = reason.partition(PARKED_FROM)[0]
    for case in _CASES:
        if kind == case.kind and case.state in (None, state) and said.startswith(case.reason):
            return Decision(case.rule, case.words)
    return Decision("", "")
