"""What is said of a damaged log: by the opening that mends it, by one that cannot, and by one that only reads."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.journal import completeness, log_repair
from gateway.journal.completeness import what_went_back
from gateway.journal.keyring import Keyring
from gateway.journal.log_pages import FRAME_BYTES, HEADER_BYTES, Flip
from gateway.journal.log_repair import examine, repair_log
from gateway.journal.mark import mark_path
from gateway.journal.port import JournalUnreadable
from gateway.journal.rows import RowCodec
from tests.journal.rig import Rig, sqlite_make
from tests.journal.test_log_repair import FLIPPED, killed, lay
from tests.journal.test_mark import contents, refusal, said

NOBODY: Final = 65_534
MENDED_ENOUGH: Final = 5
ADVICE: Final = "-mark away"


def opened(folder: Path, keyring: Keyring) -> Rig:
    """The journal, open."""
    return Rig(sqlite_make(folder / "journal.db", keyring)).open()


def test_a_mending_that_was_cut_off_before_it_was_said_is_done_and_said_by_the_next_opening(
    tmp_path: Path, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    files = killed(tmp_path, keyring)
    damaged = FLIPPED.back(files["journal.db-wal"])
    (tmp_path / "journal.db-wal").write_bytes(damaged)
    assert repair_log(tmp_path / "journal.db") is not None  # and then the process is killed
    with caplog.at_level(logging.ERROR):
        rig = opened(tmp_path, keyring)
    assert rig.listed() == list(range(1, 13))
    rig.close()
    (line,) = [each.getMessage() for each in caplog.records]
    assert f"byte {FLIPPED.offset}" in line
    assert [each.name for each in tmp_path.glob("journal.db-wal.*")] == ["journal.db-wal.damaged"]
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        opened(tmp_path, keyring).close()
    assert not caplog.records


def test_what_a_mending_that_was_cut_off_has_brought_back_is_looked_through(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = killed(tmp_path, keyring)
    damaged = FLIPPED.back(files["journal.db-wal"])
    (tmp_path / "journal.db-wal").write_bytes(damaged)
    repair_log(tmp_path / "journal.db")
    seen: list[int] = []
    verify = completeness._verify

    def watched(records: object, path: object, said: object, start: int) -> None:
        seen.append(start)
        verify(records, path, said, start)  # type: ignore[arg-type]

    monkeypatch.setattr(completeness, "_verify", watched)
    opened(tmp_path, keyring).close()
    assert len(seen) == 1
    assert 1 < seen[0] <= 12


def test_a_mending_that_was_cut_off_is_said_even_if_the_mark_is_gone_since(
    tmp_path: Path, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    files = killed(tmp_path, keyring)
    (tmp_path / "journal.db-wal").write_bytes(FLIPPED.back(files["journal.db-wal"]))
    repair_log(tmp_path / "journal.db")
    mark_path(tmp_path / "journal.db").unlink()
    with caplog.at_level(logging.ERROR):
        rig = opened(tmp_path, keyring)
    assert rig.listed() == list(range(1, 13))
    rig.close()
    (line,) = [each.getMessage() for each in caplog.records]
    assert "an earlier start has put right" in line
    assert [each.name for each in tmp_path.glob("journal.db-wal.*")] == ["journal.db-wal.damaged"]


def test_a_kill_between_the_report_and_its_note_costs_no_more_than_a_second_report(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = killed(tmp_path, keyring)
    damaged = FLIPPED.back(files["journal.db-wal"])
    lay(tmp_path, {**files, "journal.db-wal": damaged})

    class KilledError(Exception):
        pass

    def dies(_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(log_repair.Repair, "reported", dies)
        with pytest.raises(KilledError):
            opened(tmp_path, keyring)
    with caplog.at_level(logging.ERROR):
        rig = opened(tmp_path, keyring)
    assert [each.getMessage().count("put right") for each in caplog.records] == [1, 1]
    assert rig.listed() == list(range(1, 13))
    rig.close()
    assert [each.read_bytes() for each in tmp_path.glob("journal.db-wal.*")] == [damaged]


def test_a_flipped_bit_that_cannot_be_named_is_told_with_its_place_and_that_mending_was_tried(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = killed(tmp_path, keyring)
    log = files["journal.db-wal"]
    monkeypatch.setattr(log_repair, "likely", lambda *_: None)
    for at in range(HEADER_BYTES + 8 * FRAME_BYTES + 27, len(log), 4):
        (tmp_path / "journal.db-wal").write_bytes(Flip(at, 7).back(log))  # the highest bit of a word
        flips, stuck = examine(tmp_path / "journal.db", tmp_path / "journal.db-wal")
        if not flips and len(stuck.candidates) > 1:
            break
    assert Flip(at, 7) in stuck.candidates
    monkeypatch.setattr(completeness, "CANDIDATES_MAX", 0)
    why = refusal(tmp_path, keyring)
    for part in (f"frame {stuck.frame} of", f"at byte {stuck.offset}", "(bytes ", "Mending was tried and not done"):
        assert part in why


def test_of_several_bits_that_can_have_flipped_the_only_one_that_brings_back_whole_records_is_taken(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = killed(tmp_path, keyring)
    log = files["journal.db-wal"]
    monkeypatch.setattr(log_repair, "likely", lambda *_: None)
    leaf = said(tmp_path, keyring).leaf  # of the newest entry: a bit of it is a bit of a record
    begin = log.rindex(leaf)
    mended = 0
    for flip in (Flip(begin + place, bit) for place in range(len(leaf)) for bit in range(8)):
        lay(tmp_path, {**files, "journal.db-wal": flip.back(log)})
        _, stuck = examine(tmp_path / "journal.db", tmp_path / "journal.db-wal")
        if not 1 < len(stuck.candidates) <= completeness.CANDIDATES_MAX:
            continue
        mended += 1
        rig = opened(tmp_path, keyring)
        assert rig.listed() == list(range(1, 13)), f"{flip}"
        rig.close()
        assert (tmp_path / "journal.db").read_bytes() == whole(tmp_path, keyring, files), f"{flip}: another bit"
        if mended == MENDED_ENOUGH:
            break
    print(f"{mended} put right")
    assert mended


def whole(folder: Path, keyring: Keyring, files: dict[str, bytes]) -> bytes:
    """The database that comes of the undamaged files."""
    (folder / "whole").mkdir(exist_ok=True)
    lay(folder / "whole", files)
    opened(folder / "whole", keyring).close()
    return (folder / "whole" / "journal.db").read_bytes()


def test_a_log_that_ends_early_is_told_with_the_place_where_it_ends(tmp_path: Path, keyring: Keyring) -> None:
    files = killed(tmp_path, keyring)
    (tmp_path / "journal.db-wal").write_bytes(files["journal.db-wal"][: HEADER_BYTES + 12 * FRAME_BYTES])
    assert f"frame 12 of 12, at byte {HEADER_BYTES + 12 * FRAME_BYTES}: the file ends there" in refusal(
        tmp_path, keyring
    )


def test_who_only_reads_is_told_too_and_changes_nothing(tmp_path: Path, keyring: Keyring, rig: Rig) -> None:
    files = killed(tmp_path, keyring)
    path, codec = tmp_path / "journal.db", RowCodec(keyring.row_key)
    damaged = FLIPPED.back(files["journal.db-wal"])
    for log, told in ((files["journal.db-wal"], ""), (damaged, "tries to put its log right"), (b"", "missing")):
        lay(tmp_path, {**files, "journal.db-wal": log})
        before = contents(tmp_path)
        problem = rig.run(what_went_back(path, keyring, codec))
        assert told in problem
        assert bool(told) is bool(problem)
        assert contents(tmp_path) == before


@pytest.fixture
def foreign_folder() -> Iterator[Path]:
    """A folder that another user may be given, and in which this test can be that user."""
    if os.geteuid():
        pytest.skip("to give a folder to another user takes root")
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["damaged", "without an index"])
def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_said_to_be_missing_for_it(
    foreign_folder: Path, keyring: Keyring, what: str
) -> None:
    files = killed(foreign_folder, keyring)
    if what == "damaged":
        lay(foreign_folder, {**files, "journal.db-wal": FLIPPED.back(files["journal.db-wal"])})
        with contextlib.closing(sqlite3.connect(f"file:{foreign_folder / 'journal.db'}?mode=ro", uri=True)) as reading:
            reading.execute("SELECT count(*) FROM entry").fetchone()
            shutil.copy(foreign_folder / "journal.db-shm", foreign_folder / "kept")
        shutil.copy(foreign_folder / "kept", foreign_folder / "journal.db-shm")
    (foreign_folder / "journal.db.lock").touch()
    for each in foreign_folder.glob("journal.db*"):
        os.chown(each, NOBODY, -1)
    foreign_folder.chmod(0o755)
    os.seteuid(NOBODY)
    with pytest.raises(JournalUnreadable) as refused:
        opened(foreign_folder, keyring)
    why = str(refused.value)
    assert "cannot be written by this user" in why
    assert ADVICE not in why
    assert ("could be put right" if what == "damaged" else "Nothing is known to be missing") in why
