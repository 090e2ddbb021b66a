"""An auditor is shown one part of one record, can check every byte of it, and learns nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.disclosing import (
    PARTS,
    Disclosure,
    DisclosureError,
    disclose,
    encode_disclosure,
    open_disclosure,
)
from gateway.audit.disclosure_shown import lines_of, shown
from gateway.audit.kit_head import SignedHead, signed_head
from gateway.core.lifecycle import State
from gateway.core.transaction import Answer
from gateway.journal import key_changes
from gateway.journal.keyring import KeyPurpose, Keyring, create_keyring
from gateway.journal.log_reader import LogReader
from gateway.journal.sealing import Sealer, key_commitment
from protocol.journal_entry import decode_entry
from protocol.transparency.notes import SignerKey
from tests.journal.conformance import loaded
from tests.journal.rig import PAN, START_MS, TRACK, Rig, evolved, sale, sqlite_make

ORIGIN: Final = "holdfast/test"
SALES: Final = 12
OCTETS: Final = ("entry", "ciphertext", "record_key")


@dataclass
class Log:
    """A journal with signed head; sales 1 to 12 have an account and a sensitive part, the first is final."""

    folder: Path
    keyring: Keyring
    reader: LogReader
    head: SignedHead

    @property
    def signer(self) -> SignerKey:
        return SignerKey(ORIGIN, self.keyring.keys[self.keyring.current[KeyPurpose.LOG]])

    def made(self, number: int, part: str, sequence: int = 0) -> Disclosure:
        return disclose(self.reader, self.head, Sealer(self.keyring), number, sequence or number, part)

    def opened(self, made: Disclosure) -> Any:
        return open_disclosure(encode_disclosure(made), (self.signer.verifier,))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    folder = tmp_path_factory.mktemp("log")
    keyring = create_keyring(folder / "keys")
    rig = Rig(sqlite_make(folder / "journal.db", keyring)).open()
    for number in range(SALES):
        rig.write(sale(f"k|{number:06}", sensitive={35: TRACK, 52: "a1b2c3d4e5f60718"}, amount_minor=1000 + number))
    rig.write(evolved(loaded(rig, 1).transaction, State.APPROVED, answer=Answer("0230", {2: PAN, 39: "00", 38: "A1"})))
    rig.close()
    signer = SignerKey(ORIGIN, keyring.keys[keyring.current[KeyPurpose.LOG]])
    with LogReader(folder / "journal.db") as reader:
        yield Log(folder, keyring, reader, signed_head(reader, [signer]))


def test_an_account_part_is_read_checked_and_masked_unless_all_is_asked_for(log: Log) -> None:
    opened = log.opened(log.made(2, "account"))
    assert opened.signed
    assert opened.request.fields[2] == PAN
    assert opened.entry.amount_minor == 1001
    masked = "\n".join(lines_of(shown(opened, full=False)))
    assert PAN not in masked
    assert PAN[:6] in masked
    assert PAN in "\n".join(lines_of(shown(opened, full=True)))
    assert PAN not in repr(opened) + repr(log.made(2, "account"))


def test_a_sensitive_part_is_shown_in_full_only_when_asked_for(log: Log) -> None:
    opened = log.opened(log.made(3, "sensitive"))
    assert opened.sensitive == {35: TRACK, 52: "a1b2c3d4e5f60718"}
    masked = "\n".join(lines_of(shown(opened, full=False)))
    for secret in (PAN, TRACK.partition("=")[2], "a1b2c3d4e5f60718"):
        assert secret not in masked
    assert TRACK in "\n".join(lines_of(shown(opened, full=True)))


def test_the_answer_of_a_transaction_lies_in_an_entry_of_its_own(log: Log) -> None:
    answered = next(
        sequence
        for sequence, entry in ((n, decode_entry(log.reader.entry(n - 1).body)) for n in range(2, log.reader.size + 1))
        if entry.transaction == 1 and entry.parts
    )
    opened = log.opened(log.made(1, "account", answered))
    assert opened.answer.fields[38] == "A1"
    with pytest.raises(DisclosureError, match="about transaction 1, not 2"):
        log.made(2, "account", answered)


def test_what_is_not_there_is_refused_and_said(log: Log) -> None:
    with pytest.raises(DisclosureError, match="is gone, as it must be"):
        log.made(1, "sensitive")
    with pytest.raises(DisclosureError, match="the journal has"):
        log.made(log.reader.size + 1, "account")


def test_a_disclosed_key_opens_no_other_part_of_any_record(log: Log) -> None:
    made = log.made(5, "account")
    key = base64.b64decode(made.record_key)
    tried = 0
    for sequence in range(1, log.reader.size + 1):
        stored = log.reader.entry(sequence - 1)
        for said in decode_entry(stored.body).parts:
            if (sequence, said.part) == (5, PARTS["account"]):
                continue
            tried += 1
            ciphertext = stored.account if said.part == PARTS["account"] else log.reader.sensitive(sequence)
            assert key_commitment(sequence, said.part, key) != said.commitment
            for bound in (b"", sequence.to_bytes(8) + bytes([said.part]) + said.key_id.to_bytes(4)):
                if ciphertext is not None:
                    with pytest.raises(InvalidTag):
                        AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], bound)
    assert tried >= 2 * SALES - 1


def test_no_other_key_lies_in_the_document(log: Log) -> None:
    document = encode_disclosure(log.made(5, "sensitive"))
    for key in log.keyring.keys.values():
        for form in (key, base64.b64encode(key)[:-4], key.hex().encode()):
            assert form not in document


def test_the_checks_are_those_that_a_stranger_makes_with_public_tools(log: Log) -> None:
    import hashlib  # noqa: PLC0415

    made = log.made(4, "account")
    body, ciphertext, key = (base64.b64decode(getattr(made, name)) for name in OCTETS)
    (said,) = [each for each in decode_entry(body).parts if each.part == 1]
    record = (4).to_bytes(8) + b"\x01"
    assert hashlib.sha256(ciphertext).digest() == said.digest
    assert hashlib.sha256(b"holdfast key commitment v1" + record + key).digest() == said.commitment
    plaintext = AESGCM(key).decrypt(ciphertext[:12], ciphertext[12:], record + made.key_id.to_bytes(4))
    assert PAN.encode() in plaintext


@settings(max_examples=150, deadline=None)
@given(octets=st.sampled_from(OCTETS), at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_any_changed_byte_is_refused(log: Log, octets: str, at: int, flip: int) -> None:
    made = log.made(6, "account")
    content = bytearray(base64.b64decode(getattr(made, octets)))
    content[at % len(content)] ^= flip
    wrong = msgspec.structs.replace(made, **{octets: base64.b64encode(bytes(content)).decode()})
    said = {"entry": "^(entry|ciphertext|key|inclusion): ", "ciphertext": "^ciphertext: ", "record_key": "^key: "}
    with pytest.raises(DisclosureError, match=said[octets]):
        log.opened(wrong)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 10**6), letter=st.characters(min_codepoint=33, max_codepoint=126))
def test_any_changed_character_of_the_proof_is_refused(log: Log, at: int, letter: str) -> None:
    made = log.made(6, "account")
    proof = made.tlog_proof
    changed = proof[: at % len(proof)] + letter + proof[at % len(proof) + 1 :]
    if changed == proof:
        return
    with pytest.raises(DisclosureError, match=r"^(inclusion|signature): "):
        log.opened(msgspec.structs.replace(made, tlog_proof=changed))


def test_without_a_verifier_key_the_entry_must_still_be_under_the_root_that_is_claimed(log: Log) -> None:
    made = log.made(6, "account")
    other = log.made(7, "account").tlog_proof.splitlines()
    lines = made.tlog_proof.splitlines()
    assert open_disclosure(encode_disclosure(made)).checkpoint.size == log.reader.size
    first = lines.index("index 5") + 1
    lines[first] = next(line for line in other[first:] if line != lines[first])
    wrong = msgspec.structs.replace(made, tlog_proof="\n".join([*lines, ""]))
    with pytest.raises(DisclosureError, match=r"^inclusion: "):
        open_disclosure(encode_disclosure(wrong))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": "other@v1"}, "form: "),
        ({"part": "fingerprint"}, "form: "),
        ({"part": "sensitive"}, "entry: "),  # its epoch key is another
        ({"sequence": 7}, "entry: "),
        ({"sequence": -1}, "form: "),
        ({"key_id": 77}, "entry: "),
        ({"origin": "holdfast/another"}, "inclusion: "),
        ({"entry": "no base64!"}, "form: "),
        ({"ciphertext": ""}, "ciphertext: "),
        ({"record_key": ""}, "key: "),
        ({"tlog_proof": ""}, "inclusion: "),
    ],
)
def test_each_lie_is_told_apart(log: Log, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DisclosureError, match=f"^{said}"):
        log.opened(msgspec.structs.replace(log.made(6, "account"), **changes))


def test_a_document_is_believed_only_under_the_key_of_its_log(log: Log) -> None:
    document = encode_disclosure(log.made(6, "account"))
    stranger = SignerKey(ORIGIN, bytes(range(32)))
    with pytest.raises(DisclosureError, match=r"^signature: "):
        open_disclosure(document, (stranger.verifier,))
    with pytest.raises(DisclosureError, match=r"^signature: "):
        open_disclosure(document, (SignerKey("holdfast/another", bytes(32)).verifier,))
    unsigned = open_disclosure(document)
    assert not unsigned.signed
    assert any(line.startswith("NOT CHECKED") for line in lines_of(shown(unsigned, full=False)))
    with pytest.raises(DisclosureError, match=r"^form: "):
        open_disclosure(b'{"form":')


def test_a_record_of_another_log_with_a_head_of_its_own_is_refused(log: Log, tmp_path: Path) -> None:
    keyring = create_keyring(tmp_path / "keys")
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    rig.write(sale("k|000000", sensitive={35: TRACK}))
    rig.close()
    forger = SignerKey(ORIGIN, keyring.keys[keyring.current[KeyPurpose.LOG]])
    with LogReader(tmp_path / "journal.db") as reader:
        forged = disclose(reader, signed_head(reader, [forger]), Sealer(keyring), 1, 1, "account")
    assert open_disclosure(encode_disclosure(forged), (forger.verifier,)).signed
    with pytest.raises(DisclosureError, match=r"^signature: "):
        log.opened(forged)


def test_a_part_whose_epoch_key_is_destroyed_cannot_be_disclosed(tmp_path: Path) -> None:
    """Nor opened in a copy of the database that was made before (INV-8)."""
    keys = tmp_path / "keys"
    keyring = create_keyring(keys)
    rig = Rig(sqlite_make(tmp_path / "journal.db", keyring)).open()
    rig.write(sale("k|000000", sensitive={35: TRACK}))
    rig.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "journal.db").read_bytes())
    old = keyring.current[KeyPurpose.SENSITIVE]
    wrapped = str(keyring.records[old].wrapped)
    signer = SignerKey(ORIGIN, keyring.keys[keyring.current[KeyPurpose.LOG]])

    def from_copy(ring: Keyring, part: str) -> Disclosure:
        with LogReader(copy) as reader:
            return disclose(reader, signed_head(reader, [signer]), Sealer(ring), 1, 1, part)

    assert open_disclosure(encode_disclosure(from_copy(keyring, "sensitive"))).sensitive == {35: TRACK}
    ring = key_changes.rotate(keys, None, KeyPurpose.SENSITIVE, "test", "test", START_MS)
    for event in ring.untold:
        ring = key_changes.event_told(keys, None, event.number, 2)
    ring = key_changes.destroy(keys, None, old, "a, b", "the epoch is over", START_MS)
    with pytest.raises(DisclosureError, match=f"epoch key {old} was destroyed"):
        from_copy(ring, "sensitive")
    assert open_disclosure(encode_disclosure(from_copy(ring, "account"))).request is not None
    for number in ring.keys:  # nor with any key that is left
        under = Keyring(ring.name, ring.records, ring.current, {**ring.keys, old: ring.keys[number]})
        records = {**under.records, old: keyring.records[old]}
        with pytest.raises(DisclosureError, match="the key is not the one that the entry commits to"):
            from_copy(replace(under, records=records), "sensitive")
    left = b"".join(path.read_bytes() for path in keys.iterdir())
    assert wrapped.encode() not in left
    assert base64.b64decode(wrapped) not in left
