"""Which keys what is owed still needs: asked before a key is destroyed."""

from __future__ import annotations

import sqlite3

from gateway.core.lifecycle import FINAL, State
from gateway.journal.port import JournalUnreadable, KeyNeeds
from gateway.journal.rows import RowCodec
from gateway.journal.schema import newest_head

_OPEN = tuple(sorted(set(State) - FINAL))


def read_key_needs(connection: sqlite3.Connection, codec: RowCodec) -> KeyNeeds:
    """Within one snapshot. Costs what is unsettled, not what the journal has.

    Raises:
        JournalUnreadable: what lists the unsettled does not have as many as the head counts: one of them may be hidden
            by damage, and nothing may be destroyed on the word of such a list.
    """
    head = newest_head(connection, codec)
    listed = connection.execute("SELECT state, count(*), min(id) FROM unsettled GROUP BY state").fetchall()
    numbers = {state: count for state, count, _ in listed}
    if head is None or any(numbers.get(int(state), 0) != head.counts[state] for state in _OPEN):
        raise JournalUnreadable("the list of unsettled transactions is damaged: no key may be destroyed by it")
    (sensitive,) = connection.execute("SELECT min(sequence) FROM sensitive").fetchone()
    return KeyNeeds(
        oldest_unsettled=min((oldest for _, _, oldest in listed), default=0), oldest_sensitive=sensitive or 0
    )
