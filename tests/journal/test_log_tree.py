"""The tree over the entries: its head is that of RFC 6962 after any history, and moves with what is durable only."""

from __future__ import annotations

import random
import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.core.effects import Write
from gateway.core.events import Committed, JournalEvent, WriteRefused
from gateway.core.lifecycle import EntryKind, State
from gateway.core.transaction import Answer
from gateway.journal import log_tree, sqlite
from gateway.journal.draft import JournalDefect
from gateway.journal.keyring import Keyring
from gateway.journal.port import JournalError, JournalFull, JournalInDoubt, JournalUnreadable
from gateway.journal.rows import RowCodec
from gateway.journal.schema import newest_head, write_head
from protocol.journal_entry import decode_entry
from protocol.transparency.tree import Frontier
from tests.journal.rig import Rig, evolved, sale, sqlite_make
from tests.journal.test_crash import killed_after, mounted, system

SEEDS = range(12)
ROUNDS = 14


def root_of(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + root_of(leaves[:k]) + root_of(leaves[k:])).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def entries_in(path: Path) -> list[bytes]:
    """Bodies of the entries, as a stranger reads them."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT sequence, body FROM entry ORDER BY sequence").fetchall()
    connection.close()
    assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
    return [body for _, body in found]


def subtrees_in(path: Path) -> dict[tuple[int, int], bytes]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT level, number, hash FROM subtree").fetchall()
    connection.close()
    return {(level, number): each for level, number, each in found}


def check(rig: Rig, path: Path, hint: str) -> None:
    """The head that is told is that of the entries, and the stored subtrees are all that are complete."""
    leaves = [sha256(b"\x00" + body).digest() for body in entries_in(path)]
    assert rig.journal.log_head() == (len(leaves), root_of(leaves)), hint
    complete = {(1, at): root_of(leaves[256 * at : 256 * (at + 1)]) for at in range(len(leaves) // 256)}
    assert subtrees_in(path) == complete, hint


def full_disk(rig: Rig, *, full: bool, spare_pages: int = 0) -> None:
    """Let the database file grow no more, or by so many pages, as a full disk does; or again."""
    journal = rig.journal
    assert isinstance(journal, sqlite.SqliteJournal)
    writer = journal._writer

    def limit() -> None:
        (pages,) = writer.connection.execute("PRAGMA page_count").fetchone()
        writer.connection.execute(f"PRAGMA max_page_count = {pages + spare_pages if full else 1 << 30}").fetchone()

    rig.run(writer.run(limit))


def random_writes(rig: Rig, dice: random.Random) -> list[Write]:
    """Creates, updates, retries of the same keys: some are taken in, some are not."""
    writes = []
    for _ in range(dice.choice([1, 1, 2, 7, 64, 300])):
        group = [sale(f"k|{dice.randrange(100_000):06}", state=State.ASKING, answer=None)]
        if dice.random() < 0.1:
            group.append(sale(f"k|{dice.randrange(100_000):06}"))
        if len({each.transaction.key for each in group}) == len(group):
            writes.append(Write(rig.next_token(), tuple(group)))
    return writes


@pytest.mark.parametrize("seed", SEEDS)
def test_the_head_of_the_log_is_that_of_rfc_6962_after_any_history(seed: int, path: Path, keyring: Keyring) -> None:
    dice = random.Random(seed)
    rig = Rig(sqlite_make(path, keyring)).open()
    try:
        for _ in range(ROUNDS):
            act = dice.choice(["write", "write", "write", "note", "update", "refused", "reopen", "abandon"])
            before = rig.journal.log_head()
            if act == "write":
                rig.perform(*random_writes(rig, dice))
            elif act == "note":
                assert rig.run(rig.journal.note(EntryKind.MAINTENANCE, "opened")) == before[0] + 1
            elif act == "update":
                asking = rig.run(rig.journal.in_doubt(dice.choice([1, 5, 200])))
                rig.perform(
                    *(
                        Write(rig.next_token(), (evolved(each.transaction, State.APPROVED, answer=Answer("0210", {})),))
                        for each in asking
                    )
                )
            elif act == "refused":
                full_disk(rig, full=True)
                events = rig.perform(*(Write(rig.next_token(), (sale(f"f|{n:06}"),)) for n in range(500)))
                full_disk(rig, full=False)
                assert all(isinstance(each, WriteRefused) for each in events), f"seed {seed}"
                assert rig.journal.log_head() == before, f"seed {seed}: a refused batch has moved the head"
            elif act == "reopen":
                rig.reopen()
                assert rig.journal.log_head() == before, f"seed {seed}: another head after a restart"
            else:
                stale = evolved(sale("none").transaction, State.APPROVED)
                rig.perform(Write(rig.next_token(), (sale(f"s|{dice.random()}"), stale)))
                assert isinstance(rig.failure, JournalDefect)
                assert rig.journal.log_head() == before, f"seed {seed}: a batch taken back has moved the head"
                rig.failure = None
                rig.reopen()
            check(rig, path, f"seed {seed} after {act}")
    finally:
        rig.close()


def test_commits_that_a_full_disk_takes_back_leave_the_tree_as_it_was(tmp_path: Path, keyring: Keyring) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, "2m"):
        pytest.skip("cannot mount a small file system")
    try:
        rig = Rig(sqlite_make(disk / "journal.db", keyring)).open()
        events: list[JournalEvent] = []
        while not any(isinstance(each, WriteRefused) for each in events):
            before = rig.journal.log_head()
            events = rig.perform(*(Write(rig.next_token(), (sale(f"k|{rig.token:06}"),)) for _ in range(50)))
        assert rig.journal.log_head() == before
        assert system("mount", "-o", "remount,size=64m", str(disk)) == 0
        assert isinstance(rig.write(sale("after|000001")), Committed)
        check(rig, disk / "journal.db", "after the disk was enlarged")
        rig.close()
    finally:
        assert system("umount", str(disk)) == 0


@pytest.mark.interpreted
def test_two_levels_of_subtrees_are_stored_as_they_are_completed(
    path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tree, "TILE_HEIGHT", 2)
    monkeypatch.setattr(log_tree, "TILE_WIDTH", 4)
    rig = Rig(sqlite_make(path, keyring)).open()
    for count in (1, 2, 1, 30, 3, 90, 5):
        rig.perform(*(Write(rig.next_token(), (sale(f"k|{rig.token:06}"),)) for _ in range(count)))
        leaves = [sha256(b"\x00" + body).digest() for body in entries_in(path)]
        assert rig.journal.log_head() == (len(leaves), root_of(leaves))
        assert subtrees_in(path) == {
            (level, at): root_of(leaves[width * at : width * (at + 1)])
            for level, width in ((1, 4), (2, 16), (3, 64))
            for at in range(len(leaves) // width)
        }
        rig.reopen()
        assert rig.damaged == []
        assert rig.journal.log_head() == (len(leaves), root_of(leaves))
    rig.close()


def test_after_kills_the_head_continues_the_one_before(path: Path, keyring: Keyring, tmp_path: Path) -> None:
    for life, acknowledged in enumerate((1, 300, 700)):
        told = killed_after(tmp_path, f"life{life}", acknowledged)
        rig = Rig(sqlite_make(path, keyring)).open()
        assert rig.journal.log_head()[0] >= max(told.values())
        check(rig, path, f"life {life}")
        assert rig.damaged == []
        rig.close()


def test_a_commit_of_which_nobody_knows_moves_no_head(path: Path, keyring: Keyring) -> None:
    rig = Rig(sqlite_make(path, keyring)).open()
    rig.write(sale("k|000001"))
    before = rig.journal.log_head()
    journal = rig.journal
    assert isinstance(journal, sqlite.SqliteJournal)
    rig.run(journal._writer.run(lambda: journal._writer.connection.set_authorizer(_refuse_commit)))
    with pytest.raises(JournalInDoubt):
        rig.run(journal.note(EntryKind.KEY, "created"))
    assert journal.log_head() == before
    with pytest.raises(JournalInDoubt):
        rig.run(journal.note(EntryKind.KEY, "created"))
    rig.close()


def _refuse_commit(action: int, first: str | None, *_: object) -> int:
    refused = action == sqlite3.SQLITE_TRANSACTION and first == "COMMIT"
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


DAMAGES = {
    "leaf": ("UPDATE entry SET leaf = zeroblob(32) WHERE sequence = 259", True),
    "leaf that is none": ("UPDATE entry SET leaf = 7 WHERE sequence = 259", True),
    "subtree": ("UPDATE subtree SET hash = zeroblob(32) WHERE number = 0", True),
    "subtree missing": ("DELETE FROM subtree", True),
    "leaf of a complete tile": ("UPDATE entry SET leaf = zeroblob(32) WHERE sequence = 5", False),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_hash_gets_into_no_root_and_is_reported_if_the_next_root_needs_it(
    what: str, path: Path, keyring: Keyring
) -> None:
    rig = Rig(sqlite_make(path, keyring)).open()
    rig.perform(*(Write(rig.next_token(), (sale(f"k|{n:06}"),)) for n in range(260)))
    before = rig.journal.log_head()
    rig.close()
    statement, reported = DAMAGES[what]
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    rig.open()
    assert rig.journal.log_head() == before
    rig.settle()
    told = [each.what for each in rig.damaged]
    assert told == (["stored hashes of the newest part of the tree"] if reported else [])
    leaves = [sha256(b"\x00" + body).digest() for body in entries_in(path)]
    assert rig.journal.log_head() == (261, root_of(leaves)), "what is signed next continues what was signed before"
    rig.close()


def test_a_head_whose_tree_has_another_size_is_refused(path: Path, keyring: Keyring) -> None:
    rig = Rig(sqlite_make(path, keyring)).open()
    rig.write(sale("k|000001"))
    rig.close()
    codec = RowCodec(keyring.row_key)
    with sqlite3.connect(path) as connection:
        head = newest_head(connection, codec)
        assert head is not None
        head.frontier = Frontier().encode()
        write_head(connection, codec, head)
    connection.close()
    with pytest.raises(JournalUnreadable, match="head"):
        rig.open()


# Entries about no transaction


def test_a_note_is_an_entry_of_its_own_and_stands_behind_the_writes_of_its_commit(rig: Rig, tmp_path: Path) -> None:
    rig.write(sale("k|000001"))
    assert rig.run(rig.journal.note(EntryKind.DISCLOSED, "entry 1 to ann, approved by bob: 申诉")) == 2
    said = decode_entry(entries_in(tmp_path / "journal.db")[1])
    assert (said.kind, said.state, said.transaction, said.key) == (EntryKind.DISCLOSED, 0, 0, "")
    assert (said.time_ms, said.detail, said.parts) == (rig.now_ms, "entry 1 to ann, approved by bob: 申诉", ())


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (EntryKind.ACCEPTED, ""),
        (EntryKind.OPERATOR, ""),
        (EntryKind.KEY, "x" * 16_385),
        (EntryKind.KEY, "申" * 5_462),
        (EntryKind.KEY, "\ud800"),
    ],
)
def test_a_note_of_a_transactions_kind_or_with_too_long_a_detail_is_refused(
    kind: EntryKind, detail: str, rig: Rig
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says differs
        rig.run(rig.journal.note(kind, detail))
    assert rig.journal.log_head()[0] == 0


def test_a_note_for_which_the_disk_has_no_room_says_so_and_the_next_one_is_taken(rig: Rig) -> None:
    full_disk(rig, full=True)
    with pytest.raises(JournalFull):
        rig.run(rig.journal.note(EntryKind.KEY, "x" * 16_384))
    before = rig.journal.log_head()
    full_disk(rig, full=False)
    assert rig.run(rig.journal.note(EntryKind.KEY, "x")) == before[0] + 1


def test_a_note_to_a_closed_journal_is_refused(rig: Rig) -> None:
    rig.close()
    with pytest.raises(JournalError, match="closed"):
        next(rig.journal.note(EntryKind.KEY, "x").__await__())
