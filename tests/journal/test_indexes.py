"""A start notices that rows of the queue or of the lookup tables were removed: it puts them back, or says so."""

from __future__ import annotations

import logging
import sqlite3
from itertools import count
from pathlib import Path

import pytest

from gateway.core.events import Committed, Lookup
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer
from gateway.journal.keyring import Keyring
from gateway.journal.port import JournalUnreadable
from gateway.journal.rows import RowCodec
from tests.journal.conformance import loaded
from tests.journal.rig import Rig, evolved, sale

DAY_MS = 24 * 3600 * 1000


def removed(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "journal.db")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, f"{statement}: removes nothing"
    connection.commit()
    connection.close()


def rows(folder: Path, table: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "journal.db")
    try:
        return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()  # noqa: S608 - one of our names
    finally:
        connection.close()


def fill(rig: Rig) -> None:
    """Twelve that are owed, one that a person has, one in doubt, one that is booked."""
    for number in range(1, 13):
        rig.write(sale(f"k|{number:06}", lane=f"M/T{number % 3}"))
    rig.write(sale("k|000013", state=State.PARKED))
    rig.write(sale("k|000014", state=State.ASKING, answer=None))
    rig.write(sale("k|000015"))
    rig.write(evolved(loaded(rig, 15).transaction, State.APPROVED, answer=Answer("0230", {39: "00"})))


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM owing",),
        ("DELETE FROM owing WHERE id = 5",),
        ("DELETE FROM unsettled",),
        ("DELETE FROM unsettled WHERE id = 13",),
        ("DELETE FROM owing", "DELETE FROM unsettled"),
    ],
)
def test_what_was_removed_from_the_queue_is_put_back_at_the_start_and_logged(
    tmp_path: Path, rig: Rig, caplog: pytest.LogCaptureFixture, statements: tuple[str, ...]
) -> None:
    fill(rig)
    rig.close()
    before = {table: rows(tmp_path, table) for table in ("owing", "unsettled")}
    removed(tmp_path, *statements)
    with caplog.at_level(logging.ERROR, "gateway.journal"):
        rig.open()
    assert "were put back" in caplog.text
    assert [each.transaction.id for each in rig.heads("M/T2").stored] == [2, 5, 8, 11]
    assert rig.damaged == []
    rig.close()
    assert {table: rows(tmp_path, table) for table in before} == before


def test_a_journal_that_nobody_has_touched_is_opened_without_a_word(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    fill(rig)
    with caplog.at_level(logging.ERROR, "gateway.journal"):
        rig.reopen()
        rig.reopen()
    assert caplog.text == ""
    assert rig.damaged == []


def test_what_is_owed_and_whose_row_is_gone_too_is_reported(tmp_path: Path, rig: Rig) -> None:
    fill(rig)
    rig.close()
    removed(
        tmp_path, "DELETE FROM owing WHERE id = 5", "DELETE FROM unsettled WHERE id = 5", "DELETE FROM tx WHERE id = 5"
    )
    rig.open()
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [
        (0, "queue: it has fewer transactions than the head counts")
    ]
    assert rig.run(rig.journal.health()).quarantined == 1


@pytest.mark.parametrize("where", ["", " WHERE id <= 12", " WHERE id = 1"])
def test_a_journal_whose_keys_were_removed_from_both_lookup_tables_is_not_opened(
    tmp_path: Path, rig: Rig, where: str
) -> None:
    fill(rig)
    rig.close()
    removed(tmp_path, f"DELETE FROM by_key{where}", f"DELETE FROM by_key_again{where}")  # noqa: S608
    with pytest.raises(JournalUnreadable, match=r"charged again.*audit verify.*restore"):
        rig.open()


@pytest.mark.parametrize("missing", ["k|000001", "idem|M|T|one"])
def test_a_journal_of_which_one_of_two_keys_was_removed_from_both_lookup_tables_is_not_opened(
    tmp_path: Path, rig: Rig, keyring: Keyring, missing: str
) -> None:
    rig.write(sale("k|000001", alias="idem|M|T|one"))
    rig.close()
    first, second = RowCodec(keyring.row_key).key_hashes(missing)
    removed(tmp_path, f"DELETE FROM by_key WHERE hash = {first}")  # noqa: S608 - a number
    rig.open()
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [(0, "lookup rows of by_key")]
    rig.close()
    removed(tmp_path, f"DELETE FROM by_key_again WHERE hash = {second}")  # noqa: S608 - a number
    with pytest.raises(JournalUnreadable, match=r"charged again.*audit verify.*restore"):
        rig.open()


@pytest.mark.parametrize("table", ["by_key", "by_key_again"])
def test_a_lookup_table_that_was_emptied_is_reported_at_the_start(tmp_path: Path, rig: Rig, table: str) -> None:
    fill(rig)
    rig.close()
    removed(tmp_path, f"DELETE FROM {table}")  # noqa: S608
    rig.open()
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [(0, f"lookup rows of {table}")]


def test_a_key_that_came_again_soon_after_its_horizon_does_not_keep_the_journal_from_opening(rig: Rig) -> None:
    rig.write(sale("k|000001", state=State.DECLINED, accepted_ms=rig.now_ms, horizon_ms=DAY_MS))
    rig.now_ms += 2 * DAY_MS
    rig.write(sale("k|000001", state=State.DECLINED, accepted_ms=rig.now_ms, horizon_ms=DAY_MS))
    rig.reopen()
    assert rig.damaged == []
    assert rig.find("k|000001")[0].transaction.id == 2


def twins(codec: RowCodec, table: int) -> tuple[str, str]:
    """Two second keys of one terminal that have one number in this lookup table, and two in the other."""
    known: dict[int, str] = {}
    for number in count():
        key = f"idem|M|T|{number}x"
        other = known.setdefault(codec.key_hashes(key)[table], key)
        if other != key:
            assert codec.key_hashes(key)[1 - table] != codec.key_hashes(other)[1 - table]
            return other, key
    raise AssertionError


@pytest.mark.parametrize("table", [0, 1])
def test_keys_that_one_lookup_table_cannot_tell_apart_are_both_found_and_nothing_is_damaged(
    rig: Rig, keyring: Keyring, table: int
) -> None:
    one, other = twins(RowCodec(keyring.row_key), table)
    rig.write(sale("k|000001", alias=one))
    rig.reopen()  # it is in the tables
    assert rig.find(other) == (Lookup.ABSENT,)
    assert isinstance(rig.write(sale("k|000002", alias=other)), Committed)
    rig.reopen()
    assert [each.transaction.id for each in rig.find(one, other)] == [1, 2]
    existing = rig.existing(sale("k|000003", alias=other))
    assert existing is not None
    assert existing.transaction.id == 2
    rig.settle()
    assert rig.damaged == []
