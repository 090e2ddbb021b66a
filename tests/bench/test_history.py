"""The checker finds each defect, counts it exactly, and finds nothing where there is nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bench.history import Defect, Verdict, check
from bench.records import LedgerEvent, Owed, TerminalEvent

KEY = "M1/T1/{:06d}"


def sent(stan: int, *, amount: int = 1000, card: str = "c1", terminal: str = "T1", **more: Any) -> TerminalEvent:
    return TerminalEvent(
        at=0.0,
        event="sent",
        business="sale",
        terminal=terminal,
        merchant="M1",
        stan=f"{stan:06d}",
        key=f"M1/{terminal}/{stan:06d}",
        mti="0200",
        amount_minor=amount,
        currency="156",
        card_hash=card,
        **more,
    )


def told(stan: int, response: str = "00", approval: str = "123456", **more: Any) -> TerminalEvent:
    base = sent(stan, **{name: more.pop(name) for name in ("amount", "card", "terminal") if name in more})
    return _with(base, event="answered", mti="0210", response=response, approval=approval, **more)


def abandoned(stan: int) -> TerminalEvent:
    return _with(sent(stan), event="abandoned")


def reversal_sent(stan: int, own_stan: int | None = None) -> TerminalEvent:
    own = stan if own_stan is None else own_stan
    return _with(sent(own), business="reversal", mti="0400", original=KEY.format(stan))


def reversal_told(stan: int, response: str = "00", own_stan: int | None = None) -> TerminalEvent:
    return _with(reversal_sent(stan, own_stan), event="answered", mti="0410", response=response)


def arrived(original: int, act: str = "booked", mti: str = "0200", **more: Any) -> LedgerEvent:
    return _ledger(original, act, mti, more)


def _ledger(stan: int, act: str, mti: str, more: dict[str, Any]) -> LedgerEvent:
    reversal = mti[1] == "4"
    values: dict[str, Any] = {
        "at": 0.0,
        "act": act,
        "business": "reversal" if reversal else ("advice" if mti[2] == "2" else "sale"),
        "mti": mti,
        "terminal": "T1",
        "merchant": "M1",
        "stan": f"{stan:06d}",
        "key": KEY.format(stan),
        "original": KEY.format(stan) if reversal else "",
        "amount_minor": 1000,
        "currency": "156",
        "card_hash": "c1",
        "answer": "00",
        "digest": "d",
    }
    return LedgerEvent(**(values | more))


def reversed_(original: int, act: str = "reversed", mti: str = "0400", **more: Any) -> LedgerEvent:
    return _ledger(original, act, mti, more)


def _with(base: TerminalEvent, /, **changes: Any) -> TerminalEvent:
    values = {name: getattr(base, name) for name in base.__struct_fields__}
    return TerminalEvent(**(values | changes))


def judged(history: list[TerminalEvent], ledger: list[LedgerEvent], queue: list[Owed] | None = None) -> Verdict:
    return check(history, ledger, queue or [])


def defects(verdict: Verdict) -> dict[str, int]:
    return {defect.value: verdict.count(defect) for defect in Defect if verdict.count(defect)}


CLEAN: dict[str, tuple[list[TerminalEvent], list[LedgerEvent]]] = {
    "an approved sale booked once": ([sent(1), told(1)], [arrived(1)]),
    "a declined sale": ([sent(1), told(1, "51")], [arrived(1, "declined")]),
    "a sale refused before it went anywhere": ([sent(1), told(1, "91")], []),
    "a stand-in sale booked as an advice": ([sent(1), told(1)], [arrived(1, mti="0220")]),
    "an advice whose answer was lost and that was sent again": (
        [sent(1), told(1)],
        [arrived(1, mti="0220"), arrived(1, "duplicate", mti="0221")],
    ),
    "an advice thrown away once and then booked": (
        [sent(1), told(1)],
        [arrived(1, "ignored", mti="0220"), arrived(1, mti="0221")],
    ),
    "a sale in doubt, told no and reversed": ([sent(1), told(1, "68")], [arrived(1), reversed_(1)]),
    "a retry that got the same answer": ([sent(1), sent(1), told(1), told(1, late=True)], [arrived(1)]),
    "a second copy that met a gateway that stops": ([sent(1), told(1), told(1, "09", "", late=True)], [arrived(1)]),
    "told to ask again, then approved": ([sent(1), told(1, "09", ""), sent(1), told(1)], [arrived(1)]),
    "a reversal told to ask again": (
        [sent(1), reversal_sent(1), reversal_told(1, "09"), reversal_sent(1), reversal_told(1)],
        [arrived(1), reversed_(1)],
    ),
    "nothing stored, then approved": ([sent(1), told(1, "96", "", lost=True), sent(1), told(1)], [arrived(1)]),
    "the terminal's own reversal": ([sent(1), reversal_sent(1), reversal_told(1)], [arrived(1), reversed_(1)]),
    "the terminal's own reversal under a new STAN": (
        [sent(1), reversal_sent(1, 2), reversal_told(1, own_stan=2), sent(3), told(3)],
        [arrived(1), reversed_(1, stan="000002", key=KEY.format(2)), arrived(3)],
    ),
    "a reversal of what never arrived": (
        [sent(1), reversal_sent(1), reversal_told(1)],
        [reversed_(1, "reversal-unknown", answer="25")],
    ),
    "the gateway's reversal and then the terminal's, which says it otherwise": (
        [sent(1), reversal_sent(1), reversal_told(1)],
        [arrived(1), reversed_(1, digest="x"), reversed_(1, "reversal-duplicate", digest="y")],
    ),
    "a terminal switched off for good before its answer": ([sent(1), abandoned(1)], [arrived(1)]),
    "a reused STAN refused": ([sent(1), told(1), sent(1, amount=7), told(1, "94", "", amount=7)], [arrived(1)]),
    "terminals that overtake each other": (
        [sent(1), told(1), sent(1, terminal="T2"), told(1, terminal="T2")],
        [arrived(1, terminal="T2", key="M1/T2/000001"), arrived(1)],
    ),
    "an unanswered sale that arrives after the next one": (
        [sent(1), sent(2), told(2), told(1)],
        [arrived(2), arrived(1)],
    ),
    "network messages": ([_with(sent(1), business="network", mti="0800")], [arrived(1, "echo", business="network")]),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_history_is_found_clean(name: str) -> None:
    history, ledger = CLEAN[name]
    assert judged(history, ledger).findings == []


BROKEN: dict[str, tuple[list[TerminalEvent], list[LedgerEvent], dict[str, int]]] = {
    "approved and never booked": ([sent(1), told(1)], [], {"lost": 1}),
    "approved and thrown away": ([sent(1), told(1)], [arrived(1, "ignored")], {"lost": 1}),
    "approved and reversed by nobody's wish": ([sent(1), told(1)], [arrived(1), reversed_(1)], {"lost": 1}),
    "booked twice": ([sent(1), told(1)], [arrived(1), arrived(1, mti="0220")], {"doubled": 1}),
    "booked, reversed and booked again": (
        [sent(1), told(1)],
        [arrived(1), reversed_(1), arrived(1, "booked")],
        {"doubled": 1},
    ),
    "reversed twice": (
        [sent(1), told(1, "68")],
        [arrived(1), reversed_(1), reversed_(1)],
        {"doubled": 1},
    ),
    "a later sale overtakes": (
        [sent(1), told(1), sent(2), told(2)],
        [arrived(2), arrived(1)],
        {"out_of_order": 1},
    ),
    "the gateway's reversal is overtaken": (
        [sent(1), told(1, "68"), sent(2), told(2)],
        [arrived(1), arrived(2), reversed_(1)],
        {"out_of_order": 1},
    ),
    "the terminal's reversal is overtaken": (
        [sent(1), reversal_sent(1), reversal_told(1), sent(2), told(2)],
        [arrived(1), arrived(2), reversed_(1)],
        {"out_of_order": 1},
    ),
    "a reversal before its original": (
        [sent(1), told(1, "68")],
        [reversed_(1, "reversal-unknown"), arrived(1, "refused-late")],
        {"out_of_order": 1},
    ),
    "another amount": ([sent(1), told(1)], [arrived(1, amount_minor=999)], {"changed": 1}),
    "another currency": ([sent(1), told(1)], [arrived(1, currency="840")], {"changed": 1}),
    "another card": ([sent(1), told(1)], [arrived(1, card_hash="c2")], {"changed": 1}),
    "a reversal of another amount": (
        [sent(1), told(1, "68")],
        [arrived(1), reversed_(1, amount_minor=1)],
        {"changed": 1},
    ),
    "a repeat that differs": (
        [sent(1), told(1)],
        [arrived(1, mti="0220"), arrived(1, "duplicate", mti="0221", digest="e")],
        {"changed": 1},
    ),
    "a repeated reversal that differs": (
        [sent(1), told(1, "68")],
        [arrived(1), reversed_(1), reversed_(1, "reversal-duplicate", "0401", digest="e")],
        {"changed": 1},
    ),
    "another answer to the retry": ([sent(1), told(1), sent(1), told(1, "51", "")], [arrived(1)], {"changed": 1}),
    "another approval code to the retry": (
        [sent(1), told(1, lost=True), sent(1), told(1, "00", "654321")],
        [arrived(1)],
        {"changed": 1},
    ),
    "a reused STAN approved": (
        [sent(1), told(1), sent(1, amount=7), told(1, amount=7)],
        [arrived(1)],
        {"changed": 1},
    ),
    "another answer to the repeated reversal": (
        [sent(1), reversal_sent(1), reversal_told(1), reversal_told(1, "25")],
        [arrived(1), reversed_(1)],
        {"changed": 1},
    ),
    "told no and booked": ([sent(1), told(1, "68")], [arrived(1)], {"unsettled": 1}),
    "told that nothing was stored, and booked": ([sent(1), told(1, "96")], [arrived(1)], {"unsettled": 1}),
    "reversed by the terminal and booked": (
        [sent(1), reversal_sent(1), reversal_told(1)],
        [arrived(1)],
        {"unsettled": 1},
    ),
    "approved too late, after the reversal, and booked": (
        [sent(1), reversal_sent(1), told(1, late=True), reversal_told(1)],
        [arrived(1)],
        {"unsettled": 1},
    ),
    "the reversal was never taken": ([sent(1), reversal_sent(1)], [], {"unsettled": 1}),
    "the reversal was only ever refused": (
        [sent(1), reversal_sent(1), reversal_told(1, "96")],
        [],
        {"unsettled": 1},
    ),
    "never told anything": ([sent(1)], [arrived(1)], {"unsettled": 1}),
    "told to ask again, and then nothing": ([sent(1), told(1, "09", "")], [arrived(1)], {"unsettled": 1}),
    "told only what did not arrive": ([sent(1), told(1, lost=True)], [arrived(1)], {"unsettled": 1}),
    "booked out of nothing": ([], [arrived(9)], {"phantom": 1}),
    "booked for another terminal": (
        [sent(1), told(1)],
        [arrived(1), arrived(1, terminal="T9", key="M1/T9/000001")],
        {"phantom": 1},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_defect_is_counted_once_and_as_what_it_is(name: str) -> None:
    history, ledger, expected = BROKEN[name]
    verdict = judged(history, ledger)
    assert defects(verdict) == expected
    assert all(finding.key in str(finding) for finding in verdict.findings)


def test_what_is_still_owed_is_unsettled_and_not_lost() -> None:
    owed = [Owed(key=KEY.format(1), state="stored")]
    assert defects(judged([sent(1), told(1)], [], owed)) == {"unsettled": 1}


def test_a_parked_key_that_nobody_sent_is_unsettled() -> None:
    assert defects(judged([], [], [Owed(key="M1/T1/000077", state="parked")])) == {"unsettled": 1}


def test_every_kind_of_defect_has_a_history_that_trips_it() -> None:
    assert {name for _, _, expected in BROKEN.values() for name in expected} == {defect.value for defect in Defect}


def test_the_figures_count_transactions() -> None:
    history = [sent(1), told(1), sent(2), told(2, "51"), sent(3), reversal_sent(3), reversal_told(3), sent(4)]
    ledger = [arrived(1), arrived(1, "duplicate"), arrived(2, "declined"), arrived(3), reversed_(3)]
    figures = judged([*history, abandoned(4)], ledger).figures()
    expected = {"transactions": 4, "acknowledged": 1, "booked": 1, "declined": 1, "reversed": 1, "unanswered": 1}
    assert {name: figures[name] for name in expected} == expected
    assert figures["resent"] == 1


def test_the_same_defects_among_many_clean_transactions_are_still_counted_exactly() -> None:
    history: list[TerminalEvent] = []
    ledger: list[LedgerEvent] = []
    for stan in range(1, 2001):
        history += [sent(stan), told(stan)]
        if stan % 100 != 0:
            ledger.append(arrived(stan))
        if stan % 500 == 1:
            ledger.append(arrived(stan, mti="0220"))
    assert defects(judged(history, ledger)) == {"lost": 20, "doubled": 4}


def test_the_checker_knows_nothing_of_the_gateway_and_its_formats() -> None:
    told = "import sys, bench.history; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)  # noqa: S603
    assert not {"gateway", "protocol"} & set(done.stdout.split())


def test_a_history_played_backwards_is_out_of_order_throughout() -> None:
    """All but the first arrival: each comes after one that was sent when it had long been answered."""
    for count in (1000, 2000):
        history = [event for stan in range(1, count + 1) for event in (sent(stan), told(stan))]
        ledger = [arrived(stan) for stan in range(count, 0, -1)]
        assert defects(judged(history, ledger)) == {"out_of_order": count - 1}
