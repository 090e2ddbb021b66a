"""Sealing: each part of each record under a key of its own, and a commitment that an auditor can check.

    record key  = HKDF-Expand-SHA256(epoch key, "holdfast record key v1" | sequence | part), 32 bytes: one HMAC block
    ciphertext  = nonce (12) | AES-256-GCM(record key, nonce, plaintext, AD = sequence | part | epoch key id)
    commitment  = SHA-256("holdfast key commitment v1" | sequence | part | record key)

Sequences have 8 bytes, parts 1, key ids 4, all big-endian. Whoever is given the record key alone can check the
commitment with any SHA-256, and opens nothing but that part (AUDIT.md, disclosure).

The nonce is random although a key serves one record only: after a rolled back batch, or in a restored backup, the same
sequence is sealed a second time with other contents, and a fixed nonce would then be used twice under one key.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.journal.keyring import KeyPurpose, Keyring
from protocol.hmac_sha256 import HmacSha256
from protocol.journal_entry import PartCommitment

ACCOUNT_PART: Final = 1
SENSITIVE_PART: Final = 2

_NONCE_BYTES: Final = 12
_NONCES: Final = 64
"""So many are asked from the system at once: one call costs as much as half of an encryption."""

_RECORD: Final = Struct(">QB")
_BOUND: Final = Struct(">QBI")
_KEY_LABEL: Final = b"holdfast record key v1"
_COMMITMENT_LABEL: Final = b"holdfast key commitment v1"
_LAST_BLOCK: Final = b"\x01"


class SealBroken(Exception):
    """A part does not open: damaged, or its key is gone. The message says which, and holds no contents."""


class KeyDestroyed(SealBroken):
    """The part's epoch key was destroyed, as it was meant to be: nothing is damaged."""


def key_commitment(sequence: int, part: int, record_key: bytes) -> bytes:
    """What the entry says of a part's key; an auditor to whom the key is disclosed computes the same."""
    return sha256(_COMMITMENT_LABEL + _RECORD.pack(sequence, part) + record_key).digest()


class Sealer:
    """Seals and opens parts under the epoch keys of a keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self._nonces: list[bytes] = []
        self.adopt(keyring)

    def adopt(self, keyring: Keyring) -> None:
        """Seal with the current keys of `keyring` from now on, and open with all of its keys and no others.

        On the thread that seals; others may open meanwhile, with the keys of before or of after.
        """
        epochs = (KeyPurpose.ACCOUNT, KeyPurpose.SENSITIVE)
        self._expanders = {
            number: HmacSha256(key, _KEY_LABEL)
            for number, key in keyring.keys.items()
            if keyring.records[number].purpose in epochs
        }
        self._destroyed = {number for number, record in keyring.records.items() if record.wrapped is None}
        self._current = {
            part: self._sealing(part, keyring.current[purpose])
            for part, purpose in ((ACCOUNT_PART, KeyPurpose.ACCOUNT), (SENSITIVE_PART, KeyPurpose.SENSITIVE))
            if keyring.current[purpose] in self._expanders  # else nothing is sealed, and older parts still open
        }

    def _sealing(self, part: int, key_id: int) -> tuple[Callable[[bytes], bytes], int, bytes]:
        """What `seal` needs of a current key: what derives from it, its id, and what an entry's part begins with."""
        return self._expanders[key_id].digest, key_id, bytes([part]) + key_id.to_bytes(4, "big")

    def record_key(self, sequence: int, part: int, key_id: int) -> bytes:
        """The key of one part of one record.

        Raises:
            SealBroken: the epoch's key was destroyed, or is in no keyring of ours.
        """
        expander = self._expanders.get(key_id)
        if expander is None:
            if key_id in self._destroyed:
                raise KeyDestroyed(f"epoch key {key_id} was destroyed")
            raise SealBroken(f"epoch key {key_id} is not in the keyring")
        return expander.digest(_RECORD.pack(sequence, part) + _LAST_BLOCK)

    def seal(self, sequence: int, part: int, plaintext: bytes) -> tuple[bytes, bytes]:
        """The ciphertext of a part, and what the entry shall say of it (journal_entry.decode_part)."""
        key_of, key_id, said = self._current[part]
        record = _RECORD.pack(sequence, part)
        key = key_of(record + _LAST_BLOCK)
        if not self._nonces:
            self._ask_nonces()
        nonce = self._nonces.pop()
        ciphertext = nonce + AESGCM(key).encrypt(nonce, plaintext, _BOUND.pack(sequence, part, key_id))
        commitment = sha256(_COMMITMENT_LABEL + record + key).digest()
        return ciphertext, said + sha256(ciphertext).digest() + commitment

    def _ask_nonces(self) -> None:
        random = os.urandom(_NONCE_BYTES * _NONCES)
        self._nonces = [random[at : at + _NONCE_BYTES] for at in reversed(range(0, len(random), _NONCE_BYTES))]

    def open(self, sequence: int, said: PartCommitment, ciphertext: bytes) -> bytes:
        """The plaintext of a part, once its hash, its key's commitment and its AEAD tag have all been checked.

        Raises:
            SealBroken: any of them fails.
        """
        if sha256(ciphertext).digest() != said.digest:
            raise SealBroken("the ciphertext is not the one that the entry commits to")
        key = self.record_key(sequence, said.part, said.key_id)
        if key_commitment(sequence, said.part, key) != said.commitment:
            raise SealBroken("the key is not the one that the entry commits to")
        try:
            return AESGCM(key).decrypt(
                ciphertext[:_NONCE_BYTES],
                ciphertext[_NONCE_BYTES:],
                _BOUND.pack(sequence, said.part, said.key_id),
            )
        except (InvalidTag, ValueError):
            raise SealBroken("the ciphertext does not open") from None
