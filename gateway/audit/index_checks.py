"""The tables that the gateway finds transactions by, held against the transactions' rows.

What is gone from `owing` or `unsettled` is never sent; what is gone from the lookup tables can be charged again. Four
bytes for each entry, in temporary files, say in which of the tables a transaction belongs and in which it was met. Of
what each table should hold, and does hold, there is a sum, so that a row with a wrong hash or place shows as well. The
hashes are keyed: without the keys only ids are compared, at first by a sum that the database makes; its factors are
drawn anew for each reading, so that nobody can make other ids fit. What is in quarantine, or told of already, is left
out. Of transactions behind `head.indexed` the tables may have some rows, the right ones: they go there in slices.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import lru_cache
from struct import Struct
from typing import Any, Final

import msgspec

from gateway.audit.damage import Damage, Findings
from gateway.audit.standings import Standings
from gateway.core.lifecycle import FINAL, REPLAYABLE, State
from gateway.journal.batch import RECENT_MAX
from gateway.journal.groups import batch_numbers, batch_of, terminal_number
from gateway.journal.log_reader import LogDamaged, LogReader
from gateway.journal.rows import TAG_BYTES, Row, RowCodec
from gateway.journal.schema import Head

TABLES: Final = {
    "by_key": (1, 256, "hash, id"),
    "by_key_again": (2, 512, "hash, id"),
    "by_batch": (4, 0, "hash, id"),
    "by_batch_again": (8, 0, "hash, id"),
    "by_terminal": (16, 32, "hash, id"),
    "owing": (64, 0, "lane, place, id"),
    "unsettled": (128, 0, "state, id"),
}
"""Which bit stands for a table, which for a second row of one transaction in it, and its columns. by_terminal has two
of each; the tables by key have two where it has a second key."""

_BITS: Final = Struct("=H")
_KEYS: Final = 3
_BATCHES: Final = 12
_TERMINALS: Final = 48
_OWING: Final = 64
_UNSETTLED: Final = 128
_SECOND_KEYS: Final = 768
_LEFT_OUT: Final = 1  # no transaction belongs in by_key alone
_QUEUE: Final = _OWING | _UNSETTLED
_CHUNK: Final = 4096
_UNINDEXED_MAX: Final = 16 * RECENT_MAX
_LETS_GO_EVERY: Final = 1 << 16

_decode: Final = msgspec.msgpack.Decoder(Row).decode
_OF_STATE: Final = (
    0,
    *((0 if state in FINAL else _UNSETTLED) | (_OWING if state in REPLAYABLE else 0) for state in sorted(State)),
)
_PRIMES: Final = (2_147_483_647, 2_147_483_629, 2_147_483_587)


class IndexChecks:
    """Takes each row, then reads the tables once."""

    def __init__(
        self, reader: LogReader, findings: Findings, size: int, head: Head | None, codec: RowCodec | None
    ) -> None:
        """`head` is the journal's own, None where there is none: what is not in the tables yet cannot be told then."""
        self._reader = reader
        self._findings = findings
        self._size = size
        self._head = head
        self._codec = codec
        self._indexed = min(head.indexed, size) if head is not None else size
        self._belongs = Standings(size, _BITS)
        try:
            self._in_tables = Standings(size, _BITS)
        except BaseException:
            self._belongs.close()
            raise
        self._expected = memoryview(self._belongs.memory).cast("H")
        self._met = memoryview(self._in_tables.memory).cast("H")
        self._seed = secrets.randbits(62)
        self._sums = dict.fromkeys(TABLES, 0)
        self._factors = (secrets.randbelow(1 << 30) + (1 << 30), secrets.randbelow(1 << 30) + (1 << 30))
        self._every: list[int] = []
        self._early: set[tuple[str, tuple[Any, ...]]] = set()
        self._unbatched = [0, 0]
        self._named_twice = [0, 0]
        if codec is not None:
            self._numbers_of_batch = lru_cache(1 << 14)(lambda batch: batch_numbers(codec, batch))
            self._number_of_terminal = lru_cache(1 << 16)(lambda name, stan: terminal_number(codec, name, stan))

    def close(self) -> None:
        """Give everything back."""
        for view, standings in ((self._expected, self._belongs), (self._met, self._in_tables)):
            view.release()  # a mapped file that is looked into cannot be closed
            standings.close()

    def leave_out(self, number: int) -> None:
        """Nothing is known of where a transaction belongs, or it was told of already."""
        if 0 < number <= self._size:
            self._expected[number] = _LEFT_OUT

    def expect(self, row: Row) -> None:
        """Take in a row that is right."""
        number = row.id
        expected = _OF_STATE[row.state]
        if number <= self._indexed:
            expected |= _KEYS | _TERMINALS
            if row.alias:
                expected |= _SECOND_KEYS
                self._count(self._named_twice, number)
            if row.key.count("|") > 2:  # as batch_of, in less time
                expected |= _BATCHES
            else:
                self._count(self._unbatched, number)
        elif number - self._indexed <= _UNINDEXED_MAX:
            self._may_have(row, expected)
            expected = 0
        else:
            expected = 0
        self._expected[number] = expected
        if self._codec is not None or expected & _QUEUE:
            for table, values in self._rows_of(row, expected):
                self._sums[table] += hash((self._seed, *values))

    def _count(self, mixed: list[int], number: int) -> None:
        """Take a transaction into a count and a sum of the kind that the database makes (`_fits`)."""
        one, other = self._factors
        first, second, third = _PRIMES
        mixed[0] += 1
        mixed[1] += (number * one % first) * (number * other % second) % third

    def _may_have(self, row: Row, expected: int) -> None:
        """Keep what the tables may already have of a row whose transaction is not indexed yet."""
        expected = expected | _KEYS | _TERMINALS
        if row.alias:
            expected |= _SECOND_KEYS
        if batch_of(row.key):
            expected |= _BATCHES
        if self._codec is not None:
            self._early.update(self._rows_of(row, expected))
            return
        for table, (bit, _, _) in TABLES.items():  # without the keys no hashes, and so ids alone
            if expected & bit & ~_QUEUE:
                self._early.add((table, (row.id,)))
        self._early.update(self._rows_of(row, expected & _QUEUE))

    def _is_early(self, table: str, row: tuple[Any, ...]) -> bool:
        """Whether a table's row is one that a slice has put there before `head.indexed` tells of it."""
        whole = self._codec is not None or bool(TABLES[table][0] & _QUEUE)
        return (table, tuple(row) if whole else (row[-1],)) in self._early

    def _fits(self, table: str) -> bool:
        """Whether a lookup table has the ids that it should, each as often as it should."""
        one, other = self._factors
        first, second, third = _PRIMES
        mix = f"count(*), coalesce(sum((id * {one} % {first}) * (id * {other} % {second}) % {third}), 0)"
        if not self._every:
            sql = f"SELECT {mix} FROM tx WHERE id BETWEEN 1 AND ?"  # noqa: S608 - our own
            self._every = list(next(self._reader.select(sql, self._indexed)))
        wanted = [2 * each for each in self._every] if table == "by_terminal" else self._every
        if table.startswith("by_batch"):
            wanted = [each - less for each, less in zip(wanted, self._unbatched, strict=True)]
        if table.startswith("by_key"):
            wanted = [each + more for each, more in zip(wanted, self._named_twice, strict=True)]
        return list(next(self._reader.select(f"SELECT {mix} FROM {table}"))) == wanted  # noqa: S608 - our own

    def _rows_of(self, row: Row, expected: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """What the tables have of a transaction, as far as that can be known."""
        number = row.id
        if expected & _OWING:
            yield "owing", (row.lane.encode(), row.place, number)
        if expected & _UNSETTLED:
            yield "unsettled", (int(row.state), number)
        if self._codec is None or not expected & _KEYS:
            return
        for key in row.keys:
            first, second = self._codec.key_hashes(key)
            yield "by_key", (first, number)
            yield "by_key_again", (second, number)
        if expected & _BATCHES:
            first, second = self._numbers_of_batch(batch_of(row.key))
            yield "by_batch", (first, number)
            yield "by_batch_again", (second, number)
        yield "by_terminal", (self._number_of_terminal(row.terminal, ""), number)
        yield "by_terminal", (self._number_of_terminal(row.terminal, row.stan or row.sent_stan), number)

    def run(self, tell: Callable[[str], None]) -> None:
        """Read the tables and name what is missing and what is foreign; `tell` is given each table's name."""
        self._quarantine()
        if self._head is not None and self._size - self._indexed > _UNINDEXED_MAX:
            text = f"the head says that only transactions up to {self._indexed} are in the lookup tables"
            self._findings.add(Damage.LOOKUP, text)
        unread = 0
        differ = []
        for table, (bit, second, columns) in TABLES.items():
            tell(f"table {table}")
            if self._head is None:
                unread |= bit | second
                continue
            try:
                if self._codec is None and not bit & _QUEUE and self._fits(table):
                    unread |= bit | second
                elif self._table(table, bit, second, columns) != self._sums[table]:
                    differ.append(table)
            except LogDamaged:
                unread |= bit | second
                self._findings.add(Damage.UNREADABLE, f"table {table} cannot be read")
        self._missing(unread)
        self._wrong([table for table in differ if not unread & TABLES[table][0]])

    def _quarantine(self) -> None:
        """What was put aside left the queue on purpose; the head counts how many there are."""
        found = 0
        try:
            for (number,) in self._reader.select("SELECT id FROM quarantine"):
                found += 1
                if isinstance(number, int):
                    self.leave_out(number)
        except LogDamaged:
            self._findings.add(Damage.UNREADABLE, "table quarantine cannot be read")
            return
        if self._head is not None and found != self._head.quarantined:
            text = f"{found} records are in quarantine, the journal's head counts {self._head.quarantined}"
            self._findings.add(Damage.QUEUE, text)

    def _table(self, table: str, bit: int, second: int, columns: str) -> int:
        """Note who is met in a table, and tell of the foreign; the sum of its rows, where one can be compared."""
        expected, met, size, seed = self._expected, self._met, self._size, self._seed
        summing = self._codec is not None or bool(bit & _QUEUE)
        total = since = 0
        # Without sums only ids matter: fewer values to make of each row.
        for row in self._reader.select(f"SELECT {columns if summing else 'id'} FROM {table}"):  # noqa: S608 - our own
            number = row[-1]
            if type(number) is not int or not 0 < number <= size or not expected[number] & bit:
                if not self._early or not self._is_early(table, row):
                    self._foreign(table, number)
            elif not met[number] & bit:
                met[number] |= bit
                if summing:
                    total += hash((seed, *row))
            elif expected[number] & second & ~met[number]:
                met[number] |= second
                if summing:
                    total += hash((seed, *row))
            else:
                self._foreign(table, number)
            since += 1
            if since == _LETS_GO_EVERY:
                since = 0
                self._in_tables.let_go(number if isinstance(number, int) else 0)
        return total

    def _foreign(self, table: str, number: object) -> None:
        known = number if type(number) is int and 0 < number <= self._size else 0
        if known and self._expected[known] == _LEFT_OUT:
            return
        kind = Damage.QUEUE if TABLES[table][0] & _QUEUE else Damage.LOOKUP_FOREIGN
        text = f"table {table} has a row of it that does not belong there"
        self._findings.add(kind, text if known else f"table {table} has a row of no transaction", transaction=known)

    def _missing(self, unread: int) -> None:
        for start in range(0, self._size + 1, _CHUNK):
            expected = self._expected[start : start + _CHUNK]
            met = self._met[start : start + _CHUNK]
            if expected == met:
                continue
            for place, (one, other) in enumerate(zip(expected, met, strict=True)):
                lacks = one & ~other & ~unread
                if lacks and one != _LEFT_OUT:
                    self._tell_missing(start + place, lacks)

    def _tell_missing(self, number: int, lacks: int) -> None:
        for table, (bit, second, _) in TABLES.items():
            if lacks & (bit | second):
                kind = Damage.QUEUE if bit & _QUEUE else Damage.LOOKUP
                self._findings.add(kind, f"table {table} lacks it", transaction=number)

    def _wrong(self, tables: list[str]) -> None:
        """Name the rows of these tables that have another hash, lane, place or state than they should."""
        if not tables:
            return
        for number, row in self._whole_rows():
            expected = self._expected[number]
            if expected == _LEFT_OUT:
                continue
            for table, values in self._rows_of(row, expected):
                bit, second, columns = TABLES[table]
                if table not in tables or (expected & ~self._met[number]) & (bit | second):
                    continue  # right, or told of already as missing
                where = " AND ".join(f"{column} = ?" for column in columns.split(", "))
                sql = f"SELECT 1 FROM {table} WHERE {where}"  # noqa: S608 - our own
                try:
                    found = any(self._reader.select(sql, *values))
                except LogDamaged:  # read from end to end it could be, and a search in it cannot
                    tables.remove(table)
                    self._findings.add(Damage.UNREADABLE, f"table {table} cannot be searched")
                    continue
                if not found:
                    kind = Damage.QUEUE if bit & _QUEUE else Damage.LOOKUP
                    self._findings.add(kind, f"table {table} has it at a wrong place", transaction=number)

    def _whole_rows(self) -> Iterator[tuple[int, Row]]:
        try:
            for number, stored in self._reader.select(
                "SELECT id, row FROM tx WHERE id BETWEEN 1 AND ? ORDER BY id", self._size
            ):
                try:
                    yield number, _decode(stored[:-TAG_BYTES])
                except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
                    continue  # told of already
        except LogDamaged:
            return  # told of already
