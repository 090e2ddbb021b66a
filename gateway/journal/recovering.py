"""What the last run had in memory is read back at the start: the newest transactions, and the counters' log."""

from __future__ import annotations

import sqlite3

from gateway.core.lifecycle import REPLAYABLE, State
from gateway.journal.counters import Counters
from gateway.journal.derived_checks import LookupCheck, QueueCheck
from gateway.journal.log_tree import stored_frontier
from gateway.journal.newest import Newest
from gateway.journal.port import JournalUnreadable
from gateway.journal.quarantine import taken_out
from gateway.journal.reading import Damage, RecordDamaged, RecordReader, is_damage
from gateway.journal.rows import RowCodec
from gateway.journal.schema import Head
from protocol.transparency.tree import Frontier, TreeError


def read_back(
    connection: sqlite3.Connection,
    codec: RowCodec,
    reader: RecordReader,
    head: Head,
    *,
    newest: Newest,
    counters: Counters,
) -> list[Damage]:
    """Fill `newest` and `counters`, which are empty, with what `head` does not claim to be in the tables.

    Returns:
        What was met damaged on the way, and in the tables that are derived from others.
    Raises:
        JournalUnreadable: neither entry nor row of a new transaction tells its key, or the lookup tables lack a
            key, so that a retry of it would pass for a new one.
    """
    damages = [*counters.recover(), *_unlike_head(connection, head)]
    try:
        newest.put_aside(taken_out(connection, head.indexed))
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        damages.append(Damage(0, "page of the quarantine"))
    owing = unknown = 0
    states: dict[int, int] = {}
    unread: list[int] = []
    for sequence in range(head.indexed + 1, head.sequence + 1):
        key = alias = ""
        try:
            entry, _ = reader.entry(sequence)
            states[entry.transaction] = entry.state
            if entry.transaction != sequence:
                continue
            key, alias = entry.key, entry.second_key
        except RecordDamaged as damaged:
            damages.append(Damage(sequence, damaged.what, removes=True))
        try:
            row = reader.row(sequence)
        except RecordDamaged as damaged:
            if not key:
                raise JournalUnreadable(f"entry and row {sequence} are both damaged: restore or repair") from None
            damages.append(Damage(sequence, damaged.what, removes=True))
            row = None
        if row is not None:
            newest.add_row(row)
            owing += row.state in REPLAYABLE
        elif key:
            newest.add_damaged(sequence, key, alias)
            unknown += 1
            unread.append(sequence)
    for number in unread:
        newest.stand(number, State(states[number]))  # so that it is missed by nobody who looks for it
    damages += LookupCheck(connection, codec, head).run()
    return damages + QueueCheck(connection, codec, head).run(newest, owing, unknown)


def _unlike_head(connection: sqlite3.Connection, head: Head) -> list[Damage]:
    """Damage of the stored hashes that the next root depends on, if they do not give the frontier of the head.

    The head's is tagged, and counts: what is signed next continues what was signed before.
    """
    try:
        if stored_frontier(connection, head.sequence) == Frontier.decode(head.frontier):
            return []
    except TreeError:
        pass
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    return [Damage(0, "stored hashes of the newest part of the tree")]
