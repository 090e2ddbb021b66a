"""Damaged records that two people have settled: they stay in quarantine, count as open no more, and keep no key.

The entry that tells of it and its effect are of one commit. The effect is a row more of the record in `quarantine`,
which names the entry. A settlement counts only where that entry is whole and names the record: a flipped bit in the
table settles nothing, and lets no key go.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.core.effects import Note
from gateway.core.lifecycle import EntryKind
from gateway.core.transaction import Stored
from gateway.journal.draft import Draft
from gateway.journal.port import PutAside
from gateway.journal.quarantine import LISTS, taken_out
from gateway.journal.reading import RecordReader
from protocol.journal_entry import EntryError, decode_entry
from protocol.transparency.tree import leaf_hash

MARK: Final = "settled in entry "
"""With a sequence behind it, what the row more says in place of a damage."""

Select = Callable[..., Iterable[tuple[Any, ...]]]
"""Takes SQL and values; text may come as bytes."""


class SettlementDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What the entry of a settlement says."""

    what: str = "settled"
    transaction: int
    damage: list[str]
    who: str
    why: str
    evidence: dict[str, Any]


class Settlement(msgspec.Struct, frozen=True):
    """A settlement that counts: the entry that tells of it, and when (UTC)."""

    entry: int
    time_ms: int
    said: SettlementDetail


def selecting(connection: sqlite3.Connection) -> Select:
    """Queries of a connection of ours."""
    return lambda sql, *values: connection.execute(sql, values).fetchall()


def settlements(select: Select) -> tuple[dict[int, Settlement], list[tuple[int, str]]]:
    """By record, the settlements that count; and (record, mark) of rows that name no entry that tells of it."""
    found, wrong = dict[int, Settlement](), list[tuple[int, str]]()
    for number, said in list(select("SELECT id, what FROM quarantine")):
        mark = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        if mark.startswith(MARK):
            settlement = _settlement(select, number, mark.removeprefix(MARK))
            if settlement is None:
                wrong.append((number, mark))
            else:
                found[number] = settlement
    return found, wrong


def _settlement(select: Select, number: object, named: str) -> Settlement | None:
    if not (named.isascii() and named.isdigit() and len(named) <= 18):
        return None
    for body, leaf in list(select("SELECT body, leaf FROM entry WHERE sequence = ?", int(named))):
        try:
            if not isinstance(body, bytes) or leaf_hash(body) != leaf:
                return None
            entry = decode_entry(body)
            said = msgspec.json.decode(entry.detail, type=SettlementDetail)
        except (EntryError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        if (entry.sequence, entry.kind, said.transaction) == (int(named), EntryKind.DAMAGE_SETTLED, number):
            return Settlement(entry.sequence, entry.time_ms, said)
    return None


def settled(connection: sqlite3.Connection) -> frozenset[int]:
    """The records of all settlements that count."""
    return frozenset(settlements(selecting(connection))[0])


def take_notes(connection: sqlite3.Connection, reader: RecordReader, draft: Draft, notes: Sequence[Note]) -> None:
    """Take entries about no transaction into a draft, and what those of settlements do."""
    for note in notes:
        draft.note(note)
        if note.kind is EntryKind.DAMAGE_SETTLED:
            _settle(connection, reader, draft, note.detail)


def _settle(connection: sqlite3.Connection, reader: RecordReader, draft: Draft, detail: str) -> None:
    """Have the newest entry of a draft, which has this detail, settle its record, within the commit of the caller.

    Nothing comes of it where the record is not put aside, is settled, or is whole again. Whoever asked looks first,
    and afterwards.
    """
    try:
        number = msgspec.json.decode(detail, type=SettlementDetail).transaction
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if number <= 0 or number in draft.rows or number not in taken_out(connection, number - 1):
        return
    if number in settled(connection) or isinstance(reader.by_id(number), Stored):
        return
    (rows,) = connection.execute("SELECT count(*) FROM quarantine WHERE id = ?", (number,)).fetchone()
    mark = f"{MARK}{draft.head.sequence}"
    connection.execute("INSERT INTO quarantine (id, what, time_ms) VALUES (?, ?, ?)", (number, mark, draft.now_ms))
    draft.head.quarantined += 1  # it counts rows, and never gets smaller: the mark beside the journal goes by it
    draft.head.closed += rows + 1
    draft.head.settled += 1
    draft.gone.append((number,))  # its sensitive part, if one is kept: nobody owes it any more (INV-8)


def put_aside_page(connection: sqlite3.Connection, reader: RecordReader, after_id: int, limit: int) -> list[PutAside]:
    """Up to `limit` of what is in quarantine behind `after_id`; -1 for all of it."""
    chosen = connection.execute(
        "SELECT DISTINCT id FROM quarantine WHERE id > ? ORDER BY id LIMIT ?", (after_id, limit)
    ).fetchall()
    done = settlements(selecting(connection))[0]
    page = []
    for (number,) in chosen:
        rows = connection.execute(
            "SELECT what, time_ms FROM quarantine WHERE id = ? ORDER BY time_ms, what", (number,)
        ).fetchall()
        damage = [what for what, _ in rows if not str(what).startswith(MARK)]
        since_ms = min(time_ms for _, time_ms in rows)
        settlement = done.get(number)
        if settlement is not None:
            page.append(PutAside(number, damage, since_ms, settlement.entry, settlement.time_ms))
            continue
        lists_only = number > 0 and all(what in LISTS for what in damage)
        whole = number > 0 and isinstance(reader.by_id(number), Stored)
        page.append(PutAside(number, damage, since_ms, lists_only=lists_only, whole=whole))
    return page
