"""A journal takes new keys while it runs: what was sealed opens, and what is new needs the new keys."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gateway.core.events import Committed, Lookup
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.key_changes import destroy, event_told, rotate
from gateway.journal.keyring import KeyPurpose, Keyring, create_keyring, load_keyring
from gateway.journal.port import JournalError, JournalFull, JournalKeysWrong
from gateway.journal.sqlite import SqliteJournal
from protocol.iso8583.message import Fields
from protocol.journal_entry import decode_entry
from tests.journal.conformance import loaded
from tests.journal.rig import TRACK, Rig, evolved, sale, sqlite_make


def sealed_with(path: Path) -> dict[int, set[int]]:
    """Ids of the keys that the parts of each entry were sealed with."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT sequence, body FROM entry").fetchall()
    finally:
        connection.close()
    return {sequence: {part.key_id for part in decode_entry(body).parts} for sequence, body in rows}


def create(rig: Rig, key: str, sensitive: Fields | None = None) -> int:
    written = rig.write(sale(key, sensitive=sensitive))
    assert isinstance(written, Committed)
    return written.ids[0]


def settle(rig: Rig, number: int) -> None:
    rig.write(evolved(loaded(rig, number).transaction, State.APPROVED))


def rotated(keys: Path, *purposes: KeyPurpose) -> Keyring:
    ring = load_keyring(keys)
    for purpose in purposes:
        ring = rotate(keys, None, purpose, "ann", "why", 2)
    return ring


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    create_keyring(tmp_path / "keys")
    return tmp_path / "journal.db"


def test_new_keys_are_taken_while_running_and_old_records_stay_readable(journal: Path, tmp_path: Path) -> None:
    rig = Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()
    before = create(rig, "k|000001", {35: TRACK})
    ring = rotated(tmp_path / "keys", KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE)
    rig.run(rig.journal.adopt_keys(ring))
    after = create(rig, "k|000002", {35: TRACK})
    assert loaded(rig, before).sensitive == loaded(rig, after).sensitive == {35: TRACK}
    assert sealed_with(journal) == {before: {1, 2}, after: {6, 7}}
    rig.close()
    again = Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()
    assert loaded(again, before).sensitive == loaded(again, after).sensitive == {35: TRACK}
    again.close()


def test_the_journal_names_a_key_that_it_has_taken_when_the_keyring_of_before_is_put_back(
    journal: Path, tmp_path: Path
) -> None:
    old = (tmp_path / "keys" / "keyring.json").read_bytes()
    rig = Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()
    rig.run(rig.journal.adopt_keys(rotated(tmp_path / "keys", KeyPurpose.ACCOUNT)))
    rig.close()  # nothing was sealed with it
    (tmp_path / "keys" / "keyring.json").write_bytes(old)
    with pytest.raises(JournalKeysWrong, match=r"account-epoch key 6 of .* is missing"):
        Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()


def test_on_a_full_disk_the_keys_stay_as_they_were_until_there_is_room(journal: Path, tmp_path: Path) -> None:
    rig = Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()
    assert isinstance(rig.journal, SqliteJournal)
    writer = rig.journal._writer

    def limited_to(pages: int) -> None:
        writer.connection.execute(f"PRAGMA max_page_count = {pages}")

    ring = rotated(tmp_path / "keys", *[KeyPurpose.ACCOUNT] * 60)  # the list of keys needs further pages
    rig.run(writer.run(lambda: limited_to(1)))  # no page more than there are
    with pytest.raises(JournalFull, match="new keys are not in use"):
        rig.run(rig.journal.adopt_keys(ring))
    rig.run(writer.run(lambda: limited_to(10**9)))
    before = create(rig, "k|000001")
    rig.run(rig.journal.adopt_keys(ring))
    after = create(rig, "k|000002")
    assert sealed_with(journal) == {before: {1}, after: {65}}
    assert rig.failure is None
    rig.close()


def test_what_is_owed_says_which_keys_it_needs(journal: Path, tmp_path: Path) -> None:
    rig = Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()
    needs = rig.run(rig.journal.key_needs())
    assert (needs.oldest_unsettled, needs.sensitive) == (0, {})
    rig.run(rig.journal.note(EntryKind.KEY, "{}"))
    first = create(rig, "k|000001")
    second = create(rig, "k|000002", {35: TRACK})
    needs = rig.run(rig.journal.key_needs())
    assert (needs.oldest_unsettled, needs.sensitive) == (first, {2: second})
    settle(rig, first)
    settle(rig, second)
    needs = rig.run(rig.journal.key_needs())
    assert (needs.oldest_unsettled, needs.sensitive) == (0, {})
    rig.close()


def test_a_list_of_the_unsettled_that_lacks_one_is_not_relied_on(journal: Path, tmp_path: Path) -> None:
    rig = Rig(sqlite_make(journal, load_keyring(tmp_path / "keys"))).open()
    create(rig, "k|000001")
    rig.reopen()  # a start would put it back
    connection = sqlite3.connect(journal)
    connection.execute("DELETE FROM unsettled")
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match="no key may be destroyed by it"):
        rig.run(rig.journal.key_needs())
    rig.close()


def test_with_a_destroyed_key_a_copy_of_the_database_does_not_open_either(journal: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    rig = Rig(sqlite_make(journal, load_keyring(keys))).open()
    number = create(rig, "k|000001", {35: TRACK})
    rig.run(rig.journal.adopt_keys(rotated(keys, KeyPurpose.SENSITIVE)))
    rig.close()
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "journal.db"
    copy.write_bytes(journal.read_bytes())
    rig = Rig(sqlite_make(copy, load_keyring(keys))).open()
    assert loaded(rig, number).sensitive == {35: TRACK}
    rig.close()
    destroy(keys, None, 2, "gateway", "its epoch is over", 3)
    copy.write_bytes(journal.read_bytes())
    for beside in (tmp_path / "copy").glob("journal.db?*"):
        beside.unlink()
    rig = Rig(sqlite_make(copy, load_keyring(keys))).open()
    assert rig.load(number) is Lookup.DAMAGED
    rig.close()
    assert TRACK.encode() not in copy.read_bytes()


def test_a_record_whose_epoch_was_destroyed_cannot_be_shown_and_is_no_damage(journal: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    rig = Rig(sqlite_make(journal, load_keyring(keys))).open()
    number = create(rig, "k|000001")
    settle(rig, number)
    rig.run(rig.journal.adopt_keys(rotated(keys, KeyPurpose.ACCOUNT)))
    rig.run(rig.journal.adopt_keys(destroy(keys, None, 1, "ann", "why", 3)))
    assert rig.load(number) is Lookup.DAMAGED
    assert rig.find("k|000001") == (Lookup.DAMAGED,), "a repeat of it is not taken for new"
    rig.settle()
    assert not rig.damaged
    assert rig.run(rig.journal.health()).quarantined == 0
    assert rig.listed() != []
    rig.close()


def test_a_record_that_is_owed_and_whose_key_is_gone_is_put_aside_for_two_people(journal: Path, tmp_path: Path) -> None:
    """A keyring from a backup lacked its key: it can never be sent, and nobody would hear of it else."""
    keys = tmp_path / "keys"
    rig = Rig(sqlite_make(journal, load_keyring(keys))).open()
    rig.run(rig.journal.adopt_keys(rotated(keys, KeyPurpose.ACCOUNT)))
    number = create(rig, "k|000001")
    rig.run(rig.journal.adopt_keys(rotated(keys, KeyPurpose.ACCOUNT)))
    rig.close()
    rig = Rig(sqlite_make(journal, destroy(keys, None, 6, "ann", "why", 3))).open()
    assert rig.load(number) is Lookup.DAMAGED
    rig.settle()
    assert [(each.sequence, each.what) for each in rig.damaged] == [(number, "account part: epoch key 6 was destroyed")]
    health = rig.run(rig.journal.health())
    assert (health.quarantined, health.counts[State.STORED]) == (1, 0)
    rig.close()


def test_an_event_that_was_told_says_where_the_old_key_ends(journal: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    rig = Rig(sqlite_make(journal, load_keyring(keys))).open()
    create(rig, "k|000001")
    ring = rotated(keys, KeyPurpose.ACCOUNT)
    rig.run(rig.journal.adopt_keys(ring))
    create(rig, "k|000002")
    sequence = rig.run(rig.journal.note(EntryKind.KEY, ring.untold[-1].detail()))
    assert event_told(keys, None, 2, sequence).records[1].last_sequence == sequence == 3
    assert all(1 not in used for number, used in sealed_with(journal).items() if number > 1)
    rig.close()
