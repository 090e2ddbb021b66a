"""Which keys what is owed still needs: asked before a key is destroyed."""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.core.lifecycle import FINAL, State
from gateway.journal.port import JournalUnreadable, KeyNeeds
from gateway.journal.quarantine import taken_out
from gateway.journal.rows import RowCodec, RowDamaged
from gateway.journal.schema import newest_head

_OPEN = tuple(sorted(set(State) - FINAL))
_DAMAGED: Final = "the list of unsettled transactions is damaged: no key may be destroyed by it"


def read_key_needs(connection: sqlite3.Connection, codec: RowCodec) -> KeyNeeds:
    """Within one snapshot. Costs what is unsettled and what is new, not what the journal has.

    Raises:
        JournalUnreadable: what lists the unsettled does not have as many as the head counts: one of them may be hidden
            by damage, and nothing may be destroyed on the word of such a list.
    """
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
    (sensitive,) = connection.execute("SELECT min(sequence) FROM sensitive").fetchone()
    return KeyNeeds(oldest_unsettled=min(oldest, default=0), oldest_sensitive=sensitive or 0)
