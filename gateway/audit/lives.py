"""Which changes of a transaction's state an entry may tell of, as one table over the core's rules (core/lifecycle.py).

A row says: an entry of this kind may find the transaction in one of these states and leave it in one of those. `NEW` is
a transaction that has no entry yet. What is not in the table no release of the gateway ever writes.

    ACCEPTED    NEW -> ASKING                                            D5, asked upstream
    STOOD_IN    NEW -> STORED                                            D21
    REFUSED     NEW -> DECLINED                                          D21; a settlement whose totals differ
    TAKEN       NEW -> STORED, APPROVED, REVERSING, CANCELLED            D18, D15; a batch closed
                ASKING -> ASKING_CANCELLED                               D15, the terminal's reversal meets its original
                APPROVED, PARKED -> REVERSING                            D15
                STORED -> STORED_CANCELLED                               D15, its advice had been tried
                PARKED stays                                             D15, its STAN may be another's (code 94)
    SENDING     what is owed stays owed; ASKING stays                    D9, D7
    ANSWERED    ASKING -> APPROVED, DECLINED, REVERSING                  D11
                ASKING_CANCELLED -> DECLINED, REVERSING                  D15, D11
                STORED -> APPROVED                                       D18
                STORED_CANCELLED -> REVERSING, CANCELLED                 D15
                REVERSING -> REVERSED                                    D13
    UNANSWERED  ASKING, ASKING_CANCELLED -> REVERSING                    D7, D11
    NOT_SENT    ASKING -> STORED, DECLINED                               D6
    LATE_ANSWER as it is; or REVERSING -> DECLINED; or back to REVERSING D16
    CANCELLED   STORED, ASKING_CANCELLED -> CANCELLED                    D15
    PARKED      NEW, ASKING, ASKING_CANCELLED, and what is owed          D18; settlement and upload disagree; code 94
    OPERATOR    see core/steering.py: next_state; what waits is hastened D18
    RECOVERED   ASKING, ASKING_CANCELLED -> REVERSING                    D7, lifecycle.after_crash
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.core.lifecycle import ABOUT_NO_TRANSACTION, FINAL, REPLAYABLE, EntryKind, State

NEW: Final = 0
"""In the place of a state: no entry has told of the transaction before."""

_S = State
_K = EntryKind
_UNDER_WAY: Final = (_S.ASKING, _S.ASKING_CANCELLED)
_SETTLED: Final = tuple(sorted(FINAL | REPLAYABLE | {_S.PARKED}))
_TABLE: Final[tuple[tuple[EntryKind, tuple[int, ...], tuple[State, ...]], ...]] = (
    (_K.ACCEPTED, (NEW,), (_S.ASKING,)),
    (_K.STOOD_IN, (NEW,), (_S.STORED,)),
    (_K.REFUSED, (NEW,), (_S.DECLINED,)),
    (_K.TAKEN, (NEW,), (_S.STORED, _S.APPROVED, _S.REVERSING, _S.CANCELLED)),
    (_K.TAKEN, (_S.ASKING,), (_S.ASKING_CANCELLED,)),
    (_K.TAKEN, (_S.APPROVED, _S.PARKED), (_S.REVERSING,)),
    (_K.TAKEN, (_S.STORED,), (_S.STORED_CANCELLED,)),
    (_K.ANSWERED, (_S.ASKING,), (_S.APPROVED, _S.DECLINED, _S.REVERSING)),
    (_K.ANSWERED, (_S.ASKING_CANCELLED,), (_S.DECLINED, _S.REVERSING)),
    (_K.ANSWERED, (_S.STORED,), (_S.APPROVED,)),
    (_K.ANSWERED, (_S.STORED_CANCELLED,), (_S.REVERSING, _S.CANCELLED)),
    (_K.ANSWERED, (_S.REVERSING,), (_S.REVERSED,)),
    (_K.UNANSWERED, _UNDER_WAY, (_S.REVERSING,)),
    (_K.NOT_SENT, (_S.ASKING,), (_S.STORED, _S.DECLINED)),
    (_K.LATE_ANSWER, (_S.REVERSING,), (_S.DECLINED,)),
    (_K.LATE_ANSWER, (_S.DECLINED, _S.CANCELLED, _S.REVERSED), (_S.REVERSING,)),
    (_K.CANCELLED, (_S.STORED, _S.ASKING_CANCELLED), (_S.CANCELLED,)),
    (_K.PARKED, (NEW, *_UNDER_WAY, *sorted(REPLAYABLE)), (_S.PARKED,)),
    (_K.OPERATOR, (_S.PARKED,), (_S.STORED, _S.STORED_CANCELLED, _S.REVERSING, _S.APPROVED, _S.CANCELLED)),
    (_K.OPERATOR, (_S.STORED,), (_S.CANCELLED, _S.STORED_CANCELLED)),
    (_K.OPERATOR, (_S.APPROVED,), (_S.REVERSING,)),
    (_K.RECOVERED, _UNDER_WAY, (_S.REVERSING,)),
)
_STAYS: Final[tuple[tuple[EntryKind, tuple[State, ...]], ...]] = (
    (_K.SENDING, (_S.ASKING, *sorted(REPLAYABLE))),
    (_K.TAKEN, (_S.PARKED,)),
    (_K.OPERATOR, tuple(sorted(REPLAYABLE))),
    (_K.LATE_ANSWER, _SETTLED),
)


def change(before: int, kind: int, after: int) -> int:
    """One number for a change of state, to look it up in `LEGAL`."""
    return before << 16 | kind << 8 | after


def _legal() -> Iterator[int]:
    for kind, befores, afters in _TABLE:
        yield from (change(before, kind, after) for before in befores for after in afters)
    for kind, states in _STAYS:
        yield from (change(state, kind, state) for state in states)


LEGAL: Final = frozenset(_legal())
"""Every change that an entry may tell of, as `change` numbers them."""

ALONE: Final[frozenset[int]] = frozenset(kind.value for kind in ABOUT_NO_TRANSACTION)
"""Kinds of entries that are about no transaction: keys, maintenance, disclosures, a log that was continued."""


def state_word(state: int) -> str:
    """A state in words; a number where this release knows none."""
    return "new" if state == NEW else _word(state, State)


def kind_word(kind: int) -> str:
    """A kind of entry in words; a number where this release knows none."""
    return _word(kind, EntryKind)


def _word(number: int, names: Iterable[State] | Iterable[EntryKind]) -> str:
    return next((one.name.lower().replace("_", "-") for one in names if one == number), str(number))
