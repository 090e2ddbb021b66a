"""Which keys what is owed still needs: asked before a key is destroyed."""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.core.lifecycle import FINAL, State
from gateway.journal.bulk import select_in
from gateway.journal.port import JournalUnreadable, KeyNeeds
from gateway.journal.quarantine import taken_out
from gateway.journal.rows import RowCodec, RowDamaged
from gateway.journal.schema import newest_head
from gateway.journal.sealing import SENSITIVE_PART
from gateway.journal.settled_damage import settled
from protocol.journal_entry import EntryError, decode_parts
from protocol.transparency.tree import leaf_hash

_OPEN = tuple(sorted(set(State) - FINAL))
_DAMAGED: Final = "the list of unsettled transactions is damaged: no key may be destroyed by it"
_NO_EPOCH: Final = "no key of sensitive data may be destroyed by it"
_NAMED_MAX: Final = 100
"""So many in quarantine are named; more than a person looks at."""


def read_key_needs(connection: sqlite3.Connection, codec: RowCodec) -> KeyNeeds:
    """Within one snapshot. Costs what is unsettled, what is new and what is damaged, not what the journal has.

    Raises:
        JournalUnreadable: what lists the unsettled does not have as many as the head counts: one of them may be hidden
            by damage, and nothing may be destroyed on the word of such a list. Or an entry that would say which key
            has sealed sensitive data is damaged.
    """
    aside = sorted(taken_out(connection) - settled(connection))
    kept = select_in(connection, "SELECT sequence FROM sensitive WHERE sequence IN", aside)
    return KeyNeeds(
        oldest_unsettled=_oldest_unsettled(connection, codec),
        oldest_quarantined=_oldest_quarantined(connection, codec, aside),
        sensitive=oldest_by_key(connection),
        sensitive_quarantined=sorted(number for (number,) in kept)[:_NAMED_MAX],
    )


def _oldest_unsettled(connection: sqlite3.Connection, codec: RowCodec) -> int:
    head = newest_head(connection, codec)
    if head is None:
        raise JournalUnreadable(_DAMAGED)
    aside = taken_out(connection, head.indexed)
    counts, oldest = dict.fromkeys(_OPEN, 0), []
    for state in _OPEN:
        listed = "SELECT count(*), min(id) FROM unsettled WHERE state = ? AND id <= ?"
        count, first = connection.execute(listed, (int(state), head.indexed)).fetchone()
        counts[state] += count
        oldest += [first] if count else []
        for number in aside:  # of the newest, only these are listed in the table and nowhere else
            one = "SELECT 1 FROM unsettled WHERE state = ? AND id = ?"
            if connection.execute(one, (int(state), number)).fetchone() is not None:
                counts[state] += 1
                oldest.append(number)
    for number, packed in connection.execute("SELECT id, row FROM tx WHERE id > ?", (head.indexed,)).fetchall():
        if number in aside:
            continue
        try:
            state = codec.unpack(number, packed).state
        except RowDamaged:
            raise JournalUnreadable(_DAMAGED) from None
        if state in counts:
            counts[state] += 1
            oldest.append(number)
    if any(counts[state] != head.counts[state] for state in _OPEN):
        raise JournalUnreadable(_DAMAGED)
    return min(oldest, default=0)


def _oldest_quarantined(connection: sqlite3.Connection, codec: RowCodec, aside: list[int]) -> int:
    """Of the open ones in quarantine, the first that its own row does not say to be final; 0 where there is none."""
    for number in aside:
        found = connection.execute("SELECT row FROM tx WHERE id = ?", (number,)).fetchone()
        try:
            if found is None or codec.unpack(number, found[0]).state not in FINAL:
                return number
        except RowDamaged:
            return number
    return 0


def oldest_by_key(connection: sqlite3.Connection) -> dict[int, int]:
    """By id of each key that has sealed sensitive data which is kept: the oldest entry of that.

    Ids do not fall from one entry to the next: a key that is taken into use is newer than all before it. So where the
    data of the next key begins is found by halving, which costs the number of keys and not what is kept.

    Raises:
        JournalUnreadable: an entry that is asked for it does not say its key, or says an older one than those before.
    """
    (first,) = connection.execute("SELECT min(sequence) FROM sensitive").fetchone()
    (last,) = connection.execute("SELECT max(sequence) FROM sensitive").fetchone()
    if first is None:
        return {}
    newest, found = _sealed_with(connection, last), dict[int, int]()
    while (key := _sealed_with(connection, first)) != newest:
        _refuse_fall(key, newest, last)
        found[key] = first
        low, high, above = first, last, newest  # `low` is sealed with `key`, `high` with `above`
        while low != high:
            middle = _kept_between(connection, low, high)
            if middle == high:
                low = first = high
            elif (sealed_with := _sealed_with(connection, middle)) == key:
                low = middle
            else:
                _refuse_fall(key, sealed_with, middle)
                _refuse_fall(sealed_with, above, high)
                high, above = middle, sealed_with
    found[newest] = first
    return found


def _kept_between(connection: sqlite3.Connection, low: int, high: int) -> int:
    """Of what is kept behind `low`, one near the middle; `high` where there is no other before it."""
    half = (low + high) // 2
    (middle,) = connection.execute("SELECT max(sequence) FROM sensitive WHERE sequence <= ?", (half,)).fetchone()
    if middle == low:
        (middle,) = connection.execute("SELECT min(sequence) FROM sensitive WHERE sequence > ?", (half,)).fetchone()
    return int(middle)


def _refuse_fall(key: int, later: int, sequence: int) -> None:
    if later < key:
        raise JournalUnreadable(f"entry {sequence} names an older key than those before it: {_NO_EPOCH}")


def _sealed_with(connection: sqlite3.Connection, sequence: int) -> int:
    """The id of the key that the sensitive part of an entry is sealed with."""
    found = connection.execute("SELECT body, leaf FROM entry WHERE sequence = ?", (sequence,)).fetchone()
    try:
        if found is not None and isinstance(found[0], bytes) and leaf_hash(found[0]) == found[1]:
            said_sequence, _, parts = decode_parts(found[0])
            if said_sequence == sequence:
                return next(part.key_id for part in parts if part.part == SENSITIVE_PART)
    except (EntryError, StopIteration):
        pass
    raise JournalUnreadable(f"entry {sequence} is damaged, or has no sensitive part that could be kept: {_NO_EPOCH}")
