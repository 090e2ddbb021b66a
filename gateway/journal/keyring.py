"""The keys of a journal: a key-encryption key in one file, and what it wraps in another.

`kek.key` holds 32 raw bytes. `keyring.json` lies beside it and holds every other key, wrapped by AES-256-GCM under the
key-encryption key: epoch keys for account data, epoch keys for sensitive data, the fingerprint key and the
row-integrity key. Neither file may lie where the database or its backups lie: an epoch's sensitive key is destroyed by
rewriting `keyring.json` without it, and that only destroys what no copy holds (INV-8, AUDIT.md).

A destroyed key stays in the file by id, purpose, times and check value, without its wrapped bytes, so that "destroyed"
and "missing" can be told apart.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import stat
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.journal.port import JournalKeysWrong

KEK_FILE: Final = "kek.key"
KEYRING_FILE: Final = "keyring.json"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORMAT: Final = 1


class KeyPurpose(StrEnum):
    """What a key is for; one key never serves two purposes."""

    ACCOUNT = "account-epoch"
    SENSITIVE = "sensitive-epoch"
    FINGERPRINT = "fingerprint"
    ROW = "row-integrity"


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key as `keyring.json` lists it.

    Attributes:
        id: from 1, never used twice within a keyring.
        purpose: what it may be used for.
        created_ms: UTC.
        check: first 8 bytes of HMAC-SHA256(key, label), hex: tells keys apart and gives nothing away.
        wrapped: base64 of nonce and AES-256-GCM ciphertext under the key-encryption key; None once destroyed.
        destroyed_ms: UTC time of destruction, or 0.
    """

    id: int
    purpose: KeyPurpose
    created_ms: int
    check: str
    wrapped: str | None
    destroyed_ms: int = 0


class _KeyringFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    keyring: str
    kek_check: str
    current: dict[str, int]
    keys: list[KeyRecord]


@dataclass(slots=True, frozen=True, repr=False)
class Keyring:
    """Keys in memory. Its repr shows none of them.

    Attributes:
        name: random name of this keyring, also bound into what is wrapped.
        records: what the file lists, by id, destroyed ones included.
        current: id of the key that new records use, by purpose.
        keys: the key itself, by id; destroyed ones are absent.
    """

    name: str
    records: dict[int, KeyRecord]
    current: dict[KeyPurpose, int]
    keys: dict[int, bytes]

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


def key_check(key: bytes) -> str:
    """Check value of a key: tells whether two keys are the same, and nothing else."""
    return hmac.digest(key, b"holdfast key check v1", "sha256")[:8].hex()


def create_keyring(directory: Path, created_ms: int | None = None) -> Keyring:
    """Make `kek.key` and `keyring.json` in `directory` (made with mode 0700), each with mode 0600 and synced.

    A crash between the two leaves a key-encryption key that wraps nothing yet; the next call goes on from it.

    Args:
        created_ms: UTC time of record of the new keys; now if None.
    Raises:
        JournalKeysWrong: there is a keyring already (nothing is ever overwritten), or the folder is open to others.
    """
    now_ms = time.time_ns() // 1_000_000 if created_ms is None else created_ms
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_open_to_others(directory, "folder")
    if (directory / KEYRING_FILE).exists():
        raise JournalKeysWrong(f"{directory / KEYRING_FILE} exists already; it is never overwritten")
    kek_path = directory / KEK_FILE
    if not kek_path.exists():
        _write_new(kek_path, secrets.token_bytes(_KEY_BYTES))
    kek = _read_kek(kek_path)
    name = secrets.token_hex(16)
    keys = {number: secrets.token_bytes(_KEY_BYTES) for number in range(1, len(KeyPurpose) + 1)}
    records = [
        _wrap(kek, name, KeyRecord(number, purpose, now_ms, key_check(keys[number]), None), keys[number])
        for number, purpose in enumerate(KeyPurpose, start=1)
    ]
    content = _KeyringFile(
        format=_FORMAT,
        keyring=name,
        kek_check=key_check(kek),
        current={record.purpose.value: record.id for record in records},
        keys=records,
    )
    _write_new(directory / KEYRING_FILE, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    return load_keyring(directory)


def load_keyring(directory: Path) -> Keyring:
    """Read and unwrap the keys in `directory`.

    Raises:
        JournalKeysWrong: a file is missing, may be read by others, is not ours, or a key does not open; the message
            names the file and the key.
    """
    kek_path, ring_path = directory / KEK_FILE, directory / KEYRING_FILE
    kek = _read_kek(kek_path)
    try:
        content = msgspec.json.decode(_read_private(ring_path), type=_KeyringFile)
    except msgspec.DecodeError as error:
        raise JournalKeysWrong(f"{ring_path} is not a keyring: {error}") from None
    if content.format != _FORMAT:
        raise JournalKeysWrong(f"{ring_path} has format {content.format}, this release knows {_FORMAT}")
    if content.kek_check != key_check(kek):
        raise JournalKeysWrong(f"{kek_path} is not the key-encryption key that {ring_path} was made with")
    keys = {}
    records = {record.id: record for record in content.keys}
    for record in content.keys:
        if record.wrapped is not None:
            keys[record.id] = _unwrap(kek, content.keyring, record, ring_path)
    current = {}
    for purpose in KeyPurpose:
        number = content.current.get(purpose.value, 0)
        if number not in keys or records[number].purpose is not purpose:
            raise JournalKeysWrong(f"{ring_path} names no current {purpose.value} key that it holds")
        current[purpose] = number
    return Keyring(name=content.keyring, records=records, current=current, keys=keys)


def _bound_to(name: str, record: KeyRecord) -> bytes:
    """Associated data of a wrapping: a wrapped key cannot be passed off under another id, purpose or keyring."""
    return f"holdfast key wrap v1|{name}|{record.id}|{record.purpose.value}|{record.created_ms}".encode()


def _wrap(kek: bytes, name: str, record: KeyRecord, key: bytes) -> KeyRecord:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    wrapped = nonce + AESGCM(kek).encrypt(nonce, key, _bound_to(name, record))
    return msgspec.structs.replace(record, wrapped=base64.b64encode(wrapped).decode())


def _unwrap(kek: bytes, name: str, record: KeyRecord, ring_path: Path) -> bytes:
    what = f"{record.purpose.value} key {record.id} in {ring_path}"
    try:
        wrapped = base64.b64decode(record.wrapped or "", validate=True)
        key = AESGCM(kek).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _bound_to(name, record))
    except (binascii.Error, ValueError, InvalidTag):
        raise JournalKeysWrong(f"{what} does not open: damaged, or wrapped by another key") from None
    if len(key) != _KEY_BYTES or key_check(key) != record.check:
        raise JournalKeysWrong(f"{what} does not fit its check value")
    return key


def _read_kek(path: Path) -> bytes:
    kek = _read_private(path)
    if len(kek) != _KEY_BYTES:
        raise JournalKeysWrong(f"{path} must hold {_KEY_BYTES} bytes, it holds {len(kek)}")
    return kek


def _read_private(path: Path) -> bytes:
    try:
        _refuse_open_to_others(path, "file")
        return path.read_bytes()
    except OSError as error:
        raise JournalKeysWrong(f"{path} cannot be read: {error.strerror}") from error


def _refuse_open_to_others(path: Path, what: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        wanted = "0700" if what == "folder" else "0600"
        raise JournalKeysWrong(f"{what} {path} is open to others (mode {mode:04o}): chmod {wanted} it")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet, whole or not at all, durable in content and in name.

    A crash before the link leaves a draft that nothing reads; after it, the whole file.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, refuses to replace what another process has just made
    except FileExistsError:
        raise JournalKeysWrong(f"{path} exists already; it is never overwritten") from None
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names within a folder durable: a synced file whose name is lost is a lost file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
