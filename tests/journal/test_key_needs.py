"""Which epoch keys have sealed what is kept is found without reading all of it, and is what reading all would say."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence

import pytest

from gateway.journal.key_needs import oldest_by_key
from gateway.journal.port import JournalUnreadable
from gateway.journal.schema import TABLES
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART
from protocol.journal_entry import Entry, PartCommitment, encode_entry
from protocol.transparency.tree import leaf_hash


def body_of(sequence: int, key_id: int) -> bytes:
    """An entry with both parts; the account part is always sealed with key 1."""
    parts = tuple(
        PartCommitment(part, used, bytes(32), bytes(32)) for part, used in ((ACCOUNT_PART, 1), (SENSITIVE_PART, key_id))
    )
    return encode_entry(Entry(1, 1, sequence, 0, sequence, 0, 0, "", b"", "", "", "", "", parts))


def kept_of(connection: sqlite3.Connection, keys: Sequence[tuple[int, int]]) -> None:
    """Keep sensitive data of entries: pairs of sequence and key."""
    for sequence, key_id in keys:
        body = body_of(sequence, key_id)
        connection.execute(
            "INSERT INTO entry (sequence, body, leaf) VALUES (?, ?, ?)", (sequence, body, leaf_hash(body))
        )
        connection.execute("INSERT INTO sensitive VALUES (?, x'00')", (sequence,))


@pytest.fixture
def connection() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.execute(TABLES["entry"])
    made.execute(TABLES["sensitive"])
    return made


@pytest.mark.parametrize("seed", range(60))
def test_each_key_is_found_with_its_oldest_however_the_entries_lie(connection: sqlite3.Connection, seed: int) -> None:
    chance = random.Random(seed)
    key_id, sequence, keys = 2, 0, list[tuple[int, int]]()
    for _ in range(chance.choice((0, 1, 2, 3, 40, 300))):
        sequence += chance.choice((1, 1, 1, 2, 1_000, 1_000_000))
        key_id += chance.choice((0,) * chance.choice((1, 5, 50)) + (1, 7))
        keys.append((sequence, key_id))
    kept_of(connection, keys)
    expected = dict[int, int]()
    for at, used in keys:
        expected.setdefault(used, at)
    assert oldest_by_key(connection) == expected


def test_of_many_that_are_kept_few_are_read(connection: sqlite3.Connection) -> None:
    kept_of(connection, [(number, 2 + number // 5_000) for number in range(1, 20_001)])
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    assert oldest_by_key(connection) == {2: 1, 3: 5_000, 4: 10_000, 5: 15_000, 6: 20_000}
    entries = [each for each in asked if "FROM entry" in each]
    assert len(entries) < 80, "four borders, each found in 15 steps"
    plans = [row for each in asked for row in connection.execute(f"EXPLAIN QUERY PLAN {each}").fetchall()]
    assert plans
    assert all("SEARCH" in str(row[3]) for row in plans), "nothing reads a whole table"


@pytest.mark.parametrize("wrong", ["a flipped bit", "another entry", "no entry", "no sensitive part"])
def test_an_entry_that_does_not_say_which_key_it_was_is_named_and_nothing_is_said(
    connection: sqlite3.Connection, wrong: str
) -> None:
    kept_of(connection, [(3, 2), (4, 2)])
    body = body_of(4, 3)
    match wrong:
        case "a flipped bit":
            connection.execute("UPDATE entry SET body = ? WHERE sequence = 3", (body_of(3, 3),))
        case "another entry":
            connection.execute("UPDATE entry SET body = ?, leaf = ? WHERE sequence = 3", (body, leaf_hash(body)))
        case "no entry":
            connection.execute("DELETE FROM entry WHERE sequence = 3")
        case _:
            body = encode_entry(Entry(1, 1, 3, 0, 3, 0, 0, "", b"", "", "", "", "", ()))
            connection.execute("UPDATE entry SET body = ?, leaf = ? WHERE sequence = 3", (body, leaf_hash(body)))
    with pytest.raises(JournalUnreadable, match=r"entry 3 .*no key of sensitive data may be destroyed"):
        oldest_by_key(connection)


def test_where_an_older_key_follows_a_newer_one_nothing_is_said(connection: sqlite3.Connection) -> None:
    kept_of(connection, [(1, 2), (2, 3), (3, 2), (4, 4)])
    with pytest.raises(JournalUnreadable, match="names an older key"):
        oldest_by_key(connection)
    connection.execute("DELETE FROM sensitive WHERE sequence = 4")
    connection.execute("DELETE FROM sensitive WHERE sequence = 1")
    with pytest.raises(JournalUnreadable, match="names an older key"):
        oldest_by_key(connection)
