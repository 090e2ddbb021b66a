"""What an audit finds: which entry, and which kind of damage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class Damage(StrEnum):
    """Kinds of damage. The first group is about single entries, the second about the whole, the third about rows."""

    UNREADABLE = "unreadable"  # a page of the file cannot be read
    MISSING = "dropped"  # an entry is not there
    FLIPPED = "flipped-bit"  # one bit of the entry, or of its leaf hash, is another
    EDITED = "edited"  # the entry is not the one that its leaf hash was made of
    LEAF = "leaf-changed"  # the entry stands in the tree as it is, its stored leaf hash is another
    MALFORMED = "malformed"  # bytes that are not an entry
    SWAPPED = "swapped"  # two entries stand in each other's place
    MISPLACED = "misplaced"  # an entry says another sequence than it stands at
    CIPHERTEXT = "ciphertext-changed"  # not the one that the entry commits to
    CIPHERTEXT_MISSING = "ciphertext-missing"
    UNOPENED = "does-not-open"  # its hash is right, and the keyring's key does not open it
    TRANSITION = "impossible-change"  # no rule of the core leads from the state before to this one
    PAYMENT = "payment-changed"  # amount, currency, keys or fingerprint are others than when it was accepted (INV-5)
    TIME = "time-goes-back"
    APPROVAL = "not-approved"  # a key was destroyed, or a record disclosed, without the signatures of two approvers

    REWRITTEN = "rewritten"  # entries that fit their leaf hashes, and not the tree that was stored or published
    SUBTREE = "subtree-changed"  # the stored hash of a subtree is not that of its leaves; the checkpoint has the leaves
    ADDED = "added"  # entries, or stored hashes of entries, that the journal's own head does not know
    CUT_TAIL = "cut-tail"  # a checkpoint, the journal's head or a row knows of entries that are not there
    REWRITTEN_TAIL = "rewritten-tail"  # the tree does not continue the one of a signed checkpoint
    HEAD_MISSING = "head-missing"  # a copy of the journal's own head is not there, or is not one
    CHECKPOINT = "checkpoint-refused"  # not a checkpoint of this log, or not signed by its key

    ROW = "row-differs"  # the row of a transaction says something else than its newest entry
    ROW_MISSING = "row-missing"
    ROW_UNKNOWN = "row-without-entry"
    QUEUE = "queue-differs"  # what is owed or unsettled is not in its table as the row says, or something else is
    LOOKUP = "lookup-missing"  # a lookup table lacks a transaction: a retry of it could be charged again (INV-2)
    LOOKUP_FOREIGN = "lookup-foreign"  # a lookup table has a row that belongs to no transaction
    TABLE = "table-damaged"  # pages or rows are not in order: a look-up may miss what is there (INV-2); or not a
    # journal's tables, and those alone
    SENSITIVE = "sensitive-left"  # sensitive data of a transaction that is final is still stored (INV-8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One damage.

    Attributes:
        kind: of damage.
        sequence: of the first entry that it concerns; 0 where it is about none.
        last: of the last one; the same where it is about one entry.
        transaction: that it concerns; 0 where it is about none, or that is not known.
        text: what was found, in words; never contents of a part.
    """

    kind: Damage
    sequence: int = 0
    last: int = 0
    transaction: int = 0
    text: str = ""

    def __str__(self) -> str:
        where = ""
        if self.sequence and self.last > self.sequence:
            where = f"entries {self.sequence} to {self.last}: "
        elif self.sequence:
            where = f"entry {self.sequence}: "
        elif self.transaction:
            where = f"transaction {self.transaction}: "
        return f"{self.kind.value:<20} {where}{self.text}"


@dataclass(slots=True)
class Findings:
    """Collects findings: each is counted, and the first `limit` of each kind are kept."""

    limit: int = 100
    kept: list[Finding] = field(default_factory=list)
    counts: Counter[Damage] = field(default_factory=Counter)

    def add(self, kind: Damage, text: str, *, sequence: int = 0, last: int = 0, transaction: int = 0) -> None:
        """Take in one finding. What follows the one before it, of the same kind and words, lengthens that."""
        self.counts[kind] += 1
        before = self.kept[-1] if self.kept else None
        if (
            before is not None
            and sequence
            and before.kind is kind
            and before.text == text
            and (before.last or before.sequence) + 1 == sequence
        ):
            self.kept[-1] = Finding(kind=kind, sequence=before.sequence, last=last or sequence, text=text)
        elif self.counts[kind] <= self.limit:
            self.kept.append(
                Finding(kind=kind, sequence=sequence, last=last or sequence, transaction=transaction, text=text)
            )

    def __bool__(self) -> bool:
        return bool(self.counts)
