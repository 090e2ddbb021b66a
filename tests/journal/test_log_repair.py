"""Flipped bits in a log that SQLite has written: found and put right byte for byte, or left alone; never guessed."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sqlite3
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.journal import log_repair
from gateway.journal.keyring import Keyring
from gateway.journal.log_pages import FRAME, FRAME_BYTES, FRAME_HEAD_BYTES, HEADER_BYTES, Flip
from gateway.journal.log_repair import MENDED_MAX, checksum, find_flips, repair_log
from gateway.journal.mark import mark_path
from gateway.journal.port import JournalUnreadable
from gateway.journal.schema import PAGE_BYTES
from tests.journal.rig import Rig, sale, sqlite_make
from tests.journal.test_mark import refusal

CERTAIN_BITS: Final = 22
"""Within a word, the bits below this one move the sums of a page in a way that no other bit does."""
STEPS_MAX: Final = 80


@dataclass(frozen=True)
class Logged:
    """A database and its log, as a kill leaves them."""

    path: Path
    log: bytes

    def found(self, log: bytes) -> list[Flip]:
        """What is found in a damaged log."""
        name = self.path.with_name(self.path.name + "-wal")
        name.write_bytes(log)
        return find_flips(self.path, name)


def logged(folder: Path, commits: int, *, restarted: bool = False) -> Logged:
    """Some tables, changed in several ways, by SQLite; half of the commits are in the log."""
    made = folder / "made.db"
    dice = random.Random(7)
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "journal_mode = WAL",
            "wal_autocheckpoint = 0",
            "secure_delete = 1",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)")
        connection.execute(
            "CREATE TABLE sorted (hash INTEGER, number INTEGER, PRIMARY KEY (hash, number)) WITHOUT ROWID"
        )
        for number in range(2 * commits):
            if number == commits:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("BEGIN")
            for _ in range(dice.randrange(1, 4)):
                connection.execute("INSERT INTO rows (content) VALUES (?)", (dice.randbytes(dice.randrange(20, 900)),))
                connection.execute("INSERT INTO sorted VALUES (?, ?)", (dice.randrange(-(2**62), 2**62), number))
            connection.execute("UPDATE rows SET content = ? WHERE number = ?", (dice.randbytes(300), number // 2))
            connection.execute("DELETE FROM sorted WHERE number = ?", (number // 3,))
            connection.execute("COMMIT")
        if restarted:
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
            for _ in range(5):
                connection.execute("INSERT INTO rows (content) VALUES (?)", (dice.randbytes(200),))
        copy = folder / "copy.db"
        copy.write_bytes(made.read_bytes())
        return Logged(copy, made.with_name("made.db-wal").read_bytes())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """One log for the tests that only read it."""
    return logged(tmp_path_factory.mktemp("log"), 16)


def bits(first: int, last: int) -> Iterator[Flip]:
    """Every bit of a range of bytes."""
    return (Flip(offset, bit) for offset in range(first, last) for bit in range(8))


def is_certain(flip: Flip) -> bool:
    """Whether the sums alone name it: it is covered by them, and among the lower bits of its word."""
    at = (flip.offset - HEADER_BYTES) % FRAME_BYTES
    covered = at < 8 or at >= FRAME_HEAD_BYTES
    return flip.offset >= HEADER_BYTES and covered and at % 4 * 8 + flip.bit < CERTAIN_BITS


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**32), bit=st.integers(0, 7))
def test_any_single_bit_is_found_or_left_alone_and_the_lower_bits_of_words_always(
    written: Logged, place: int, bit: int
) -> None:
    flip = Flip(place % len(written.log), bit)
    found = written.found(flip.back(written.log))
    assert found == [flip] or (not found and not is_certain(flip))


def test_nearly_all_bits_are_found(written: Logged) -> None:
    dice = random.Random(1)
    flips = [Flip(dice.randrange(len(written.log)), dice.randrange(8)) for _ in range(120)]
    found = [written.found(each.back(written.log)) for each in flips]
    assert all(each in ([], [flip]) for each, flip in zip(found, flips, strict=True))
    print(sum(map(bool, found)), "of", len(flips))
    assert sum(map(bool, found)) > 0.95 * len(flips)


def test_every_bit_of_the_logs_header_is_found(written: Logged) -> None:
    for flip in bits(0, HEADER_BYTES):
        assert written.found(flip.back(written.log)) == [flip]


@pytest.mark.parametrize("number", [0, 30])
def test_every_bit_of_a_frames_header_is_found_or_left_alone(written: Logged, number: int) -> None:
    start = HEADER_BYTES + number * FRAME_BYTES
    flips = list(bits(start, start + FRAME_HEAD_BYTES))
    found = [written.found(each.back(written.log)) for each in flips]
    assert all(each in ([], [flip]) for each, flip in zip(found, flips, strict=True))
    assert all(each for each, flip in zip(found, flips, strict=True) if 8 <= flip.offset - start < 16), "the salts"
    assert sum(map(bool, found)) > 0.9 * len(flips)


def test_several_bits_in_several_frames_are_found_and_too_many_are_not(written: Logged) -> None:
    frames = (len(written.log) - HEADER_BYTES) // FRAME_BYTES
    places = [Flip(HEADER_BYTES + number * FRAME_BYTES + 1_000, 3) for number in range(0, frames, 3)]
    damaged = written.log
    for flip in places[:MENDED_MAX]:
        damaged = flip.back(damaged)
    assert written.found(damaged) == places[:MENDED_MAX]
    damaged = places[MENDED_MAX].back(damaged)
    assert len(written.found(damaged)) <= MENDED_MAX


def test_two_bits_of_one_page_are_left_alone(written: Logged) -> None:
    damaged = Flip(HEADER_BYTES + 3 * FRAME_BYTES + 500, 2).back(written.log)
    assert written.found(Flip(HEADER_BYTES + 3 * FRAME_BYTES + 900, 2).back(damaged)) == []


def test_a_whole_log_and_one_that_is_no_log_are_left_alone(written: Logged) -> None:
    assert written.found(written.log) == []
    assert written.found(written.log[:-1]) == []
    assert written.found(b"") == []
    assert written.found(bytes(HEADER_BYTES)) == []
    assert written.found(random.Random(1).randbytes(3 * FRAME_BYTES)) == []


def test_what_lies_behind_the_end_of_a_log_that_was_begun_anew_is_no_damage(tmp_path: Path) -> None:
    again = logged(tmp_path, 30, restarted=True)
    assert again.found(again.log) == []
    salts = FRAME.unpack_from(again.log, HEADER_BYTES)[2:4]
    frames = range(HEADER_BYTES, len(again.log) - FRAME_BYTES + 1, FRAME_BYTES)
    older = [at for at in frames if FRAME.unpack_from(again.log, at)[2:4] != salts]
    assert older, "frames of the older log are still there"
    assert again.found(Flip(older[0] + 700, 1).back(again.log)) == []
    flip = Flip(HEADER_BYTES + 700, 1)
    assert again.found(flip.back(again.log)) == [flip]


def test_a_log_of_a_big_endian_machine_is_read_as_sqlite_reads_it(tmp_path: Path, written: Logged) -> None:
    magic = struct.unpack_from(">I", written.log)[0] ^ 1
    header = struct.pack(">I", magic) + written.log[4:24]
    order = ">" if magic & 1 else "<"
    sums = checksum(order, header, (0, 0))
    other = header + struct.pack(">2I", *sums)
    for at in range(HEADER_BYTES, len(written.log) - FRAME_BYTES + 1, FRAME_BYTES):
        frame = written.log[at : at + FRAME_BYTES]
        sums = checksum(order, frame[:8] + frame[FRAME_HEAD_BYTES:], sums)
        other += frame[:16] + struct.pack(">2I", *sums) + frame[FRAME_HEAD_BYTES:]
    path = tmp_path / "other.db"
    path.write_bytes(written.path.read_bytes())
    (tmp_path / "other.db-wal").write_bytes(other)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
    written.found(written.log)
    with contextlib.closing(sqlite3.connect(f"file:{written.path}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (rows,), "SQLite takes it"
    for flip in (Flip(HEADER_BYTES + 777, 2), Flip(HEADER_BYTES + 5 * FRAME_BYTES + 3, 0), Flip(3, 0)):
        assert written.found(flip.back(other)) == [flip]


# The whole repair, of a real journal


def killed(folder: Path, keyring: Keyring, sales: int = 12) -> dict[str, bytes]:
    """The files of a journal whose commits are in its log, laid into `folder`."""
    (folder / "first").mkdir()
    rig = Rig(sqlite_make(folder / "first" / "journal.db", keyring)).open()
    for number in range(sales):
        rig.write(sale(f"k|{number:06}"))
    files = {each.name: each.read_bytes() for each in (folder / "first").iterdir() if "lock" not in each.name}
    rig.close()
    del files["journal.db-shm"]
    lay(folder, files)
    return files


def lay(folder: Path, files: dict[str, bytes]) -> None:
    """Make these the journal's only files."""
    for old in folder.glob("journal.db*"):
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


FLIPPED: Final = Flip(HEADER_BYTES + 9 * FRAME_BYTES + 1_500, 4)


def test_a_mended_log_is_the_log_as_it_was_and_the_damaged_one_is_kept(
    tmp_path: Path, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    files = killed(tmp_path, keyring)
    damaged = FLIPPED.back(files["journal.db-wal"])
    (tmp_path / "journal.db-wal").write_bytes(damaged)
    repair = repair_log(tmp_path / "journal.db")
    assert repair is not None
    assert (tmp_path / "journal.db-wal").read_bytes() == files["journal.db-wal"]
    assert (tmp_path / "journal.db-wal.unreported").read_bytes() == damaged
    repair.undo()
    assert (tmp_path / "journal.db-wal").read_bytes() == damaged
    assert not (tmp_path / "journal.db-wal.unreported").exists()
    (tmp_path / "journal.db-wal.damaged").write_bytes(b"of an earlier time")
    with caplog.at_level(logging.ERROR):
        rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    assert rig.listed() == list(range(1, 13))
    assert (tmp_path / "journal.db-wal.damaged").read_bytes() == b"of an earlier time"
    assert (tmp_path / "journal.db-wal.damaged-1").read_bytes() == damaged
    (line,) = [each.getMessage() for each in caplog.records]
    assert "put right, nothing is lost" in line
    assert f"byte {FLIPPED.offset}" in line
    assert "journal.db-wal.damaged-1" in line
    rig.reopen()


def test_what_cannot_be_put_right_as_a_whole_is_put_back_and_refused(tmp_path: Path, keyring: Keyring) -> None:
    files = killed(tmp_path, keyring)
    whole = files["journal.db-wal"]
    (tmp_path / "journal.db-wal").write_bytes(FLIPPED.back(whole)[: len(whole) - 2 * FRAME_BYTES])
    assert "missing" in refusal(tmp_path, keyring)
    assert not list(tmp_path.glob("journal.db-wal?*"))


def test_without_a_mark_nothing_is_mended(tmp_path: Path, keyring: Keyring) -> None:
    files = killed(tmp_path, keyring)
    (tmp_path / "journal.db-wal").write_bytes(FLIPPED.back(files["journal.db-wal"]))
    mark_path(tmp_path / "journal.db").unlink()
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    assert len(rig.listed()) < 12
    assert not list(tmp_path.glob("*.damaged"))


def test_a_mending_for_which_there_is_no_room_is_refused_and_leaves_nothing(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = killed(tmp_path, keyring)
    (tmp_path / "journal.db-wal").write_bytes(FLIPPED.back(files["journal.db-wal"]))
    (tmp_path / "journal.db-wal.mended").symlink_to("/dev/full")  # what is in the way is not followed
    why = refusal(tmp_path, keyring)
    assert "could not be mended" in why
    assert not list(tmp_path.glob("*.damaged"))


def dies_at(step: int, path: Path) -> bool:
    """Repair in a process of its own, killed before the call of so many that its steps make; whether it was."""
    child = os.fork()
    if not child:
        made = 0

        def count(frame: FrameType, event: str, _: object) -> None:
            nonlocal made
            if event == "c_call" and frame.f_code.co_name in {"repair_log", "_write_mended", "_keep", "sync_folder"}:
                made += 1
                if made == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        try:
            log_repair.repair_log(path)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_between_any_two_steps_leaves_the_damaged_log_or_the_mended_one(
    tmp_path: Path, keyring: Keyring
) -> None:
    files = killed(tmp_path, keyring)
    whole = files["journal.db-wal"]
    damaged = FLIPPED.back(whole)
    left = []
    for step in range(1, STEPS_MAX):
        lay(tmp_path, {**files, "journal.db-wal": damaged})
        if not dies_at(step, tmp_path / "journal.db"):
            break
        there = (tmp_path / "journal.db-wal").read_bytes()
        assert there in (damaged, whole), f"step {step}"
        left.append(there == whole)
        if there == whole:
            assert (tmp_path / "journal.db-wal.unreported").read_bytes() == damaged, f"step {step}"
        rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
        assert rig.listed() == list(range(1, 13)), f"step {step}"
        rig.close()
        assert [each.read_bytes() for each in tmp_path.glob("journal.db-wal.*")] == [damaged], f"step {step}"
    print(f"{len(left)} steps, {left.count(False)} of them before the mended log is in its place")
    assert left == sorted(left)
    assert left.count(False) > 10
    assert left.count(True) >= 1


def test_a_journal_that_another_program_reads_meanwhile_is_not_begun_before_its_mended_end(
    tmp_path: Path, keyring: Keyring
) -> None:
    """The reader has put an index of the damaged log together, and SQLite would go by it."""
    files = killed(tmp_path, keyring)
    (tmp_path / "journal.db-wal").write_bytes(FLIPPED.back(files["journal.db-wal"]))
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'journal.db'}?mode=ro", uri=True)) as reading:
        assert reading.execute("SELECT max(sequence) FROM entry").fetchone()[0] < 12
        with pytest.raises(JournalUnreadable, match="missing"):
            Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    assert rig.listed() == list(range(1, 13))
