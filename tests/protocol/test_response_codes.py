"""The sets of response codes say what DOMAIN says, and do not contradict each other."""

from __future__ import annotations

from protocol import response_codes as codes
from protocol.iso8583.dialect import load_dialect, shipped_dialects


def test_a_reversal_is_done_by_these_answers_and_no_other() -> None:
    assert frozenset({"00", "12", "25", "94"}) == codes.REVERSAL_DONE
    assert codes.REVERSAL_PERHAPS_EARLY <= codes.REVERSAL_DONE


def test_an_advice_is_taken_or_owed_or_poison_and_never_two_of_them() -> None:
    assert not codes.ADVICE_TAKEN & codes.RETRY_LATER
    assert not codes.ADVICE_TAKEN & codes.POISON
    assert not codes.RETRY_LATER & codes.POISON


def test_a_reversal_that_is_done_is_not_retried() -> None:
    assert not codes.REVERSAL_DONE & codes.RETRY_LATER


def test_no_approval_is_in_doubt() -> None:
    approvals = codes.APPROVALS.union(*(load_dialect(name).host.approved_codes for name in shipped_dialects()))
    for doubtful in (codes.OUTCOME_UNKNOWN, codes.DEBIT_POSSIBLE, codes.LOOK_UP_ORIGINAL, codes.SIGN_ON_FIRST):
        assert not approvals & doubtful


def test_every_code_of_a_set_has_a_text() -> None:
    named = [value for name, value in vars(codes).items() if name.isupper() and isinstance(value, frozenset)]
    assert len(named) > 8
    for code in frozenset[str]().union(*named):
        assert codes.response_text(code) != codes.response_text("??")
        assert len(code) == 2


def test_an_unknown_code_has_a_text_too() -> None:
    assert codes.response_text("zz") == "Unknown code"
