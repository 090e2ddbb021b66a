"""At a start: do the queue and the lookup tables have what the head counts? Costs the same however long the journal.

What is gone from `owing` or `unsettled` would never be booked: it is put back out of the rows of the transactions,
which carry a keyed tag. Keys that are gone from both lookup tables would be charged again (INV-2): with those the
journal is not opened. `audit verify` looks at every row of these tables.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gateway.core.lifecycle import FINAL, REPLAYABLE, State
from gateway.journal.bulk import insert_rows
from gateway.journal.newest import Newest
from gateway.journal.port import JournalUnreadable
from gateway.journal.quarantine import taken_out
from gateway.journal.reading import Damage, is_damage
from gateway.journal.rows import Row, RowCodec, RowDamaged
from gateway.journal.schema import Head

_LOG: Final = logging.getLogger("gateway.journal")

COUNTED_MAX: Final = 200_000
"""Rows of one state, and of the queue, that a start counts: bounds its time."""

SAMPLE: Final = 256
"""So many of the newest transactions, and so many spread over all, are looked up at a start."""

_STEP: Final = 1_024
_UNSETTLED: Final = tuple(sorted(set(State) - FINAL))
_LOST: Final = Damage(0, "queue: it has fewer transactions than the head counts")


class QueueCheck:
    """Compares `unsettled` and `owing` with the head, and puts back what is missing."""

    def __init__(self, connection: sqlite3.Connection, codec: RowCodec, head: Head) -> None:
        self._connection = connection
        self._codec = codec
        self._head = head

    def run(self, newest: Newest, newest_owing: int, unknown: int) -> list[Damage]:
        """Damage that could not be put right.

        Args:
            newest: transactions behind `head.indexed`, as they were read back: what of them is unsettled is not in
                the table yet, except for those in quarantine, which are nowhere else.
            newest_owing: transactions behind `head.indexed` that owe something: those are not in `owing` yet.
            unknown: transactions behind it whose rows cannot be read.
        Raises:
            JournalUnreadable: there is no room to put back what is missing.
        """
        later = {}
        try:
            for state in _UNSETTLED:
                later[state] = len(newest.unsettled({state})) + self._listed(state, newest.aside)
            owing, unsettled = self._lacking(later, newest_owing, unknown)
            if not owing and not unsettled:
                return []
            restored = self._restore(everything=unsettled)
            if restored:
                _LOG.error(
                    "%d rows were missing from the tables of what is owed and not settled, and were put back out of "
                    "their transactions: nothing is lost. Somebody or something has removed them: look after it, and "
                    "run `holdfast audit verify`.",
                    restored,
                )
            if not any(self._lacking(later, newest_owing, unknown)):
                return []
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise JournalUnreadable(
                    "rows of the queue are missing, and the disk is full, so that they cannot be put back: make room "
                    "and start again"
                ) from error
            if not is_damage(error):
                raise
            return [Damage(0, "page of the queue")]
        _LOG.error(
            "the queue has fewer transactions than the journal's head counts, and they could not all be put back: "
            "run `holdfast audit verify`, which names them"
        )
        return [_LOST]

    def _lacking(self, later: Mapping[State, int], newest_owing: int, unknown: int) -> tuple[bool, bool]:
        """Whether `owing` lacks something, and whether `unsettled` does."""
        # Of later ones a crash between two slices may have left some (newest.py): they are counted in memory.
        counts, indexed = self._head.counts, self._head.indexed
        unsettled = any(
            self._count("SELECT 1 FROM unsettled WHERE state = ? AND id <= ? LIMIT ?", int(state), indexed)
            < min(counts[state] - later[state], COUNTED_MAX)
            for state in _UNSETTLED
        )
        said = sum(counts[state] for state in REPLAYABLE) - newest_owing - unknown
        owing = self._count("SELECT 1 FROM owing WHERE id <= ? LIMIT ?", indexed) < min(said, COUNTED_MAX)
        return owing, unsettled

    def _listed(self, state: State, numbers: Iterable[int]) -> int:
        """How many of these transactions `unsettled` lists in this state."""
        select = "SELECT 1 FROM unsettled WHERE state = ? AND id = ? LIMIT ?"
        return sum(self._count(select, int(state), number) for number in numbers)

    def _count(self, select: str, *values: object) -> int:
        counting = f"SELECT count(*) FROM ({select})"  # noqa: S608 - our own words
        (count,) = self._connection.execute(counting, (*values, COUNTED_MAX)).fetchone()
        return int(count)

    def _restore(self, *, everything: bool) -> int:
        """Put back what rows say is owed or unsettled, in one commit; how many rows of the two tables that made."""
        execute = self._connection.execute
        # What was put aside left both tables on purpose, unless only a table's own row was wrong.
        aside = taken_out(self._connection)
        before = self._connection.total_changes
        execute("BEGIN IMMEDIATE")
        for rows in self._rows("SELECT id FROM tx" if everything else self._replayable()):
            wanted = [
                each
                for each in rows
                if each.id not in aside and each.state not in FINAL and each.id <= self._head.indexed
            ]
            unsettled = sorted((int(each.state), each.id) for each in wanted)
            owing = sorted((each.lane.encode(), each.place, each.id) for each in wanted if each.state in REPLAYABLE)
            insert_rows(self._connection, "INSERT OR IGNORE INTO unsettled (state, id) VALUES", 2, unsettled)
            insert_rows(self._connection, "INSERT OR IGNORE INTO owing (lane, place, id) VALUES", 3, owing)
        execute("COMMIT")
        return self._connection.total_changes - before

    @staticmethod
    def _replayable() -> str:
        states = ", ".join(str(int(state)) for state in sorted(REPLAYABLE))
        return f"SELECT id FROM unsettled WHERE state IN ({states})"  # noqa: S608 - our own numbers

    def _rows(self, numbers: str) -> Iterator[list[Row]]:
        """Whole rows of these transactions, in the order of ids, a few at a time."""
        sql = f"SELECT id, row FROM tx WHERE id > ? AND id IN ({numbers}) ORDER BY id LIMIT ?"  # noqa: S608 - our own
        if numbers == "SELECT id FROM tx":
            sql = "SELECT id, row FROM tx WHERE id > ? ORDER BY id LIMIT ?"
        after = 0
        while found := self._connection.execute(sql, (after, _STEP)).fetchall():
            rows = []
            for number, stored in found:
                try:
                    rows.append(self._codec.unpack(number, stored))
                except RowDamaged:
                    continue  # whoever reads it will say so
            yield rows
            after = found[-1][0]


class LookupCheck:
    """Looks up transactions that are in the lookup tables for certain."""

    def __init__(self, connection: sqlite3.Connection, codec: RowCodec, head: Head) -> None:
        self._connection = connection
        self._codec = codec
        self._head = head

    def run(self) -> list[Damage]:
        """Damage, one for each table that lacks some of them: each is still found through the other.

        Raises:
            JournalUnreadable: both tables lack one, so that a retry of it would pass for a new payment.
        """
        lacking = {"by_key": False, "by_key_again": False}
        damages: list[Damage] = []
        for row in self._sample():
            for key in row.keys:
                missing = []
                for table, hashed in zip(lacking, self._codec.key_hashes(key), strict=True):
                    try:
                        if not self._listed(table, hashed, row.id):
                            missing.append(table)
                    except sqlite3.Error as error:
                        if not is_damage(error):
                            raise
                        damages.append(Damage(0, f"lookup page of {table}"))
                if len(missing) == len(lacking):
                    raise JournalUnreadable(
                        f"the lookup tables by_key and by_key_again do not have transaction {row.id}, which was "
                        f"accepted: a retry of it would be charged again. Rows of them were removed. Keep the files as "
                        f"they are, run `holdfast audit verify` on them, which names what is missing, and restore the "
                        f"journal from a copy that is whole"
                    )
                for table in missing:
                    lacking[table] = True
        for table, lacks in lacking.items():
            if lacks:
                _LOG.error("the lookup table %s lacks transactions; they are still found through the other", table)
                damages.append(Damage(0, f"lookup rows of {table}"))
        return list(dict.fromkeys(damages))

    def _sample(self) -> Iterator[Row]:
        indexed = self._head.indexed
        sqls = [("SELECT id, row FROM tx WHERE id <= ? ORDER BY id DESC LIMIT ?", indexed, SAMPLE)]
        sqls += [
            ("SELECT id, row FROM tx WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1", start, indexed)
            for start in sorted({1 + indexed * place // SAMPLE for place in range(SAMPLE)})
        ]
        for sql, *values in sqls:
            try:
                found = self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                continue  # whoever reads it will say so
            for number, stored in found:
                try:
                    yield self._codec.unpack(number, stored)
                except RowDamaged:
                    continue

    def _listed(self, table: str, hashed: int, number: int) -> bool:
        sql = f"SELECT 1 FROM {table} WHERE hash = ? AND id = ?"  # noqa: S608 - our own names
        return self._connection.execute(sql, (hashed, number)).fetchone() is not None
