"""Keys are made once, kept private, and refused by name when they do not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.journal.key_folder import replace_file, write_new
from gateway.journal.keyring import KEK_FILE, KEYRING_FILE, KeyPurpose, create_keyring, load_keyring
from gateway.journal.port import JournalKeysWrong, JournalUnreadable
from gateway.journal.schema import refuse_foreign_file


def test_a_keyring_is_loaded_as_it_was_created(tmp_path: Path) -> None:
    created = create_keyring(tmp_path / "keys", created_ms=5)
    loaded = load_keyring(tmp_path / "keys")
    assert loaded == created
    assert set(loaded.current) == set(KeyPurpose)
    assert len(set(loaded.keys.values())) == len(KeyPurpose)
    assert {record.created_ms for record in loaded.records.values()} == {5}


def test_key_files_are_for_their_owner_alone_and_hold_no_key_in_the_clear(tmp_path: Path) -> None:
    keyring = create_keyring(tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {KEK_FILE, KEYRING_FILE}
    content = (tmp_path / "keys" / KEYRING_FILE).read_bytes()
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for key in keyring.keys.values():
        assert key not in content
        assert key.hex().encode() not in content
        assert key.hex() not in repr(keyring)


@pytest.mark.parametrize("name", [KEK_FILE, KEYRING_FILE])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_that_others_can_reach_is_refused_by_name(tmp_path: Path, name: str, mode: int) -> None:
    create_keyring(tmp_path / "keys")
    (tmp_path / "keys" / name).chmod(mode)
    with pytest.raises(JournalKeysWrong, match=f"{name}.*chmod 0600"):
        load_keyring(tmp_path / "keys")


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """As a user who may do nothing with that file or folder."""
    mode = path.stat().st_mode
    path.chmod(0)
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def test_a_folder_or_a_journal_that_this_user_may_not_read_is_named_in_words(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys")
    with (
        without_rights(tmp_path / "keys"),
        pytest.raises(JournalKeysWrong, match=r"keyring\.json cannot be read: Perm"),
    ):
        load_keyring(tmp_path / "keys")
    journal = tmp_path / "journal.sqlite3"
    journal.write_bytes(bytes(4096))
    with without_rights(journal), pytest.raises(JournalUnreadable, match=r"journal\.sqlite3 cannot be read: Perm"):
        refuse_foreign_file(journal)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_a_command_of_root_writes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    """Else the gateway's user cannot read its keyring at the next start."""
    folder = tmp_path / "keys"
    create_keyring(folder)
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65533)
    replace_file(folder / KEYRING_FILE, (folder / KEYRING_FILE).read_bytes())
    write_new(folder / "another", b"new")
    owners = {(each.stat().st_uid, each.stat().st_gid) for each in folder.iterdir()}
    assert owners == {(65534, 65533)}


def test_a_keyring_is_never_overwritten(tmp_path: Path) -> None:
    created = create_keyring(tmp_path / "keys")
    with pytest.raises(JournalKeysWrong, match="exists already"):
        create_keyring(tmp_path / "keys")
    assert load_keyring(tmp_path / "keys") == created


def test_creation_goes_on_from_a_key_encryption_key_that_wraps_nothing_yet(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys")
    kek = (tmp_path / "keys" / KEK_FILE).read_bytes()
    (tmp_path / "keys" / KEYRING_FILE).unlink()
    create_keyring(tmp_path / "keys")
    assert (tmp_path / "keys" / KEK_FILE).read_bytes() == kek


def test_another_key_encryption_key_is_refused_by_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_keyring(tmp_path / name)
    (tmp_path / "one" / KEK_FILE).write_bytes((tmp_path / "two" / KEK_FILE).read_bytes())
    with pytest.raises(JournalKeysWrong, match=r"kek\.key is not the key-encryption key"):
        load_keyring(tmp_path / "one")


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_key_encryption_key_of_another_length_is_refused(tmp_path: Path, content: bytes) -> None:
    create_keyring(tmp_path / "keys")
    (tmp_path / "keys" / KEK_FILE).write_bytes(content)
    with pytest.raises(JournalKeysWrong, match="must hold 32 bytes"):
        load_keyring(tmp_path / "keys")


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalKeysWrong, match=r"kek\.key cannot be read"):
        load_keyring(tmp_path)


def rewrite(path: Path, change: dict[str, object], number: int) -> None:
    content = json.loads(path.read_bytes())
    content["keys"][number] |= change
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("change", [{"id": 9}, {"purpose": "fingerprint"}, {"created_ms": 1}, {"wrapped": "AAAA"}])
def test_a_wrapped_key_cannot_pass_for_another(tmp_path: Path, change: dict[str, object]) -> None:
    create_keyring(tmp_path / "keys")
    rewrite(tmp_path / "keys" / KEYRING_FILE, change, 0)
    with pytest.raises(JournalKeysWrong, match="does not open"):
        load_keyring(tmp_path / "keys")


def test_a_destroyed_current_key_is_refused_and_a_destroyed_old_one_is_not(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys")
    path = tmp_path / "keys" / KEYRING_FILE
    content = json.loads(path.read_bytes())
    old = dict(content["keys"][1], id=9, wrapped=None, destroyed_ms=7)
    content["keys"].append(old)
    path.write_text(json.dumps(content))
    keyring = load_keyring(tmp_path / "keys")
    assert 9 not in keyring.keys
    assert keyring.records[9].destroyed_ms == 7
    rewrite(path, {"wrapped": None}, 1)
    with pytest.raises(JournalKeysWrong, match="no current sensitive-epoch key"):
        load_keyring(tmp_path / "keys")


def test_what_is_no_keyring_is_refused(tmp_path: Path) -> None:
    create_keyring(tmp_path / "keys")
    (tmp_path / "keys" / KEYRING_FILE).write_text("{}")
    with pytest.raises(JournalKeysWrong, match="not a keyring"):
        load_keyring(tmp_path / "keys")
