"""Keys are rotated, retired, destroyed and wrapped anew, each with its event, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.journal.key_changes import (
    LOG_KEYS_MAX,
    KeyChangeRefused,
    add_event,
    destroy,
    event_told,
    open_keyring,
    retire,
    rewrap,
    rotate,
)
from gateway.journal.key_wrapping import KEK_FILE, RawKek
from gateway.journal.keyring import KEYRING_FILE, KeyPurpose, Keyring, KeyState, create_keyring, load_keyring
from gateway.journal.port import JournalKeysWrong

EPOCHS = [KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keyring(tmp_path / "keys", created_ms=1)
    return tmp_path / "keys"


def content(folder: Path) -> dict[str, object]:
    return json.loads((folder / KEYRING_FILE).read_bytes())  # type: ignore[no-any-return]


def states(ring: Keyring, purpose: KeyPurpose) -> list[str]:
    return [ring.state(record).value for _, record in sorted(ring.records.items()) if record.purpose is purpose]


@pytest.mark.parametrize("purpose", EPOCHS)
def test_a_rotation_of_an_epoch_makes_one_new_key_current_and_keeps_all_others(keys: Path, purpose: KeyPurpose) -> None:
    before = load_keyring(keys)
    after = rotate(keys, None, purpose, "ann", "a year is over", 77)
    assert load_keyring(keys) == after
    new = after.current[purpose]
    assert set(after.keys) == {*before.keys, new}
    assert {number: after.keys[number] for number in before.keys} == before.keys
    assert after.keys[new] not in before.keys.values()
    assert states(after, purpose) == ["retired", "current"]
    old = after.records[before.current[purpose]]
    assert (old.retired_ms, old.last_sequence, old.destroyed_ms) == (77, 0, 0)
    assert {each for each in KeyPurpose if after.current[each] != before.current[each]} == {purpose}


def test_an_older_log_key_signs_beside_the_new_one_until_it_is_retired(keys: Path) -> None:
    first = load_keyring(keys).log_key
    ring = rotate(keys, None, KeyPurpose.LOG, "ann", "why", 2)
    assert ring.log_keys[1:] == (first,)
    assert ring.log_key == ring.log_keys[0] != first
    number = next(n for n, record in ring.records.items() if ring.state(record) is KeyState.SIGNING)
    with pytest.raises(KeyChangeRefused, match=f"still signs the log; `holdfast keys retire {number}` first"):
        destroy(keys, None, number, "ann", "why", 3)
    ring = retire(keys, None, number, "ann", "period over", 4)
    assert len(ring.log_keys) == 1
    assert number in ring.keys
    assert number not in destroy(keys, None, number, "ann", "why", 5).keys


def test_there_is_a_limit_to_the_keys_that_sign_at_once(keys: Path) -> None:
    for _ in range(LOG_KEYS_MAX - 1):
        ring = rotate(keys, None, KeyPurpose.LOG, "ann", "why", 2)
    assert len(ring.log_keys) == LOG_KEYS_MAX
    with pytest.raises(KeyChangeRefused, match="retire 5` first"):
        rotate(keys, None, KeyPurpose.LOG, "ann", "why", 2)


@pytest.mark.parametrize("purpose", [KeyPurpose.ROW, KeyPurpose.FINGERPRINT])
def test_keys_that_rows_and_lookups_are_made_with_stay(keys: Path, purpose: KeyPurpose) -> None:
    before = (keys / KEYRING_FILE).read_bytes()
    number = load_keyring(keys).current[purpose]
    with pytest.raises(KeyChangeRefused, match="cannot be rotated"):
        rotate(keys, None, purpose, "ann", "why", 2)
    with pytest.raises(KeyChangeRefused, match="without it the journal cannot be read"):
        destroy(keys, None, number, "ann", "why", 2)
    with pytest.raises(KeyChangeRefused, match="it stays"):
        retire(keys, None, number, "ann", "why", 2)
    assert (keys / KEYRING_FILE).read_bytes() == before


def test_the_current_key_and_one_that_is_gone_or_was_never_there_cannot_be_destroyed(keys: Path) -> None:
    ring = rotate(keys, None, KeyPurpose.ACCOUNT, "ann", "why", 2)
    with pytest.raises(KeyChangeRefused, match="is the current account-epoch key"):
        destroy(keys, None, ring.current[KeyPurpose.ACCOUNT], "ann", "why", 3)
    destroy(keys, None, 1, "ann", "why", 3)
    with pytest.raises(KeyChangeRefused, match="destroyed already"):
        destroy(keys, None, 1, "ann", "why", 3)
    with pytest.raises(KeyChangeRefused, match="there is no key 99"):
        destroy(keys, None, 99, "ann", "why", 3)


def test_a_destroyed_key_is_in_no_file_of_the_folder_and_its_old_bytes_are_overwritten(keys: Path) -> None:
    rotate(keys, None, KeyPurpose.SENSITIVE, "ann", "why", 2)
    old = next(each for each in content(keys)["keys"] if each["id"] == 2)  # type: ignore[attr-defined]
    (keys / f".{KEYRING_FILE}.0badcafe").write_text(json.dumps(old))  # a draft that a power cut has left
    with (keys / KEYRING_FILE).open("rb") as still_open:
        assert old["wrapped"].encode() in still_open.read()
        ring = destroy(keys, None, 2, "gateway", "its epoch is over", 9)
        still_open.seek(0)
        assert old["wrapped"].encode() not in still_open.read(), "the old file's bytes are still on the disk"
    assert sorted(path.name for path in keys.iterdir()) == [KEK_FILE, KEYRING_FILE]
    assert old["wrapped"].encode() not in (keys / KEYRING_FILE).read_bytes()
    assert (ring.records[2].destroyed_ms, ring.records[2].check) == (9, old["check"])
    assert 2 not in load_keyring(keys).keys


def test_each_change_keeps_one_event_with_the_next_number_until_it_is_told(keys: Path) -> None:
    rotate(keys, None, KeyPurpose.ACCOUNT, "ann", "why", 2)
    rotate(keys, None, KeyPurpose.LOG, "bob", "because", 3)
    ring = add_event(keys, None, "destruction asked for", "cleo", "so", 4, keys=(1,), evidence={"request": {"id": "x"}})
    assert [(e.number, e.what, e.who) for e in ring.untold] == [
        (1, "created", "installation"),
        (2, "rotated", "ann"),
        (3, "rotated", "bob"),
        (4, "destruction asked for", "cleo"),
    ]
    assert {each["purpose"] for each in ring.untold[0].keys} == {purpose.value for purpose in KeyPurpose}
    detail = json.loads(ring.untold[2].detail())
    assert detail["was"] == 5
    assert len(detail["keys"][0]["public"]) == 44
    for key in ring.keys.values():
        assert all(key.hex() not in event.detail() for event in ring.untold)
    ring = event_told(keys, None, 2, 500)
    assert [event.number for event in ring.untold] == [1, 3, 4]
    assert ring.records[1].last_sequence == 500
    assert event_told(keys, None, 2, 900).records[1].last_sequence == 500
    assert rotate(keys, None, KeyPurpose.ACCOUNT, "ann", "why", 5).untold[-1].number == 5


def test_wrapping_anew_changes_no_key_and_shuts_the_old_key_encryption_key_out(keys: Path) -> None:
    before, old_kek = load_keyring(keys), (keys / KEK_FILE).read_bytes()
    copy = (keys / KEYRING_FILE).read_bytes()
    after = rewrap(keys, None, None, "ann", "yearly", 2)
    assert after.keys == before.keys
    assert after.untold[-1].what == "rewrapped"
    assert load_keyring(keys) == after
    assert (keys / KEK_FILE).read_bytes() != old_kek
    assert sorted(path.name for path in keys.iterdir()) == [KEK_FILE, KEYRING_FILE]
    (keys / KEYRING_FILE).write_bytes(copy)
    with pytest.raises(JournalKeysWrong, match="not the key-encryption key"):
        load_keyring(keys)


def test_wrapped_by_a_key_from_elsewhere_no_key_encryption_key_is_left_in_the_folder(keys: Path) -> None:
    before = load_keyring(keys)
    elsewhere = RawKek(b"e" * 32, "the key from elsewhere")
    rewrap(keys, None, elsewhere, "ann", "into the safe", 2)
    assert [path.name for path in keys.iterdir()] == [KEYRING_FILE]
    assert load_keyring(keys, elsewhere).keys == before.keys
    with pytest.raises(JournalKeysWrong, match=r"journal\.key_encryption_key says where"):
        load_keyring(keys)
    with pytest.raises(KeyChangeRefused, match="wrapped by the key from elsewhere already"):
        rewrap(keys, elsewhere, elsewhere, "ann", "again", 3)
    rewrap(keys, elsewhere, None, "ann", "back", 4)
    assert load_keyring(keys).keys == before.keys


def test_a_keyring_that_is_older_than_signed_checkpoints_gets_a_log_key_at_the_start_and_keeps_it(keys: Path) -> None:
    older = content(keys)
    older["current"].pop("log-signing")  # type: ignore[attr-defined]
    older["keys"].pop()  # type: ignore[attr-defined]
    for added in ("untold", "events"):
        older.pop(added)
    (keys / KEYRING_FILE).write_text(json.dumps(older | {"format": 1}))
    with pytest.raises(JournalKeysWrong, match="has no log-signing key yet"):
        _ = load_keyring(keys).log_key
    ring = open_keyring(keys)
    assert [event.what for event in ring.untold] == ["created"]
    assert open_keyring(keys).log_key == load_keyring(keys).log_key == ring.log_key


def test_a_change_is_refused_where_the_files_do_not_fit_and_leaves_them_as_they_are(keys: Path, tmp_path: Path) -> None:
    create_keyring(tmp_path / "other")
    (keys / KEK_FILE).write_bytes((tmp_path / "other" / KEK_FILE).read_bytes())
    before = (keys / KEYRING_FILE).read_bytes()
    with pytest.raises(JournalKeysWrong, match="not the key-encryption key"):
        rotate(keys, None, KeyPurpose.ACCOUNT, "ann", "why", 2)
    assert (keys / KEYRING_FILE).read_bytes() == before


def test_a_keyring_of_a_later_format_is_refused_by_its_number(keys: Path) -> None:
    (keys / KEYRING_FILE).write_text(json.dumps(content(keys) | {"format": 3}))
    with pytest.raises(JournalKeysWrong, match="has format 3, this release knows 2"):
        load_keyring(keys)
