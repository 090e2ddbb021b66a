"""The SQLite journal keeps the contract of every journal, and what is its own."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.effects import Write
from gateway.core.events import Committed, WriteRefused
from gateway.core.lifecycle import State
from gateway.core.transaction import Kind
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.port import JournalKeysWrong, JournalLocked, JournalUnreadable, Listing
from gateway.journal.reader import open_for_reading
from tests.journal.conformance import JournalConformance, loaded
from tests.journal.rig import Rig, evolved, sale, sqlite_make


class TestSqliteJournal(JournalConformance):
    """The suite of every journal."""


def test_a_second_journal_on_the_same_file_is_refused_until_the_first_is_closed(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    second = Rig(sqlite_make(tmp_path / "journal.db", keyring))
    with pytest.raises(JournalLocked, match=r"journal\.db"):
        second.open()
    rig.close()
    second.open()
    second.close()


def test_a_file_with_a_second_name_is_refused_until_that_is_gone(tmp_path: Path, keyring: Keyring) -> None:
    """The lock and the write-ahead log lie beside a name: under another name, another gateway would have its own."""
    path, other = tmp_path / "journal.db", tmp_path / "elsewhere" / "journal.db"
    rig = Rig(sqlite_make(path, keyring)).open()
    rig.write(sale("k|1"))
    other.parent.mkdir()
    os.link(path, other)
    with pytest.raises(JournalLocked, match="another name"):
        Rig(sqlite_make(other, keyring)).open()
    rig.close()
    with pytest.raises(JournalLocked, match="another name"):
        Rig(sqlite_make(path, keyring)).open()
    other.unlink()
    Rig(sqlite_make(path, keyring)).open().close()


def test_another_keyring_is_refused_by_name(tmp_path: Path, rig: Rig) -> None:
    rig.close()
    other = Rig(sqlite_make(tmp_path / "journal.db", create_keyring(tmp_path / "other")))
    with pytest.raises(JournalKeysWrong, match=r"account-epoch key 1 .* is not the one"):
        other.open()


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalUnreadable):
        Rig(sqlite_make(path, keyring)).open()
    assert path.read_bytes() == before


def test_new_transactions_are_refused_over_the_limit_while_outcomes_go_through(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    rig.write(sale("k|000001"))
    rig.close()
    full = Rig(sqlite_make(tmp_path / "journal.db", keyring, limit_bytes=1)).open()
    assert isinstance(full.write(sale("k|000002")), WriteRefused)
    health = full.run(full.journal.health())
    assert not health.writable
    assert "limit" in health.reason
    assert full.existing(sale("k|000001")) == loaded(full, 1)
    undone = sale("k|000003")
    reversal = replace(undone, transaction=replace(undone.transaction, kind=Kind.REVERSAL))
    assert isinstance(full.write(reversal), Committed), "a reversal is always taken (D15)"
    assert isinstance(full.write(evolved(loaded(full, 1).transaction, State.APPROVED)), Committed)
    full.close()
    rig.open()
    assert isinstance(rig.write(sale("k|000002")), Committed)


def test_too_little_free_disk_refuses_new_transactions_before_they_are_acknowledged(
    tmp_path: Path, keyring: Keyring
) -> None:
    tight = Rig(sqlite_make(tmp_path / "journal.db", keyring, min_free_bytes=1 << 60)).open()
    assert isinstance(tight.write(sale()), WriteRefused)
    assert "free" in tight.run(tight.journal.health()).reason
    tight.close()


def test_a_journal_that_no_gateway_holds_can_be_listed_and_loaded(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    rig.perform(*(Write(rig.next_token(), (sale(f"k|{n:06}"),)) for n in range(10)))
    stored = loaded(rig, 3)
    rig.close()

    async def read() -> tuple[int, object]:
        reader = await open_for_reading(tmp_path / "journal.db", keyring)
        listed = await reader.listing(Listing(states=frozenset({State.STORED})))
        single = await reader.load(3)
        await reader.close()
        return len(listed), single

    rig.open()
    assert rig.run(read()) == (10, stored)
