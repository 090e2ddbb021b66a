"""Quarantine: damaged records are put aside, for a person, and out of the way of the rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.core.events import Damaged
from gateway.core.lifecycle import FINAL, State
from gateway.journal.draft import Draft
from gateway.journal.newest import Newest
from gateway.journal.reading import Damage, RecordDamaged, RecordReader
from gateway.journal.rows import Row

_UNSETTLED = tuple(sorted(int(state) for state in set(State) - FINAL))


def taken_out(connection: sqlite3.Connection, after_id: int = 0) -> frozenset[int]:
    """Transactions behind `after_id` that were put aside and left the queue, not those where only a list was wrong."""
    sql = "SELECT id FROM quarantine WHERE id > ? AND what NOT IN ('queue', 'lookup', 'unsettled')"
    return frozenset([number for (number,) in connection.execute(sql, (after_id,)) if isinstance(number, int)])


def put_aside(
    connection: sqlite3.Connection, reader: RecordReader, newest: Newest, draft: Draft, damages: Sequence[Damage]
) -> list[Damaged]:
    """Put damaged records in quarantine, within the commit of the caller; those that are new there.

    Each is reported once. It leaves the queue, so that the rest goes on.

    Args:
        newest: as it is before the commit.
    """
    reported = []
    execute = connection.execute
    for damage in damages:
        added = execute(
            # once for each transaction, however many of its checks fail; id 0 is what belongs to none
            "INSERT INTO quarantine (id, what, time_ms) SELECT ?1, ?2, ?3 WHERE NOT EXISTS "
            "(SELECT 1 FROM quarantine WHERE id = ?1 AND (id > 0 OR what = ?2))",
            (damage.id, damage.what, draft.now_ms),
        ).rowcount
        if added:
            draft.head.quarantined += 1
            reported.append(Damaged(damage.id, damage.what))
        if damage.owing is not None:
            execute("DELETE FROM owing WHERE lane = ? AND place = ? AND id = ?", damage.owing)
        if damage.belongs is not None:
            if damage.belongs.id <= draft.listed:  # else it is in memory, and nobody would take it out of the table
                _put_back(connection, reader, damage.belongs)
        elif damage.removes:
            known = None if damage.id in draft.aside else newest.state_of(damage.id)
            for state in _UNSETTLED:
                listed = execute("DELETE FROM unsettled WHERE state = ? AND id = ?", (state, damage.id)).rowcount
                draft.head.counts[state] -= bool(listed) or state == known
            draft.aside |= {damage.id}
    return reported


def _put_back(connection: sqlite3.Connection, reader: RecordReader, row: Row) -> None:
    """Restore the queue's entry of a row that is whole, unless it has moved on since it was read."""
    try:
        now = reader.row(row.id)
    except RecordDamaged:
        return
    if now == row:
        connection.execute(
            "INSERT OR IGNORE INTO owing (lane, place, id) VALUES (?, ?, ?)", (row.lane.encode(), row.place, row.id)
        )
