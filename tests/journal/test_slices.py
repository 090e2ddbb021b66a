"""The newest transactions leave for the tables slice by slice, and between any two of them nobody can tell."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from gateway.audit.damage import Damage
from gateway.audit.verifying import Wanted, verify
from gateway.core.effects import Create, Limit, Update, Write
from gateway.core.events import Committed, Lookup, OverLimit, WriteRefused
from gateway.core.lifecycle import FINAL, REPLAYABLE, EntryKind, State
from gateway.journal import batch, counters, leaving, newest, sqlite, upkeep
from gateway.journal.keyring import create_keyring
from gateway.journal.listings import Listings
from gateway.journal.port import Listing
from gateway.journal.reading import RecordReader
from gateway.journal.rows import RowCodec
from gateway.journal.schema import Head, newest_head
from gateway.journal.sealing import Sealer
from tests.journal.model import ModelJournal
from tests.journal.rig import APPROVED_ANSWER, START_MS, Rig, evolved, sale, sqlite_make
from tests.journal.test_log_tree import full_disk

pytestmark = pytest.mark.interpreted

SEED: Final = 20_271
LANES: Final = ("M|T0", "M|T1", "M|T2")
TABLES: Final = ("by_key", "by_key_again", "by_batch", "by_batch_again", "by_terminal", "owing", "unsettled", "counter")
OF_TABLES: Final = {Damage.QUEUE, Damage.LOOKUP, Damage.LOOKUP_FOREIGN, Damage.ROW, Damage.UNREADABLE}
"""What `audit verify` says of rows that lack, or do not belong: the sales here change by no rule of the lifecycle."""

COMMITS: Final = 170
SOLD: Final = 1_500
CARDS: Final = 300
SPARE_PAGES: Final = 3
DEADLINE_S = 10.0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations of six transactions at least; a commit has at most one slice, of three rows or of two counters."""
    monkeypatch.setattr(batch, "RECENT_MAX", 6)
    monkeypatch.setattr(upkeep, "_QUIET_S", 3600.0)
    monkeypatch.setattr(leaving, "_ROWS_DUE", 1)
    monkeypatch.setattr(newest, "SLICE_ROWS", 3)
    monkeypatch.setattr(newest, "_SORTED_AT_ONCE", 2)
    monkeypatch.setattr(newest, "_SORTING_COST", 1)
    monkeypatch.setattr(newest, "_LET_GO_AT_ONCE", 1)
    monkeypatch.setattr(batch, "_FORGOTTEN_AT_ONCE", 2)
    monkeypatch.setattr(counters, "SLICE_COUNTERS", 2)
    monkeypatch.setattr(counters, "_COUNTER_COST", 1)
    monkeypatch.setattr(counters, "SLICE_LOGGED", 3)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """One generation. Each slice is a whole table, and takes more pages of the disk than an outcome does."""
    monkeypatch.setattr(batch, "RECENT_MAX", SOLD)
    monkeypatch.setattr(upkeep, "_QUIET_S", 3600.0)
    monkeypatch.setattr(leaving, "_ROWS_DUE", SOLD // 2)  # so that one slice goes with every other commit
    monkeypatch.setattr(newest, "SLICE_ROWS", SOLD)
    monkeypatch.setattr(counters, "SLICE_COUNTERS", CARDS + 1)
    monkeypatch.setattr(counters, "_COUNTER_COST", SOLD // CARDS)
    monkeypatch.setattr(counters, "SLICE_LOGGED", SOLD)


class Shop:
    """A journal and the model of it, which are told the same; `live` is where the journal lies."""

    def __init__(self, folder: Path) -> None:
        self.live = folder / "live"
        self.live.mkdir()
        self.keyring = create_keyring(folder / "keys")
        self.codec = RowCodec(self.keyring.row_key)
        self.rig = Rig(sqlite_make(self.live / "journal.db", self.keyring)).open()
        self.model = ModelJournal()
        self.model.now_ms = START_MS
        self.dice = random.Random(SEED)
        self.sales = 0

    def both(self, *changes: Create | Update) -> None:
        write = Write(self.rig.next_token(), changes)
        expected = self.model.write(write)
        assert self.rig.perform(write) == [expected]
        assert isinstance(expected, Committed)

    def sell(self) -> None:
        lane = self.sales % len(LANES)
        key = f"B{self.sales // 40:06}|M|T{lane}|2|{self.sales:06}"
        self.sales += 1
        limits = tuple(Limit(name, None, None, None, "all") for name in ("all", f"card{self.dice.randrange(12)}"))
        state = self.dice.choice([State.STORED, State.STORED, State.ASKING])
        alias = f"idem|M|T{lane}|{self.sales}" if self.sales % 2 else ""
        reserve = limits if state is State.STORED else ()
        self.both(sale(key, lane=LANES[lane], state=state, reserve=reserve, alias=alias))

    def change(self) -> None:
        """Something of the newest twenty goes on: it is settled, it is owed now, or it goes behind all others."""
        open_ones = [n for n in sorted(self.model.stored)[-20:] if self.state(n) in (State.STORED, State.ASKING)]
        if not open_ones:
            self.sell()
            return
        row = self.model.stored[self.dice.choice(open_ones)].transaction
        if row.state is State.ASKING:
            self.both(evolved(row, self.dice.choice([State.REVERSING, State.STORED, State.APPROVED])))
        elif self.dice.random() < 0.5:
            self.both(evolved(row, State.REVERSING, position=-1))
        else:
            self.both(evolved(row, State.APPROVED, release=("all",)))

    def state(self, number: int) -> State:
        return self.model.stored[number].transaction.state

    def copied(self, there: Path) -> Path:
        """What a kill would leave now."""
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir()
        for each in self.live.glob("journal.db*"):
            if not each.name.endswith((".lock", "-shm")):
                shutil.copy(each, there / each.name)
        return there / "journal.db"

    def tables(self) -> tuple[Head, dict[str, list[int]]]:
        """The head, and the ids that each table has, as another process sees them."""
        path = self.live / "journal.db"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")
            head = newest_head(connection, self.codec)
            assert head is not None
            ids = {
                table: [number for (number,) in connection.execute(f"SELECT id FROM {table}")]  # noqa: S608
                for table in TABLES[:-1]
            }
            logged = connection.execute("SELECT sequence FROM counter_log").fetchall()
        return head, {**ids, "counter_log": [number for (number,) in logged]}

    def counters(self) -> frozenset[tuple[object, ...]]:
        """What stands in the counters' own table, which is something else after each slice of counters."""
        path = self.live / "journal.db"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return frozenset(connection.execute("SELECT name, count, amount_minor FROM counter"))

    def place(self) -> tuple[int, ...]:
        """How many rows of transactions that the head does not claim each table has; all zero where nothing leaves."""
        head, ids = self.tables()
        return tuple(sum(number > head.indexed for number in numbers) for numbers in ids.values())


def alike(rig: Rig, model: ModelJournal, where: str) -> None:
    """All that can be asked gives what the model gives."""
    assert rig.run(rig.journal.owing_lanes()) == model.owing_lanes(), where
    for lane in LANES:
        for limit in (2, 1000):
            heads = rig.heads(lane, limit)
            assert heads == model.heads(heads.token, lane, limit), where
    assert rig.run(rig.journal.in_doubt(1000)) == model.in_doubt(), where
    for states in ({State.ASKING}, set(State) - FINAL):
        unsettled = Listing(states=frozenset(states), limit=10_000)
        assert rig.run(rig.journal.listing(unsettled)) == model.listing(unsettled), where
    open_ones = [number for number, each in model.stored.items() if each.transaction.state not in FINAL]
    assert rig.run(rig.journal.key_needs()).oldest_unsettled == min(open_ones, default=0), where
    keys = [each.transaction.key for each in model.stored.values()]
    aliases = [each.transaction.alias for each in model.stored.values() if each.transaction.alias]
    for start in range(0, len(aliases), 100):
        part = aliases[start : start + 100]
        assert rig.find(*part) == tuple(model.find(key, 0) for key in part), where
    for start in range(0, len(keys), 100):
        part = keys[start : start + 100]
        assert rig.find(*part) == tuple(model.find(key, 0) for key in part), where
    for group in sorted({key.rpartition("|2|")[0] for key in keys}):
        read = rig.batch(group)
        assert read == model.batch(read.token, group), where
    for terminal in ("T0", "T1", "T2"):
        for stan in ("", "000009"):
            listing = Listing(states=frozenset(), terminal=terminal, stan=stan, limit=10_000)
            assert rig.run(rig.journal.listing(listing)) == model.listing(listing), where


def nothing_is_damaged(shop: Shop, path: Path, where: str) -> None:
    """Neither who verifies the files nor who has asked memory too early takes a row for damage, or misses one twice."""
    for keyring in (shop.keyring, None):
        verdict = verify(Wanted(journal=path, keyring=keyring), lambda _what, _part: None)
        assert not verdict.found.keys() & OF_TABLES, f"{where}: {[str(each) for each in verdict.findings]}"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        records = RecordReader(connection, shop.codec, Sealer(shop.keyring))
        for each in shop.model.stored.values():
            for key in filter(None, (each.transaction.key, each.transaction.alias)):
                assert records.by_key(key, None, 0) in (each, Lookup.ABSENT), where
        for period in range(2):
            Listings(records, shop.codec).batch(0, f"B{period:06}|M|T0", ())
        assert records.noted == [], where


def counted(rig: Rig, model: ModelJournal, where: str) -> None:
    """Every counter stands where the model's does: its bound refuses what is one more, and takes what fits just."""
    for name, (count, total, _) in model.counters.items():
        amount = max(total, 0)
        for bound, refused in (((count, None), True), ((count + 1, amount + 1), False)):
            limit = Limit(name, bound[0], bound[1], None, "bound")
            probe = sale(f"probe|{name}|{refused}", state=State.DECLINED, amount_minor=1, reserve=(limit,))
            assert isinstance(rig.write(probe), OverLimit) is refused, f"{where}: {name}"


@pytest.mark.usefixtures("small")
def test_a_kill_between_any_two_slices_loses_no_key_no_owed_row_and_no_counter(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    places: set[tuple[tuple[int, ...], frozenset[tuple[object, ...]]]] = set()
    owed_early = doubtful_early = 0
    for commit in range(COMMITS):
        (shop.sell if shop.dice.random() < 0.35 else shop.change)()
        before = len(places)
        places.add((shop.place(), shop.counters()))
        if len(places) == before:
            continue  # no slice since
        where = f"seed {SEED}, after commit {commit}"
        alike(shop.rig, shop.model, f"{where}, alive")
        path = shop.copied(tmp_path / "killed")
        nothing_is_damaged(shop, path, where)
        again = Rig(sqlite_make(path, shop.keyring)).open()
        alike(again, shop.model, where)
        for number in sorted(shop.model.stored)[-12:]:
            known = shop.model.stored[number]
            assert again.existing(sale(known.transaction.key)) == known, where
        assert again.run(again.journal.health()).oldest_owed_ms == shop.model.oldest_owed_ms(), where
        counted(again, shop.model, where)
        again.reopen()
        assert again.damaged == [], where
        again.close()
        owed_early += shop.place()[5] > 0
        doubtful_early += shop.place()[6] > 0
    head, _ = shop.tables()
    assert head.indexed > 40, "two generations have left"
    assert len({place for place, _ in places}) > 60, "every third commit had a slice"
    assert len({standing for _, standing in places}) > 8, "counters have gone to their places, a few at a time"
    assert owed_early > 5
    assert doubtful_early > 5
    shop.rig.close()
    assert shop.rig.damaged == []


@pytest.mark.usefixtures("small")
def test_a_start_that_follows_a_kill_between_slices_puts_everything_in_its_place_when_it_closes(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    while sum(each > 0 for each in shop.place()) < 4:
        (shop.sell if shop.dice.random() < 0.7 else shop.change)()
    path = shop.copied(tmp_path / "killed")
    shop.rig.close()
    again = Rig(sqlite_make(path, shop.keyring)).open()
    shop.rig, shop.live = again, path.parent
    for _ in range(5):
        shop.change()
    again.close()
    head, ids = shop.tables()
    rows = {number: each.transaction for number, each in shop.model.stored.items()}
    assert head.indexed == head.sequence
    assert ids["counter_log"] == []
    named_twice = [number for number, row in rows.items() if row.alias]
    assert sorted(ids["by_key"]) == sorted(ids["by_key_again"]) == sorted([*rows, *named_twice])
    assert sorted(ids["by_batch"]) == sorted(rows)
    assert sorted(ids["by_terminal"]) == sorted([*rows, *rows])
    assert sorted(ids["owing"]) == [number for number, row in rows.items() if row.state in REPLAYABLE]
    assert sorted(ids["unsettled"]) == [number for number, row in rows.items() if row.state not in FINAL]
    again.open()
    alike(again, shop.model, "closed and opened again")
    assert again.damaged == []
    again.close()


def open_in_one_lane(shop: Shop, count: int, state: State) -> None:
    answer = APPROVED_ANSWER if state is State.STORED else None
    for _ in range(count):
        shop.both(sale(f"B000000|M|T0|2|{shop.sales:06}", lane=LANES[0], state=state, answer=answer))
        shop.sales += 1


def owed_in_one_lane(shop: Shop, count: int) -> None:
    open_in_one_lane(shop, count, State.STORED)


def asked(shop: Shop, count: int) -> None:
    open_in_one_lane(shop, count, State.ASKING)


def until(shop: Shop, reached: Callable[[], bool]) -> None:
    """Write what is about no transaction, a slice with each, until something is reached."""
    for _ in range(200):
        if reached():
            return
        assert shop.rig.run(shop.rig.journal.note(EntryKind.MAINTENANCE, "who: why")) == shop.model.note()
    pytest.fail("it is not reached")


@pytest.mark.usefixtures("small")
def test_what_is_sent_while_its_lane_is_put_in_the_queue_does_not_come_into_the_queue(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    owed_in_one_lane(shop, 12)
    until(shop, lambda: shop.place()[5] > 0)
    _, ids = shop.tables()
    last = max(number for number in shop.model.stored if shop.place()[5] < number <= 6)
    assert last not in ids["owing"]
    shop.both(evolved(shop.model.stored[last].transaction, State.APPROVED))
    until(shop, lambda: shop.tables()[0].indexed >= 6)
    _, ids = shop.tables()
    assert sorted(ids["owing"]) == [number for number in range(1, 7) if number != last]
    alike(shop.rig, shop.model, "all of them have left")
    shop.rig.close()
    assert shop.rig.damaged == []


@pytest.mark.usefixtures("small")
def test_what_is_in_doubt_and_answered_while_it_leaves_does_not_stay_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "RECENT_MAX", 14)
    shop = Shop(tmp_path)
    asked(shop, 14)
    until(shop, lambda: shop.place()[6] > 0)
    _, ids = shop.tables()
    assert sorted(ids["unsettled"]) == [1, 2, 3], "the first one of five slices"
    listed, moved, late, last = 2, 3, 13, 14
    for number, state in (
        (last, State.APPROVED),
        (listed, State.APPROVED),
        (moved, State.REVERSING),
        (late, State.REVERSING),
    ):
        shop.both(evolved(shop.model.stored[number].transaction, state))
    path = shop.copied(tmp_path / "killed")
    nothing_is_damaged(shop, path, "killed")
    until(shop, lambda: shop.tables()[0].indexed >= last)
    _, ids = shop.tables()
    assert sorted(number for number in ids["unsettled"] if number <= last) == sorted(
        {*range(1, last + 1)} - {listed, last}
    )
    alike(shop.rig, shop.model, "all of them have left")
    shop.rig.close()
    assert shop.rig.damaged == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("state", [State.ASKING, State.STORED])
def test_what_a_kill_between_two_slices_has_left_in_a_table_leaves_it_with_its_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """What is sent after the kill is neither owed nor unsettled, whether it had come into the tables or not."""
    monkeypatch.setattr(sqlite, "scan_in_doubt", None)  # what memory and the table say is enough
    shop = Shop(tmp_path)
    open_in_one_lane(shop, 12, state)
    until(shop, lambda: shop.place()[6] > 0)
    _, ids = shop.tables()
    assert sorted(ids["unsettled"]) == [1, 2, 3]
    assert sorted(ids["owing"]) == ([] if state is State.ASKING else [1, 2, 3, 4, 5, 6])
    path = shop.copied(tmp_path / "killed")
    shop.rig.close()
    shop.rig, shop.live = Rig(sqlite_make(path, shop.keyring)).open(), path.parent
    for number in (1, 4, 9):
        shop.both(evolved(shop.model.stored[number].transaction, State.APPROVED))
    alike(shop.rig, shop.model, "sent after the kill")
    nothing_is_damaged(shop, shop.copied(tmp_path / "killed again"), "killed again")
    shop.rig.close()
    _, ids = shop.tables()
    left = [2, 3, 5, 6, 7, 8, 10, 11, 12]
    assert (sorted(ids["unsettled"]), sorted(ids["owing"])) == (left, [] if state is State.ASKING else left)
    alike(shop.rig.open(), shop.model, "closed and opened again")
    shop.rig.close()
    assert shop.rig.damaged == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [2, 5, 8])
def test_one_in_doubt_whose_row_is_damaged_is_told_and_counts_as_in_doubt_no_more(tmp_path: Path, number: int) -> None:
    """The row of one that is in its table already, of one that is about to go there, or of one that gathers."""
    shop = Shop(tmp_path)
    asked(shop, 12)
    until(shop, lambda: shop.place()[6] > 0)
    path = shop.copied(tmp_path / "killed")
    shop.rig.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("UPDATE tx SET row = zeroblob(200) WHERE id = ?", (number,)).rowcount == 1
    again = Rig(sqlite_make(path, shop.keyring)).open()
    others = [each for each in shop.model.in_doubt() if each.transaction.id != number]
    assert again.run(again.journal.in_doubt(1000)) == others
    again.settle()
    assert [each.sequence for each in again.damaged] == [number]
    for kill in range(3):
        assert again.run(again.journal.health()).counts[State.ASKING] == 11, kill
        assert again.run(again.journal.in_doubt(1000)) == others, kill
        assert again.run(again.journal.key_needs()).oldest_unsettled == 1, kill
        again.settle()
        shop.live = path.parent
        path = shop.copied(tmp_path / f"killed {kill}")
        again.close()
        again = Rig(sqlite_make(path, shop.keyring)).open()
    assert again.damaged == []
    again.close()


@pytest.mark.usefixtures("small")
def test_one_in_quarantine_that_is_in_doubt_again_is_found_after_a_kill(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)
    asked(shop, 2)
    path = shop.copied(tmp_path / "killed")
    shop.rig.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE tx SET row = zeroblob(200) WHERE id = 1")
    again = shop.rig = Rig(sqlite_make(path, shop.keyring)).open()
    shop.both(evolved(shop.model.stored[1].transaction, State.ASKING, answer=APPROVED_ANSWER))
    assert [each.sequence for each in again.damaged] == [1]
    doubtful = [1, 2]
    for kill in range(3):
        found = again.run(again.journal.in_doubt(1000))
        assert [each.transaction.id for each in found] == doubtful, kill
        assert again.run(again.journal.health()).counts[State.ASKING] == len(doubtful), kill
        assert again.run(again.journal.key_needs()).oldest_unsettled == doubtful[0], kill
        shop.live = path.parent
        path = shop.copied(tmp_path / f"killed {kill}")
        again.close()
        again = shop.rig = Rig(sqlite_make(path, shop.keyring)).open()
        if kill == 1:
            shop.both(evolved(shop.model.stored[1].transaction, State.APPROVED))
            doubtful = [2]
    again.close()
    assert again.damaged == []
    assert caplog.text == ""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("keys", [False, True])
def test_whoever_verifies_a_killed_journal_takes_early_rows_for_right_and_names_what_is_missing(
    tmp_path: Path, keys: bool
) -> None:
    shop = Shop(tmp_path)
    asked(shop, 18)
    until(shop, lambda: shop.tables()[0].indexed >= 6 and shop.place()[6] > 0)
    path = shop.copied(tmp_path / "killed")
    shop.rig.close()

    def told() -> list[tuple[int, str]]:
        verdict = verify(Wanted(journal=path, keyring=shop.keyring if keys else None), lambda _what, _part: None)
        return [(each.transaction, each.text) for each in verdict.findings if each.kind in OF_TABLES]

    assert told() == []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("DELETE FROM unsettled WHERE id IN (4, 7)").rowcount == 2
    assert told() == [(4, "table unsettled lacks it")], "7 has not left memory"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE unsettled SET state = ? WHERE id = 8", (State.PARKED,))
    assert sorted(told()) == [
        (4, "table unsettled lacks it"),
        (8, "table unsettled has a row of it that does not belong there"),
    ]


@pytest.mark.usefixtures("small")
def test_a_start_between_slices_still_notices_what_is_missing_in_the_queue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)
    owed_in_one_lane(shop, 12)
    until(shop, lambda: shop.tables()[0].indexed >= 6)
    until(shop, lambda: shop.place()[5] > 0)
    path = shop.copied(tmp_path / "killed")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("DELETE FROM owing WHERE id = 2").rowcount == 1
    again = Rig(sqlite_make(path, shop.keyring)).open()
    assert "1 rows were missing" in caplog.text
    alike(again, shop.model, "put back")
    again.close()
    shop.rig.close()


@pytest.mark.usefixtures("small")
def test_once_nobody_writes_what_is_leaving_is_put_away_and_a_long_log_is_moved_into_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_QUIET_S", 0.01)
    monkeypatch.setattr(upkeep, "_CHECKPOINT_FRAMES", 200)
    shop = Shop(tmp_path)
    database = shop.live / "journal.db"
    before = database.stat().st_size
    owed_in_one_lane(shop, 20)

    deadline_s = time.monotonic() + DEADLINE_S
    while shop.tables()[0].indexed < 6 or database.stat().st_size == before:
        assert time.monotonic() < deadline_s, "nobody writes, and nothing moves"
        shop.rig.run(shop.rig.journal.health())
    alike(shop.rig, shop.model, "after a quiet time")
    shop.rig.close()
    assert shop.rig.damaged == []


@pytest.mark.usefixtures("wide")
def test_a_slice_that_finds_no_room_keeps_no_outcome_out_and_goes_in_once_there_is_room(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    bought = [
        sale(
            f"B{number // 1_000:06}|M|T{number % 3}|2|{number:06}",
            lane=LANES[number % 3],
            state=State.STORED,
            reserve=tuple(Limit(name, None, None, None, "all") for name in ("all", f"card{number % CARDS}")),
        )
        for number in range(SOLD)
    ]
    writes = [Write(shop.rig.next_token(), (each,)) for each in bought]
    assert shop.rig.perform(*writes) == [shop.model.write(each) for each in writes]

    refused = 0
    for number in range(1, 100):
        head, ids = shop.tables()
        if head.indexed == SOLD:
            break
        where = f"before outcome {number}"
        standing = shop.counters()
        full_disk(shop.rig, full=True, spare_pages=SPARE_PAGES)
        row = shop.model.stored[number].transaction
        outcome = Write(shop.rig.next_token(), (evolved(row, State.APPROVED, release=("all",)),))
        (told,) = shop.rig.perform(outcome)
        if isinstance(told, WriteRefused):
            refused += 1
            assert shop.tables() == (head, ids), f"{where}: nothing of the slice, and nothing else"
            assert shop.counters() == standing, where
            alike(shop.rig, shop.model, f"{where}, refused")
            outcome = Write(shop.rig.next_token(), outcome.changes)
            (told,) = shop.rig.perform(outcome)
            assert told == shop.model.write(outcome), f"{where}: the slice goes without saying, the outcome does not"
            alike(shop.rig, shop.model, f"{where}, written without the slice")
            full_disk(shop.rig, full=False)
            assert shop.rig.run(shop.rig.journal.note(EntryKind.MAINTENANCE, "who: why")) == shop.model.note()
            assert (shop.tables()[1], shop.counters()) != (ids, standing), f"{where}: there is room, and it stays out"
        else:
            assert told == shop.model.write(outcome), where
    assert shop.tables()[0].indexed == SOLD
    assert refused >= 6, "a slice of each large table has met the full disk"

    path = shop.copied(tmp_path / "killed")
    nothing_is_damaged(shop, path, "all have left")
    again = Rig(sqlite_make(path, shop.keyring)).open()
    alike(again, shop.model, "all have left, and a kill")
    counted(again, shop.model, "all have left, and a kill")
    again.close()
    shop.rig.close()
    assert shop.rig.damaged == again.damaged == []
