"""The keys of a journal: a key-encryption key, and the file of what it wraps.

`keyring.json` holds every key, wrapped by AES-256-GCM under the key-encryption key: epoch keys for account data, epoch
keys for sensitive data, the fingerprint key, the row-integrity key and the keys that sign the log. The key-encryption
key itself is `kek.key` beside it (32 raw bytes), or comes from elsewhere (key_wrapping.py, key_token.py). Neither file
may lie where the database or its backups lie: an epoch's key is destroyed by rewriting `keyring.json` without it, and
that only destroys what no copy holds (INV-8, AUDIT.md).

A destroyed key stays in the file by id, purpose, times and check value, without its wrapped bytes, so that "destroyed"
and "missing" can be told apart. How a keyring changes is in key_changes.py.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.journal.key_folder import (
    HalfReplaced,
    is_there,
    read_private_file,
    refuse_open_to_others,
    replace_file,
    sync_folder,
    write_new,
)
from gateway.journal.key_wrapping import (
    KEK_FILE,
    KEY_BYTES,
    KeyEncryptionKey,
    WrapRefused,
    kek_from_folder,
    key_check,
)
from gateway.journal.port import JournalKeysWrong

__all__ = ["KEK_FILE", "KEYRING_FILE", "KeyPurpose", "KeyRecord", "Keyring", "create_keyring", "key_check",
           "load_keyring", "sync_folder"]  # fmt: skip

KEYRING_FILE: Final = "keyring.json"
FORMAT: Final = 2
_FORMATS_READ: Final = (1, 2)


class KeyPurpose(StrEnum):
    """What a key is for; one key never serves two purposes."""

    ACCOUNT = "account-epoch"
    SENSITIVE = "sensitive-epoch"
    FINGERPRINT = "fingerprint"
    ROW = "row-integrity"
    LOG = "log-signing"


class KeyState(StrEnum):
    """Where a key stands in its life."""

    CURRENT = "current"  # what is new uses it
    SIGNING = "signing"  # an older log key that still signs beside the current one, until it is retired
    RETIRED = "retired"  # nothing new uses it; what it sealed opens with it
    DESTROYED = "destroyed"  # gone, and with it what it sealed


class KeyringHalfWritten(JournalKeysWrong):
    """The keyring's file is the new one, but perhaps not for good; the message says so. Nothing new is sealed by it."""


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key as `keyring.json` lists it.

    Attributes:
        id: from 1, never used twice within a keyring.
        purpose: what it may be used for.
        created_ms: UTC.
        check: first 8 bytes of HMAC-SHA256(key, label), hex: tells keys apart and gives nothing away.
        wrapped: base64 of the key wrapped under the key-encryption key; None once destroyed.
        destroyed_ms: UTC time of destruction, or 0.
        retired_ms: UTC time since which nothing new uses it, or 0.
        last_sequence: no entry after this sequence uses it; 0 while that is not known.
    """

    id: int
    purpose: KeyPurpose
    created_ms: int
    check: str
    wrapped: str | None
    destroyed_ms: int = 0
    retired_ms: int = 0
    last_sequence: int = 0


class KeyEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something that was done to keys, and that an entry of the journal tells.

    Kept in `keyring.json` until that entry is durable. A crash between the two tells it a second time, under the same
    number: an event counts once for each number.

    Attributes:
        number: from 1, dense within a keyring until one is restored from a backup; from then on from the time.
        what: "created", "rotated", "retired", "destroyed", "rewrapped", "lost", "approvers", or what was asked of two
            people.
        keys: the keys it is about: id, purpose, check value, and public key of those that sign.
        was: the key that was current before a rotation, or 0.
        evidence: what two people signed, for what needs two.
        facts: further words, by name.
    """

    number: int
    what: str
    time_ms: int
    who: str
    why: str
    keys: list[dict[str, int | str]] = []
    was: int = 0
    evidence: dict[str, Any] = {}
    facts: dict[str, str] = {}

    def detail(self) -> str:
        """What the entry of the journal holds: JSON in one line."""
        return msgspec.json.encode(self).decode()


class KeyringFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of `keyring.json`.

    Attributes:
        current: id of the key that is used for what is new, by purpose.
        untold: events that no entry is known to tell of yet.
        events: number of the newest event.
    """

    format: int
    keyring: str
    kek_check: str
    current: dict[str, int]
    keys: list[KeyRecord]
    untold: list[KeyEvent] = []
    events: int = 0

    def record(self, number: int) -> KeyRecord | None:
        """The key of this id, destroyed or not."""
        return next((each for each in self.keys if each.id == number), None)


@dataclass(slots=True, frozen=True, repr=False)
class Keyring:
    """Keys in memory. Its repr shows none of them.

    Attributes:
        name: random name of this keyring, also bound into what is wrapped.
        records: what the file lists, by id, destroyed ones included.
        current: id of the key that new records use, by purpose.
        keys: the key itself, by id; destroyed ones are absent.
        untold: events that no entry is known to tell of yet, oldest first.
    """

    name: str
    records: dict[int, KeyRecord]
    current: dict[KeyPurpose, int]
    keys: dict[int, bytes]
    untold: tuple[KeyEvent, ...] = ()

    def __repr__(self) -> str:
        return f"Keyring({self.name}, {len(self.records)} keys)"

    @property
    def fingerprint_key(self) -> bytes:
        """Key of the fingerprints and of the card hashes (D2)."""
        return self.keys[self.current[KeyPurpose.FINGERPRINT]]

    @property
    def row_key(self) -> bytes:
        """Key of the tags that rows carry against flipped bits."""
        return self.keys[self.current[KeyPurpose.ROW]]

    @property
    def log_key(self) -> bytes:
        """Ed25519 seed, 32 bytes, that signs the checkpoints of the log (AUDIT.md); the newest of `log_keys`.

        Raises:
            JournalKeysWrong: the keyring is older than signed checkpoints; `open_keyring` gives it such a key.
        """
        return self.log_keys[0]

    @property
    def log_keys(self) -> tuple[bytes, ...]:
        """Ed25519 seeds of all keys that sign checkpoints today, newest first: during a rotation there are several.

        Raises: as `log_key`.
        """
        newest = self.current.get(KeyPurpose.LOG)
        if newest is None:
            raise JournalKeysWrong(f"keyring {self.name} has no log-signing key yet; a start of the gateway makes it")
        others = [
            number
            for number, record in sorted(self.records.items(), reverse=True)
            if number != newest and self.state(record) is KeyState.SIGNING
        ]
        return tuple(self.keys[number] for number in (newest, *others))

    def state(self, record: KeyRecord) -> KeyState:
        """Where a key stands in its life."""
        if record.wrapped is None:
            return KeyState.DESTROYED
        if self.current.get(record.purpose) == record.id:
            return KeyState.CURRENT
        if record.purpose is KeyPurpose.LOG and not record.retired_ms:
            return KeyState.SIGNING
        return KeyState.RETIRED


def create_keyring(directory: Path, created_ms: int | None = None) -> Keyring:
    """Make `kek.key` and `keyring.json` in `directory` (made with mode 0700), each with mode 0600 and synced.

    A crash between the two leaves a key-encryption key that wraps nothing yet; the next call goes on from it.

    Args:
        created_ms: UTC time of record of the new keys; now if None.
    Raises:
        JournalKeysWrong: there is a keyring already (nothing is ever overwritten), or the folder is open to others.
    """
    now_ms = utc_now_ms() if created_ms is None else created_ms
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_open_to_others(directory, "folder")
    if is_there(directory / KEYRING_FILE):
        raise JournalKeysWrong(f"{directory / KEYRING_FILE} exists already; it is never overwritten")
    if not is_there(directory / KEK_FILE):
        write_new(directory / KEK_FILE, secrets.token_bytes(KEY_BYTES))
    kek = kek_from_folder(directory)
    content = KeyringFile(FORMAT, secrets.token_hex(16), kek.check(), {}, [])
    for purpose in KeyPurpose:
        content, _ = with_new_key(content, kek, purpose, now_ms)
    ring = opened(content, kek, directory)
    content = with_event(
        content, "created", now_ms, "installation", "a new keyring", [told(ring, r) for r in content.keys]
    )
    write_new(directory / KEYRING_FILE, encoded(content))
    return load_keyring(directory)


def with_new_key(
    content: KeyringFile, kek: KeyEncryptionKey, purpose: KeyPurpose, now_ms: int
) -> tuple[KeyringFile, KeyRecord]:
    """The content with one more key, which is the current one of its purpose."""
    key = secrets.token_bytes(KEY_BYTES)
    number = max((each.id for each in content.keys), default=0) + 1
    record = wrapped_by(kek, content.keyring, KeyRecord(number, purpose, now_ms, key_check(key), None), key)
    current = {**content.current, purpose.value: number}
    return msgspec.structs.replace(content, current=current, keys=[*content.keys, record]), record


def with_event(
    content: KeyringFile,
    what: str,
    now_ms: int,
    who: str,
    why: str,
    keys: list[dict[str, int | str]],
    was: int = 0,
    evidence: dict[str, Any] | None = None,
    facts: dict[str, str] | None = None,
) -> KeyringFile:
    """The content with one more event that is to be told; arguments as KeyEvent."""
    event = KeyEvent(content.events + 1, what, now_ms, who, why, keys, was, evidence or {}, facts or {})
    return msgspec.structs.replace(content, untold=[*content.untold, event], events=event.number)


def told(ring: Keyring, record: KeyRecord) -> dict[str, int | str]:
    """What an event says of a key: nothing secret, and of a key that signs what checks its signatures."""
    said: dict[str, int | str] = {"key": record.id, "purpose": record.purpose.value, "check": record.check}
    if record.purpose is KeyPurpose.LOG and record.id in ring.keys:
        said["public"] = public_key(ring.keys[record.id])
    return said


def load_keyring(directory: Path, kek: KeyEncryptionKey | None = None) -> Keyring:
    """Read and unwrap the keys in `directory`.

    Args:
        kek: the key-encryption key; None for the one in `directory` (config.key_source.load_keys knows which).
    Raises:
        JournalKeysWrong: a file is missing, may be read by others, is not ours, or a key does not open; the message
            names the file and the key.
    """
    if kek is None and not is_there(directory / KEYRING_FILE):
        kek_from_folder(directory)  # so that what is missing first is named first
    content = read_content(directory)
    return opened(content, fitting(directory, content, kek), directory)


def read_content(directory: Path) -> KeyringFile:
    """What `keyring.json` says, nothing opened yet.

    Raises:
        JournalKeysWrong: it cannot be read, or is not a keyring that this release knows.
    """
    ring_path = directory / KEYRING_FILE
    try:
        content = msgspec.json.decode(read_private_file(ring_path), type=KeyringFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalKeysWrong(f"{ring_path} is not a keyring: {error}") from None
    if content.format not in _FORMATS_READ:
        raise JournalKeysWrong(f"{ring_path} has format {content.format}, this release knows {FORMAT}")
    return content


def fitting(directory: Path, content: KeyringFile, kek: KeyEncryptionKey | None) -> KeyEncryptionKey:
    """The key-encryption key that the keyring was made with.

    Raises:
        JournalKeysWrong: it is another one, or cannot be had.
    """
    chosen: KeyEncryptionKey = kek_from_folder(directory, content.kek_check) if kek is None else kek
    if content.kek_check != chosen.check():
        raise JournalKeysWrong(
            f"{chosen.name} is not the key-encryption key that {directory / KEYRING_FILE} was made with"
        )
    return chosen


def opened(content: KeyringFile, kek: KeyEncryptionKey, directory: Path) -> Keyring:
    """The keys themselves. Raises as `load_keyring`."""
    ring_path = directory / KEYRING_FILE
    keys = {}
    records = {record.id: record for record in content.keys}
    for record in content.keys:
        if record.wrapped is not None:
            keys[record.id] = _unwrap(kek, content.keyring, record, ring_path)
    current = {}
    for purpose in KeyPurpose:
        number = content.current.get(purpose.value, 0)
        if number == 0 and purpose is KeyPurpose.LOG:
            continue  # made by a release before signed checkpoints
        if number not in keys or records[number].purpose is not purpose:
            raise JournalKeysWrong(f"{ring_path} names no current {purpose.value} key that it holds")
        current[purpose] = number
    return Keyring(content.keyring, records, current, keys, tuple(content.untold))


def write_content(directory: Path, content: KeyringFile) -> None:
    """Replace `keyring.json`, durably; the old one's bytes are overwritten. Caller holds `key_folder.locked`.

    Raises:
        KeyringHalfWritten: the disk refuses, and the file is the new one.
        JournalKeysWrong: the disk refuses. The file is as it was.
    """
    try:
        replace_file(directory / KEYRING_FILE, encoded(msgspec.structs.replace(content, format=FORMAT)))
    except HalfReplaced as error:
        raise KeyringHalfWritten(
            f"{directory / KEYRING_FILE} is changed, but a power cut may take that back, and bytes of the old one may "
            f"be left: {error.strerror}; that is tried again within a minute, or at the next start"
        ) from error
    except OSError as error:
        raise JournalKeysWrong(f"{directory / KEYRING_FILE} cannot be written: {error.strerror}") from error


def encoded(content: KeyringFile) -> bytes:
    """The file's bytes."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def public_key(seed: bytes) -> str:
    """Base64 of the public key that belongs to a log-signing key."""
    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def utc_now_ms() -> int:
    """Time of record of what is done to keys by hand."""
    return time.time_ns() // 1_000_000


def _bound_to(name: str, record: KeyRecord) -> bytes:
    """Associated data of a wrapping: a wrapped key cannot be passed off under another id, purpose or keyring."""
    return f"holdfast key wrap v1|{name}|{record.id}|{record.purpose.value}|{record.created_ms}".encode()


def wrapped_by(kek: KeyEncryptionKey, name: str, record: KeyRecord, key: bytes) -> KeyRecord:
    """The record with `key` wrapped in it; `name` is the keyring's."""
    wrapped = kek.wrap(key, _bound_to(name, record))
    return msgspec.structs.replace(record, wrapped=base64.b64encode(wrapped).decode())


def _unwrap(kek: KeyEncryptionKey, name: str, record: KeyRecord, ring_path: Path) -> bytes:
    what = f"{record.purpose.value} key {record.id} in {ring_path}"
    try:
        wrapped = base64.b64decode(record.wrapped or "", validate=True)
        key = kek.unwrap(wrapped, _bound_to(name, record))
    except (binascii.Error, WrapRefused):
        raise JournalKeysWrong(f"{what} does not open: damaged, or wrapped by another key") from None
    if len(key) != KEY_BYTES or key_check(key) != record.check:
        raise JournalKeysWrong(f"{what} does not fit its check value")
    return key
