"""What an auditor sees of entries and of one transaction's life: masked, filtered, with the rule that decided."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.audit.browsing import Filter, log
from gateway.audit.entry_reports import EntryReport, entry_report
from gateway.audit.opening import opened_message
from gateway.audit.rules import decision
from gateway.audit.tracing import NotFound, find, trace
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogReader
from tests.audit.scene import MERCHANT, NAMED_TWICE, SALES, SECOND_KEY, Attack, Scene, key_of
from tests.journal.rig import PAN, START_MS, Rig, evolved, sale, sqlite_make

SIZE = 3 * SALES + 4
REVERSED = 3 * SALES + 2


def quiet(_what: str, _part: float) -> None:
    """Nobody watches."""


def listed(scene: Scene, *, oldest: bool = True, limit: int = 0, **asked: object) -> list[EntryReport]:
    with LogReader(scene.journal) as reader:
        return list(log(reader, Filter(**asked), oldest=oldest, limit=limit, tell=quiet))  # type: ignore[arg-type]


def test_the_log_comes_newest_first_or_oldest_first_and_ends_at_its_limit(whole_shop: Scene) -> None:
    assert [each.sequence for each in listed(whole_shop)] == list(range(1, SIZE + 1))
    assert [each.sequence for each in listed(whole_shop, oldest=False, limit=3)] == [SIZE, SIZE - 1, SIZE - 2]
    assert [each.sequence for each in listed(whole_shop, limit=2)] == [1, 2]


def test_each_filter_lets_through_what_it_names_and_nothing_else(whole_shop: Scene) -> None:
    every = listed(whole_shop)
    reversed_ones = [each.sequence for each in every if each.state == "cancelled"]
    assert [each.sequence for each in listed(whole_shop, states=frozenset({State.CANCELLED}))] == reversed_ones
    kinds = frozenset({EntryKind.SENDING, EntryKind.TAKEN})
    wanted = [each.sequence for each in every if each.kind in {"sending", "taken"}]
    assert [each.sequence for each in listed(whole_shop, kinds=kinds)] == wanted
    wanted = [each.sequence for each in every if each.terminal == "TERMINA1"]
    assert wanted
    assert [each.sequence for each in listed(whole_shop, terminal="TERMINA1")] == wanted
    assert listed(whole_shop, terminal="TERMINA") == []
    assert listed(whole_shop, terminal=MERCHANT) == [], "a merchant is no terminal"
    wanted = [each.sequence for each in every if 150 <= each.amount_minor <= 160]
    assert [each.sequence for each in listed(whole_shop, amount_min=150, amount_max=160)] == wanted
    assert len(wanted) == 33
    since, until = START_MS + 5_000, START_MS + 6_000
    found = listed(whole_shop, since_ms=since, until_ms=until)
    assert {each.time[17:23] for each in found} <= {"25.000", "26.000"}
    assert len(found) == 6


def test_an_entry_is_shown_masked_and_with_what_it_commits_to(whole_shop: Scene) -> None:
    with LogReader(whole_shop.journal) as reader:
        stored = reader.entry(0)
        report = entry_report(reader, stored, whole=True)
        messages = opened_message(whole_shop.keyring, stored)
    assert (report.kind, report.state, report.transaction) == ("stood-in", "stored", 1)
    assert report.card == "424242******4242"
    assert [(part.part, part.stored, part.fits) for part in report.parts] == [("account", True, True)]
    assert PAN not in repr(report)
    assert messages["request"]["2"] == "424242******4242"
    assert messages["answer"]["39"] == "00"
    assert PAN not in repr(messages)


def test_a_card_number_in_an_operators_words_is_masked(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite3"
    rig = Rig(sqlite_make(journal, create_keyring(tmp_path / "keys"))).open()
    try:
        rig.write(sale(key_of(1)))
        parked = evolved(rig.load(1).transaction, State.PARKED, kind=EntryKind.PARKED, reason="answer.code-30 < ")
        rig.write(parked)
        why = f"void by ada: the customer showed {PAN}: wrong amount"
        void = evolved(parked.transaction, State.REVERSING, kind=EntryKind.OPERATOR, detail=why, reason="operator.void")
        rig.write(void)
    finally:
        rig.close()
    with LogReader(journal) as reader:
        told = trace(reader, 1, quiet)
        shown = entry_report(reader, reader.entry(2))
    assert PAN not in repr(told)
    assert PAN not in repr(shown)
    act = told.steps[2]
    assert (act.act, act.who, act.rule) == ("void", "ada", "D18")
    assert act.because == "the customer showed 424242******4242: wrong amount"
    assert (told.state, told.owes) == ("reversing", "a reversal")


def test_a_life_is_told_step_by_step_with_the_rules_and_what_the_terminal_was_told(whole_shop: Scene) -> None:
    with LogReader(whole_shop.journal) as reader:
        number = find(reader, key_of(1), quiet)
        told = trace(reader, number, quiet)
    assert number == 4
    assert [(step.kind, step.state, step.rule) for step in told.steps] == [
        ("stood-in", "stored", "D21"),
        ("sending", "stored", "D8, D9"),
        ("answered", "approved", "D18"),
    ]
    assert [step.told for step in told.steps] == ["00 (Approved)", "", "00 (Approved)"]
    assert (told.state, told.owes, told.amount_minor, told.card) == ("approved", "nothing", 101, "424242******4242")
    assert all(step.fits_leaf for step in told.steps)
    assert told.second_key == ""
    assert told.links == [], "another sale of this terminal was reversed"


def test_a_transaction_is_found_by_its_second_key_and_shown_with_it(whole_shop: Scene) -> None:
    with LogReader(whole_shop.journal) as reader:
        assert find(reader, SECOND_KEY, quiet) == NAMED_TWICE
        told = trace(reader, NAMED_TWICE, quiet)
        shown = entry_report(reader, reader.entry(NAMED_TWICE))
        with pytest.raises(NotFound):
            find(reader, SECOND_KEY[:-1], quiet)
    assert (told.key, told.second_key) == (key_of(9), SECOND_KEY)
    assert (shown.transaction, shown.second_key) == (NAMED_TWICE, SECOND_KEY)


def test_a_reversal_and_its_original_lead_to_each_other(whole_shop: Scene) -> None:
    with LogReader(whole_shop.journal) as reader:
        original = trace(reader, REVERSED, quiet)
        reversal = trace(reader, REVERSED + 1, quiet)
    assert [(link.transaction, link.how) for link in original.links] == [
        (REVERSED + 1, "a terminal's reversal of this one")
    ]
    assert [(link.transaction, link.how) for link in reversal.links] == [
        (REVERSED, "this is a terminal's reversal of it")
    ]
    assert (original.state, original.steps[-1].rule) == ("cancelled", "D15")


def test_an_entry_that_was_changed_is_marked_in_the_life_that_it_tells(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.edit(5, leaf=False, detail="changed")
    with LogReader(shop.journal) as reader:
        assert [step.fits_leaf for step in trace(reader, 4, quiet).steps] == [True, False, True]


@pytest.mark.parametrize("named", ["0", "999999", "5", "B1|no|such|2|000001", "x" * 300])
def test_what_is_not_a_transaction_is_told_in_words(whole_shop: Scene, named: str) -> None:
    with LogReader(whole_shop.journal) as reader, pytest.raises(NotFound) as missing:
        find(reader, named, quiet)
    assert "transaction" in str(missing.value)


@pytest.mark.parametrize("kind", EntryKind)
def test_every_kind_of_entry_has_words_and_those_of_a_transaction_have_a_rule(kind: EntryKind) -> None:
    decided = (
        decision(kind, State.REVERSING, "x") if kind is not EntryKind.REFUSED else decision(kind, 7, "standin.card")
    )
    if kind is EntryKind.NOT_SENT:
        decided = decision(kind, State.STORED, "standin.approved")
    assert decided.words
    if kind.value <= EntryKind.RECOVERED:
        assert decided.rule
