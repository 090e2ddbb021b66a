"""A draft goes into the tables: few statements, each over many rows, within the commit of the caller."""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.core.lifecycle import FINAL, REPLAYABLE, State
from gateway.journal.bulk import insert_rows
from gateway.journal.draft import Draft
from gateway.journal.log_tree import insert_subtrees
from gateway.journal.quarantine import brought_back
from gateway.journal.rows import RowCodec
from protocol.transparency.tree import Frontier

_REPLACING = "ON CONFLICT (id) DO UPDATE SET row = excluded.row"
_INSERT_ROW = "INSERT INTO tx (id, row) VALUES"
_UNSETTLED: Final = {state: state.value for state in State if state not in FINAL}
"""Number of each state that is not final, as a plain one (bulk.py)."""


def write_entries(connection: sqlite3.Connection, draft: Draft, frontier: Frontier) -> Frontier:
    """Write what is logged, and the tree over it; the head of the draft gets the frontier that is returned."""
    insert_rows(connection, "INSERT INTO entry (sequence, body, leaf, account) VALUES", 4, draft.entries)
    if draft.sensitive:
        insert_rows(connection, "INSERT INTO sensitive (sequence, ciphertext) VALUES", 2, draft.sensitive)
    if draft.gone:
        connection.executemany("DELETE FROM sensitive WHERE sequence = ?", draft.gone)
    grown, levels = frontier.append(draft.leaves)
    insert_subtrees(connection, frontier.size, levels)
    draft.head.frontier = grown.encode()
    return grown


def write_rows(connection: sqlite3.Connection, codec: RowCodec, draft: Draft) -> None:
    """Write the next row of each transaction, and bring `owing` and `unsettled` in step with them."""
    pack, before = codec.pack, draft.before
    created: list[tuple[int, bytearray]] = []
    changed: list[tuple[int, bytearray]] = []
    for number, row in draft.rows.items():
        (changed if number in before else created).append((number, bytearray(pack(row))))
    if created:
        insert_rows(connection, _INSERT_ROW, 2, created)
    if changed:
        insert_rows(connection, _INSERT_ROW, 2, changed, _REPLACING)
        draft.back = brought_back(connection, draft)
        _write_queue(connection, draft)
        _write_unsettled(connection, draft)


def _write_queue(connection: sqlite3.Connection, draft: Draft) -> None:
    """What the draft changes in `owing`.

    What the newest transactions owe is in memory until they leave for the tables (newest.py). It is deleted from the
    table all the same if a crash between two slices may have left it there.
    """
    owes, owed = [], []
    for number, was in draft.before.items():
        row = draft.rows.get(number)
        if row is None or number > draft.listed:
            continue
        was_place = was.place if was is not None and was.state in REPLAYABLE else None
        now_place = row.place if row.state in REPLAYABLE else None
        if was_place == now_place and number not in draft.back:
            continue
        if was is not None and was_place is not None:
            owed.append((was.lane.encode(), was_place, number))
        if now_place is not None and number <= draft.queued:
            owes.append((row.lane.encode(), now_place, number))
    if owed:
        connection.executemany("DELETE FROM owing WHERE lane = ? AND place = ? AND id = ?", owed)
    if owes:
        insert_rows(connection, "INSERT OR IGNORE INTO owing (lane, place, id) VALUES", 3, owes)


def _write_unsettled(connection: sqlite3.Connection, draft: Draft) -> None:
    """What the draft changes in `unsettled`, as `_write_queue`; its counts of what comes back are put right."""
    opens, closes = [], []
    for number, was in draft.before.items():
        row = draft.rows.get(number)
        if row is None or (number > draft.listed and number not in draft.aside):
            continue
        then = None if was is None else _UNSETTLED.get(was.state)
        now = _UNSETTLED.get(row.state)
        if then == now:
            continue
        if then is not None and number in draft.back:
            draft.head.counts[then] += 1  # counted down by the draft, and by whoever put it aside
        elif then is not None:
            closes.append((then, number))
        if now is not None and (number <= draft.queued or number in draft.aside):
            opens.append((now, number))
    if closes:
        connection.executemany("DELETE FROM unsettled WHERE state = ? AND id = ?", closes)
    if opens:
        insert_rows(connection, "INSERT OR IGNORE INTO unsettled (state, id) VALUES", 2, opens)
