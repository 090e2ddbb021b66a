"""One part of one record, shown to an auditor, who checks it and learns nothing else.

What is handed over is the record's own key, not the epoch's: it opens that part of that record and no other (sealing.py
says how it is derived). A disclosure is a JSON document that proves itself:

    the entry's bytes               hashed into the log; it commits to the ciphertext and to the key
    the ciphertext                  its SHA-256 is in the entry
    the record key                  SHA-256("holdfast key commitment v1" | sequence | part | key) is in the entry
    a tlog-proof                    of the entry under a signed checkpoint (c2sp.org/tlog-proof)

So whoever has the log's verifier key from another source can tell that this card number and no other was accepted
then: AES-256-GCM alone would let a dishonest gateway find a second key under which the same ciphertext says another
thing, and the commitment does not. Sequence has 8 bytes, part 1, key id 4, all big-endian; the ciphertext is a nonce of
12 bytes and what AES-256-GCM gives, its associated data sequence | part | key id.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.audit.kit_head import SignedHead
from gateway.audit.proving import prove_entry
from gateway.core.transaction import Answer, StoredMessage
from gateway.journal.log_reader import LogReader
from gateway.journal.rows import RowDamaged, unpack_account, unpack_sensitive
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART, SealBroken, Sealer, key_commitment
from protocol.iso8583.message import Fields
from protocol.journal_entry import Entry, EntryError, PartCommitment, decode_entry
from protocol.transparency.checkpoints import Checkpoint
from protocol.transparency.notes import NoteError, VerifierKey, parse_note
from protocol.transparency.proofs import ProofError, verify_inclusion
from protocol.transparency.text import decode_base64, encode_base64
from protocol.transparency.tlog_proof import TlogProof, TlogProofError
from protocol.transparency.tree import leaf_hash

FORM: Final = "holdfast-disclosure@v1"
DISCLOSURE_BYTES_MAX: Final = 4 << 20
PARTS: Final = {"account": ACCOUNT_PART, "sensitive": SENSITIVE_PART}
"""By the name that people use."""

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_BOUND: Final = Struct(">QBI")


class DisclosureError(Exception):
    """Nothing can be disclosed, or a disclosure shows nothing; the message says why, and holds no contents."""


class Disclosure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the auditor is given. Octets are base64.

    Attributes:
        form: of this document.
        sequence, part: of the entry, and which of its parts.
        key_id: the epoch key that the record key was derived from; the epoch key itself is not in here.
        entry, ciphertext, record_key: see the module.
        tlog_proof: of the entry, as text; its extra line has the entry again.
        disclosed_in: sequence of the entry that tells of this disclosure; 0 until that is durable.
        request, asked_by, approved_by, why: who was shown it for what reason.
    """

    form: str
    origin: str
    sequence: int
    part: str
    key_id: int
    entry: str
    ciphertext: str
    record_key: str
    tlog_proof: str
    disclosed_in: int = 0
    request: str = ""
    asked_by: str = ""
    approved_by: str = ""
    why: str = ""

    def __repr__(self) -> str:
        return f"Disclosure({self.origin}, entry {self.sequence}, {self.part})"


def disclose(
    reader: LogReader, head: SignedHead, sealer: Sealer, transaction: int, sequence: int, part: str
) -> Disclosure:
    """Make the disclosure of a part; not to be handed out before an entry that tells of it is durable.

    Args:
        sequence: of the entry; its own (the request) is that of the transaction, answers have later ones.
        part: "account" or "sensitive".
    Raises:
        DisclosureError: there is no such entry or part, it is gone, or its key is.
        ProvingError, JournalError: the journal cannot be read, or does not lead to the signed head.
    """
    if not 1 <= transaction <= sequence <= reader.size:
        raise DisclosureError(
            f"the journal has {reader.size} entries; entry {sequence} is not of transaction {transaction}"
        )
    stored = reader.entry(sequence - 1)
    entry, said = _committed(stored.body, sequence, PARTS[part])
    if entry.transaction != transaction:
        raise DisclosureError(f"entry {sequence} is about transaction {entry.transaction}, not {transaction}")
    if sequence > head.checkpoint.size:
        raise DisclosureError(
            f"the newest checkpoint covers {head.checkpoint.size} entries, and entry {sequence} lies behind them: "
            f"wait for the next one (holdfast audit checkpoint has one signed at once)"
        )
    ciphertext = stored.account if part == "account" else reader.sensitive(sequence)
    if ciphertext is None:
        raise DisclosureError(
            f"the {part} part of entry {sequence} is gone, as it must be once the transaction is final"
            if part == "sensitive"
            else f"the {part} part of entry {sequence} is missing: holdfast audit verify says what is damaged"
        )
    try:
        sealer.open(sequence, said, ciphertext)
        key = sealer.record_key(sequence, said.part, said.key_id)
    except SealBroken as broken:
        raise DisclosureError(f"the {part} part of entry {sequence} does not open: {broken}") from None
    return Disclosure(
        form=FORM,
        origin=head.checkpoint.origin,
        sequence=sequence,
        part=part,
        key_id=said.key_id,
        entry=encode_base64(stored.body),
        ciphertext=encode_base64(ciphertext),
        record_key=encode_base64(key),
        tlog_proof=prove_entry(reader, head, sequence - 1, stored.body).decode(),
    )


def _committed(body: bytes, sequence: int, part: int) -> tuple[Entry, PartCommitment]:
    try:
        entry = decode_entry(body)
    except EntryError as error:
        raise DisclosureError(f"the entry is none: {error}") from None
    if entry.sequence != sequence:
        raise DisclosureError(f"the entry calls itself {entry.sequence}, not {sequence}")
    said = next((each for each in entry.parts if each.part == part), None)
    if said is None:
        raise DisclosureError(f"entry {sequence} has no such part")
    return entry, said


def encode_disclosure(disclosure: Disclosure) -> bytes:
    """The document's bytes: JSON, indented."""
    return msgspec.json.format(msgspec.json.encode(disclosure), indent=1) + b"\n"


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """A disclosure of which everything was checked.

    Attributes:
        entry: what the log tells.
        checkpoint: that the entry is in the log under.
        signed: whether a key of the log that was named has signed that checkpoint.
        request, answer: of an account part.
        sensitive: of a sensitive part.
    """

    disclosure: Disclosure
    entry: Entry
    checkpoint: Checkpoint
    signed: bool
    request: StoredMessage | None = None
    answer: Answer | None = None
    sensitive: Fields | None = None


def open_disclosure(document: bytes, keys: tuple[VerifierKey, ...] = ()) -> Opened:
    """Check a disclosure and read the part.

    Args:
        keys: the log's verifier keys, from elsewhere than the document; without any, who signed the checkpoint stays
            unknown, and the document shows only that it fits itself.
    Raises:
        DisclosureError: which check it fails: form, entry, ciphertext, key, inclusion, signature, contents.
    """
    if len(document) > DISCLOSURE_BYTES_MAX:
        raise DisclosureError("form: longer than a disclosure can be")
    try:
        told = msgspec.json.decode(document, type=Disclosure)
        body, ciphertext, key = map(decode_base64, (told.entry, told.ciphertext, told.record_key))
    except (msgspec.DecodeError, ValueError):
        raise DisclosureError(f"form: not a document of the form {FORM}") from None
    if told.form != FORM or told.part not in PARTS or not 0 < told.sequence < 2**63:
        raise DisclosureError(f"form: not a document of the form {FORM}")
    part = PARTS[told.part]
    try:
        entry, said = _committed(body, told.sequence, part)
    except DisclosureError as error:
        raise DisclosureError(f"entry: {error}") from None
    if said.key_id != told.key_id:
        raise DisclosureError("entry: it names another epoch key than the document")
    if not hmac.compare_digest(sha256(ciphertext).digest(), said.digest):
        raise DisclosureError("ciphertext: it is not the one that the entry commits to")
    if len(key) != _KEY_BYTES or not hmac.compare_digest(key_commitment(told.sequence, part, key), said.commitment):
        raise DisclosureError("key: it is not the one that the entry commits to")
    checkpoint = _included(told, body, keys)
    bound = _BOUND.pack(told.sequence, part, said.key_id)
    try:
        plaintext = AESGCM(key).decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], bound)
        if part == SENSITIVE_PART:
            return Opened(told, entry, checkpoint, bool(keys), sensitive=unpack_sensitive(plaintext))
        request, answer = unpack_account(plaintext)
    except (InvalidTag, ValueError, RowDamaged):
        raise DisclosureError("contents: the ciphertext does not open, or is no such part") from None
    return Opened(told, entry, checkpoint, bool(keys), request, answer)


def _included(told: Disclosure, body: bytes, keys: tuple[VerifierKey, ...]) -> Checkpoint:
    """The checkpoint under which the entry is in the log."""
    try:
        proof = TlogProof.parse(told.tlog_proof.encode())
        claimed = Checkpoint.parse(parse_note(proof.checkpoint).text)
    except (TlogProofError, NoteError) as error:
        raise DisclosureError(f"inclusion: {error}") from None
    if proof.index != told.sequence - 1 or proof.extra != body or claimed.origin != told.origin:
        raise DisclosureError("inclusion: the proof is of another entry, or of another log")
    try:
        verify_inclusion(leaf_hash(body), proof.index, claimed.size, proof.path, claimed.root)
    except ProofError as error:
        raise DisclosureError(f"inclusion: {error}") from None
    if keys:
        try:
            proof.verify(leaf_hash(body), keys[0].name, keys)
        except (NoteError, ProofError) as error:
            raise DisclosureError(f"signature: {error}") from None
    return claimed
