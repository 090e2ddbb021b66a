"""`holdfast audit receipt`: is what a terminal holds what the journal says?

Three kinds of receipt are known:

    a tlog-proof        of an HTTP answer; it brings its entry, its proof and a checkpoint that the log signed
    HF1:INDEX:SIZE:...  of an ISO 8583 answer (protocol/receipt_field.py), as it is or as JSON; the prefix of a head

    holdfast-proof@v1   what `audit prove` wrote: the entries of a transaction, each with its tlog-proof

Each is held against a journal or an exported kit. What makes a receipt worth its paper is that it was out of the
operator's hands before anybody asked: a journal that was cut or rewritten behind it cannot satisfy it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

import msgspec

from gateway.audit.kit_entries import EntryShown, lines_of, shown
from gateway.audit.kit_head import HeadError, SignedHead, refuse_not_continued, verified_head
from gateway.audit.kit_reading import Kit
from gateway.audit.proving import FORM, ProvedEntry, TransactionProof, sequences_of
from gateway.journal.log_reader import LogDamaged, LogReader
from protocol.journal_entry import EntryError
from protocol.receipt_field import PREFIX_BYTES, ReceiptField, ReceiptFieldError
from protocol.transparency.notes import VerifierKey
from protocol.transparency.proofs import (
    ProofError,
    prove_consistency,
    prove_inclusion,
    verify_consistency,
    verify_inclusion,
)
from protocol.transparency.text import encode_base64
from protocol.transparency.tiles import TileError
from protocol.transparency.tlog_proof import TLOG_PROOF_BYTES_MAX, TlogProof, TlogProofError
from protocol.transparency.tree import HashReader, TreeError, frontier_at, leaf_hash

KEY_OF_KIT: Final = (
    "The verifier key is the one that came with the kit: whoever made another kit, and signed it anew, is believed "
    "too. Name one that you have from elsewhere with --verifier-key."
)
_DOCUMENT_BYTES_MAX: Final = 64 << 20
_TLOG_PROOF: Final = b"c2sp.org/tlog-proof@"


class ReceiptError(Exception):
    """The receipt cannot be checked: it is of no known form, or there is nothing to check it against."""


class Refusal(Exception):
    """The receipt was checked, and is refused; the message says exactly why."""


class ReceiptVerdict(msgspec.Struct, frozen=True):
    """What became of a receipt.

    Attributes:
        reason: why it is refused; empty where it is accepted.
        index, size: what the receipt says.
        entry: the entry that it is about, as journal or kit has it; None where that could not be read.
        caveat: what an acceptance does not show; empty where there is nothing to say.
    """

    accepted: bool
    kind: str
    reason: str
    index: int
    size: int
    entry: EntryShown | None
    caveat: str = ""


class Log(Protocol):
    """A log to hold a receipt against: a kit or a journal."""

    @property
    def size(self) -> int:
        """Number of entries that it has."""

    @property
    def signed(self) -> tuple[int, bytes] | None:
        """Size and root that are signed; None where nothing is known of any."""

    @property
    def hashes(self) -> HashReader:
        """Reads the tree's hashes; not verified."""

    def body(self, index: int) -> bytes:
        """An entry."""

    def sequences_of(self, transaction: int) -> list[int]:
        """The sequences of all entries that name a transaction, also those that are not signed yet."""


class KitLog:
    """A kit."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.size = kit.size
        self.hashes: HashReader = kit.hashes
        self.signed: tuple[int, bytes] | None = (kit.size, kit.head.checkpoint.root)

    def body(self, index: int) -> bytes:
        """As `Kit.body`."""
        return self._kit.body(index)

    def sequences_of(self, transaction: int) -> list[int]:
        """As `Kit.sequences_of`."""
        return self._kit.sequences_of(transaction)


class JournalLog:
    """A journal, with or without a checkpoint beside it."""

    def __init__(self, reader: LogReader, head: SignedHead | None = None) -> None:
        """`head` is what is signed of it; read before the journal was opened. Raises: HeadError, it does not fit."""
        self._reader = reader
        self.size = reader.size
        self.hashes: HashReader = reader.hashes
        self.signed: tuple[int, bytes] | None = None
        if head is not None:
            refuse_not_continued(reader, head.checkpoint)
            self.signed = (head.checkpoint.size, head.checkpoint.root)

    def body(self, index: int) -> bytes:
        """As `LogReader.entry`."""
        return self._reader.entry(index).body

    def sequences_of(self, transaction: int) -> list[int]:
        """As `proving.sequences_of`."""
        return sequences_of(self._reader, transaction)


def read_receipt(octets: bytes) -> TlogProof | ReceiptField | TransactionProof:
    """The receipt that a file holds.

    Raises:
        ReceiptError: none that is known.
    """
    if len(octets) > _DOCUMENT_BYTES_MAX:
        raise ReceiptError("larger than any receipt")
    if (document := _document(octets)) is not None:
        return document
    if len(octets) > TLOG_PROOF_BYTES_MAX:
        raise ReceiptError("larger than any receipt")
    if octets.startswith(_TLOG_PROOF):
        try:
            return TlogProof.parse(octets)
        except TlogProofError as error:
            raise ReceiptError(f"a tlog-proof that cannot be read: {error}") from None
    text = octets.decode("utf-8", "replace").strip()
    try:
        return _of_json(text) if text.startswith("{") else ReceiptField.parse(text)
    except ReceiptFieldError as error:
        raise ReceiptError(f"neither a tlog-proof nor a receipt of an ISO 8583 answer: {error}") from None


class _Form(msgspec.Struct):
    form: str


def _document(octets: bytes) -> TransactionProof | None:
    """What `audit prove` wrote; None where the octets do not call themselves that."""
    try:
        form = msgspec.json.decode(octets, type=_Form).form
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if form != FORM:
        raise ReceiptError(f"a document of another form than {FORM}")
    try:
        document = msgspec.json.decode(octets, type=TransactionProof)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ReceiptError(f"a {FORM} that cannot be read: {error}") from None
    if not document.entries:
        raise ReceiptError(f"a {FORM} without any entry")
    return document


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    """A receipt of an ISO 8583 answer as JSON. `root` is the prefix, hexadecimal."""

    index: int
    size: int
    root: str


def _of_json(text: str) -> ReceiptField:
    try:
        written = msgspec.json.decode(text, type=_Written)
        return ReceiptField(written.index, written.size, bytes.fromhex(written.root))
    except ReceiptFieldError:
        raise
    except (msgspec.MsgspecError, ValueError):
        raise ReceiptFieldError('as JSON it reads {"index": 1233, "size": 1240, "root": "9f86d081884c7d65"}') from None


def check_receipts(
    receipt: TlogProof | ReceiptField | TransactionProof, log: Log, keys: Sequence[VerifierKey] = ()
) -> list[ReceiptVerdict]:
    """As `check_receipt`; of what `audit prove` wrote, a verdict for each entry, in its order.

    Behind them stands a refusal for each entry of the transaction that the document leaves out.
    """
    if not isinstance(receipt, TransactionProof):
        return [check_receipt(receipt, log, keys)]
    verdicts = [_check_proved(receipt, each, log, keys) for each in receipt.entries]
    if not all(verdict.accepted for verdict in verdicts):
        return verdicts
    return _check_all_there(receipt, log, verdicts)


def _check_all_there(document: TransactionProof, log: Log, verdicts: list[ReceiptVerdict]) -> list[ReceiptVerdict]:
    """The verdicts of entries that are in the log each, once it is known whether they are all that it has."""
    size, transaction = document.size, document.transaction
    shown_there = [each.shown.sequence for each in document.entries]
    if any(former >= latter for former, latter in pairwise(shown_there)):
        reason = "the document does not show each entry once and in order: it was changed"
        return [*verdicts[:-1], msgspec.structs.replace(verdicts[-1], accepted=False, reason=reason)]
    there = log.sequences_of(transaction)
    left_out = sorted({sequence for sequence in there if sequence <= size}.difference(shown_there))
    if left_out:
        return [*verdicts, *(_left_out(sequence, document, log) for sequence in left_out)]
    if later := [str(sequence) for sequence in there if sequence > size]:
        newer = f"The log has entries of transaction {transaction} that are newer than this proof: {', '.join(later)}."
        return [*verdicts[:-1], with_caveat(verdicts[-1], newer)]
    return verdicts


def _left_out(sequence: int, document: TransactionProof, log: Log) -> ReceiptVerdict:
    reason = f"the document leaves out entry {sequence} of transaction {document.transaction}: it was changed"
    try:
        entry = shown(log.body(sequence - 1))
    except (EntryError, LogDamaged):
        entry = None
    return ReceiptVerdict(False, "tlog-proof", reason, sequence - 1, document.size, entry)


def _check_proved(
    document: TransactionProof, each: ProvedEntry, log: Log, keys: Sequence[VerifierKey]
) -> ReceiptVerdict:
    """Check one entry of a document: its proof, and that all that is written around the proof is what it proves."""
    try:
        proof = TlogProof.parse(each.tlog_proof.encode("utf-8", "surrogatepass"))
    except TlogProofError as error:
        raise ReceiptError(f"the proof of entry {each.shown.sequence} cannot be read: {error}") from None
    verdict = check_receipt(proof, log, keys)
    if not verdict.accepted:
        return verdict
    checkpoint = verified_head(proof.checkpoint, keys).checkpoint
    reason = ""
    if proof.extra is None or each.entry != encode_base64(proof.extra) or each.shown != verdict.entry:
        reason = f"the document shows another entry {each.shown.sequence} than it proves: it was changed"
    elif each.shown.transaction != document.transaction:
        reason = f"entry {each.shown.sequence} is not of transaction {document.transaction}: the document was changed"
    elif (document.origin, document.size, document.root) != (
        checkpoint.origin,
        checkpoint.size,
        encode_base64(checkpoint.root),
    ):
        reason = "the document names another log, size or root than its checkpoint: it was changed"
    return msgspec.structs.replace(verdict, accepted=not reason, reason=reason)


def with_caveat(verdict: ReceiptVerdict, caveat: str) -> ReceiptVerdict:
    """The verdict with what it does not show, where it accepts."""
    caveats = " ".join(each for each in (verdict.caveat, caveat) if each)
    return msgspec.structs.replace(verdict, caveat=caveats) if verdict.accepted else verdict


def check_receipt(receipt: TlogProof | ReceiptField, log: Log, keys: Sequence[VerifierKey] = ()) -> ReceiptVerdict:
    """Hold a receipt against a log.

    Args:
        keys: the log's verifier keys; a tlog-proof is refused without.
    Raises:
        ReceiptError: a tlog-proof, and no key to believe it by.
        JournalError, KitError: the log cannot be read where the receipt does not ask for it.
    """
    if isinstance(receipt, TlogProof):
        if not keys:
            raise ReceiptError("name the log's key: --verifier-key FILE, or -c FILE")
        kind, size = "tlog-proof", 0
    else:
        kind, size = "iso8583", receipt.size
    entry: EntryShown | None = None
    reason = ""
    try:
        if isinstance(receipt, TlogProof):
            size = _check_proof(receipt, log, keys)
        else:
            _check_head(receipt.size, receipt.prefix, log)
        body = _check_entry(receipt.index, size, log, receipt.extra if isinstance(receipt, TlogProof) else None)
        entry = shown(body)
    except Refusal as refusal:
        reason = str(refusal)
    except EntryError as error:
        reason = f"the entry at index {receipt.index} cannot be read: {error}"
    if entry is not None and entry.index != receipt.index:
        reason = f"the entry at index {receipt.index} calls itself entry {entry.sequence}"
    return ReceiptVerdict(not reason, kind, reason, receipt.index, size, entry)


def _check_proof(receipt: TlogProof, log: Log, keys: Sequence[VerifierKey]) -> int:
    """Check a tlog-proof by itself and its checkpoint against the log; returns its size."""
    try:
        checkpoint = verified_head(receipt.checkpoint, keys).checkpoint
    except HeadError as error:
        raise Refusal(f"{error}: it is not from this log, or was changed") from None
    if receipt.extra is not None:
        try:
            verify_inclusion(leaf_hash(receipt.extra), receipt.index, checkpoint.size, receipt.path, checkpoint.root)
        except ProofError as error:
            raise Refusal(f"the receipt does not prove the entry that it brings: {error}") from None
    _check_head(checkpoint.size, checkpoint.root, log)
    if receipt.extra is None:
        try:
            leaf = leaf_hash(log.body(receipt.index))
            verify_inclusion(leaf, receipt.index, checkpoint.size, receipt.path, checkpoint.root)
        except ProofError as error:
            raise Refusal(f"the entry at index {receipt.index} is not the one that is proved: {error}") from None
    return checkpoint.size


def _check_head(size: int, root: bytes, log: Log) -> None:
    """Check that the log begins with the tree whose root begins with `root`."""
    if size > log.size:
        raise Refusal(
            f"the receipt was made when the log had {size} entries, and this one has {log.size}: "
            "its tail is cut, or it is an older copy or export"
        )
    try:
        found = frontier_at(size, log.hashes).root()
        if found[: len(root)] != root:
            raise Refusal(
                f"the first {size} entries are not those that the receipt was made from: the log was rewritten, or is "
                "another one"
            )
        if log.signed is not None and size <= log.signed[0]:
            proof = prove_consistency(size, log.signed[0], log.hashes)
            verify_consistency(size, log.signed[0], found, log.signed[1], proof)
    except ProofError as error:
        raise Refusal(f"the log's own hashes do not lead to what it has signed: {error}") from None
    except (LogDamaged, TileError, TreeError) as error:
        raise Refusal(f"the log is damaged: {error}") from None


def _check_entry(index: int, size: int, log: Log, said: bytes | None) -> bytes:
    """Check that the log's entry at `index` is what its tree of `size` has there, and what the receipt brings."""
    try:
        body = log.body(index)
        if said is not None and body != said:
            raise Refusal(f"the log's entry {index + 1} is not the one that the receipt brings: it was changed")
        root = frontier_at(size, log.hashes).root()
        verify_inclusion(leaf_hash(body), index, size, prove_inclusion(index, size, log.hashes), root)
    except ProofError:
        raise Refusal(f"the log's entry {index + 1} is not the one that was hashed: it was changed since") from None
    except LogDamaged as error:
        raise Refusal(f"the log is damaged: {error}") from None
    return body


def told(verdict: ReceiptVerdict) -> str:
    """A verdict in words."""
    if not verdict.accepted:
        lines = [f"REFUSED: {verdict.reason}"]
    else:
        covers = f"entry {verdict.index + 1} is in the log, unchanged, and so are all {verdict.size} entries under it"
        lines = [f"accepted: {covers}"]
        if verdict.kind == "iso8583":
            lines.append(f"by {PREFIX_BYTES} bytes of the root; the entry is to be compared with the paper:")
        if verdict.caveat:
            lines.append(verdict.caveat)
    if verdict.entry is not None:
        lines += ["", *lines_of(verdict.entry)]
    return "\n".join(lines)
