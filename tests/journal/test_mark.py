"""The mark beside a journal: what went back is refused as it is, and what only looks like it is not."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.effects import Write
from gateway.core.events import Committed, Lookup
from gateway.journal import mark
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.mark import SLOT_BYTES, Standing, mark_path, newest, read_mark
from gateway.journal.port import JournalKeysWrong, JournalUnreadable
from gateway.journal.rows import RowCodec
from tests.journal.conformance import loaded
from tests.journal.rig import Rig, sale, sqlite_make
from tests.journal.test_damage import overwrite

FILES = ("journal.db", "journal.db-wal", "journal.db-mark")


def sell(rig: Rig, first: int, last: int, name: str = "k") -> None:
    """One commit for each."""
    for number in range(first, last + 1):
        assert isinstance(rig.write(sale(f"{name}|{number:06}")), Committed)


def said(folder: Path, keyring: Keyring) -> Standing:
    """What the mark says."""
    there = newest(read_mark(folder / "journal.db", RowCodec(keyring.row_key)) or [])
    assert there is not None
    return there


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """The journal's files, with what a write would change beside their bytes."""
    return {
        name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns, (folder / name).stat().st_ino)
        for name in FILES
        if (folder / name).exists()
    }


def refusal(folder: Path, keyring: Keyring) -> str:
    """Why the journal is refused; it is left as it was, to the inode and the time of the last write."""
    before = contents(folder)
    with pytest.raises(JournalUnreadable) as refused:
        Rig(sqlite_make(folder / "journal.db", keyring)).open()
    assert contents(folder) == before
    return str(refused.value)


def test_the_mark_says_what_was_committed_before_it_is_delivered(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    seen = []
    deliver = rig.journal._deliver  # type: ignore[attr-defined]

    def look_and_deliver(events: object) -> None:
        seen.append(said(tmp_path, keyring).sequence)
        deliver(events)

    rig.journal._deliver = look_and_deliver  # type: ignore[attr-defined]
    sell(rig, 1, 3)
    rig.perform(*(Write(rig.next_token(), (sale(f"k|{number:06}"),)) for number in range(4, 10)))
    assert seen[:3] == [1, 2, 3]
    assert seen[-1] == 9
    assert stat.S_IMODE(mark_path(tmp_path / "journal.db").stat().st_mode) == 0o600


def test_an_older_copy_of_the_database_is_refused_until_the_mark_is_moved_away(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    sell(rig, 1, 2)
    rig.close()
    older = (tmp_path / "journal.db").read_bytes()
    rig.open()
    sell(rig, 3, 5)
    rig.close()
    (tmp_path / "journal.db").write_bytes(older)
    why = refusal(tmp_path, keyring)
    for part in ("entries 3 to 5 are missing", "left as they are", "journal.db-mark away", "acquirer's books"):
        assert part in why
    mark_path(tmp_path / "journal.db").rename(tmp_path / "kept")
    rig.open()
    assert rig.listed() == [1, 2]
    assert said(tmp_path, keyring).sequence == 2
    sell(rig, 3, 3)
    rig.reopen()


def test_a_refused_copy_with_an_empty_log_is_not_said_to_have_a_log_with_frames(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    sell(rig, 1, 2)
    rig.close()
    older = (tmp_path / "journal.db").read_bytes()
    rig.open()
    sell(rig, 3, 5)
    rig.close()
    (tmp_path / "journal.db").write_bytes(older)
    (tmp_path / "journal.db-wal").write_bytes(b"")  # as `holdfast status` leaves one
    with pytest.raises(JournalUnreadable, match="entries 3 to 5 are missing") as refused:
        Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    assert "frame" not in str(refused.value)


def test_an_older_copy_that_ends_within_the_log_is_refused_as_well(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    sell(rig, 1, 2)
    older = {name: (tmp_path / name).read_bytes() for name in FILES[:2]}
    sell(rig, 3, 5)
    rig.close()
    for name, content in older.items():
        (tmp_path / name).write_bytes(content)
    assert "entries 3 to 5 are missing" in refusal(tmp_path, keyring)


def test_a_journal_that_was_deleted_is_not_begun_anew(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    sell(rig, 1, 2)
    rig.close()
    (tmp_path / "journal.db").unlink()
    assert "entries 1 to 2 are missing" in refusal(tmp_path, keyring)
    assert not (tmp_path / "journal.db").exists()


def test_a_journal_without_an_entry_may_be_deleted(tmp_path: Path, rig: Rig) -> None:
    rig.close()
    (tmp_path / "journal.db").unlink()
    rig.open()
    sell(rig, 1, 1)


def test_a_journal_that_went_another_way_from_the_same_beginning_is_refused(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    sell(rig, 1, 2)
    rig.close()
    fork = tmp_path / "fork"
    fork.mkdir()
    (fork / "journal.db").write_bytes((tmp_path / "journal.db").read_bytes())
    other = Rig(sqlite_make(fork / "journal.db", keyring)).open()
    sell(other, 3, 4, "other")
    other.close()
    sell(rig.open(), 3, 3)
    rig.close()
    (tmp_path / "journal.db").write_bytes((fork / "journal.db").read_bytes())
    assert "entry 3 is another than the one that was committed" in refusal(tmp_path, keyring)


def test_another_journal_of_the_same_keys_is_refused(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    sell(rig, 1, 1)
    rig.close()
    (tmp_path / "other").mkdir()
    other = Rig(sqlite_make(tmp_path / "other" / "journal.db", keyring)).open()
    sell(other, 1, 5)
    other.close()
    (tmp_path / "journal.db").write_bytes((tmp_path / "other" / "journal.db").read_bytes())
    assert "another journal" in refusal(tmp_path, keyring)


def test_a_journal_without_a_mark_opens_and_gets_one(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    sell(rig, 1, 3)
    rig.close()
    mark_path(tmp_path / "journal.db").unlink()
    rig.open()
    assert said(tmp_path, keyring).sequence == 3
    assert rig.listed() == [1, 2, 3]


def test_a_mark_that_is_missing_at_the_start_is_said_if_there_was_anything_to_miss(
    tmp_path: Path, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.close()
    mark_path(tmp_path / "journal.db").unlink()
    with caplog.at_level(logging.WARNING):
        sell(rig.open(), 1, 2)
    rig.close()
    assert not caplog.records
    mark_path(tmp_path / "journal.db").unlink()
    with caplog.at_level(logging.WARNING):
        rig.open()
    (line,) = [each.getMessage() for each in caplog.records]
    assert "there was no mark" in line
    assert "entry 2" in line


def test_a_mark_that_is_taken_away_while_the_journal_is_open_is_made_anew_and_said_once(
    tmp_path: Path, keyring: Keyring, rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mark, "_LOOK_EVERY_S", 0.0)
    rig.reopen()
    name = mark_path(tmp_path / "journal.db")
    with caplog.at_level(logging.WARNING):
        for number in range(1, 4):
            name.unlink()
            sell(rig, number, number)
            assert said(tmp_path, keyring).sequence == number
        name.rename(tmp_path / "kept")
        name.write_bytes(b"something else")
        sell(rig, 4, 4)
        assert said(tmp_path, keyring).sequence == 4
    assert [each.getMessage().count("was taken away") for each in caplog.records] == [1]
    rig.reopen()
    assert rig.listed() == [1, 2, 3, 4]


def test_how_often_the_mark_is_looked_at_is_bounded_by_time(
    tmp_path: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    in_place = mark.Mark._in_place

    def look(self: mark.Mark) -> bool:
        looks.append(1)
        return in_place(self)

    monkeypatch.setattr(mark, "_LOOK_EVERY_S", 3_600.0)
    monkeypatch.setattr(mark.Mark, "_in_place", look)
    rig.reopen()
    sell(rig, 1, 30)
    assert not looks


def test_a_mark_that_could_not_be_made_is_tried_again_with_later_commits(
    tmp_path: Path, keyring: Keyring, rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mark, "_TRY_EVERY_S", 0.0)
    rig.close()
    name = mark_path(tmp_path / "journal.db")
    name.unlink()
    obstacle = name.with_name(name.name + ".new")
    obstacle.mkdir()
    with caplog.at_level(logging.ERROR):
        sell(rig.open(), 1, 3)
    assert not name.exists()
    assert [each.getMessage().count("nothing is lost") for each in caplog.records] == [1]
    obstacle.rmdir()
    sell(rig, 4, 4)
    assert said(tmp_path, keyring).sequence == 4


def _pipe(name: Path) -> None:
    os.mkfifo(name)


def _folder(name: Path) -> None:
    name.mkdir()


def _link(name: Path) -> None:
    name.symlink_to(name.with_name("kept"))


@pytest.mark.parametrize(
    ("put", "told"),
    [(_pipe, "no regular file"), (_folder, "no regular file"), (_link, "symbolic link: put the file")],
)
def test_what_is_no_file_in_the_place_of_the_mark_is_refused_at_once_with_advice(
    tmp_path: Path, keyring: Keyring, rig: Rig, put: Callable[[Path], None], told: str
) -> None:
    sell(rig, 1, 2)
    rig.close()
    name = mark_path(tmp_path / "journal.db")
    name.rename(tmp_path / "kept")
    put(name)
    with pytest.raises(JournalUnreadable, match=told) as refused:
        rig.open()
    assert "put the" in str(refused.value)


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_mark_that_its_disk_does_not_give_back_is_no_matter_of_who_owns_it(
    tmp_path: Path, keyring: Keyring, rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    sell(rig, 1, 2)
    rig.close()
    real = getattr(os, call)

    def failing(first: str | Path | int, *rest: Any, **named: Any) -> Any:
        if call == "pread" or first == mark_path(tmp_path / "journal.db"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(first, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        text = refusal(tmp_path, keyring)
    assert "cannot be read: Input/output error. The disk does not give it back" in text
    assert "chown" not in text


def test_a_mark_of_another_journal_with_other_keys_is_said_to_be_one(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    sell(rig, 1, 2)
    rig.close()
    (tmp_path / "other").mkdir()
    other = Rig(sqlite_make(tmp_path / "other" / "journal.db", create_keyring(tmp_path / "other" / "keys"))).open()
    sell(other, 1, 1)
    other.close()
    name = mark_path(tmp_path / "journal.db")
    name.write_bytes(mark_path(tmp_path / "other" / "journal.db").read_bytes())
    assert "is the mark of another journal" in refusal(tmp_path, keyring)


def test_a_mark_that_is_behind_opens_and_catches_up(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    sell(rig, 1, 2)
    behind = mark_path(tmp_path / "journal.db").read_bytes()
    sell(rig, 3, 6)
    rig.close()
    mark_path(tmp_path / "journal.db").write_bytes(behind)
    rig.open()
    assert rig.listed() == [1, 2, 3, 4, 5, 6]
    assert said(tmp_path, keyring).sequence == 6


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("torn", [b"\0" * 512, b"x" * 512, b"HOLDMARK"])
def test_one_torn_slot_costs_nothing(tmp_path: Path, keyring: Keyring, rig: Rig, slot: int, torn: bytes) -> None:
    sell(rig, 1, 3)
    rig.close()
    name = mark_path(tmp_path / "journal.db")
    content = bytearray(name.read_bytes())
    content[slot * SLOT_BYTES : slot * SLOT_BYTES + len(torn)] = torn
    if len(torn) < 512:
        content[slot * SLOT_BYTES + 20] ^= 1
    name.write_bytes(content)
    rig.open()
    assert said(tmp_path, keyring).sequence == 3
    slots = read_mark(tmp_path / "journal.db", RowCodec(keyring.row_key))
    assert slots is not None
    assert None not in slots, "the torn one is written first"
    sell(rig, 4, 4)


def test_a_mark_that_is_damaged_in_both_slots_is_refused_and_wrong_keys_are_named_first(
    tmp_path: Path, keyring: Keyring, rig: Rig
) -> None:
    sell(rig, 1, 3)
    rig.close()
    with pytest.raises(JournalKeysWrong):
        Rig(sqlite_make(tmp_path / "journal.db", create_keyring(tmp_path / "other"))).open()
    name = mark_path(tmp_path / "journal.db")
    name.write_bytes(b"x" * len(name.read_bytes()))
    assert "damaged in both" in refusal(tmp_path, keyring)
    name.write_bytes(b"")
    assert "damaged in both" in refusal(tmp_path, keyring)


@pytest.mark.parametrize("column", ["body", "leaf"])
def test_a_damaged_newest_entry_is_a_damaged_record_and_not_a_journal_that_went_back(
    tmp_path: Path, rig: Rig, column: str
) -> None:
    sell(rig, 1, 3)
    rig.close()
    overwrite(tmp_path / "journal.db", f"UPDATE entry SET {column} = zeroblob(32) WHERE sequence = 3")  # noqa: S608
    rig.open()
    assert rig.load(3) is Lookup.DAMAGED
    assert loaded(rig, 2).transaction.id == 2
    rig.reopen()


def test_a_mark_that_cannot_be_written_stops_nothing_and_is_said_once(
    tmp_path: Path, keyring: Keyring, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    sell(rig, 1, 1)
    descriptor = rig.journal._mark._descriptor  # type: ignore[attr-defined]
    kept, full = os.dup(descriptor), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)
    with caplog.at_level(logging.ERROR):
        sell(rig, 2, 4)
    assert [each.getMessage().count("nothing is lost") for each in caplog.records] == [1]
    assert said(tmp_path, keyring).sequence == 1
    os.dup2(kept, descriptor)
    os.close(kept)
    os.close(full)
    sell(rig, 5, 5)
    assert said(tmp_path, keyring).sequence == 5
    rig.reopen()
    assert rig.listed() == [1, 2, 3, 4, 5]
