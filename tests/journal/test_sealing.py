"""Each part opens under one key, in one place, as it was sealed."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from gateway.journal.keyring import KeyPurpose, Keyring, create_keyring
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART, SealBroken, Sealer
from protocol.journal_entry import PartCommitment, decode_part


def sealed(sealer: Sealer, part: int, plaintext: bytes) -> tuple[bytes, PartCommitment]:
    """A part of record 7 as it is stored, and what the entry says of it."""
    ciphertext, said = sealer.seal(7, part, plaintext)
    return ciphertext, decode_part(said)


def test_a_part_opens_as_it_was_sealed_and_under_no_other_sequence_or_part(keyring: Keyring) -> None:
    sealer = Sealer(keyring)
    ciphertext, said = sealed(sealer, ACCOUNT_PART, b"account")
    assert sealer.open(7, said, ciphertext) == b"account"
    with pytest.raises(SealBroken, match="the entry commits to"):
        sealer.open(8, said, ciphertext)
    with pytest.raises(SealBroken, match="the entry commits to"):
        sealer.open(7, said._replace(part=SENSITIVE_PART), ciphertext)
    with pytest.raises(SealBroken, match="ciphertext"):
        sealer.open(7, said, ciphertext[:-1])
    with pytest.raises(SealBroken, match="not the one that the entry commits to"):
        sealer.open(7, said._replace(digest=bytes(32)), ciphertext)


def test_the_record_key_is_hkdf_and_an_auditor_can_check_it_with_public_tools(keyring: Keyring) -> None:
    sealer = Sealer(keyring)
    ciphertext, said = sealed(sealer, ACCOUNT_PART, b"account")
    record = (7).to_bytes(8, "big") + b"\x01"
    epoch_key = keyring.keys[said.key_id]
    key = HKDFExpand(hashes.SHA256(), 32, b"holdfast record key v1" + record).derive(epoch_key)
    assert sealer.record_key(7, ACCOUNT_PART, said.key_id) == key
    assert hmac.digest(epoch_key, b"holdfast record key v1" + record + b"\x01", "sha256") == key
    assert hashlib.sha256(b"holdfast key commitment v1" + record + key).digest() == said.commitment
    assert hashlib.sha256(ciphertext).digest() == said.digest
    bound = record + said.key_id.to_bytes(4, "big")
    assert AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], bound) == b"account"


def test_a_ciphertext_made_under_another_key_fails_its_commitment(keyring: Keyring, tmp_path: Path) -> None:
    ours, theirs = Sealer(keyring), Sealer(create_keyring(tmp_path / "theirs"))
    _, our_word = sealed(ours, ACCOUNT_PART, b"account")
    ciphertext, _ = sealed(theirs, ACCOUNT_PART, b"account")
    forged = our_word._replace(digest=hashlib.sha256(ciphertext).digest())
    with pytest.raises(SealBroken, match="does not open"):
        ours.open(7, forged, ciphertext)
    with pytest.raises(SealBroken, match="the key is not the one"):
        theirs.open(7, forged, ciphertext)


def test_the_same_record_sealed_again_never_repeats_key_and_nonce(keyring: Keyring) -> None:
    sealer = Sealer(keyring)
    assert len({sealer.seal(7, ACCOUNT_PART, b"account")[0][:12] for _ in range(1000)}) == 1000


def test_sensitive_parts_lie_under_their_own_epoch_key_and_are_lost_with_it(keyring: Keyring) -> None:
    ciphertext, said = sealed(Sealer(keyring), SENSITIVE_PART, b"track")
    account, account_said = sealed(Sealer(keyring), ACCOUNT_PART, b"account")
    assert said.key_id != account_said.key_id
    gone = keyring.current[KeyPurpose.SENSITIVE]
    destroyed = Keyring(
        keyring.name,
        keyring.records | {gone: msgspec.structs.replace(keyring.records[gone], wrapped=None)},
        keyring.current,
        {number: key for number, key in keyring.keys.items() if number != gone},
    )
    with pytest.raises(SealBroken, match="was destroyed"):
        Sealer(destroyed).open(7, said, ciphertext)
    assert Sealer(destroyed).open(7, account_said, account) == b"account"
