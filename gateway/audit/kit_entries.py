"""Entries as people read them: the bytes that were hashed, in words. No entry holds card data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.core.lifecycle import EntryKind, State
from protocol.journal_entry import Entry, EntryError, decode_entry

_PARTS: Final = {1: "account", 2: "sensitive"}


class PartShown(msgspec.Struct, frozen=True):
    """What an entry says of one encrypted part: a commitment, no ciphertext."""

    part: str
    key_id: int
    sha256: str
    key_commitment: str


class EntryShown(msgspec.Struct, frozen=True):
    """An entry in words.

    Attributes:
        index: in the tree, from 0.
        kind, state: by name; of a later release, by number; state is empty where the entry is about no transaction.
        time: UTC, ISO 8601 with milliseconds.
        transaction: id, 0 where there is none.
        fingerprint: with what stands behind it in the entry.
        second_key: of the transaction, empty where it has none.
    """

    index: int
    sequence: int
    kind: str
    state: str
    time: str
    transaction: int
    key: str
    attempts: int
    amount_minor: int
    currency: str
    response: str
    reason: str
    detail: str
    fingerprint: str
    second_key: str
    parts: list[PartShown]


def shown(body: bytes) -> EntryShown:
    """An entry in words.

    Raises:
        EntryError: the bytes are no entry.
    """
    entry = decode_entry(body)
    return EntryShown(
        index=entry.sequence - 1,
        sequence=entry.sequence,
        kind=kind_named(entry.kind),
        state=state_named(entry.state),
        time=time_of(entry),
        transaction=entry.transaction,
        key=entry.key,
        attempts=entry.attempts,
        amount_minor=entry.amount_minor,
        currency=entry.currency,
        response=entry.response,
        reason=entry.reason,
        detail=entry.detail,
        fingerprint=entry.fingerprint.hex(),
        second_key=entry.second_key,
        parts=[
            PartShown(_PARTS.get(each.part, str(each.part)), each.key_id, each.digest.hex(), each.commitment.hex())
            for each in entry.parts
        ],
    )


def time_of(entry: Entry) -> str:
    """When it was, UTC.

    Raises:
        EntryError: no calendar has this time.
    """
    try:
        when = datetime.fromtimestamp(entry.time_ms // 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise EntryError("a time that no calendar has", 11) from None
    return f"{when:%Y-%m-%dT%H:%M:%S}.{entry.time_ms % 1000:03}Z"


def kind_named(number: int) -> str:
    """The name of an entry's kind; the number of one that this release does not know."""
    return EntryKind(number).name.lower().replace("_", "-") if number in set(EntryKind) else str(number)


def state_named(number: int) -> str:
    """The name of a state; empty where there is none."""
    if not number:
        return ""
    return State(number).name.lower().replace("_", "-") if number in set(State) else str(number)


def lines_of(entry: EntryShown) -> list[str]:
    """An entry as lines of text, what is empty left out."""
    about = [
        ("index", str(entry.index)),
        ("sequence", str(entry.sequence)),
        ("time", entry.time),
        ("kind", entry.kind),
        ("state", entry.state),
        ("transaction", str(entry.transaction) if entry.transaction else ""),
        ("key", entry.key),
        ("second key", entry.second_key),
        ("amount", f"{entry.amount_minor} {entry.currency}".strip() if entry.transaction else ""),
        ("told", entry.response),
        ("sends", str(entry.attempts) if entry.attempts else ""),
        ("reason", entry.reason),
        ("detail", entry.detail),
        *((f"{each.part} part", f"key {each.key_id}, SHA-256 {each.sha256}") for each in entry.parts),
    ]
    return [f"{name:<15} {value}" for name, value in about if value]
