"""An entry as a person or a program is shown it: in words, masked, with what it commits to. Needs no key.

The card is that of the transaction's row, first six and last four digits at most (INV-8); free text is masked as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import msgspec

from gateway.audit.lives import kind_word, state_word
from gateway.journal.log_reader import LogDamaged, LogEntry, LogReader
from gateway.journal.rows import TAG_BYTES, Row
from gateway.journal.sealing import ACCOUNT_PART, SENSITIVE_PART
from protocol.journal_entry import Entry, EntryError, decode_entry
from protocol.masking import mask_pans
from protocol.transparency.tree import leaf_hash

_PARTS: Final = {ACCOUNT_PART: "account", SENSITIVE_PART: "sensitive"}
_decode_row: Final = msgspec.msgpack.Decoder(Row).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What an entry commits to of one part.

    Attributes:
        stored: its ciphertext is still there; `fits` whether it is the one committed to, None where it is not there.
    """

    part: str
    key_id: int
    digest: str
    commitment: str
    stored: bool
    fits: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryReport:
    """One entry. Amounts in minor units; times UTC; empty or 0 where the entry says nothing.

    Attributes:
        index: in the tree, sequence - 1.
        fits_leaf: it hashes to the leaf that is stored beside it.
        card: first six and last four digits, out of the transaction's row; not proved by the entry.
        parts: of `audit show` only.
    """

    sequence: int
    index: int
    time: str
    kind: str
    transaction: int
    state: str
    merchant: str
    terminal: str
    key: str
    second_key: str
    amount_minor: int
    currency: str
    card: str
    response: str
    reason: str
    detail: str
    attempts: int
    leaf: str
    fits_leaf: bool
    parts: list[PartReport] = field(default_factory=list)


def utc_text(utc_ms: int) -> str:
    """A time of record as 2026-01-31T23:59:59.999Z."""
    try:
        return f"{datetime.fromtimestamp(utc_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{utc_ms % 1000:03}Z"
    except (ValueError, OverflowError, OSError):
        return f"{utc_ms} ms"


def place_of(key: str) -> tuple[str, str]:
    """Merchant and terminal that a transaction key names (D1); empty where it names none."""
    parts = key.split("|")
    return (parts[1], parts[2]) if len(parts) > 3 else ("", "")


def decoded(stored: LogEntry) -> Entry:
    """The entry that is stored.

    Raises:
        LogDamaged: the bytes are none.
    """
    try:
        return decode_entry(stored.body)
    except EntryError as error:
        raise LogDamaged(f"entry {stored.sequence} is damaged: {error}; run audit verify", stored.sequence) from None


def row_of(reader: LogReader, transaction: int) -> Row | None:
    """The row of a transaction, unverified; None where there is none or it cannot be read."""
    try:
        found = next(reader.select("SELECT row FROM tx WHERE id = ?", transaction), None)
        return _decode_row(found[0][:-TAG_BYTES]) if found else None
    except (LogDamaged, msgspec.MsgspecError, TypeError, UnicodeDecodeError):
        return None


def entry_report(reader: LogReader, stored: LogEntry, *, whole: bool = False) -> EntryReport:
    """What is shown of an entry; `whole` with its parts.

    Raises:
        LogDamaged: it is not an entry.
    """
    entry = decoded(stored)
    row = row_of(reader, entry.transaction) if entry.transaction else None
    merchant, terminal = place_of(entry.key)
    return EntryReport(
        sequence=stored.sequence,
        index=stored.sequence - 1,
        time=utc_text(entry.time_ms),
        kind=kind_word(entry.kind),
        transaction=entry.transaction,
        state=state_word(entry.state) if entry.state else "",
        merchant=mask_pans(merchant),
        terminal=mask_pans(terminal),
        key=mask_pans(entry.key),
        second_key=mask_pans(entry.second_key),
        amount_minor=entry.amount_minor,
        currency=entry.currency,
        card=mask_pans(row.card_mask) if row is not None else "",
        response=entry.response,
        reason=entry.reason,
        detail=mask_pans(entry.detail),
        attempts=entry.attempts,
        leaf=stored.leaf.hex(),
        fits_leaf=leaf_hash(stored.body) == stored.leaf,
        parts=_parts(reader, stored, entry) if whole else [],
    )


def _parts(reader: LogReader, stored: LogEntry, entry: Entry) -> list[PartReport]:
    ciphertexts = {ACCOUNT_PART: stored.account, SENSITIVE_PART: reader.sensitive(stored.sequence)}
    reports = []
    for each in entry.parts:
        ciphertext = ciphertexts.get(each.part)
        reports.append(
            PartReport(
                part=_PARTS.get(each.part, str(each.part)),
                key_id=each.key_id,
                digest=each.digest.hex(),
                commitment=each.commitment.hex(),
                stored=ciphertext is not None,
                fits=None if ciphertext is None else sha256(ciphertext).digest() == each.digest,
            )
        )
    return reports
