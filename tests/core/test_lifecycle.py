"""The tables of the lifecycle, enumerated: every state, and what each event makes of it (D15, D16, D18, D7)."""

from __future__ import annotations

import pytest

from gateway.core.events import OperatorAct
from gateway.core.lifecycle import (
    FINAL,
    IN_DOUBT_AFTER_CRASH,
    OBLIGATION,
    REPLAYABLE,
    EntryKind,
    Obligation,
    State,
    after_crash,
    after_reversal,
)
from gateway.core.reversals import after_late_answer, undoes
from gateway.core.steering import next_state
from gateway.core.transaction import Kind, Transaction
from tests.core.messages import reversal, sale
from tests.core.world import World

S = State

RECOVERY = {
    S.ASKING: S.REVERSING, S.ASKING_CANCELLED: S.REVERSING, S.STORED: S.STORED,
    S.STORED_CANCELLED: S.STORED_CANCELLED, S.REVERSING: S.REVERSING, S.APPROVED: S.APPROVED, S.DECLINED: S.DECLINED,
    S.REVERSED: S.REVERSED, S.CANCELLED: S.CANCELLED, S.PARKED: S.PARKED,
}  # fmt: skip

REVERSED_BY_TERMINAL = {
    (S.ASKING, 0): S.ASKING_CANCELLED, (S.ASKING, 1): S.ASKING_CANCELLED,
    (S.ASKING_CANCELLED, 0): S.ASKING_CANCELLED, (S.ASKING_CANCELLED, 1): S.ASKING_CANCELLED,
    (S.STORED, 0): S.CANCELLED, (S.STORED, 1): S.STORED_CANCELLED,
    (S.STORED_CANCELLED, 0): S.STORED_CANCELLED, (S.STORED_CANCELLED, 1): S.STORED_CANCELLED,
    (S.REVERSING, 0): S.REVERSING, (S.REVERSING, 1): S.REVERSING,
    (S.APPROVED, 0): S.REVERSING, (S.APPROVED, 1): S.REVERSING,
    (S.DECLINED, 0): S.DECLINED, (S.DECLINED, 1): S.DECLINED,
    (S.REVERSED, 0): S.REVERSED, (S.REVERSED, 1): S.REVERSED,
    (S.CANCELLED, 0): S.CANCELLED, (S.CANCELLED, 1): S.CANCELLED,
    (S.PARKED, 0): S.REVERSING, (S.PARKED, 1): S.REVERSING,
}  # fmt: skip

REFUSED = None
BY_OPERATOR = {
    OperatorAct.RELEASE: dict.fromkeys(S, REFUSED) | {S.PARKED: S.STORED},
    OperatorAct.CANCEL: dict.fromkeys(S, REFUSED) | {S.PARKED: S.CANCELLED},
    OperatorAct.VOID: dict.fromkeys(S, REFUSED)
    | {S.STORED: S.STORED_CANCELLED, S.PARKED: S.REVERSING, S.APPROVED: S.REVERSING},
}


def a_transaction(state: State, *, attempts: int = 0, reason: str = "", kind: Kind = Kind.SALE) -> Transaction:
    return Transaction(
        key="k", kind=kind, state=state, lane="m|t", terminal="t", merchant="m", stan="000001", fingerprint=b"f" * 16,
        card=b"c" * 16, card_mask="", amount_minor=100, currency="156", accepted_ms=1, changed_ms=1, id=1,
        attempts=attempts, reason=reason, resume=State.STORED if state is State.PARKED else None,
    )  # fmt: skip


def test_every_state_owes_exactly_one_thing_or_nothing() -> None:
    assert set(OBLIGATION) == set(State)
    for state in State:
        owed = OBLIGATION[state]
        assert (owed is Obligation.NONE) is (state in FINAL)
        assert (owed in {Obligation.ADVICE, Obligation.REVERSAL}) is (state in REPLAYABLE)
        assert (owed is Obligation.ANSWER) is (state in IN_DOUBT_AFTER_CRASH)
        assert (owed is Obligation.PERSON) is (state is State.PARKED)


def test_stored_numbers_never_change() -> None:
    assert [(s.name, s.value) for s in State] == [
        ("ASKING", 1), ("ASKING_CANCELLED", 2), ("STORED", 3), ("STORED_CANCELLED", 4), ("REVERSING", 5),
        ("APPROVED", 6), ("DECLINED", 7), ("REVERSED", 8), ("CANCELLED", 9), ("PARKED", 10),
    ]  # fmt: skip
    assert [k.value for k in EntryKind] == list(range(1, 19))
    assert [k.value for k in Kind] == [1, 2, 3, 4, 5, 6, 8, 9, 10]


@pytest.mark.parametrize("state", State)
def test_d7_the_recovery_table_says_what_a_crash_makes_of_every_state(state: State) -> None:
    assert after_crash(state) is RECOVERY[state]


@pytest.mark.parametrize(("state", "attempts"), REVERSED_BY_TERMINAL)
def test_d15_a_terminals_reversal_moves_every_state_as_the_table_says(state: State, attempts: int) -> None:
    assert after_reversal(state, attempts) is REVERSED_BY_TERMINAL[state, attempts]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("attempts", [0, 1])
def test_d16_a_late_decline_ends_only_a_reversal_that_is_unsent(state: State, attempts: int) -> None:
    after = after_late_answer(a_transaction(state, attempts=attempts), approved=False, declined=True)
    assert after is (State.DECLINED if state is State.REVERSING and attempts == 0 else state)


@pytest.mark.parametrize("state", State)
def test_d16_a_late_approval_of_what_had_ended_as_never_booked_is_reversed(state: State) -> None:
    after = after_late_answer(a_transaction(state), approved=True, declined=False)
    assert after is (State.REVERSING if state in {State.DECLINED, State.CANCELLED} else state)


@pytest.mark.parametrize(("code", "again"), [("25", True), ("12", True), ("00", False), ("94", False)])
def test_d13_a_late_approval_is_reversed_again_where_the_reversal_had_found_no_original(code: str, again: bool) -> None:
    reversed_before = a_transaction(State.REVERSED, attempts=1, reason=f"answer.code-{code}")
    after = after_late_answer(reversed_before, approved=True, declined=False)
    assert after is (State.REVERSING if again else State.REVERSED)


@pytest.mark.parametrize("act", BY_OPERATOR)
@pytest.mark.parametrize("state", State)
def test_d18_an_operators_act_moves_every_state_as_the_table_says(act: OperatorAct, state: State) -> None:
    after, refused = next_state(act, a_transaction(state, attempts=1))
    assert after is BY_OPERATOR[act][state]
    assert (refused == "") is (after is not None)


@pytest.mark.parametrize("act", [OperatorAct.CANCEL, OperatorAct.VOID])
def test_d18_a_stored_sale_that_was_never_sent_is_cancelled_without_a_word_upstream(act: OperatorAct) -> None:
    assert next_state(act, a_transaction(State.STORED)) == (State.CANCELLED, "")


@pytest.mark.parametrize("act", [OperatorAct.RELEASE, OperatorAct.CANCEL, OperatorAct.VOID])
@pytest.mark.parametrize("state", State)
def test_d18_a_terminals_reversal_is_not_itself_voided_or_cancelled(act: OperatorAct, state: State) -> None:
    assert next_state(act, a_transaction(state, kind=Kind.REVERSAL))[0] is None


def test_d2_a_reversal_means_only_an_original_of_its_amount_and_card() -> None:
    world = World()
    world.ask("0200", sale(1))
    world.run()
    known = world.journal.row(world.told[1].request.key)
    assert undoes(world.request("0400", reversal(sale(1), 2)), known)
    assert not undoes(world.request("0400", reversal(sale(1, 999), 2)), known)
    assert not undoes(world.request("0400", reversal(sale(1, card="5555555555554444"), 2)), known)
    nameless = reversal(sale(1), 2)
    del nameless[2], nameless[4]
    assert undoes(world.request("0400", nameless), known)


def test_the_next_row_changes_only_what_is_named() -> None:
    before = a_transaction(State.STORED)
    after = before.evolved(9, State.REVERSING, attempts=3)
    assert before.state is State.STORED
    assert (after.state, after.attempts, after.changed_ms, after.revision) == (State.REVERSING, 3, 9, 2)
    assert (after.key, after.id, after.fingerprint, after.amount_minor) == ("k", 1, b"f" * 16, 100)
