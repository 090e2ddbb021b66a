"""What is stored stays byte for byte: journals of earlier releases are read, and their logs are signed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from itertools import count, islice
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.effects import Limit, Note, Write
from gateway.core.events import Committed
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer, Kind, Stored
from gateway.journal.batch import Batcher
from gateway.journal.keyring import KeyPurpose, KeyRecord, Keyring
from gateway.journal.reading import RecordReader
from gateway.journal.rows import RowCodec
from gateway.journal.schema import create_tables, read_head
from gateway.journal.sealing import Sealer
from gateway.journal.wire import frame, orders
from tests.journal.rig import START_MS, evolved, sale

STORED = {
    "entry": "7b48b041",
    "sensitive": "325265e4",
    "subtree": "0be7300f",
    "tx": "a4f98d94",
    "owing": "fee5f3dd",
    "unsettled": "ab5b1d7f",
    "head": "60730fc8",
}
"""First four bytes of the SHA-256 over the rows of each table, as the first release that stored format 6 left them;
"tx" with the one value more that a row has at its end since then: whether the acquirer has said that it is booked."""

STORED_WITH_SECOND_KEYS = {"entry": "3c1af94a", "tx": "0036a374", "by_key": "c4e7680f", "by_key_again": "dda11408"}
"""The same of transactions with a second key."""

FIXED_KEYS = Keyring(
    "fixed",
    {number: KeyRecord(number, purpose, 0, "", "wrapped") for number, purpose in enumerate(KeyPurpose, 1)},
    {purpose: number for number, purpose in enumerate(KeyPurpose, 1)},
    {number: bytes([number]) * 32 for number, _ in enumerate(KeyPurpose, 1)},
)
LIMIT = Limit("terminal|M|T|156", 1_000, None, None, "standin.terminal")


def no_way(writes: Sequence[Write]) -> list[Write]:
    return list(writes)


def over_the_wire(writes: Sequence[Write]) -> list[Write]:
    """As the journal's own process reads them."""
    read = orders().feed(frame(writes))
    return [each for each in read if isinstance(each, Write)]


@pytest.fixture
def counted_nonces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is random comes out the same each time."""
    octets: Iterator[int] = (number % 251 for number in count())
    monkeypatch.setattr(os, "urandom", lambda size: bytes(islice(octets, size)))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as connection:
        create_tables(connection, FIXED_KEYS, RowCodec(FIXED_KEYS.row_key))
        yield connection


def batcher(connection: sqlite3.Connection) -> Batcher:
    codec = RowCodec(FIXED_KEYS.row_key)
    clock = count(START_MS)
    head = read_head(connection, codec, Path("journal"))
    return Batcher(connection, codec, Sealer(FIXED_KEYS), head, lambda: next(clock), lambda _: "")


def write_a_day(connection: sqlite3.Connection, way: Callable[[Sequence[Write]], list[Write]]) -> list[Stored]:
    """Some of everything that is stored, in three commits. What is then read back of four transactions."""
    writer = batcher(connection)
    original = sale("k|000001", state=State.ASKING, answer=None, sensitive={35: "4242424242424242=3012", 52: "00" * 8})
    track = sale("k|000002", sensitive={35: "4242424242424242=3012"}, reserve=(LIMIT,), horizon_ms=86_400_000)
    refused = sale("k|000003", state=State.DECLINED, kind=EntryKind.REFUSED, sensitive={35: "4242424242424242=3012"})
    pair = sale("k|000004", what=Kind.REVERSAL, kind=EntryKind.TAKEN), sale("k|000005", what=Kind.UNSEEN, original=-1)
    untold = sale("k|000006", state=State.ASKING, answer=None)
    first = [Write(1, (original,)), Write(2, (track,)), Write(3, (refused,)), Write(4, pair), Write(7, (untold,))]
    many = [Write(10 + number, (sale(f"k|{number:06}", lane=f"M/{number % 7}"),)) for number in range(100, 400)]
    given = replace(original.transaction, id=1)
    taken = evolved(given, State.REVERSING, kind=EntryKind.UNANSWERED, answer=Answer("0210", {39: "68"}), position=-1)
    settled = replace(track.transaction, id=2)
    last = evolved(settled, State.APPROVED, kind=EntryKind.OPERATOR, release=(LIMIT.counter,), detail="Zoë: hand")
    for writes in (first, many, [Write(5, (taken,)), Write(6, (last,))]):
        events = writer.commit(way(writes), [], [Note(EntryKind.MAINTENANCE, "Zoë opened")])
        assert events is not None
        assert all(isinstance(each, Committed) for each in events), events
        if writes is many:
            writer.tidy()  # what is owed from here on is in its table
    reader = RecordReader(connection, RowCodec(FIXED_KEYS.row_key), Sealer(FIXED_KEYS))
    rows = [reader.row(number) for number in (1, 2, 3, 5)]
    return [reader.stored(row) for row in rows if row is not None]


def digests(connection: sqlite3.Connection, tables: Iterable[str]) -> dict[str, str]:
    rows = {
        table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608 - ours
        for table in tables
    }
    return {table: sha256(repr(found).encode()).hexdigest()[:8] for table, found in rows.items()}


@pytest.mark.usefixtures("counted_nonces")
@pytest.mark.parametrize("way", [no_way, over_the_wire])
def test_every_table_holds_the_bytes_that_it_always_held(
    journal: sqlite3.Connection, way: Callable[[Sequence[Write]], list[Write]]
) -> None:
    write_a_day(journal, way)
    assert digests(journal, STORED) == STORED


@pytest.mark.usefixtures("counted_nonces")
@pytest.mark.parametrize("way", [no_way, over_the_wire])
def test_a_second_key_is_stored_in_the_bytes_that_it_was_always_stored_in(
    journal: sqlite3.Connection, way: Callable[[Sequence[Write]], list[Write]]
) -> None:
    writer = batcher(journal)
    sales = [sale(f"k|{number:06}", alias=f"idem|M|T|till-{number}") for number in range(1, 40)]
    events = writer.commit(way([Write(number, (each,)) for number, each in enumerate(sales)]), [])
    assert events == [Committed(number, (number + 1,)) for number in range(len(sales))]
    writer.tidy()
    assert digests(journal, STORED_WITH_SECOND_KEYS) == STORED_WITH_SECOND_KEYS


def test_what_came_over_the_wire_is_read_back_as_what_did_not(journal: sqlite3.Connection) -> None:
    read = write_a_day(journal, over_the_wire)
    assert [each.request.fields[11] for each in read] == ["000001", "000002", "000003", "000005"]
    assert read[0].sensitive == {35: "4242424242424242=3012", 52: "00" * 8}
    assert read[0].answer == Answer("0210", {39: "68"})
    assert [each.sensitive for each in read[1:]] == [{}, {}, {}]
    assert read[2].transaction.state is State.DECLINED
    assert read[3].transaction.original == 4
