"""Which endpoints count as silent: an answered echo test shows a line, and nothing of what stands behind it."""

from __future__ import annotations

from gateway.acquirers.silence import Hearing


def test_an_answered_echo_test_is_no_answer_to_a_message_that_moves_money() -> None:
    hearing = Hearing()
    for _ in range(2):
        assert not hearing.unheard(3)
        hearing.heard(echo=True)
    assert hearing.unheard(3)
    hearing.heard(echo=True)
    assert hearing.silent
    hearing.heard()
    assert not hearing.silent


def test_echo_tests_that_went_unheard_are_made_good_by_one_that_is_answered() -> None:
    hearing = Hearing()
    assert [hearing.unheard(3, echo=True) for _ in range(3)] == [False, False, True]
    hearing.heard(echo=True)
    assert not hearing.silent


def test_a_host_that_has_hung_up_begins_anew() -> None:
    hearing = Hearing()
    assert [hearing.unheard(3) for _ in range(3)] == [False, False, True]
    hearing.began_anew()
    hearing.heard(echo=True)
    assert not hearing.silent
