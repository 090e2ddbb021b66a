"""How long the log is, is what SQLite says; and however many terminals write, it stays short."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.core.effects import Write
from gateway.journal import batch, connections, upkeep
from gateway.journal.keyring import Keyring
from gateway.journal.log_length import LogLength
from gateway.journal.log_pages import FRAME_BYTES, HEADER_BYTES
from gateway.journal.schema import PAGE_BYTES
from tests.journal.rig import Rig, sale, sqlite_make

SEED: Final = 20_260_302
ROUNDS: Final = 60
FRAMES_OF_A_COMMIT: Final = 200


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(connected(tmp_path / "made.db")) as connection:
        for pragma in (f"page_size = {PAGE_BYTES}", "journal_mode = WAL", "wal_autocheckpoint = 0"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, content BLOB)")
        yield connection


@pytest.fixture
def log_length(tmp_path: Path, database: sqlite3.Connection) -> Iterator[LogLength]:
    with contextlib.closing(LogLength(tmp_path / "made.db")) as made:
        checkpoint(database, made)
        yield made


def connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def put(connection: sqlite3.Connection, rows: int) -> None:
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO row (content) VALUES (?)", ((bytes(PAGE_BYTES // 2),) for _ in range(rows)))
    connection.execute("COMMIT")


def checkpoint(connection: sqlite3.Connection, log_length: LogLength) -> int:
    """Frames that SQLite has found in the log, those that were moved before included."""
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    log_length.measured(frames)
    return int(frames)


def counted(log_length: LogLength) -> int:
    frames = 0
    while log_length.reaches(frames + 1):
        frames += 1
    return frames


def test_the_frames_that_are_counted_are_those_that_the_next_checkpoint_finds(
    tmp_path: Path, database: sqlite3.Connection, log_length: LogLength
) -> None:
    """Also while a reader keeps the log from beginning anew, and after a longer log that it is written over."""
    dice = random.Random(SEED)
    before = kept = begun_anew = 0
    reader: sqlite3.Connection | None = None
    for _ in range(ROUNDS):
        if reader is None and dice.random() < 0.3:
            reader = connected(tmp_path / "made.db")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM row").fetchone()
        for _ in range(dice.randrange(3)):
            put(database, dice.randrange(1, 12))
        new = counted(log_length)
        frames = checkpoint(database, log_length)
        if new:
            assert frames in (new, before + new), f"{new} counted after {before}"
            kept += frames > new
            begun_anew += frames == new
        assert counted(log_length) == 0, "what a checkpoint has found is not counted again"
        before = frames
        if reader is not None and dice.random() < 0.5:
            reader.close()
            reader = None
    if reader is not None:
        reader.close()
    assert kept >= 3, "no reader has kept the log"
    assert begun_anew >= 3, "the log has never begun anew"


def test_what_no_checkpoint_could_move_is_counted_from_there(
    database: sqlite3.Connection, log_length: LogLength
) -> None:
    put(database, 5)
    assert counted(log_length) > 0
    log_length.begin()
    assert counted(log_length) == 0
    put(database, 1)
    new = counted(log_length)
    assert 0 < new <= 4


def test_a_log_that_cannot_be_read_is_long_enough_for_a_checkpoint_which_tells_why(log_length: LogLength) -> None:
    log_length.close()
    assert log_length.reaches(1_000_000)
    log_length.begin()
    log_length.measured(3)
    assert log_length.reaches(1_000_000)


def test_however_many_terminals_write_the_log_is_moved_when_it_is_as_long_as_it_may_be(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 300
    monkeypatch.setattr(upkeep, "_CHECKPOINT_FRAMES", limit)
    monkeypatch.setattr(batch, "RECENT_MAX", 200)
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    log = tmp_path / "journal.db-wal"
    before, grown = log.stat().st_size, 0
    for number in range(60):
        terminals = range(number * 30, number * 30 + 30)
        rig.perform(*(Write(rig.next_token(), (sale(f"B|M|T{t % 500:03}|2|{t:06}", lane="M/T"),)) for t in terminals))
        size = log.stat().st_size
        grown += size > before
        before = size
        assert size <= HEADER_BYTES + (limit + FRAMES_OF_A_COMMIT) * FRAME_BYTES, f"after {number} commits"
    rig.close()
    assert grown >= 3


@contextlib.contextmanager
def readers_without_a_gap(path: Path, each_s: float) -> Iterator[None]:
    """At every moment somebody reads what was there a moment ago, each for a short while."""
    ended = threading.Event()

    def read() -> None:
        with contextlib.closing(connected(path)) as one, contextlib.closing(connected(path)) as other:
            for mine, before in itertools.cycle([(one, other), (other, one)]):
                mine.execute("BEGIN")
                mine.execute("SELECT count(*) FROM tx").fetchall()
                if before.in_transaction:
                    before.execute("COMMIT")
                if ended.wait(each_s):
                    return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_readers_without_a_gap_do_not_keep_the_log_growing(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 60
    monkeypatch.setattr(upkeep, "_CHECKPOINT_FRAMES", limit)
    monkeypatch.setattr(upkeep, "_LONG_FRAMES", 2 * limit)
    monkeypatch.setattr(upkeep, "_READERS_MS", 2_000)
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    rig.write(sale("the first"))
    frames = 0
    with readers_without_a_gap(tmp_path / "journal.db", each_s=0.05):
        for number in range(300):
            rig.perform(*(Write(rig.next_token(), (sale(f"k{number:03}{each:03}"),)) for each in range(30)))
            frames = max(frames, (tmp_path / "journal.db-wal").stat().st_size // FRAME_BYTES)
    rig.close()
    assert frames < 6 * limit


def test_a_log_that_a_reader_has_made_long_is_cut_off_when_it_begins_anew(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOG_BYTES", 50 * FRAME_BYTES)
    monkeypatch.setattr(upkeep, "_CHECKPOINT_FRAMES", 40)
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    rig.write(sale("the first"))

    def sell(first: int) -> int:
        for number in range(first, first + 60):
            rig.perform(*(Write(rig.next_token(), (sale(f"k{number:03}{each:03}"),)) for each in range(10)))
        return (tmp_path / "journal.db-wal").stat().st_size // FRAME_BYTES

    with contextlib.closing(connected(tmp_path / "journal.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tx").fetchall()
        assert sell(0) > 300
    assert sell(60) < 150
    rig.close()
