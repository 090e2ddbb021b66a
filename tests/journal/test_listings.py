"""Batches and listings by terminal: they cost what they return, and are right whatever the lookup tables say."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.core.effects import FetchBatch, Write
from gateway.core.events import BatchRead, Committed, JournalEvent, Lookup
from gateway.core.lifecycle import State
from gateway.journal import batch as group_commit
from gateway.journal.groups import batch_numbers, batch_of, terminal_number
from gateway.journal.keyring import Keyring
from gateway.journal.listings import SCANNED_ROWS_MAX, Listings
from gateway.journal.port import JournalUnreadable, Listing
from gateway.journal.reader import open_for_reading
from gateway.journal.reading import RecordReader
from gateway.journal.rows import Row, RowCodec
from gateway.journal.schema import FORMAT
from gateway.journal.sealing import Sealer
from tests.journal.conformance import BATCH, loaded
from tests.journal.rig import START_MS, Rig, sale, sqlite_make
from tests.journal.test_damage import overwrite

OTHER = "B000002|M|T"


def fill(rig: Rig, *keys: str, state: State = State.STORED) -> None:
    rig.perform(*(Write(rig.next_token(), (sale(key, state=state),)) for key in keys))


def numbers_of(read: BatchRead) -> list[int]:
    return [each.transaction.id for each in read.stored]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def left_by_a_crash(path: Path) -> Path:
    """What a kill would leave of an open journal that is quiet: a copy of its files."""
    folder = path.parent / "crashed"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(path.with_name(path.name + suffix), folder)
    return folder / path.name


# Cost


@dataclass
class Cost:
    """Steps of SQLite's machine, and rows that were looked at."""

    steps: int = 0
    rows: int = 0


class CountingCodec(RowCodec):
    """Counts the rows that it unpacks."""

    def __init__(self, row_key: bytes) -> None:
        super().__init__(row_key)
        self.rows = 0

    def unpack(self, number: int, stored: object) -> Row:
        self.rows += 1
        return super().unpack(number, stored)


def cost_of(path: Path, keyring: Keyring, read: Callable[[Listings], object]) -> Cost:
    """What a read of a closed journal costs."""
    codec = CountingCodec(keyring.row_key)
    cost = Cost()

    def stepped() -> int:
        cost.steps += 1
        return 0

    connection = sqlite3.connect(path)
    connection.set_progress_handler(stepped, 1)
    read(Listings(RecordReader(connection, codec, Sealer(keyring)), codec))
    connection.close()
    cost.rows = codec.rows
    return cost


READS: dict[str, Callable[[Listings], object]] = {
    "batch": lambda listings: listings.batch(1, BATCH, ()),
    "terminal": lambda listings: listings.step(Listing(states=frozenset(), terminal="T"), 0),
    "terminal and STAN": lambda listings: listings.step(Listing(states=frozenset(), terminal="U", stan="000001"), 0),
}
OWED = Listing(states=frozenset({State.STORED}), terminal="T")


@pytest.mark.parametrize("name", READS)
def test_a_read_costs_what_it_returns_and_not_what_the_journal_holds(
    path: Path, keyring: Keyring, rig: Rig, name: str
) -> None:
    fill(rig, *(f"{BATCH}|2|{n:06}" for n in range(20)), "B000001|M|U|2|000001")
    rig.close()
    small = cost_of(path, keyring, READS[name])
    rig.open()
    fill(rig, *(f"B{n // 500:06}|M|U|2|{n:06}" for n in range(500, 6000)))
    rig.close()
    large = cost_of(path, keyring, READS[name])
    assert 0 < large.rows == small.rows
    assert large.steps < 2 * small.steps


def test_what_a_terminal_owes_is_not_looked_for_among_all_that_is_owed_if_much_is(
    path: Path, keyring: Keyring, rig: Rig
) -> None:
    fill(rig, *(f"{BATCH}|2|{n:06}" for n in range(20)))
    fill(rig, *(f"{BATCH}U|2|{n:06}" for n in range(3 * SCANNED_ROWS_MAX)))
    rig.close()
    assert cost_of(path, keyring, lambda listings: listings.step(OWED, 0)).rows == 20


def test_what_a_terminal_owes_is_not_looked_for_among_all_that_it_sent_if_little_is_owed(
    path: Path, keyring: Keyring, rig: Rig
) -> None:
    fill(rig, *(f"{BATCH}|2|{n:06}" for n in range(3 * SCANNED_ROWS_MAX)), state=State.APPROVED)
    fill(rig, f"{BATCH}|2|999999")
    rig.close()
    assert cost_of(path, keyring, lambda listings: listings.step(OWED, 0)).rows == 1


# Newest ones


def test_what_a_crash_left_out_of_the_lookup_tables_is_read_back(path: Path, keyring: Keyring, rig: Rig) -> None:
    fill(rig, f"{BATCH}|2|000001")
    rig.reopen()
    fill(rig, f"{OTHER}|2|000002", f"{BATCH}|2|000003")
    rig.write(sale(f"{OTHER}|2|000004", alias=f"{BATCH}|5|"))
    after = Rig(sqlite_make(left_by_a_crash(path), keyring)).open()
    assert numbers_of(after.batch(BATCH)) == [1, 3]
    assert after.listed(terminal="T") == [1, 2, 3, 4]
    assert after.listed(terminal="T", stan="000003") == [3]
    assert after.find(f"{BATCH}|5|")[0].transaction.id == 4
    after.close()


def test_a_journal_that_a_crash_left_can_be_listed_by_terminal_and_by_state_without_a_gateway(
    path: Path, keyring: Keyring, rig: Rig
) -> None:
    fill(rig, f"{BATCH}|2|000001")
    rig.reopen()
    fill(rig, f"{OTHER}|2|000002", "B000001|M|U|2|000003", f"{BATCH}|2|000001|")

    async def read(listing: Listing) -> list[int]:
        reader = await open_for_reading(left, keyring)
        rows = await reader.listing(listing)
        await reader.close()
        return [row.id for row in rows]

    left = left_by_a_crash(path)
    assert rig.run(read(Listing(states=frozenset(), terminal="T"))) == [1, 2, 4]
    assert rig.run(read(Listing(states=frozenset(), terminal="T", stan="000002"))) == [2]
    assert rig.run(read(Listing(states=frozenset({State.STORED})))) == [1, 2, 3, 4]
    assert rig.run(read(Listing(states=frozenset({State.ASKING})))) == []


def test_a_new_transaction_whose_row_a_crash_has_damaged_leaves_its_batch_not_whole(
    path: Path, keyring: Keyring, rig: Rig
) -> None:
    fill(rig, f"{BATCH}|2|000001", f"{BATCH}|2|000002")
    left = left_by_a_crash(path)
    overwrite(left, "UPDATE tx SET row = zeroblob(200) WHERE id = 2")
    after = Rig(sqlite_make(left, keyring)).open()
    read = after.batch(BATCH)
    assert (numbers_of(read), read.whole) == ([1], False)
    after.settle()
    assert [each.sequence for each in after.damaged] == [2]
    after.reopen()
    assert not after.batch(BATCH).whole
    after.close()


def test_a_new_transaction_whose_row_a_crash_has_damaged_is_still_known_by_both_its_keys(
    path: Path, keyring: Keyring, rig: Rig
) -> None:
    keys = (f"{BATCH}|2|000001", "idem|M|T|one")
    rig.write(sale(keys[0], alias=keys[1]))
    left = left_by_a_crash(path)
    overwrite(left, "UPDATE tx SET row = zeroblob(200) WHERE id = 1")
    after = Rig(sqlite_make(left, keyring)).open()
    for _ in range(2):  # in memory, then in the tables
        assert after.find(*keys) == (Lookup.DAMAGED, Lookup.DAMAGED)
        assert after.existing(sale(keys[0])) is None
        assert after.existing(sale(f"{BATCH}|2|000002", alias=keys[1])) is None
        after.reopen()
    after.close()


def test_reads_that_race_with_the_move_into_the_tables_miss_nothing_that_was_answered(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "RECENT_MAX", 3)
    count = 150
    asked: dict[int, int] = {}
    seen: dict[int, int] = {}
    listings: list[asyncio.Task[None]] = []
    done = asyncio.Event()

    def deliver(events: Sequence[JournalEvent]) -> None:
        for event in events:
            if isinstance(event, Committed):
                number = len(asked) + 1
                asked[number] = number
                journal.fetch_batch(FetchBatch(number, BATCH))
                listings.append(asyncio.get_running_loop().create_task(list_terminal(number)))
                if number < count:
                    journal.write(Write(0, (sale(f"{BATCH}|2|{number:06}"),)))
            elif isinstance(event, BatchRead):
                seen[event.token] = len(event.stored)
                if len(seen) == count:
                    done.set()

    async def list_terminal(number: int) -> None:
        rows = await journal.listing(Listing(states=frozenset(), terminal="T", limit=1000))
        assert len(rows) >= number

    def failed(error: Exception) -> None:
        raise error

    journal = sqlite_make(tmp_path / "journal.db", keyring)(deliver, failed, lambda: START_MS)

    async def race() -> None:
        await journal.open()
        journal.write(Write(0, (sale(f"{BATCH}|2|000000"),)))
        try:
            async with asyncio.timeout(30):
                await done.wait()
                await asyncio.gather(*listings)
        finally:
            await journal.close()

    asyncio.run(race())
    assert [number for number in asked if seen[number] < number] == []


# Damage


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tx SET row = zeroblob(200) WHERE id = 2",
        "DELETE FROM tx WHERE id = 2",
        "UPDATE entry SET leaf = zeroblob(32) WHERE sequence = 2",
        "UPDATE entry SET account = zeroblob(300) WHERE sequence = 2",
    ],
)
def test_a_batch_with_a_damaged_record_is_not_whole_and_the_rest_is_there(path: Path, rig: Rig, statement: str) -> None:
    fill(rig, *(f"{BATCH}|2|{n:06}" for n in range(3)))
    rig.close()
    overwrite(path, statement)
    rig.open()
    for _ in range(2):
        read = rig.batch(BATCH)
        assert (numbers_of(read), read.whole) == ([1, 3], False)
    rig.settle()
    assert [each.sequence for each in rig.damaged if each.sequence] == [2]
    assert rig.run(rig.journal.health()).quarantined == 1 + ("leaf" in statement), "the next root needs its leaf"


@pytest.mark.parametrize("table", ["by_batch", "by_batch_again"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET hash = hash + 1", "UPDATE {} SET id = id + 100"])
def test_a_batch_that_one_lookup_table_has_lost_is_still_whole(path: Path, rig: Rig, table: str, change: str) -> None:
    fill(rig, *(f"{BATCH}|2|{n:06}" for n in range(3)))
    rig.close()
    overwrite(path, change.format(table) + " WHERE id = 2")
    rig.open()
    read = rig.batch(BATCH)
    assert (numbers_of(read), read.whole) == ([1, 2, 3], True)
    rig.settle()
    assert {each.what for each in rig.damaged} == {"lookup"}


def test_groups_of_one_number_do_not_mix_and_are_no_damage(path: Path, keyring: Keyring, rig: Rig) -> None:
    fill(rig, f"{BATCH}|2|000001", f"{OTHER}|2|000002", "B000001|M|U|2|000001")
    rig.close()
    for table in ("by_batch", "by_batch_again", "by_terminal"):
        with sqlite3.connect(path) as connection:
            hashes = connection.execute(f"SELECT DISTINCT hash FROM {table}").fetchall()  # noqa: S608
            listed = [(hashed, number) for (hashed,) in hashes for number in (1, 2, 3)]
            connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", listed)  # noqa: S608
        connection.close()
    rig.open()
    assert [numbers_of(rig.batch(each)) for each in (BATCH, OTHER, "B000001|M|U")] == [[1], [2], [3]]
    assert rig.batch(BATCH).whole
    assert (rig.listed(terminal="T"), rig.listed(terminal="U", stan="000001")) == ([1, 2], [3])
    assert loaded(rig, 1).transaction.key == f"{BATCH}|2|000001"


def test_a_journal_of_the_older_format_is_refused_by_its_format(path: Path, rig: Rig) -> None:
    rig.close()
    older = bytearray(path.read_bytes())
    older[60:64] = (3).to_bytes(4, "big")
    path.write_bytes(older)
    with pytest.raises(JournalUnreadable, match=f"not a journal of format {FORMAT}: it says 3, which"):
        rig.open()
    assert path.read_bytes() == older


# Numbers


@pytest.mark.parametrize(
    ("key", "batch"),
    [
        ("B000001|M|T|2|000042", "B000001|M|T"),
        ("idem|M|T|a|b|c", "idem|M|T"),
        ("B000001|M|T|", "B000001|M|T"),
        ("B000001|M|T", ""),
        ("", ""),
    ],
)
def test_a_batch_is_the_first_three_parts_of_a_key_that_has_more(key: str, batch: str) -> None:
    assert batch_of(key) == batch


def test_what_a_terminal_adds_lies_close_together_and_apart_from_others(keyring: Keyring) -> None:
    codec = RowCodec(keyring.row_key)

    def upper(number: int) -> int:
        assert -(1 << 63) <= number < 1 << 63
        return number >> 24

    stans = ["", "000000", "000001", "999999", "12", "abcdef", "１２３４５６"]
    own = {upper(terminal_number(codec, "T", stan)) for stan in stans}
    assert own == {upper(batch_numbers(codec, batch)[0]) for batch in (BATCH, OTHER)}
    assert len(own) == 1
    others = [upper(terminal_number(codec, f"T{n}")) for n in range(1000)]
    assert len({*own, *others}) == 1001
    assert len({terminal_number(codec, "T", stan) for stan in stans}) == 5
    one, again = batch_numbers(codec, BATCH)
    assert upper(one) != upper(again)
