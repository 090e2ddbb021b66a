"""What is in quarantine is counted, listed and owed once or not at all, whatever becomes of it afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from gateway.core.effects import FetchHeads, Load, Update, Write
from gateway.core.events import Committed, Existing, Found, Lookup
from gateway.core.lifecycle import FINAL, EntryKind, State
from gateway.journal import batch, leaving
from gateway.journal.quarantine import taken_out
from gateway.journal.reading import Damage
from tests.journal.conformance import loaded
from tests.journal.rig import APPROVED_ANSWER, TRACK, Rig, evolved, sale, sqlite_make
from tests.journal.test_damage import overwrite
from tests.journal.test_slices import LANES, Shop, alike, open_in_one_lane, small, until
from tests.journal.test_stored_bytes import batcher, journal

__all__ = ["journal", "small"]  # fixtures

pytestmark = pytest.mark.interpreted

PLACES: Final = {"in the tables": 2, "listed, and leaving": 8, "leaving": 11, "gathering": 20}
"""Which one of those that `filled` writes."""

CHANGES: Final = {
    "approved": (State.STORED, (State.APPROVED,), 0),
    "to be reversed": (State.STORED, (State.REVERSING,), 0),
    "to be reversed, reversed": (State.STORED, (State.REVERSING, State.REVERSED), 0),
    "to be reversed behind all": (State.STORED, (State.REVERSING,), -1),
    "sent, approved": (State.STORED, (State.STORED, State.APPROVED), 0),
    "asked, stood in": (State.ASKING, (State.STORED,), 0),
    "asked again, approved": (State.ASKING, (State.ASKING, State.APPROVED), 0),
}
"""What one begins as, what it becomes once it is damaged, and its new place in the lane, 0 where it keeps its own."""

ACCOUNT: Final = "UPDATE entry SET account = zeroblob(300) WHERE sequence = ?"
ROW: Final = "UPDATE tx SET row = zeroblob(200) WHERE id = ?"


def filled(folder: Path, state: State) -> Shop:
    """Of one lane and state: six in the tables, twelve leaving, which three of them are listed of, three gathering."""
    shop = Shop(folder)
    open_in_one_lane(shop, 18, state)
    until(shop, lambda: shop.tables()[0].indexed >= 6)
    open_in_one_lane(shop, 3, state)
    until(shop, lambda: shop.place()[6] > 0)
    head, ids = shop.tables()
    assert (head.indexed, sorted(ids["unsettled"])) == (6, [*range(1, 10)])
    assert set(ids["owing"]) <= {*range(1, 19)}
    return shop


def at(shop: Shop, place: str) -> int:
    return sorted(shop.model.stored)[PLACES[place] - 1]


def note(shop: Shop) -> None:
    assert shop.rig.run(shop.rig.journal.note(EntryKind.MAINTENANCE, "who: why")) == shop.model.note()


def value(path: Path, select: str, *values: object) -> bytes:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute(select, values).fetchone()
    assert isinstance(found, bytes)
    return found


def next_of(shop: Shop, number: int, state: State, position: int = 0) -> Update:
    stored = shop.model.stored[number].transaction
    kind = EntryKind.SENDING if state is stored.state else EntryKind.ANSWERED
    return evolved(stored, state, kind=kind, attempts=stored.attempts + 1, position=position or stored.position)


def counted(rig: Rig, states: dict[State, int], where: str) -> None:
    counts = rig.run(rig.journal.health()).counts
    assert {state: number for state, number in counts.items() if number} == states, where


def states_of(shop: Shop) -> dict[State, int]:
    return dict(Counter(each.transaction.state for each in shop.model.stored.values()))


def all_is_right(shop: Shop, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Alive, after a kill, and after all has gone into the tables: counts, lists and queue have what the model has."""
    counted(shop.rig, states_of(shop), "alive")
    alike(shop.rig, shop.model, "alive")
    again = Rig(sqlite_make(shop.copied(folder / "killed"), shop.keyring)).open()
    counted(again, states_of(shop), "killed")
    alike(again, shop.model, "killed")
    again.close()
    shop.rig.reopen()
    counted(shop.rig, states_of(shop), "closed and opened again")
    alike(shop.rig, shop.model, "closed and opened again")
    shop.rig.close()
    assert again.damaged == []
    assert caplog.text == "", "nothing is said to be lost"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("when", ["a commit earlier", "in the same commit"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_one_that_is_put_aside_and_then_changes_is_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str, place: str, when: str
) -> None:
    began, states, position = CHANGES[change]
    shop = filled(tmp_path, began)
    number = at(shop, place)
    path = shop.live / "journal.db"
    account = value(path, "SELECT account FROM entry WHERE sequence = ?", number)
    overwrite(path, ACCOUNT, number)

    update = next_of(shop, number, states[0], position)
    if when == "in the same commit":
        write = Write(shop.rig.next_token(), (update,))
        before = shop.rig.run(shop.rig.journal.health()).commits
        found, told = shop.rig.perform(Load(shop.rig.next_token(), number), then=write)
        assert isinstance(found, Found)
        assert found.results == (Lookup.DAMAGED,)
        assert told == shop.model.write(write)
        assert shop.rig.run(shop.rig.journal.health()).commits == before + 1
    else:
        assert shop.rig.load(number) is Lookup.DAMAGED
        note(shop)
        assert [each.sequence for each in shop.rig.damaged] == [number]
        shop.both(update)
    for state in states[1:]:
        shop.both(next_of(shop, number, state))
    assert [each.sequence for each in shop.rig.damaged] == [number]
    overwrite(path, "UPDATE entry SET account = ? WHERE sequence = ?", account, number)
    all_is_right(shop, tmp_path, caplog)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("what", [ACCOUNT, ROW], ids=["account part", "row"])
@pytest.mark.parametrize("place", PLACES)
def test_one_that_the_queue_leads_to_and_that_owes_something_else_in_the_same_commit_is_owed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, what: str
) -> None:
    shop = filled(tmp_path, State.STORED)
    number = at(shop, place)
    path = shop.live / "journal.db"
    account = value(path, "SELECT account FROM entry WHERE sequence = ?", number)
    overwrite(path, what, number)
    update = evolved(shop.model.stored[number].transaction, State.REVERSING, answer=APPROVED_ANSWER)
    write = Write(shop.rig.next_token(), (update,))
    before = shop.rig.run(shop.rig.journal.health()).commits
    _, told = shop.rig.perform(FetchHeads(shop.rig.next_token(), LANES[0], 100), then=write)
    assert told == shop.model.write(write)
    assert shop.rig.run(shop.rig.journal.health()).commits == before + 1
    assert [each.sequence for each in shop.rig.damaged] == [number]
    overwrite(path, "UPDATE entry SET account = ? WHERE sequence = ?", account, number)
    all_is_right(shop, tmp_path, caplog)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", ["approved", "to be reversed", "asked again, approved"])
def test_one_whose_row_the_writer_itself_meets_damaged_when_it_changes_is_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str, place: str
) -> None:
    began, states, position = CHANGES[change]
    shop = filled(tmp_path, began)
    number = at(shop, place)
    shop.both(next_of(shop, number, began))  # so that its row is known without being read
    overwrite(shop.live / "journal.db", ROW, number)

    key = shop.model.stored[number].transaction.key
    retry = Write(shop.rig.next_token(), (sale(key),))
    write = Write(shop.rig.next_token(), (next_of(shop, number, states[0], position),))
    assert shop.rig.perform(retry, write) == [Existing(retry.token, None), shop.model.write(write)]
    for state in states[1:]:
        shop.both(next_of(shop, number, state))
    assert [each.sequence for each in shop.rig.damaged] == [number]
    all_is_right(shop, tmp_path, caplog)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("when", ["a commit earlier", "in the same commit"])
@pytest.mark.parametrize("place", PLACES)
def test_one_that_is_put_aside_and_stays_in_its_state_is_neither_counted_nor_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, when: str
) -> None:
    shop = filled(tmp_path, State.STORED)
    number = at(shop, place)
    overwrite(shop.live / "journal.db", ACCOUNT, number)
    shop.rig.heads(LANES[0])
    if when == "a commit earlier":
        note(shop)
    shop.both(next_of(shop, number, State.STORED))
    _, ids = shop.tables()
    assert number not in ids["unsettled"] + ids["owing"]
    shop.copied(tmp_path / "killed")
    again = Rig(sqlite_make(tmp_path / "killed" / "journal.db", shop.keyring)).open()
    for rig in (shop.rig, again):
        counted(rig, {State.STORED: 20}, place)
        assert number not in [each.transaction.id for each in rig.heads(LANES[0], 100).stored]
        assert rig.run(rig.journal.key_needs()).oldest_unsettled == 1
        rig.settle()
        rig.reopen()
        assert rig.run(rig.journal.health()).counts[State.STORED] == 20
        assert number not in [each.transaction.id for each in rig.heads(LANES[0], 100).stored]
        assert rig.run(rig.journal.key_needs()).oldest_unsettled == 1
        rig.close()
    assert shop.rig.damaged[0].sequence == number
    assert again.damaged == []
    assert caplog.text == ""


def test_a_damage_is_told_though_a_list_of_it_was_put_right_before(tmp_path: Path, rig: Rig) -> None:
    path = tmp_path / "journal.db"
    for number in range(1, 4):
        rig.write(sale(f"k|{number:06}"))
    rig.reopen()  # a start would say what the lookup table lacks
    overwrite(path, "DELETE FROM by_key WHERE id = 2")
    assert rig.find("k|000002") == (loaded(rig, 2),)
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [(2, "lookup")]

    overwrite(path, ACCOUNT, 2)
    assert [each.transaction.id for each in rig.heads("M/T").stored] == [1, 3]
    rig.settle()
    assert [each.sequence for each in rig.damaged] == [2, 2]
    assert rig.damaged[1].what.startswith("account part")
    assert rig.find("k|000002") == (Lookup.DAMAGED,)
    rig.settle()
    assert len(rig.damaged) == 2, "each is told once"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert taken_out(connection) == {2}
    health = rig.run(rig.journal.health())
    assert (health.quarantined, health.counts[State.STORED]) == (2, 2)


def test_a_list_that_is_wrong_is_not_told_of_one_that_is_damaged_itself(tmp_path: Path, rig: Rig) -> None:
    for number in range(1, 4):
        rig.write(sale(f"k|{number:06}"))
    rig.reopen()
    overwrite(tmp_path / "journal.db", ACCOUNT, 2)
    rig.heads("M/T")
    rig.settle()
    overwrite(tmp_path / "journal.db", "DELETE FROM by_key WHERE id = 2")
    rig.find("k|000002")
    rig.settle()
    assert [each.sequence for each in rig.damaged] == [2]


def test_one_that_two_lists_are_wrong_of_is_told_once(tmp_path: Path, rig: Rig) -> None:
    path = tmp_path / "journal.db"
    rig.write(sale("k|000001"))
    rig.write(sale("k|000002"))
    rig.reopen()
    overwrite(path, "DELETE FROM by_key WHERE id = 2")
    rig.find("k|000002")
    overwrite(path, "UPDATE owing SET lane = ? WHERE id = 2", b"M/T\xc3")
    rig.run(rig.journal.owing_lanes())
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [(2, "lookup")]
    assert [each.transaction.id for each in rig.heads("M/T").stored] == [1, 2]


@pytest.mark.usefixtures("small")
def test_one_that_a_list_was_wrong_of_is_not_taken_out_again_after_a_kill(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = filled(tmp_path, State.STORED)
    number = at(shop, "listed, and leaving")
    path = shop.live / "journal.db"
    overwrite(path, "UPDATE owing SET lane = ? WHERE id = ?", b"M|T\xc3", number)
    shop.rig.run(shop.rig.journal.owing_lanes())
    note(shop)
    assert [(each.sequence, each.what) for each in shop.rig.damaged] == [(number, "queue")]

    overwrite(path, ACCOUNT, number)
    for kill in range(3):
        rest = [each.transaction.id for each in shop.rig.heads(LANES[0]).stored]
        assert rest == [each for each in shop.model.stored if each != number], kill
        shop.rig.settle()
        assert shop.rig.run(shop.rig.journal.health()).counts[State.STORED] == 20, kill
        assert shop.rig.run(shop.rig.journal.key_needs()).oldest_unsettled == 1, kill
        assert len(shop.rig.damaged) == (0 if kill else 2), kill
        killed = shop.copied(tmp_path / f"killed {kill}")
        shop.rig.close()
        shop.rig, shop.live = Rig(sqlite_make(killed, shop.keyring)).open(), killed.parent
    shop.rig.close()
    assert caplog.text == ""


def test_sensitive_data_ends_with_its_transaction_though_its_row_was_written_anew_before(
    tmp_path: Path, rig: Rig
) -> None:
    path = tmp_path / "journal.db"
    rig.write(sale("k|000001", sensitive={35: TRACK}))
    rig.write(sale("k|000002", sensitive={35: TRACK}))
    rig.reopen()
    (first, second) = [each.transaction for each in rig.heads("M/T").stored]
    overwrite(path, ROW, 1)
    sent = evolved(first, State.STORED, kind=EntryKind.SENDING, attempts=1)
    rig.write(sent)
    rig.write(evolved(sent.transaction, State.APPROVED))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT sequence FROM sensitive").fetchall() == [(2,)]
    assert rig.run(rig.journal.key_needs()).sensitive == {2: 2}

    rig.write(evolved(second, State.STORED, kind=EntryKind.SENDING, attempts=1))
    assert loaded(rig, 2).sensitive == {35: TRACK}, "one that is whole keeps what its next sending needs"


@pytest.mark.usefixtures("small")
def test_what_only_the_writer_meets_damaged_a_second_time_leaves_lists_and_counts_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)
    open_in_one_lane(shop, 3, State.STORED)  # too few to leave: no slice makes the commit one that writes
    path, number = shop.live / "journal.db", 2
    overwrite(path, ACCOUNT, number)
    assert shop.rig.load(number) is Lookup.DAMAGED
    note(shop)
    shop.both(next_of(shop, number, State.REVERSING))
    counted(shop.rig, {State.STORED: 2, State.REVERSING: 1}, "owed again")

    overwrite(path, ROW, number)
    assert shop.rig.existing(sale(shop.model.stored[number].transaction.key)) is None
    killed = Rig(sqlite_make(shop.copied(tmp_path / "killed"), shop.keyring)).open()
    for rig in (shop.rig, killed):
        counted(rig, {State.STORED: 2}, "damaged again")
        assert rig.run(rig.journal.key_needs()).oldest_unsettled == 1
        rig.close()
    assert caplog.text == ""


def test_memory_of_what_is_in_quarantine_ends_when_it_has_left_for_the_tables(
    journal: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "RECENT_MAX", 6)
    monkeypatch.setattr(leaving, "_ROWS_DUE", 1_000)
    writer = batcher(journal)
    tokens = count(1)

    def write(*damages: Damage) -> None:
        number = next(tokens)
        events = writer.commit([Write(number, (sale(f"k|{number:06}", state=State.ASKING),))], damages)
        assert events is not None
        assert events[0] == Committed(number, (number,))

    for _ in range(4):
        write()
    write(Damage(3, "row", removes=True))
    assert writer.newest.aside == {3}
    while writer.head.indexed < 6:
        write()
        last = Damage(writer.head.sequence, "row", removes=True)
        write(last)  # so that something is put aside in the commit of the last slice, too
    assert writer.newest.aside
    assert all(number > writer.head.indexed for number in writer.newest.aside)
    listed = {number for (number,) in journal.execute("SELECT id FROM unsettled")}
    in_memory = set(writer.newest.unsettled(frozenset(State) - FINAL))
    assert not (listed | in_memory) & taken_out(journal)
    assert len({each for each in listed if each <= writer.head.indexed} | in_memory) == writer.head.counts[State.ASKING]
