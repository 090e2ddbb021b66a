"""Proofs of a transaction's entries: others accept them, and nothing is proved that is not so."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from gateway.audit.kit_head import newest_head
from gateway.audit.proving import ProvingError, TransactionProof, prove_transaction, readable
from gateway.journal.keyring import Keyring, create_keyring
from gateway.journal.log_reader import LogReader
from protocol.transparency.proofs import ProofError
from protocol.transparency.tlog_proof import TlogProof
from protocol.transparency.tree import leaf_hash
from tests.audit.kit_log import ORIGIN, SIGNER, entries, entry, execute, write_log

KEYS = (SIGNER.verifier,)


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return create_keyring(tmp_path_factory.mktemp("keys") / "keys")


def prove(journal: Path, transaction: int) -> TransactionProof:
    head = newest_head(journal, KEYS)
    with LogReader(journal) as reader:
        return prove_transaction(reader, head, transaction)


@pytest.mark.parametrize("transaction", [1, 255, 256 + 1, 1_297])
def test_every_entry_of_a_transaction_is_proved_to_whoever_has_the_key_alone(
    transaction: int, keyring: Keyring, tmp_path: Path
) -> None:
    proof = prove(write_log(tmp_path / "journal", keyring, entries(1_300)), transaction)
    assert [each.shown.sequence for each in proof.entries] == [transaction, transaction + 1]
    assert (proof.origin, proof.size, proof.not_signed_yet) == (ORIGIN, 1_300, 0)
    for each in proof.entries:
        body = b64decode(each.entry)
        assert body == entry(each.shown.sequence)
        parsed = TlogProof.parse(each.tlog_proof.encode())
        assert parsed.extra == body
        parsed.verify(leaf_hash(body), ORIGIN, KEYS)
        with pytest.raises(ProofError):
            parsed.verify(leaf_hash(body + b"\0"), ORIGIN, KEYS)


def test_a_transaction_of_a_late_answer_is_found_however_far_its_entries_are_apart(
    keyring: Keyring, tmp_path: Path
) -> None:
    bodies = [*entries(70_000)]
    late = bytearray(entry(70_000))
    late[19:27] = (5).to_bytes(8)
    bodies[-1] = bytes(late)
    proof = prove(write_log(tmp_path / "journal", keyring, bodies), 5)
    assert [each.shown.sequence for each in proof.entries] == [5, 6, 70_000]


def test_what_is_newer_than_the_checkpoint_is_counted_and_not_proved(keyring: Keyring, tmp_path: Path) -> None:
    journal = write_log(tmp_path / "journal", keyring, entries(300), signed=299)
    proof = prove(journal, 299)
    assert ([each.shown.sequence for each in proof.entries], proof.not_signed_yet) == ([299], 1)
    assert "1 further entries are newer" in readable(proof)
    (tmp_path / "more").mkdir()
    journal = write_log(tmp_path / "more" / "journal", keyring, entries(300), signed=298)
    with pytest.raises(ProvingError, match="covers 298 entries, and transaction 299 begins behind"):
        prove(journal, 299)


def test_a_transaction_that_only_a_later_entry_names_is_none(keyring: Keyring, tmp_path: Path) -> None:
    late = bytearray(entry(300))
    late[19:27] = (6).to_bytes(8)
    with pytest.raises(ProvingError, match="entry 6 began none"):
        prove(write_log(tmp_path / "journal", keyring, [*entries(299), bytes(late)]), 6)


@pytest.mark.parametrize("number", [2, 500, 301, 10**15])
def test_there_is_no_transaction_where_no_entry_began_one(number: int, keyring: Keyring, tmp_path: Path) -> None:
    with pytest.raises(ProvingError, match="there is no transaction"):
        prove(write_log(tmp_path / "journal", keyring, entries(300)), number)


def test_nothing_is_proved_of_a_journal_that_does_not_lead_to_what_was_signed(keyring: Keyring, tmp_path: Path) -> None:
    def journal_after(number: int, sql: str, *values: object) -> Path:
        journal = write_log(tmp_path / f"journal-{number}", keyring, entries(600))
        execute(journal, sql, *values)
        return journal

    edited = journal_after(1, "UPDATE entry SET body = ? WHERE sequence = 41", entry(41, amount_minor=1))
    with pytest.raises(ProvingError, match="entry 41 cannot be proved"):
        prove(edited, 41)
    elsewhere = journal_after(2, "UPDATE subtree SET hash = ? WHERE level = 1 AND number = 1", bytes(32))
    with pytest.raises(ProvingError, match="entry 41 cannot be proved"):
        prove(elsewhere, 41)
    swapped = journal_after(3, "UPDATE entry SET leaf = ? WHERE sequence = 41", leaf_hash(entry(43)))
    with pytest.raises(ProvingError, match="entry 42 cannot be proved"):  # entry 41's leaf is a step of its path
        prove(swapped, 41)


def test_a_proof_in_words_tells_what_the_entry_says_and_no_more_than_the_entry_has(
    keyring: Keyring, tmp_path: Path
) -> None:
    text = readable(prove(write_log(tmp_path / "journal", keyring, entries(20)), 7))
    assert "answered" in text
    assert "2023-11-14T22:13:20.056Z" in text
    assert "108 978" in text
    assert f"transaction 7 of {ORIGIN}: 2 entries" in text
