"""What one batch is about to write: rows, entries and ciphertexts made in memory, once its conditions hold."""

from __future__ import annotations

from gateway.core.effects import Create, Note, Update
from gateway.core.lifecycle import FINAL, EntryKind
from gateway.core.transaction import Answer, StoredMessage
from gateway.journal.port import JournalError
from gateway.journal.rows import Row, is_told, pack_account, pack_sensitive, row_of, same_payment
from gateway.journal.schema import Head
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART, Sealer
from protocol.iso8583.message import Fields
from protocol.journal_entry import encode_values
from protocol.transparency.tree import leaf_hash

ANSWER_UNKNOWN = -1
"""`Row.answered_at` of a row that was damaged and then written anew: what the terminal was told is not known."""

OWN_ENTRY = -1
FIRST_TRANSACTION = -1


class JournalDefect(JournalError):
    """A write breaks the contract between core and journal: our own mistake. Nothing was written; stop."""


class Draft:
    """A batch in memory; dropped whole if it does not commit.

    Attributes:
        head: as it will be.
        queued: what transactions up to this one owe is in the table `owing`, or is put there by and by, and that they
            are not final in `unsettled`: a change of it is made there at once. Of later ones it is in memory only.
        listed: transactions up to this one may have rows in the two tables, for a crash may have left some.
        aside: newest transactions that are in quarantine: `unsettled` is told of their changes at once, too.
        back: those in quarantine that it counts, lists and lets owe again; known once its rows are written.
        rows: next row of each transaction that the batch creates or changes.
        before: the stored row of each transaction that it changes; None where that is damaged, absent where it creates
            the transaction, or where there is none.
        hashes: of each key and each second key that it may create, for the two lookup tables.
        fresh: the newest transaction of each of these that it creates.
        entries: (sequence, entry, leaf hash, ciphertext of the account part or None), as they are written (bulk.py).
        leaves: leaf hash of each of them, for the tree.
        sensitive, gone: sensitive parts to store, and those to remove, by sequence.
    """

    __slots__ = (
        "_sealer", "aside", "back", "before", "entries", "fresh", "gone", "hashes", "head", "leaves", "listed",
        "now_ms", "queued", "rows", "sensitive",
    )  # fmt: skip

    def __init__(
        self, head: Head, now_ms: int, sealer: Sealer, queued: int, listed: int, aside: frozenset[int]
    ) -> None:
        self._sealer = sealer
        self.now_ms = now_ms
        self.head = Head(head.sequence, head.counts.copy(), head.quarantined, head.indexed, frontier=head.frontier)
        self.head.settled, self.head.closed = head.settled, head.closed
        self.queued = queued
        self.listed = listed
        self.aside = aside
        self.back: set[int] = set()
        self.rows: dict[int, Row] = {}
        self.before: dict[int, Row | None] = {}
        self.hashes: dict[str, tuple[int, int]] = {}
        self.fresh: dict[str, Row] = {}
        self.entries: list[tuple[int, bytearray, bytearray, bytearray | None]] = []
        self.leaves: list[bytes] = []
        self.sensitive: list[tuple[int, bytes]] = []
        self.gone: list[tuple[int]] = []

    def create(self, change: Create, first_id: int) -> int:
        """Take in a new transaction; `first_id` is the id of the write's first change, 0 if this is it."""
        transaction = change.transaction
        sequence = self.head.sequence + 1
        sensitive = change.sensitive if transaction.state not in FINAL else {}
        original = transaction.original
        if original == FIRST_TRANSACTION:
            if not first_id:
                raise JournalDefect("the first change of a write cannot name itself as its original")
            original = first_id
        row = row_of(
            transaction,
            sequence,
            transaction.position,
            original,
            answered_at=sequence if is_told(change.answer) else 0,
            retained=bool(sensitive),
        )
        self._log(change.kind, row, change.request, change.answer, sensitive, "")
        self.rows[sequence] = row
        self.fresh[row.key] = row
        if row.alias:
            self.fresh[row.alias] = row
        self.head.counts[row.state] += 1
        return sequence

    def update(self, change: Update) -> int:
        """Take in the next row of a transaction.

        Raises:
            JournalDefect: there is no such transaction, its revision is another, or the update would change what
                must never change (INV-5).
        """
        transaction = change.transaction
        number = transaction.id
        stored = self.rows.get(number)
        healing = False
        if stored is None:
            if number not in self.before:
                raise JournalDefect(f"update of transaction {number}, which does not exist")
            stored = self.before[number]
            healing = stored is None
        sequence = self.head.sequence + 1
        position = sequence if transaction.position == OWN_ENTRY else transaction.position
        answered_at = sequence
        if change.answer is None:
            answered_at = ANSWER_UNKNOWN if stored is None else stored.answered_at
        retained = stored is not None and stored.retained
        if stored is not None:
            if stored.revision != transaction.revision - 1:
                raise JournalDefect(
                    f"update of transaction {number} to revision {transaction.revision}, stored is {stored.revision}"
                )
            if not same_payment(stored, transaction):
                raise JournalDefect(f"update of transaction {number} would change what was acknowledged (INV-5)")
            self.head.counts[stored.state] -= 1
        # Of a damaged row nobody knows whether a part is stored; what is written anew says no, so none may be left.
        if healing or (retained and transaction.state in FINAL):
            self.gone.append((number,))
            retained = False
        row = row_of(transaction, number, position, transaction.original, answered_at=answered_at, retained=retained)
        self._log(change.kind, row, None, change.answer, {}, change.detail)
        self.rows[number] = row
        self.head.counts[row.state] += 1
        return number

    def note(self, note: Note) -> None:
        """Take in an entry about no transaction."""
        sequence = self.head.sequence = self.head.sequence + 1
        body = encode_values(note.kind, 0, sequence, self.now_ms, 0, 0, 0, "", b"", "", "", "", note.detail, ())
        self._enter(sequence, body, None)

    def _log(
        self,
        kind: EntryKind,
        row: Row,
        request: StoredMessage | None,
        answer: Answer | None,
        sensitive: Fields,
        detail: str,
    ) -> None:
        """Make the next entry, and seal its parts under its sequence."""
        sequence = self.head.sequence = self.head.sequence + 1
        account: bytearray | None = None
        parts: tuple[bytes, ...] = ()
        if request is not None or answer is not None:
            ciphertext, said = self._sealer.seal(sequence, ACCOUNT_PART, pack_account(request, answer))
            account = bytearray(ciphertext)
            parts = (said,)
        if sensitive:
            ciphertext, said = self._sealer.seal(sequence, SENSITIVE_PART, pack_sensitive(sensitive))
            parts = (*parts, said)
            self.sensitive.append((sequence, ciphertext))
        body = encode_values(
            kind,
            row.state,
            sequence,
            self.now_ms,
            row.id,
            row.attempts,
            row.amount_minor,
            row.key,
            row.payment,
            row.currency,
            row.response,
            row.reason,
            detail,
            parts,
        )
        self._enter(sequence, body, account)

    def _enter(self, sequence: int, body: bytes, account: bytearray | None) -> None:
        leaf = leaf_hash(body)
        self.leaves.append(leaf)
        self.entries.append((sequence, bytearray(body), bytearray(leaf), account))
