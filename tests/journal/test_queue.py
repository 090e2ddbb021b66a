"""The queue: what the newest transactions owe is in memory until they are put in their places, and nobody can tell."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

from gateway.core.lifecycle import State
from gateway.journal.keyring import Keyring, create_keyring
from tests.journal.conformance import loaded
from tests.journal.rig import Rig, evolved, sale, sqlite_make

LANES = ("A", "B", "C")


def opened(folder: Path) -> tuple[Rig, Path, Keyring]:
    keyring = create_keyring(folder / "keys")
    path = folder / "journal.db"
    return Rig(sqlite_make(path, keyring)).open(), path, keyring


def stored(rig: Rig, first: int, count: int) -> None:
    for number in range(first, first + count):
        rig.write(sale(f"key|{number:06}", lane=LANES[number % len(LANES)], state=State.STORED))


def queued(path: Path) -> int:
    """Entries of the queue's table, as another connection sees them."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM owing").fetchone()
    return int(count)


def owed(rig: Rig) -> dict[str, list[int]]:
    return {lane: [each.transaction.id for each in rig.heads(lane).stored] for lane in LANES}


def test_what_is_new_is_owed_in_order_and_not_yet_in_the_queues_table(tmp_path: Path) -> None:
    rig, path, _ = opened(tmp_path)
    stored(rig, 1, 30)
    assert queued(path) == 0
    assert owed(rig) == {lane: [n for n in range(1, 31) if LANES[n % 3] == lane] for lane in LANES}
    assert rig.run(rig.journal.owing_lanes()) == sorted(LANES)
    rig.close()
    assert queued(path) == 30


def test_what_was_sent_while_it_was_new_never_enters_the_table(tmp_path: Path) -> None:
    rig, path, _ = opened(tmp_path)
    stored(rig, 1, 9)
    for number in range(1, 10):
        rig.write(evolved(loaded(rig, number).transaction, State.APPROVED))
    assert owed(rig) == {lane: [] for lane in LANES}
    assert rig.run(rig.journal.owing_lanes()) == []
    rig.close()
    assert queued(path) == 0
    assert rig.damaged == []


def test_old_and_new_are_read_as_one_queue_and_a_read_stops_at_its_limit(tmp_path: Path) -> None:
    rig, path, _ = opened(tmp_path)
    stored(rig, 1, 12)
    rig.reopen()
    assert queued(path) == 12
    stored(rig, 13, 12)
    assert owed(rig)["A"] == [3, 6, 9, 12, 15, 18, 21, 24]
    for limit in range(1, 10):
        heads = rig.heads("A", limit)
        assert [each.transaction.id for each in heads.stored] == [3, 6, 9, 12, 15, 18, 21, 24][:limit]
        assert heads.more == (limit < 8)
    rig.close()


def test_a_transaction_that_takes_another_place_is_read_there_once(tmp_path: Path) -> None:
    rig, _path, _keyring = opened(tmp_path)
    stored(rig, 1, 6)
    rig.reopen()
    stored(rig, 7, 6)
    for number in (3, 9):  # one in the table and one in memory go behind all others, as a terminal's reversal does
        rig.write(evolved(loaded(rig, number).transaction, State.REVERSING, position=-1))
    assert owed(rig)["A"] == [6, 12, 3, 9]
    rig.reopen()
    assert owed(rig)["A"] == [6, 12, 3, 9]
    rig.close()
    assert rig.damaged == []


def test_after_a_kill_what_was_in_memory_is_owed_again(tmp_path: Path) -> None:
    rig, path, keyring = opened(tmp_path)
    stored(rig, 1, 6)
    rig.reopen()
    stored(rig, 7, 24)
    for number in (8, 9):
        rig.write(evolved(loaded(rig, number).transaction, State.APPROVED))
    before = owed(rig)
    killed = tmp_path / "killed"
    killed.mkdir()
    for each in tmp_path.glob("journal.db*"):
        shutil.copy(each, killed / each.name)
    rig.close()
    (killed / "journal.db.lock").unlink()
    again = Rig(sqlite_make(killed / path.name, keyring)).open()
    assert owed(again) == before
    assert sum(map(len, before.values())) == 28
    again.close()
    assert again.damaged == []


def test_a_new_record_that_is_damaged_leaves_the_queue_and_is_reported_once(tmp_path: Path) -> None:
    rig, path, keyring = opened(tmp_path)
    stored(rig, 1, 6)
    copy = tmp_path / "copy"
    copy.mkdir()
    for each in tmp_path.glob("journal.db*"):
        shutil.copy(each, copy / each.name)
    rig.close()
    with contextlib.closing(sqlite3.connect(copy / path.name, isolation_level=None)) as connection:
        connection.execute("UPDATE tx SET row = zeroblob(length(row)) WHERE id = 3")
    (copy / "journal.db.lock").unlink()
    again = Rig(sqlite_make(copy / path.name, keyring)).open()
    for _ in range(3):
        assert owed(again)["A"] == [6]
        again.settle()
    assert [each.sequence for each in again.damaged] == [3]
    again.close()


def test_an_entry_that_shows_a_new_transaction_instead_of_its_own_leaves_nothing_in_the_table(tmp_path: Path) -> None:
    rig, path, _ = opened(tmp_path)
    stored(rig, 3, 1)
    rig.reopen()
    stored(rig, 6, 1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("UPDATE owing SET id = 2").rowcount == 1  # it was 1, and 2 is in memory only
    assert owed(rig)["A"] == [2]
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [(2, "queue")]
    assert queued(path) == 0
    rig.write(evolved(loaded(rig, 2).transaction, State.APPROVED))
    rig.reopen()
    assert owed(rig)["A"] == [1]
    assert rig.damaged[1:] == []
    rig.close()
