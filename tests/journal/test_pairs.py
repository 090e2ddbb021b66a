"""A database and a log that do not belong together are refused as they are; what any crash leaves is not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Final

import pytest

from gateway.core.events import Existing
from gateway.journal import upkeep
from gateway.journal.keyring import Keyring
from gateway.journal.mark import mark_path
from gateway.journal.sqlite import SqliteJournal
from tests.journal.rig import Rig, sale, sqlite_make
from tests.journal.test_mark import FILES, refusal, sell

SEED: Final = 20_261
COPIES: Final = 25


def copied(folder: Path) -> dict[str, bytes]:
    """The journal's files as they are now."""
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def lay(folder: Path, files: dict[str, bytes]) -> None:
    """Make these the journal's only files."""
    for old in folder.glob("journal.db*"):
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def two_ages(tmp_path: Path, rig: Rig) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of one journal after a closing, and later, with a log that was begun since."""
    sell(rig, 1, 4)
    rig.close()
    older = copied(tmp_path)
    sell(rig.open(), 5, 8)
    rig.reopen()
    sell(rig, 9, 12)
    newer = copied(tmp_path)
    rig.close()
    return older, newer


def test_an_older_database_beside_a_newer_log_is_refused_with_or_without_a_mark(
    tmp_path: Path, keyring: Keyring, two_ages: tuple[dict[str, bytes], dict[str, bytes]]
) -> None:
    older, newer = two_ages
    mixed = {**newer, "journal.db": older["journal.db"]}
    lay(tmp_path, mixed)
    why = refusal(tmp_path, keyring)
    for part in ("older than its log", "ends with entry 4", "journal.db-wal", "-shm", "left as they are"):
        assert part in why
    del mixed["journal.db-mark"]
    lay(tmp_path, mixed)
    assert "older than its log" in refusal(tmp_path, keyring)


def test_an_older_log_beside_a_newer_database_is_refused_with_or_without_a_mark(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    sell(rig, 1, 4)
    older = copied(tmp_path)
    sell(rig, 5, 8)
    rig.close()
    newer = copied(tmp_path)
    for mark in (older["journal.db-mark"], None):
        lay(tmp_path, {"journal.db": newer["journal.db"], "journal.db-wal": older["journal.db-wal"]})
        if mark is not None:
            mark_path(tmp_path / "journal.db").write_bytes(mark)
        why = refusal(tmp_path, keyring)
        assert "log of" in why
        assert "older than the database, or damaged" in why


def test_a_database_that_was_restored_without_its_log_opens_once_the_mark_is_moved_away(
    tmp_path: Path, keyring: Keyring, rig: Rig, two_ages: tuple[dict[str, bytes], dict[str, bytes]]
) -> None:
    older, _ = two_ages
    lay(tmp_path, {"journal.db": older["journal.db"]})
    rig.open()
    assert rig.listed() == [1, 2, 3, 4]


def test_what_a_crash_leaves_at_any_moment_between_checkpoints_is_opened_whole(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are copied between any two commits, some with the log begun anew, and each copy is opened."""
    monkeypatch.setattr(upkeep, "_CHECKPOINT_FRAMES", 60)
    dice = random.Random(SEED)
    folder = tmp_path / "live"
    folder.mkdir()
    rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
    sizes = []
    for copy in range(COPIES):
        number = copy * 8 + 1
        sell(rig, number, number + 7)
        if dice.random() < 0.2:
            rig.reopen()
        there = tmp_path / f"copy{copy}"
        there.mkdir()
        for name in FILES:
            if (folder / name).exists():
                shutil.copy(folder / name, there / name)
        sizes.append((there / "journal.db").stat().st_size)
        other = Rig(sqlite_make(there / "journal.db", keyring)).open()
        assert other.listed() == list(range(1, number + 8)), f"seed {SEED}, copy {copy}"
        other.close()
    rig.close()
    assert len(set(sizes)) > 3, "no checkpoint has moved anything"


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_retries_before_a_checkpoint_do_not_make_a_killed_journal_look_older_than_its_log(
    tmp_path: Path, keyring: Keyring, retries: int
) -> None:
    """A batch that writes nothing is no commit: the head that the database has says how many there were."""
    folder, after = tmp_path / "live", tmp_path / "after"
    folder.mkdir()
    after.mkdir()
    rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
    sell(rig, 1, 1)
    for _ in range(retries):
        assert isinstance(rig.write(sale("k|000001")), Existing)
    assert isinstance(rig.journal, SqliteJournal)
    rig.run(rig.journal._writer.run(rig.journal._upkeep._checkpoint))
    sell(rig, 2, 2)
    for name in FILES:
        shutil.copy(folder / name, after / name)
    rig.close()
    other = Rig(sqlite_make(after / "journal.db", keyring)).open()
    assert other.listed() == [1, 2]
    other.close()


def test_a_database_from_before_a_checkpoint_while_running_does_not_pass_beside_the_log_after_it(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_CHECKPOINT_FRAMES", 60)
    folder = tmp_path / "live"
    folder.mkdir()
    rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
    sell(rig, 1, 4)
    older = (folder / "journal.db").read_bytes()
    for number in range(5, 60):
        sell(rig, number, number)
        if (folder / "journal.db").read_bytes() != older:
            break
    sell(rig, number + 1, number + 2)
    files = copied(folder)
    rig.close()
    lay(tmp_path, {**files, "journal.db": older})
    assert "older than its log" in refusal(tmp_path, keyring)
    mark_path(tmp_path / "journal.db").unlink()
    assert "older than its log" in refusal(tmp_path, keyring)
