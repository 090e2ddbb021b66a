"""`audit balance` adds up what terminals were told from entries alone, and names what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.outage import run
from bench.records import LedgerEvent, read_lines
from bench.scenario import Options
from bench.till import TEST_CARDS
from gateway.audit.balancing import Balance, Balancing, Sums
from gateway.audit.verifying import Wanted, verify
from gateway.cli import app
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Transaction
from gateway.journal.keyring import create_keyring
from gateway.journal.log_reader import LogDamaged, LogReader
from protocol.iso8583.dialect import load_dialect
from tests.audit.scene import SALES, Attack, Scene, key_of
from tests.journal.rig import Rig, evolved, sale, sqlite_make

BY = ("day", "terminal")


def balanced(journal: Path, *by: str) -> Balance:
    with LogReader(journal) as reader:
        return Balancing(reader, lambda _what, _part: None).run(by, 10)


def total(balance: Balance) -> Sums:
    (sums,) = balance.totals
    return sums


def test_the_shop_adds_up_and_its_sums_are_those_of_its_sales(whole_shop: Scene) -> None:
    balance = balanced(whole_shop.journal, *BY)
    assert balance.adds_up
    sums = total(balance)
    booked = sum(100 + number for number in range(SALES))
    assert (sums.payments, sums.booked, sums.owed, sums.parked) == (SALES + 2, booked, 777, 0)
    assert (sums.approved, sums.reversed, sums.told) == (booked + 777 + 500, 500, booked + 777)
    assert [group.terminal for group in balance.groups] == ["TERMINA0", "TERMINA1", "TERMINA2"]
    assert sum(group.told for group in balance.groups) == sums.told
    assert [group.terminal for group in balanced(whole_shop.journal, "day").groups] == [""]


Then = Callable[[Rig, Transaction], object]


def parked(rig: Rig, row: Transaction) -> Transaction:
    update = evolved(row, State.PARKED, kind=EntryKind.PARKED, reason="answer.code-30 < ", resume=State.STORED)
    rig.write(update)
    return update.transaction


def act(rig: Rig, row: Transaction, act: str, state: State) -> None:
    rig.write(evolved(row, state, kind=EntryKind.OPERATOR, reason=f"operator.{act}", detail=f"{act} by ada: because"))


CASES: list[tuple[str, Then, dict[str, int], int]] = [
    ("owed", lambda _rig, _row: None, {"approved": 500, "told": 500, "owed": 500}, 0),
    ("parked", parked, {"approved": 500, "told": 500, "parked": 500}, 0),
    (
        "cancelled by a person",
        lambda rig, row: act(rig, parked(rig, row), "cancel", State.CANCELLED),
        {"approved": 500, "ended": 500},
        0,
    ),
    (
        "voided by a person",
        lambda rig, row: act(rig, parked(rig, row), "void", State.REVERSING),
        {"approved": 500, "ended": 500},
        0,
    ),
    (
        "released by a person",
        lambda rig, row: act(rig, parked(rig, row), "release", State.STORED),
        {"approved": 500, "told": 500, "owed": 500},
        0,
    ),
    (
        "reversed by its terminal",
        lambda rig, row: rig.write(
            evolved(row, State.STORED_CANCELLED, kind=EntryKind.TAKEN, reason="terminal.reversal")
        ),
        {"approved": 500, "reversed": 500},
        0,
    ),
    (
        "told approved and declined behind the terminal's back",
        lambda rig, row: rig.write(evolved(row, State.DECLINED)),
        {"approved": 500, "told": 500, "difference": 500},
        500,
    ),
    (
        "reversed by its terminal and booked all the same",
        lambda rig, row: (
            undone := evolved(row, State.STORED_CANCELLED, kind=EntryKind.TAKEN, reason="terminal.reversal"),
            rig.write(undone),
            rig.write(evolved(undone.transaction, State.APPROVED)),
        ),
        {"approved": 500, "reversed": 500, "booked": 500, "difference": -500},
        -500,
    ),
    *(
        (
            f"approved with {code}",
            lambda rig, row, code=code: rig.write(evolved(row, State.APPROVED, response=code)),
            {"approved": 500, "told": 500, "booked": 500},
            0,
        )
        for code in sorted(load_dialect("unionpay").host.approved_codes)
    ),
    (
        "told no and booked",
        lambda rig, row: rig.write(evolved(row, State.APPROVED, response="05")),
        {"booked": 500, "difference": -500},
        -500,
    ),
]


@pytest.mark.parametrize(("then", "expected", "difference"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_each_way_a_payment_can_stand_is_counted_where_the_definition_says(
    tmp_path: Path, then: Then, expected: dict[str, int], difference: int
) -> None:
    journal = tmp_path / "journal.sqlite3"
    rig = Rig(sqlite_make(journal, create_keyring(tmp_path / "keys"))).open()
    try:
        rig.write(sale(key_of(1), amount_minor=500))
        then(rig, rig.load(1).transaction)
    finally:
        rig.close()
    balance = balanced(journal)
    sums = total(balance)
    columns = ("approved", "reversed", "ended", "told", "booked", "owed", "parked", "difference")
    assert {name: getattr(sums, name) for name in columns if getattr(sums, name)} == expected
    assert balance.adds_up is (difference == 0)
    assert [(each.transaction, each.difference_minor) for each in balance.differences] == (
        [(1, difference)] if difference else []
    )


def test_a_damaged_journal_is_not_added_up(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.connection.execute("DELETE FROM entry WHERE sequence = 77")
    with pytest.raises(LogDamaged, match=r"entry 77 .* audit verify"):
        balanced(shop.journal)


@pytest.mark.parametrize("sequence", [1, 3, 77, 3 * SALES + 4])
def test_an_entry_that_was_edited_is_named_and_not_counted(shop: Scene, sequence: int) -> None:
    with Attack(shop) as attack:
        attack.edit(sequence, leaf=False, amount_minor=1_000_000, time_ms=2**63)
    balance = balanced(shop.journal)
    assert not balance.adds_up
    assert (balance.damaged, balance.damaged_entries) == (1, [sequence])
    assert total(balance).told < 1_000_000


def test_entries_that_are_no_entries_any_more_are_all_counted_and_the_first_named(shop: Scene) -> None:
    with Attack(shop) as attack:
        attack.connection.execute("UPDATE entry SET body = x'00' WHERE sequence BETWEEN 21 AND 40")
        attack.connection.execute("UPDATE entry SET leaf = x'00' WHERE sequence = 41")
    balance = balanced(shop.journal)
    assert (balance.damaged, balance.damaged_entries) == (21, list(range(21, 31)))
    assert not balance.adds_up


@pytest.mark.timeout(180)
@pytest.mark.parametrize("more", [-1, 1], ids=["a cut tail", "an added one"])
def test_a_tail_that_the_journals_head_does_not_have_does_not_add_up(shop: Scene, more: int) -> None:
    with Attack(shop) as attack:
        if more < 0:
            attack.connection.execute("DELETE FROM entry WHERE sequence = ?", (attack.size,))
        else:
            added = "INSERT INTO entry SELECT sequence + 1, body, leaf, account FROM entry WHERE sequence = ?"
            attack.connection.execute(added, (attack.size,))
            attack.edit(attack.size, leaf=True, sequence=attack.size)
    with pytest.raises(LogDamaged, match=r"entry \d+ is (missing|behind the journal).*audit verify"):
        balanced(shop.journal)


def test_after_an_outage_with_kills_the_balance_is_that_of_the_acquirers_ledger(tmp_path: Path) -> None:
    options = Options(terminals=8, seconds=5, kill=True, seed=23, keep=tmp_path / "run")
    assert run(options, tmp_path / "report.json") == 0
    assert json.loads((tmp_path / "report.json").read_text())["booked"] > 20
    journal = tmp_path / "run" / "journal.sqlite3"
    ledger: Counter[tuple[str, str]] = Counter()
    for event in read_lines(tmp_path / "run" / "ledger.jsonl", LedgerEvent):
        sign = {"booked": 1, "reversed": -1}.get(event.act, 0)
        if sign:
            ledger[event.merchant, event.terminal] += sign * event.amount_minor
    balance = balanced(journal, "terminal")
    assert balance.adds_up, balance.differences
    assert {(each.merchant, each.terminal): each.booked for each in balance.groups} == dict(ledger)
    assert total(balance).booked == total(balance).told > 0
    verdict = verify(Wanted(journal=journal), lambda _what, _part: None)
    assert verdict.whole, [str(finding) for finding in verdict.findings]
    config = tmp_path / "run" / "holdfast.toml"
    opened = CliRunner().invoke(app, ["audit", "verify", "-c", str(config), "--open"])
    assert (opened.exit_code, "opened with the keys" in opened.output) == (0, True), opened.output
    listed = CliRunner().invoke(app, ["audit", "log", str(journal), "--oldest", "--kind", "accepted", "--json"])
    first = json.loads(listed.output.splitlines()[0])["sequence"]
    shown = CliRunner().invoke(app, ["audit", "show", str(first), "-c", str(config)])
    assert (shown.exit_code, "request mti" in shown.output) == (0, True), shown.output
    assert not [card for card in TEST_CARDS if card in shown.output]  # hashes may hold what passes for a card
