"""How a keyring changes: new keys, retired and destroyed ones, another key-encryption key.

Each change locks the folder, reads the file anew, and replaces it whole, together with the event that an entry of the
journal will tell. What a power cut leaves of a rotation:

    before the file is replaced     the old keyring; nothing has happened
    after it                        the new key is current and nothing is sealed with it yet; the next start takes it
                                    into use, notes it in the journal's list of keys, and tells the event
    after the journal has noted it  the same; records are sealed with the new key
    after its entry is durable      the event is told a second time, under the same number

A record is never sealed with a key that is not on the disk already, and what was sealed before opens with the keys
that stay in the file.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.journal.key_folder import KeyFileWrong, clear_leftovers, erase, locked, sync_folder, write_new
from gateway.journal.key_wrapping import KEK_FILE, KEY_BYTES, NEXT_KEK_FILE, KeyEncryptionKey, RawKek, kek_from_folder
from gateway.journal.keyring import (
    KEYRING_FILE,
    KeyPurpose,
    KeyRecord,
    Keyring,
    KeyringFile,
    KeyState,
    fitting,
    opened,
    read_content,
    told,
    utc_now_ms,
    with_event,
    with_new_key,
    wrapped_by,
    write_content,
)

ROTATING: Final = (KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE, KeyPurpose.LOG)
"""Purposes whose key can be followed by another; rows and lookups are made with one key for good."""

LOG_KEYS_MAX: Final = 4
"""Keys that sign each checkpoint at once; each makes it longer and slower to sign."""

_Step = Callable[[KeyringFile, KeyEncryptionKey, Keyring], KeyringFile]


class KeyChangeRefused(Exception):
    """A key cannot be changed so; the message says why and what would be right. Nothing was changed."""


def open_keyring(directory: Path, kek: KeyEncryptionKey | None = None) -> Keyring:
    """The keys as a gateway opens them at its start.

    Clears away what a power cut has left of a change, and gives a keyring that is older than signed checkpoints a
    log-signing key, durable before it is returned.

    Raises:
        JournalKeysWrong: as `load_keyring`.
    """
    with _locked(directory):
        content = read_content(directory)
        chosen = fitting(directory, content, kek)
        ring = opened(content, chosen, directory)
        clear_leftovers(directory / KEYRING_FILE)
        if kek is None:
            chosen = _end_kek_change(directory, content)
        if KeyPurpose.LOG in ring.current:
            return ring
        now_ms = utc_now_ms()
        content, record = with_new_key(content, chosen, KeyPurpose.LOG, now_ms)
        ring = opened(content, chosen, directory)
        content = with_event(
            content, "created", now_ms, "gateway", "the log is signed from this release on", [told(ring, record)]
        )
        write_content(directory, content)
        return opened(content, chosen, directory)


def rotate(
    directory: Path, kek: KeyEncryptionKey | None, purpose: KeyPurpose, who: str, why: str, now_ms: int
) -> Keyring:
    """Make a new key current. Of an epoch, the old key opens what it has sealed; of the log, it goes on signing too.

    Raises:
        KeyChangeRefused: keys of this purpose cannot be rotated.
        KeyringHalfWritten: the file is changed, and perhaps not for good.
        JournalKeysWrong: the files cannot be read or written; nothing was changed.
    """
    if purpose not in ROTATING:
        raise KeyChangeRefused(f"the {purpose.value} key cannot be rotated: rows and lookups are made with it for good")

    def step(content: KeyringFile, chosen: KeyEncryptionKey, ring: Keyring) -> KeyringFile:
        signing = [number for number, record in ring.records.items() if ring.state(record) is KeyState.SIGNING]
        if purpose is KeyPurpose.LOG and len(signing) >= LOG_KEYS_MAX - 1:
            raise KeyChangeRefused(
                f"{LOG_KEYS_MAX} keys sign the log already; `holdfast keys retire {min(signing)}` first"
            )
        return _rotated(directory, content, chosen, purpose, who, why, now_ms)

    return _change(directory, kek, step)


def _rotated(
    directory: Path, content: KeyringFile, kek: KeyEncryptionKey, purpose: KeyPurpose, who: str, why: str, now_ms: int
) -> KeyringFile:
    was = content.current.get(purpose.value, 0)
    content, record = with_new_key(content, kek, purpose, now_ms)
    old = content.record(was)
    if old is not None and purpose is not KeyPurpose.LOG:
        content = _put(content, msgspec.structs.replace(old, retired_ms=now_ms))
    told_keys = [told(opened(content, kek, directory), record)]
    return with_event(content, "rotated", now_ms, who, why, told_keys, was)


def retire(directory: Path, kek: KeyEncryptionKey | None, number: int, who: str, why: str, now_ms: int) -> Keyring:
    """End the time in which an older log key signs beside the current one.

    Raises: as `rotate`.
    """

    def step(content: KeyringFile, _: KeyEncryptionKey, ring: Keyring) -> KeyringFile:
        record = known(ring, number)
        match ring.state(record):
            case KeyState.CURRENT:
                right = (
                    f"`holdfast keys rotate {record.purpose.value}` first" if record.purpose in ROTATING else "it stays"
                )
                raise KeyChangeRefused(f"key {number} is the current {record.purpose.value} key; {right}")
            case KeyState.RETIRED | KeyState.DESTROYED as state:
                raise KeyChangeRefused(f"key {number} is {state.value} already: nothing new uses it")
            case KeyState.SIGNING:
                pass
        content = _put(content, msgspec.structs.replace(record, retired_ms=now_ms))
        return with_event(content, "retired", now_ms, who, why, [told(ring, record)])

    return _change(directory, kek, step)


def destroy(
    directory: Path,
    kek: KeyEncryptionKey | None,
    number: int,
    who: str,
    why: str,
    now_ms: int,
    evidence: dict[str, Any] | None = None,
) -> Keyring:
    """Destroy a key that nothing new uses: its wrapped bytes leave the file, and the old file is overwritten.

    Whether anything that is owed still needs it, the caller has asked (`refuse_in_use` looks at its state alone).

    Raises: as `rotate`.
    """

    def step(content: KeyringFile, _: KeyEncryptionKey, ring: Keyring) -> KeyringFile:
        record = known(ring, number)
        refuse_in_use(ring, record)
        said = told(ring, record)
        content = _put(content, msgspec.structs.replace(record, wrapped=None, destroyed_ms=now_ms))
        return with_event(content, "destroyed", now_ms, who, why, [said], evidence=evidence)

    return _change(directory, kek, step)


def rewrap(
    directory: Path,
    kek: KeyEncryptionKey | None,
    following: KeyEncryptionKey | None,
    who: str,
    why: str,
    now_ms: int,
) -> Keyring:
    """Wrap every key under another key-encryption key; None is a new one in the folder.

    A copy of `keyring.json` that was made before opens with the old key-encryption key only, which is erased where it
    lay in the folder. Crash: before the keyring is replaced, nothing has happened (a `kek.next` is left, which nothing
    uses); after it, `kek.next` is the one that fits, and gets its name at the next start.

    Raises: as `rotate`.
    """
    with _locked(directory):
        content = read_content(directory)
        old = fitting(directory, content, kek)
        ring = opened(content, old, directory)
        next_path = directory / NEXT_KEK_FILE
        if following is None:
            if (directory / KEK_FILE).is_symlink():
                # What lies behind a link is not overwritten: no start could end the change, nor begin.
                raise KeyChangeRefused(
                    f"nothing was changed: {directory / KEK_FILE} is a link, and a new key cannot take its place; copy "
                    f"the key into the folder first, or rewrap to where the new one lies"
                )
            if kek is None:
                _end_kek_change(directory, content)
            if next_path.exists():
                erase(next_path)
            key = secrets.token_bytes(KEY_BYTES)
            write_new(next_path, key)
            new: KeyEncryptionKey = RawKek(key, str(next_path))
        else:
            new = following
        if new.check() == content.kek_check:
            raise KeyChangeRefused(f"the keys are wrapped by {new.name} already")
        keys = [
            wrapped_by(new, content.keyring, record, ring.keys[record.id]) if record.id in ring.keys else record
            for record in content.keys
        ]
        content = msgspec.structs.replace(content, kek_check=new.check(), keys=keys)
        facts = {"from": old.name, "to": str(directory / KEK_FILE) if following is None else new.name}
        content = with_event(content, "rewrapped", now_ms, who, why, [], facts=facts)
        opened(content, new, directory)  # before anything is replaced: every key opens with the new one
        write_content(directory, content)
        if following is None:
            _end_kek_change(directory, content)
        elif (directory / KEK_FILE).exists():
            erase(directory / KEK_FILE)
        return opened(content, new, directory)


def restore(
    directory: Path,
    kek: KeyEncryptionKey | None,
    named: Mapping[int, tuple[KeyPurpose, str]],
    who: str,
    why: str,
    now_ms: int,
) -> Keyring:
    """Have a keyring from a backup fit a journal that has seen later keys: those count as destroyed from here on.

    New epoch keys become current, for the backup may hold old ones that were destroyed meanwhile. Numbers of events go
    on from the time, so that none is used twice.

    Args:
        named: purpose and check value of each key that the journal names, by id.
    Raises:
        KeyChangeRefused: nothing is missing, or a key that the journal cannot be read without.
        JournalKeysWrong: the files cannot be read or written; nothing was changed.
    """

    def step(content: KeyringFile, chosen: KeyEncryptionKey, ring: Keyring) -> KeyringFile:
        missing = {number: said for number, said in named.items() if number not in ring.records}
        if not missing:
            raise KeyChangeRefused("the keyring lists every key that the journal names; nothing is to be restored")
        if fixed := [number for number, (purpose, _) in missing.items() if purpose not in ROTATING]:
            raise KeyChangeRefused(f"key {fixed[0]} is missing, and without it the journal cannot be read")
        gone = [
            KeyRecord(number, purpose, now_ms, check, None, destroyed_ms=now_ms, retired_ms=now_ms)
            for number, (purpose, check) in sorted(missing.items())
        ]
        content = msgspec.structs.replace(
            content, keys=sorted([*content.keys, *gone], key=lambda each: each.id), events=max(content.events, now_ms)
        )
        content = with_event(content, "lost", now_ms, who, why, [told(ring, record) for record in gone])
        for purpose in (KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE):
            content = _rotated(directory, content, chosen, purpose, who, why, now_ms)
        return content

    return _change(directory, kek, step)


def add_event(
    directory: Path,
    kek: KeyEncryptionKey | None,
    what: str,
    who: str,
    why: str,
    now_ms: int,
    *,
    keys: tuple[int, ...] = (),
    evidence: dict[str, Any] | None = None,
    facts: dict[str, str] | None = None,
) -> Keyring:
    """Keep an event that changes no key, e.g. that a destruction was asked for. Raises as `rotate`."""

    def step(content: KeyringFile, _: KeyEncryptionKey, ring: Keyring) -> KeyringFile:
        said = [told(ring, known(ring, number)) for number in keys]
        return with_event(content, what, now_ms, who, why, said, evidence=evidence, facts=facts)

    return _change(directory, kek, step)


def write_anew(directory: Path, kek: KeyEncryptionKey | None) -> Keyring:
    """Write the keyring as its file has it once more, for a change that could be written in part only.

    Raises: JournalKeysWrong, as `write_content`.
    """
    with _locked(directory):
        content = read_content(directory)
        ring = opened(content, fitting(directory, content, kek), directory)
        write_content(directory, content)
        return ring


def event_told(directory: Path, kek: KeyEncryptionKey | None, number: int, sequence: int) -> Keyring:
    """An entry tells of the event now, and is durable; `sequence` is its place. Raises JournalKeysWrong.

    Nothing after that entry is sealed with the key that was current before a rotation.
    """

    def step(content: KeyringFile, _: KeyEncryptionKey, __: Keyring) -> KeyringFile:
        event = next((each for each in content.untold if each.number == number), None)
        if event is None:
            return content
        old = content.record(event.was)
        if old is not None:
            content = _put(content, msgspec.structs.replace(old, last_sequence=sequence))
        untold = [each for each in content.untold if each.number != number]
        return msgspec.structs.replace(content, untold=untold)

    return _change(directory, kek, step)


def known(ring: Keyring, number: int) -> KeyRecord:
    """The record of a key. Raises KeyChangeRefused where there is none."""
    record = ring.records.get(number)
    if record is None:
        raise KeyChangeRefused(f"there is no key {number}; `holdfast keys list` shows those that there are")
    return record


def refuse_in_use(ring: Keyring, record: KeyRecord) -> None:
    """Raises KeyChangeRefused where something new may use the key, or it is one that must stay."""
    what = f"key {record.id}"
    if record.purpose not in ROTATING:
        raise KeyChangeRefused(f"{what} is the {record.purpose.value} key; without it the journal cannot be read")
    match ring.state(record):
        case KeyState.CURRENT:
            raise KeyChangeRefused(
                f"{what} is the current {record.purpose.value} key; `holdfast keys rotate {record.purpose.value}` first"
            )
        case KeyState.SIGNING:
            raise KeyChangeRefused(f"{what} still signs the log; `holdfast keys retire {record.id}` first")
        case KeyState.DESTROYED:
            raise KeyChangeRefused(f"{what} is destroyed already")
        case KeyState.RETIRED:
            pass


def _locked(directory: Path) -> Any:
    try:
        return locked(directory)
    except OSError as error:
        raise KeyFileWrong(f"{directory} cannot be opened: {error.strerror}") from error


def _change(directory: Path, kek: KeyEncryptionKey | None, step: _Step) -> Keyring:
    with _locked(directory):
        content = read_content(directory)
        chosen = fitting(directory, content, kek)
        changed = step(content, chosen, opened(content, chosen, directory))
        if changed != content:
            write_content(directory, changed)
        return opened(changed, chosen, directory)


def _put(content: KeyringFile, record: KeyRecord) -> KeyringFile:
    keys = [record if each.id == record.id else each for each in content.keys]
    return msgspec.structs.replace(content, keys=keys)


def _end_kek_change(directory: Path, content: KeyringFile) -> KeyEncryptionKey:
    """Go on where a change of the key-encryption key in the folder was cut short, and return the one that fits."""
    chosen = kek_from_folder(directory, content.kek_check)
    old_path, next_path = directory / KEK_FILE, directory / NEXT_KEK_FILE
    clear_leftovers(old_path)
    clear_leftovers(next_path)
    if next_path.exists():
        if chosen.name == str(next_path):
            if old_path.exists():
                erase(old_path)  # a crash from here on is as before: `kek.next` is the one that fits
            next_path.rename(old_path)
            sync_folder(directory)
            return kek_from_folder(directory, content.kek_check)
        erase(next_path)
    return chosen
