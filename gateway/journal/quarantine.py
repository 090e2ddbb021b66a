"""Quarantine: damaged records are put aside, for a person, and out of the way of the rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from gateway.core.events import Damaged
from gateway.core.lifecycle import FINAL, State
from gateway.journal.bulk import select_in
from gateway.journal.draft import Draft
from gateway.journal.newest import Newest
from gateway.journal.reading import Damage, RecordDamaged, RecordReader
from gateway.journal.rows import Row

_UNSETTLED = tuple(sorted(int(state) for state in set(State) - FINAL))
LISTS: Final = ("queue", "lookup", "unsettled")
"""What is wrong where only a list is, and the record itself is whole: it stays in the queue."""

_LISTS: Final = "('queue', 'lookup', 'unsettled')"

_TAKEN_OUT: Final = f"SELECT id FROM quarantine WHERE what NOT IN {_LISTS} AND"  # noqa: S608 - our own words
# Once for each transaction, however many of its checks fail, and once before that where only lists of it were wrong.
# What belongs to none has id 0.
_PUT_ASIDE: Final = (
    "INSERT INTO quarantine (id, what, time_ms) SELECT ?1, ?2, ?3 WHERE NOT EXISTS "  # noqa: S608 - our own words
    "(SELECT 1 FROM quarantine WHERE id = ?1 AND "
    f"(what = ?2 OR (id > 0 AND (what NOT IN {_LISTS} OR ?2 IN {_LISTS}))))"
)


def taken_out(connection: sqlite3.Connection, after_id: int = 0) -> frozenset[int]:
    """Transactions behind `after_id` that were put aside and left the queue, not those where only a list was wrong."""
    found = connection.execute(f"{_TAKEN_OUT} id > ?", (after_id,))
    return frozenset([number for (number,) in found if isinstance(number, int)])


def brought_back(connection: sqlite3.Connection, draft: Draft) -> set[int]:
    """Transactions that were put aside, and that a draft counts, lists and lets owe again.

    These are changed by it though their rows are damaged, or come into another state. They were put aside by the
    draft's own commit at the latest, and have not come into another state since.
    """
    if not draft.head.quarantined:
        return set()
    back, was = set[int](), dict[int, State]()
    for number, row in draft.before.items():
        if number in draft.rows:
            if row is None:
                back.add(number)
            elif row.state not in FINAL and row.state is not draft.rows[number].state:
                was[number] = row.state
    listed = "SELECT 1 FROM unsettled WHERE state = ? AND id = ?"
    for (number,) in select_in(connection, f"{_TAKEN_OUT} id IN", [*was]):
        if connection.execute(listed, (int(was[number]), number)).fetchone() is None:
            back.add(number)
    return back


def put_aside(
    connection: sqlite3.Connection, reader: RecordReader, newest: Newest, draft: Draft, damages: Sequence[Damage]
) -> list[Damaged]:
    """Put damaged records in quarantine, within the commit of the caller; those that are new there.

    Each is reported once, or twice where only a list of it was wrong at first. It leaves the queue, so that the rest
    goes on.

    Args:
        newest: as it is before the commit.
    """
    reported = []
    execute = connection.execute
    for damage in damages:
        if execute(_PUT_ASIDE, (damage.id, damage.what, draft.now_ms)).rowcount:
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
