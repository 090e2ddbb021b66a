"""`holdfast audit prove`: that the entries of one transaction are in the log, to be checked by whoever holds its key.

For each entry of the transaction that the newest signed checkpoint covers there is a tlog-proof (c2sp.org/tlog-proof),
whose extra line holds the entry's bytes: nothing vouches for that line, but the proof is of its hash, so a wrong one
shows. Each proof is verified here, as a stranger would, before it is handed out.
"""

from __future__ import annotations

import msgspec

from gateway.audit.kit import Tell
from gateway.audit.kit_entries import EntryShown, lines_of, shown
from gateway.audit.kit_head import SignedHead
from gateway.journal.log_reader import LogReader
from protocol.journal_entry import EntryError
from protocol.transparency.notes import NoteError, VerifierKey
from protocol.transparency.proofs import ProofError
from protocol.transparency.text import encode_base64
from protocol.transparency.tlog_proof import TlogProof
from protocol.transparency.tree import leaf_hash

FORM = "holdfast-proof@v1"
_STEP = 1 << 16
_TRANSACTION_AT = 20
"""Where SQLite's substr, which counts from 1, finds the transaction id in an entry (protocol/journal_entry.py)."""


class ProvingError(Exception):
    """Nothing can be proved; the message says why."""


class ProvedEntry(msgspec.Struct, frozen=True):
    """One entry and its proof.

    Attributes:
        shown: the entry in words.
        entry: the bytes that were hashed, base64.
        tlog_proof: the proof, to be saved as it is in a file that ends in .tlog-proof.
    """

    shown: EntryShown
    entry: str
    tlog_proof: str


class TransactionProof(msgspec.Struct, frozen=True):
    """All that the log shows of one transaction.

    Attributes:
        form: of this document.
        not_signed_yet: entries of the transaction that are newer than the checkpoint.
    """

    form: str
    origin: str
    transaction: int
    size: int
    root: str
    verifier_keys: list[str]
    not_signed_yet: int
    entries: list[ProvedEntry]


def prove_transaction(
    reader: LogReader, head: SignedHead, transaction: int, tell: Tell = lambda _what, _part: None
) -> TransactionProof:
    """Prove the entries of a transaction under `head`.

    Raises:
        ProvingError: there is no such transaction, none of its entries is signed yet, or the journal's own hashes do
            not lead to the signed root.
        JournalError: the journal cannot be read.
    """
    if not 1 <= transaction <= reader.size:
        raise ProvingError(f"there is no transaction {transaction}: the journal has {reader.size} entries")
    sequences = sequences_of(reader, transaction, tell)
    if not sequences or sequences[0] != transaction:
        raise ProvingError(
            f"there is no transaction {transaction}: entry {transaction} began none; holdfast queue list shows ids"
        )
    size = head.checkpoint.size
    covered = [sequence for sequence in sequences if sequence <= size]
    if not covered:
        raise ProvingError(
            f"the newest checkpoint covers {size} entries, and transaction {transaction} begins behind them: "
            "wait for the next one, or sign one with --sign -c FILE"
        )
    proved = []
    for done, sequence in enumerate(covered, 1):
        body = reader.entry(sequence - 1).body
        proof = prove_entry(reader, head, sequence - 1, body)
        proved.append(ProvedEntry(_shown(body, sequence), encode_base64(body), proof.decode()))
        tell("proving entries", done / len(covered))
    return TransactionProof(
        form=FORM,
        origin=head.checkpoint.origin,
        transaction=transaction,
        size=size,
        root=encode_base64(head.checkpoint.root),
        verifier_keys=[key.text for key in head.keys],
        not_signed_yet=len(sequences) - len(covered),
        entries=proved,
    )


def prove_entry(reader: LogReader, head: SignedHead, index: int, body: bytes) -> bytes:
    """The tlog-proof of the entry `body` at `index`, with the entry in its extra line; verified.

    Raises:
        ProvingError: the journal does not lead to the signed root, or the entry is not the one that was hashed.
    """
    try:
        path = reader.inclusion(index, head.checkpoint.size)
        encoded = TlogProof(index, tuple(path), head.note, body).encode()
        verify_self_contained(encoded, head.keys)
    except (ProofError, NoteError) as error:
        raise ProvingError(
            f"entry {index + 1} cannot be proved: {error}; holdfast audit verify says what is damaged"
        ) from None
    return encoded


def verify_self_contained(encoded: bytes, keys: tuple[VerifierKey, ...]) -> None:
    """Check a proof that brings its entry, knowing nothing but the log's keys.

    Raises:
        ProofError, NoteError, TlogProofError: it shows nothing.
    """
    proof = TlogProof.parse(encoded)
    if proof.extra is None:
        raise ProofError("the proof does not bring its entry")
    proof.verify(leaf_hash(proof.extra), keys[0].name, keys)


def readable(proof: TransactionProof) -> str:
    """A proof in words, the tlog-proofs left out."""
    first = f"transaction {proof.transaction} of {proof.origin}: {len(proof.entries)} entries under {proof.size} signed"
    lines = [first]
    for each in proof.entries:
        lines += ["", *lines_of(each.shown)]
    if proof.not_signed_yet:
        lines += ["", f"{proof.not_signed_yet} further entries are newer than the checkpoint and not proved yet"]
    return "\n".join(lines)


def sequences_of(reader: LogReader, transaction: int, tell: Tell = lambda _what, _part: None) -> list[int]:
    """The sequences of a transaction's entries: its own, and all later ones that name it.

    Raises:
        JournalError: the journal cannot be read.
    """
    found: list[int] = []
    for first in range(transaction, reader.size + 1, _STEP):
        rows = reader.select(
            "SELECT sequence FROM entry WHERE sequence BETWEEN ? AND ? AND substr(body, ?, 8) = ? ORDER BY sequence",
            first,
            min(first + _STEP - 1, reader.size),
            _TRANSACTION_AT,
            transaction.to_bytes(8),
        )
        found += [sequence for (sequence,) in rows]
        tell("looking for entries", min(1.0, (first - transaction) / max(1, reader.size - transaction)))
    return found


def _shown(body: bytes, sequence: int) -> EntryShown:
    try:
        entry = shown(body)
    except EntryError as error:
        raise ProvingError(f"entry {sequence} cannot be read: {error}") from None
    if entry.sequence != sequence:
        raise ProvingError(f"entry {sequence} calls itself {entry.sequence}: it was swapped")
    return entry
