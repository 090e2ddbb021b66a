"""Checks of the journal that nobody had, until a safeguard was taken away and nothing noticed."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from struct import Struct
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.core.effects import Load
from gateway.core.events import Committed, Lookup, WriteRefused
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer, Stored
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.port import JournalError
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART, Sealer
from protocol.journal_entry import decode_part
from tests.journal.conformance import loaded
from tests.journal.rig import TRACK, Rig, evolved, sale, sqlite_make

NOTICED_WITHIN_S: Final = 10
_BOUND: Final = Struct(">QBI")


def changed(path: Path, statement: str, *values: object) -> None:
    """Change a closed journal behind its back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


def test_a_ciphertext_is_bound_to_its_place_beyond_its_key(keyring: Keyring) -> None:
    """Even whoever has the record key cannot show a part under another sequence, part or key id."""
    sealer = Sealer(keyring)
    ciphertext, encoded = sealer.seal(7, ACCOUNT_PART, b"account")
    said = decode_part(encoded)
    opener = AESGCM(sealer.record_key(7, ACCOUNT_PART, said.key_id))
    for place in ((8, ACCOUNT_PART, said.key_id), (7, SENSITIVE_PART, said.key_id), (7, ACCOUNT_PART, 99), None):
        with pytest.raises(InvalidTag):
            opener.decrypt(ciphertext[:12], ciphertext[12:], b"" if place is None else _BOUND.pack(*place))
    bound = _BOUND.pack(7, ACCOUNT_PART, said.key_id)
    assert opener.decrypt(ciphertext[:12], ciphertext[12:], bound) == b"account"


def test_an_older_answer_in_the_place_of_a_newer_one_is_not_served(tmp_path: Path, rig: Rig) -> None:
    rig.write(sale(state=State.ASKING, answer=None))
    rig.write(evolved(loaded(rig, 1).transaction, State.STORED, answer=Answer("0210", {39: "00"})))
    rig.write(evolved(loaded(rig, 1).transaction, State.DECLINED, answer=Answer("0210", {39: "51"})))
    rig.write(sale("k|000002"))
    rig.close()
    older = "(SELECT body, leaf, account FROM entry WHERE sequence = 2)"
    changed(tmp_path / "journal.db", f"UPDATE entry SET (body, leaf, account) = {older} WHERE sequence = 3")  # noqa: S608
    rig.open()
    assert rig.load(1) is Lookup.DAMAGED


def test_a_head_that_was_changed_is_refused(tmp_path: Path, rig: Rig) -> None:
    path = tmp_path / "journal.db"
    for n in range(3):
        rig.write(sale(f"k|{n:06}"))
    rig.close()
    with closing(sqlite3.connect(path)) as connection:
        packed: list[bytes] = [each for (each,) in connection.execute("SELECT packed FROM head")]
    path.with_name("journal.db-mark").unlink(missing_ok=True)  # it would say so, too
    for one in set(packed):
        changed(path, "UPDATE head SET packed = ?", one[:-1] + bytes([one[-1] ^ 1]))
    with pytest.raises(JournalError):
        rig.open()


def test_a_commit_between_two_lookups_of_one_hop_is_seen_by_neither(tmp_path: Path, rig: Rig) -> None:
    """A transaction is loaded twice in one hop, and somebody's commit between the two takes it away."""
    rig.write(sale())
    journal: Any = rig.journal
    by_id = journal._records.by_id
    found: list[object] = []

    def by_id_and_then_a_commit(number: int, key: str) -> object:
        found.append(by_id(number, key))
        if len(found) == 1:
            changed(tmp_path / "journal.db", "DELETE FROM tx")
        return found[-1]

    journal._records.by_id = by_id_and_then_a_commit
    rig.perform(Load(rig.next_token(), 1), Load(rig.next_token(), 1))
    first, second = found
    assert isinstance(first, Stored)
    assert second == first, "the second lookup saw what was committed after the first"


@pytest.mark.parametrize("replaced", [False, True])
def test_once_its_lock_file_is_removed_or_replaced_it_takes_nothing_new(
    tmp_path: Path, rig: Rig, replaced: bool
) -> None:
    lock = tmp_path / "journal.db.lock"
    rig.write(sale())
    asking = loaded(rig, 1).transaction
    lock.unlink()
    if replaced:
        lock.touch(0o600)
    deadline_s = time.monotonic() + NOTICED_WITHIN_S
    while not rig.journal.refusal():
        assert time.monotonic() < deadline_s, "it goes on as if nothing were"
    assert "was removed or replaced" in rig.journal.refusal()
    assert isinstance(rig.write(sale("k|000002")), WriteRefused)
    assert isinstance(rig.write(evolved(asking, State.APPROVED)), Committed), "what is owed is still settled"


def test_a_damaged_record_leaves_the_queue_for_good(tmp_path: Path, rig: Rig) -> None:
    rig.write(sale())
    rig.close()
    changed(tmp_path / "journal.db", "UPDATE tx SET row = zeroblob(200) WHERE id = 1")
    rig.open()
    assert rig.heads("M/T").stored == ()
    rig.settle()
    assert rig.run(rig.journal.owing_lanes()) == []


def test_what_is_sensitive_is_gone_from_the_files_once_a_transaction_is_final(tmp_path: Path, rig: Rig) -> None:
    path = tmp_path / "journal.db"
    rig.write(sale(state=State.ASKING, answer=None, sensitive={35: TRACK}))
    rig.close()
    with closing(sqlite3.connect(path)) as connection:
        ((ciphertext,),) = connection.execute("SELECT ciphertext FROM sensitive").fetchall()
    assert ciphertext in path.read_bytes()
    rig.open()
    rig.write(evolved(loaded(rig, 1).transaction, State.DECLINED, answer=Answer("0210", {39: "51"})))
    rig.close()
    for file in tmp_path.glob("journal.db*"):
        assert ciphertext not in file.read_bytes(), f"{file.name} still has it"


def test_every_file_of_a_journal_is_its_owners_whatever_the_umask(tmp_path: Path, keyring: Keyring) -> None:
    folder = tmp_path / "of its own"
    before = os.umask(0)
    try:
        rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
        rig.write(sale())
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (folder, *folder.iterdir())}
    assert {"journal.db", "journal.db-wal", "journal.db.lock"} <= modes.keys()
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_the_names_of_new_key_files_are_synced_before_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key whose file's name is lost with the power is a lost key; the calls themselves are the real ones."""
    folder = tmp_path / "keys"
    done: list[str] = []
    sync, link = os.fsync, os.link

    def seen_sync(descriptor: int) -> None:
        sync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").resolve() == folder:
            done.append("synced")

    def seen_link(draft: Path, name: Path) -> None:
        link(draft, name)
        done.append(f"made {name.name}")

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "link", seen_link)
    create_keyring(folder)
    made = [number for number, each in enumerate(done) if each.startswith("made")]
    assert len(made) == len([each for each in folder.iterdir() if each.is_file()])
    assert all("synced" in done[number + 1 : number + 2] for number in made), done


def test_a_journal_that_was_put_back_to_an_earlier_state_is_refused(tmp_path: Path, rig: Rig) -> None:
    """What is wrong then is in no record: each is whole, and some are missing."""
    path = tmp_path / "journal.db"
    rig.write(sale("k|000001"))
    rig.close()
    earlier = path.read_bytes()
    rig.open()
    rig.write(sale("k|000002"))
    rig.close()
    path.write_bytes(earlier)
    with pytest.raises(JournalError, match="missing"):
        rig.open()
