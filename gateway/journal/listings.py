"""Reading many transactions, each verified: an operator's or a till's listing in short steps, and a whole batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence, Set
from typing import Final

from gateway.core.events import BatchRead, Found, Lookup
from gateway.core.lifecycle import FINAL
from gateway.core.transaction import Stored, Transaction
from gateway.journal.groups import batch_numbers, batch_of, terminal_number
from gateway.journal.newest import Newest
from gateway.journal.port import BATCH_TRANSACTIONS_MAX, Listing
from gateway.journal.quarantine import taken_out
from gateway.journal.reading import Damage, RecordDamaged, RecordReader
from gateway.journal.rows import Row, RowCodec, RowDamaged

SCANNED_ROWS_MAX: Final = 512
"""Rows that one hop of a listing looks at, so that a listing over a long journal never holds up a lookup."""


_NEWEST_LOOKED_AT: Final = 64
"""Transactions of a terminal among which its batch is looked for."""


def goes_by_unsettled(listing: Listing) -> bool:
    """Whether a listing goes by what is not final."""
    return bool(listing.states) and not listing.states & FINAL


class Listings:
    """Reads through `records`, which notes what is damaged."""

    def __init__(self, records: RecordReader, codec: RowCodec) -> None:
        self._records = records
        self._codec = codec

    def step(
        self, listing: Listing, after_id: int, newest: Sequence[int] = (), unsettled: Sequence[int] = ()
    ) -> tuple[list[Transaction], int]:
        """One step of a listing: what fits among the next rows, and where the next step begins (0: at the end).

        What is listed by state goes by the unsettled ones where those are few, else by the terminal where one is
        given, else by the rows in order: a listing of a terminal never reads more than that terminal has.

        Args:
            newest: ids of the terminal's that are in no table yet.
            unsettled: ids of those in the states that are asked for, where none of these is final.
        """
        numbers: list[int] | None = None
        if goes_by_unsettled(listing):
            numbers = self._records.unsettled(listing.states, after_id, SCANNED_ROWS_MAX, unsettled)
        if listing.terminal and (numbers is None or len(numbers) == SCANNED_ROWS_MAX):
            numbers = self._of_terminal(listing, after_id, newest)
        if numbers is None:
            rows, numbers = self._scanned(after_id)
        else:
            rows = self._named(numbers)
        found = [transaction for row in rows if _fits(transaction := row.transaction(), listing)]
        return found, numbers[-1] if len(numbers) == SCANNED_ROWS_MAX else 0

    def _of_terminal(self, listing: Listing, after_id: int, newest: Sequence[int]) -> list[int]:
        found = self._records.select(
            0,
            "SELECT id FROM by_terminal WHERE hash = ? AND id > ? ORDER BY id LIMIT ?",
            terminal_number(self._codec, listing.terminal, listing.stan),
            after_id,
            SCANNED_ROWS_MAX,
        )
        numbers = {each for (each,) in found if isinstance(each, int)}
        numbers.update(each for each in newest if each > after_id)
        return sorted(numbers)[:SCANNED_ROWS_MAX]

    def _scanned(self, after_id: int) -> tuple[list[Row], list[int]]:
        """The next rows in the order of ids, and the ids looked at."""
        scanned = self._records.select(
            0, "SELECT id, row FROM tx WHERE id > ? ORDER BY id LIMIT ?", after_id, SCANNED_ROWS_MAX
        )
        rows, numbers = [], []
        for number, packed in scanned:
            if not isinstance(number, int):
                continue
            numbers.append(number)
            try:
                rows.append(self._codec.unpack(number, packed))
            except RowDamaged as error:
                self._records.note_record(RecordDamaged(number, str(error)))
        return rows, numbers

    def _named(self, numbers: Sequence[int]) -> list[Row]:
        rows = []
        for number in numbers:
            try:
                row = self._records.row_created(number)
            except RecordDamaged as damaged:
                self._records.note_record(damaged)
                continue
            if row is None:
                self._records.note(Damage(number, "lookup"))
            else:
                rows.append(row)
        return rows

    def batch(self, token: int, batch: str, newest: Sequence[int]) -> BatchRead:
        """What FetchBatch is told.

        Both tables are asked: a flipped bit hides a transaction from one of them at most.

        Args:
            newest: ids of the batch's that are in no table yet.
        """
        records = self._records
        try:
            first, second = self._listed(batch)
        except RecordDamaged as damaged:
            records.note_record(damaged)
            return BatchRead(token, (), whole=False)
        certain = (first & second).union(newest)
        stored: list[Stored] = []
        whole = True
        for number in sorted(first | second | certain):
            try:
                row = self._member(number, batch, certain)
                if row is None:
                    continue
                if len(stored) == BATCH_TRANSACTIONS_MAX:
                    whole = False
                    break
                stored.append(records.stored(row))
            except RecordDamaged as damaged:
                records.note_record(damaged)
                whole = False
        return BatchRead(token, tuple(stored), whole)

    def newest(self, token: int, lane: str, newest: Sequence[int]) -> Found:
        """What FindNewest is told.

        Args:
            newest: ids of the terminal's that are in no table yet.
        """
        records = self._records
        number = terminal_number(self._codec, lane.partition("|")[2])
        query = "SELECT id FROM by_terminal WHERE hash = ? ORDER BY id DESC LIMIT ?"
        try:
            listed = records.select(0, query, number, _NEWEST_LOOKED_AT)
        except RecordDamaged as damaged:
            records.note_record(damaged)
            return Found(token, (Lookup.DAMAGED,))
        numbers = {each for (each,) in listed if isinstance(each, int)}.union(sorted(newest)[-_NEWEST_LOOKED_AT:])
        for each in sorted(numbers, reverse=True):
            try:
                row = records.row_created(each)
                if row is not None and _names_batch(row, lane):
                    return Found(token, (records.stored(row),))
            except RecordDamaged as damaged:
                records.note_record(damaged)
        return Found(token, (Lookup.ABSENT,))

    def _listed(self, batch: str) -> tuple[set[int], set[int]]:
        """What each of the two tables lists of a batch; the other one's where a page of one cannot be read.

        Raises:
            RecordDamaged: neither can be read.
        """
        readable: list[set[int]] = []
        for table, number in zip(("by_batch", "by_batch_again"), batch_numbers(self._codec, batch), strict=True):
            query = f"SELECT id FROM {table} WHERE hash = ? ORDER BY id LIMIT ?"  # noqa: S608 - our own names
            try:
                found = self._records.select(0, query, number, BATCH_TRANSACTIONS_MAX + 1)
                readable.append({each for (each,) in found if isinstance(each, int)})
            except RecordDamaged:
                self._records.note(Damage(0, f"lookup page of {table}"))
        if not readable:
            raise RecordDamaged(0, "lookup page")
        return readable[0], readable[-1]

    def _member(self, number: int, batch: str, certain: Set[int]) -> Row | None:
        """The row of a transaction that is listed, None if it is not of this batch; a wrong place is noted.

        Raises:
            RecordDamaged: it may be of this batch and cannot be read.
        """
        row = self._records.row_created(number)
        if row is None and number in certain:
            raise RecordDamaged(number, "row missing")
        belongs = row is not None and batch_of(row.key) == batch
        if (
            row is None
            or (belongs and number not in certain and not self._records.on_its_way(number))
            or (not belongs and not self._collides(row, batch))
        ):
            self._records.note(Damage(number, "lookup"))
        return row if belongs else None

    def _collides(self, row: Row, batch: str) -> bool:
        """Whether a row is rightly listed under the number of a batch that is not its own."""
        own = batch_numbers(self._codec, batch_of(row.key))
        return any(one == other for one, other in zip(own, batch_numbers(self._codec, batch), strict=True))


def _names_batch(row: Row, lane: str) -> bool:
    return row.key.startswith("B") and row.transaction().lane == lane


def _fits(transaction: Transaction, listing: Listing) -> bool:
    return (
        (not listing.states or transaction.state in listing.states)
        and (not listing.lane or transaction.lane == listing.lane)
        and (not listing.terminal or transaction.terminal == listing.terminal)
        and (not listing.stan or transaction.sent_stan == listing.stan)
    )


def newest_of(connection: sqlite3.Connection, records: RecordReader, codec: RowCodec, indexed: int) -> Newest:
    """What the tables of groups and `unsettled` lack, from the rows themselves.

    For who reads a journal that another one writes, or that a crash has left.
    """
    newest = Newest(codec)
    newest.put_aside(taken_out(connection, indexed))
    for number, packed in records.select(0, "SELECT id, row FROM tx WHERE id > ? ORDER BY id", indexed):
        if isinstance(number, int):
            try:
                newest.add_row(codec.unpack(number, packed))
            except RowDamaged as error:
                records.note_record(RecordDamaged(number, str(error)))
    return newest
