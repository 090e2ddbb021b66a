"""Receipts are accepted by the log that they are from, and refused, for the reason that holds, by any other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.audit.kit import export_kit
from gateway.audit.kit_head import HeadError, newest_head
from gateway.audit.kit_reading import Kit
from gateway.audit.proving import TransactionProof, prove_entry
from gateway.audit.receipts import (
    JournalLog,
    KitLog,
    ReceiptError,
    ReceiptVerdict,
    check_receipt,
    read_receipt,
    told,
)
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.log_reader import LogReader
from protocol.receipt_field import RECEIPT_FIELD_LENGTH_MAX, ReceiptField, ReceiptFieldError
from protocol.transparency.notes import SignerKey
from protocol.transparency.text import NUMBER_MAX
from protocol.transparency.tlog_proof import TlogProof
from protocol.transparency.tree import leaf_hash
from tests.audit.kit_log import ORIGIN, SIGNER, checkpoint, entries, entry, execute, write_log

SEED = 40_961
SIZE = 1_300
BODIES = entries(SIZE)
KEYS = (SIGNER.verifier,)
Check = Callable[[bytes, Path], ReceiptVerdict]


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return create_keyring(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def journal(keyring: Keyring, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("journal") / "journal", keyring, BODIES)


def one(receipt: bytes) -> TlogProof | ReceiptField:
    read = read_receipt(receipt)
    assert not isinstance(read, TransactionProof)
    return read


def by_journal(receipt: bytes, journal: Path) -> ReceiptVerdict:
    head = newest_head(journal, KEYS)
    with LogReader(journal) as reader:
        return check_receipt(one(receipt), JournalLog(reader, head), KEYS)


def by_kit(receipt: bytes, journal: Path) -> ReceiptVerdict:
    folder = journal.with_name(journal.name + "-kit")
    if not folder.exists():
        head = newest_head(journal, KEYS)
        with LogReader(journal) as reader:
            export_kit(reader, head, folder)
    return check_receipt(one(receipt), KitLog(Kit(folder, KEYS)), KEYS)


both = pytest.mark.parametrize("check", [by_journal, by_kit], ids=["journal", "kit"])


def proof_of(journal: Path, index: int) -> bytes:
    head = newest_head(journal, KEYS)
    with LogReader(journal) as reader:
        return prove_entry(reader, head, index, reader.entry(index).body)


def field_of(journal: Path, index: int, size: int) -> str:
    with LogReader(journal) as reader:
        return ReceiptField.of(index, size, reader.root(size)).text


def other_log(keyring: Keyring, folder: Path, bodies: list[bytes]) -> Path:
    """What an operator could show who has the key: another history, signed."""
    folder.mkdir()
    return write_log(folder / "journal", keyring, bodies)


@both
def test_a_receipt_is_accepted_by_its_log_with_the_entry_that_it_is_about(check: Check, journal: Path) -> None:
    chosen = random.Random(SEED)
    for index in (0, 255, 256, SIZE - 1, *(chosen.randrange(SIZE) for _ in range(5))):
        size = chosen.randint(index + 1, SIZE)
        written = json.dumps({"index": index, "size": size, "root": field_of(journal, index, size)[-16:]}).encode()
        for receipt in (proof_of(journal, index), field_of(journal, index, size).encode(), written):
            verdict = check(receipt, journal)
            assert verdict.accepted, (SEED, index, size, verdict)
            assert verdict.entry is not None
            assert verdict.entry.sequence == index + 1
            assert "accepted" in told(verdict)


@both
def test_an_older_receipt_is_accepted_by_a_log_that_has_grown(
    check: Check, keyring: Keyring, journal: Path, tmp_path: Path
) -> None:
    younger = other_log(keyring, tmp_path / "younger", BODIES[:700])
    for receipt in (proof_of(younger, 41), field_of(younger, 41, 600).encode()):
        assert check(receipt, journal).accepted


@both
def test_a_log_that_was_cut_does_not_satisfy_a_receipt(
    check: Check, keyring: Keyring, journal: Path, tmp_path: Path
) -> None:
    cut = other_log(keyring, tmp_path / "cut", BODIES[:1_200])
    for receipt in (proof_of(journal, 41), field_of(journal, 41, 1_250).encode()):
        verdict = check(receipt, cut)
        assert not verdict.accepted
        assert "and this one has 1200: its tail is cut" in verdict.reason
        assert "REFUSED" in told(verdict)


@both
def test_a_log_that_was_rewritten_does_not_satisfy_a_receipt(
    check: Check, keyring: Keyring, journal: Path, tmp_path: Path
) -> None:
    bodies = [*BODIES[:99], entry(100, amount_minor=1), *BODIES[100:], entry(SIZE + 1)]
    rewritten = other_log(keyring, tmp_path / "rewritten", bodies)
    for receipt in (proof_of(journal, 99), proof_of(journal, 5), field_of(journal, 5, 100).encode()):
        verdict = check(receipt, rewritten)
        assert not verdict.accepted
        assert "are not those that the receipt was made from" in verdict.reason
    assert check(field_of(journal, 5, 99).encode(), rewritten).accepted, "up to there nothing was changed"


@both
def test_a_receipt_that_was_changed_is_refused_for_what_was_changed(check: Check, journal: Path) -> None:
    true = TlogProof.parse(proof_of(journal, 41))

    def refused(changed: bytes) -> str:
        verdict = check(changed, journal)
        assert not verdict.accepted
        return verdict.reason

    for extra in (entry(42, amount_minor=1), BODIES[40]):
        reason = refused(TlogProof(41, true.path, true.checkpoint, extra).encode())
        assert "does not prove the entry that it brings" in reason
    assert "does not prove" in refused(TlogProof(42, true.path, true.checkpoint, true.extra).encode())
    assert "does not prove" in refused(TlogProof(41, true.path[:-1], true.checkpoint, true.extra).encode())
    assert "is not the one that is proved" in refused(TlogProof(40, true.path, true.checkpoint).encode())
    stranger = checkpoint(BODIES, None, SignerKey(ORIGIN, bytes(32)))
    assert "no known key" in refused(TlogProof(41, true.path, stranger, true.extra).encode())
    spoilt = true.checkpoint.replace(b"\n1300\n", b"\n1301\n")
    assert "does not verify" in refused(TlogProof(41, true.path, spoilt, true.extra).encode())
    field = field_of(journal, 41, 600)
    assert "are not those that the receipt was made from" in refused(field.replace(":600:", ":601:").encode())
    assert check(TlogProof(41, true.path, true.checkpoint).encode(), journal).accepted, "without the entry it is whole"


def test_a_damaged_journal_does_not_satisfy_a_receipt(keyring: Keyring, journal: Path, tmp_path: Path) -> None:
    receipts = (proof_of(journal, 41), field_of(journal, 41, SIZE).encode())

    def reasons(number: int, sql: str, *values: object) -> list[str]:
        spoilt = other_log(keyring, tmp_path / f"{number}", BODIES)
        execute(spoilt, sql, *values)
        verdicts = [by_journal(receipt, spoilt) for receipt in receipts]
        assert not any(verdict.accepted for verdict in verdicts)
        return [verdict.reason for verdict in verdicts]

    other = entry(42, amount_minor=1)
    edited, hashed_since = reasons(1, "UPDATE entry SET body = ? WHERE sequence = 42", other)
    assert "is not the one that the receipt brings" in edited
    assert "is not the one that was hashed" in hashed_since
    # The stored subtrees still lead to the root; the leaf's own tile does not lead to its subtree.
    assert reasons(2, "UPDATE entry SET body = ?, leaf = ? WHERE sequence = 42", other, leaf_hash(other))
    assert reasons(3, "DELETE FROM entry WHERE sequence = 42")


def test_a_journal_is_held_against_what_it_has_signed_too(keyring: Keyring, journal: Path, tmp_path: Path) -> None:
    receipt = field_of(journal, 41, 600).encode()
    spoilt = other_log(keyring, tmp_path / "spoilt", BODIES)
    execute(spoilt, "DELETE FROM entry WHERE sequence > 1200")
    with pytest.raises(HeadError, match="its tail is cut"):
        by_journal(receipt, spoilt)


def test_a_damaged_kit_does_not_satisfy_a_receipt(keyring: Keyring, journal: Path, tmp_path: Path) -> None:
    copy = other_log(keyring, tmp_path / "copy", BODIES)
    receipts = (proof_of(journal, 41), field_of(journal, 41, 600).encode())
    assert all(by_kit(receipt, copy).accepted for receipt in receipts)
    for path, place in (("tile/entries/000", 5_000), ("tile/0/000", 32 * 40), ("tile/1/000.p/5", 40)):
        file = copy.with_name("journal-kit") / path
        true = file.read_bytes()
        octets = bytearray(true)
        octets[place] ^= 1
        if path == "tile/entries/000":  # the 42nd entry, wherever it begins
            start = sum(2 + len(body) for body in BODIES[:41])
            octets = bytearray(true)
            octets[start + 2 + 12] ^= 1
        file.write_bytes(octets)
        for receipt in receipts:
            assert not by_kit(receipt, copy).accepted, path
        file.write_bytes(true)


def test_a_tlog_proof_is_not_looked_at_without_a_key(journal: Path) -> None:
    with LogReader(journal) as reader, pytest.raises(ReceiptError, match="name the log's key"):
        check_receipt(one(proof_of(journal, 1)), JournalLog(reader))


@pytest.mark.parametrize(
    "octets",
    [b"", b"HF1:", b"HF1:5:5:0011223344556677", b"HF1:05:6:0011223344556677", b"HF2:4:5:0011223344556677",
     b"HF1:4:5:00112233445566", b"HF1:4:5:0011223344556677:1", b"HF1:4:5:001122334455667G", b'{"index": 1}',
     b'{"index": 1, "size": 2, "root": "00"}', b'{"index": 1, "size": 2, "root": 5}', b"{", b"\xff\xfe",
     b"c2sp.org/tlog-proof@v1\nindex 5\n", b"c2sp.org/tlog-proof@v2\nindex 5\n\nx", b"x" * 3_000_000],
)  # fmt: skip
def test_what_is_no_receipt_is_told_to_be_none(octets: bytes) -> None:
    with pytest.raises(ReceiptError):
        read_receipt(octets)


def test_a_receipt_field_has_one_text_that_fits_its_length() -> None:
    chosen = random.Random(SEED)
    for _ in range(500):
        size = chosen.randint(1, chosen.choice([10, 10**6, NUMBER_MAX]))
        field = ReceiptField.of(chosen.randrange(size), size, chosen.randbytes(32))
        assert ReceiptField.parse(field.text) == ReceiptField.parse(f"  {field.text}   ") == field, SEED
        assert len(field.text) <= RECEIPT_FIELD_LENGTH_MAX
        assert field.text.replace(":", "").isalnum()
    assert len(ReceiptField.of(NUMBER_MAX - 1, NUMBER_MAX, bytes(32)).text) == RECEIPT_FIELD_LENGTH_MAX
    with pytest.raises(ReceiptFieldError):
        ReceiptField.of(1, 2, bytes(8))


def test_a_kit_whose_hashes_are_of_another_history_than_its_checkpoint_satisfies_no_receipt(
    keyring: Keyring, journal: Path, tmp_path: Path
) -> None:
    other = other_log(keyring, tmp_path / "other", [*BODIES[:99], entry(100, amount_minor=1), *BODIES[100:]])
    receipt = field_of(other, 41, 600).encode()
    assert by_kit(receipt, other).accepted
    other.with_name("journal-kit").joinpath("checkpoint").write_bytes(checkpoint(BODIES))
    verdict = by_kit(receipt, other)
    assert not verdict.accepted
    assert "do not lead to what it has signed" in verdict.reason
