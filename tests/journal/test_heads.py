"""Heads in a few wide queries: the same as one by one, and refused as soon as anything is not whole."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.events import Heads
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer
from gateway.journal.heads import HeadsReader
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.reading import RecordReader
from gateway.journal.rows import RowCodec
from gateway.journal.sealing import Sealer
from tests.journal.conformance import loaded
from tests.journal.rig import TRACK, Rig, evolved, sale, sqlite_make

LANES = ("A", "B", "C")
COUNT = 60


class OneByOne(RecordReader):
    """A reader that is refused the wide queries."""

    def __init__(self, connection: sqlite3.Connection, keyring: Keyring) -> None:
        super().__init__(connection, RowCodec(keyring.row_key), Sealer(keyring))
        self._heads = Refused(connection, RowCodec(keyring.row_key), Sealer(keyring))


class Refused(HeadsReader):
    def heads(self, *_: object) -> None:
        """Whatever there is, it is not whole."""


@pytest.fixture(name="journal")
def _journal(tmp_path: Path) -> tuple[Path, Keyring]:
    """A closed journal: lanes with sensitive parts, with answers of a later entry, and with what is sent already."""
    keyring = create_keyring(tmp_path / "keys")
    path = tmp_path / "journal.db"
    rig = Rig(sqlite_make(path, keyring)).open()
    for n in range(1, COUNT + 1):
        sensitive = {35: TRACK} if n % 5 == 0 else {}
        answer = None if n % 7 == 0 else Answer("0210", {39: "00", 38: f"{n:06}"})
        rig.write(sale(f"key|{n:06}", lane=LANES[n % 3], state=State.STORED, sensitive=sensitive, answer=answer))
    for n in range(1, COUNT + 1):
        row = loaded(rig, n).transaction
        if n % 11 == 0:
            rig.write(evolved(row, State.APPROVED))
        elif n % 4 == 0:
            rig.write(evolved(row, State.REVERSING, answer=Answer("0210", {39: "68"}), position=-1))
    rig.close()
    return path, keyring


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def wide(connection: sqlite3.Connection, keyring: Keyring) -> HeadsReader:
    return HeadsReader(connection, RowCodec(keyring.row_key), Sealer(keyring))


@pytest.mark.interpreted
def test_they_are_those_that_are_read_one_by_one(journal: tuple[Path, Keyring]) -> None:
    path, keyring = journal
    with opened(path) as connection:
        slow, fast = OneByOne(connection, keyring), wide(connection, keyring)
        for lane in (*LANES, "0 before all", "Bb between", "D behind all"):
            for limit in (1, 2, 7, 16, 100):
                heads = fast.heads(9, lane, limit, ())
                assert heads == slow.heads(9, lane, limit)
                assert heads is not None
                assert bool(heads.stored) == (lane in LANES)
                assert heads.more == (lane in LANES and limit < 18)
        assert slow.noted == []


def test_what_is_not_in_the_queues_table_yet_is_read_in_its_place(journal: tuple[Path, Keyring]) -> None:
    path, keyring = journal
    with opened(path) as connection:
        whole = wide(connection, keyring).heads(9, "A", 100, ())
        assert whole is not None
        places = [(each.transaction.position or each.transaction.id, each.transaction.id) for each in whole.stored]
        connection.executemany("DELETE FROM owing WHERE id = ?", [(number,) for _, number in places[::2]])
        settled = (33, 33)  # sent since the places were looked up
        assert wide(connection, keyring).heads(9, "A", 100, [*places[::2], settled]) == whole


def test_many_heads_take_as_few_queries_as_one(journal: tuple[Path, Keyring]) -> None:
    path, keyring = journal
    with opened(path) as connection:
        for limit in (1, 16):
            statements: list[str] = []
            connection.set_trace_callback(statements.append)
            heads = wide(connection, keyring).heads(9, "A", limit, ())
            connection.set_trace_callback(None)
            assert isinstance(heads, Heads)
            assert len(heads.stored) == limit
            assert len(statements) <= 5


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tx SET row = zeroblob(length(row)) WHERE id = 3",
        "UPDATE tx SET row = (SELECT row FROM tx WHERE id = 6) WHERE id = 3",
        "DELETE FROM tx WHERE id = 3",
        "UPDATE entry SET leaf = zeroblob(32) WHERE sequence = 3",
        "UPDATE entry SET account = zeroblob(length(account)) WHERE sequence = 3",
        "UPDATE entry SET account = NULL WHERE sequence = 3",
        "UPDATE entry SET (body, leaf) = (SELECT body, leaf FROM entry WHERE sequence = 6) WHERE sequence = 3",
        "DELETE FROM entry WHERE sequence = 3",
        "UPDATE sensitive SET ciphertext = zeroblob(length(ciphertext)) WHERE sequence = 15",
        "DELETE FROM sensitive WHERE sequence = 15",
        "UPDATE owing SET place = place + 1 WHERE id = 3",
        "UPDATE owing SET lane = CAST('A0' AS BLOB) WHERE id = 3",
        "INSERT INTO owing (lane, place, id) VALUES (CAST('A' AS BLOB), 33, 33)",
    ],
)
def test_whatever_is_not_whole_is_left_to_the_slower_way(journal: tuple[Path, Keyring], damage: str) -> None:
    path, keyring = journal
    with opened(path) as connection:
        fast = wide(connection, keyring)
        assert fast.heads(9, "A", 100, ()) is not None
        assert connection.execute(damage).rowcount == 1
        assert fast.heads(9, "A", 100, ()) is None
        reader = RecordReader(connection, RowCodec(keyring.row_key), Sealer(keyring))
        reader.heads(9, "A", 100)
        assert reader.noted
