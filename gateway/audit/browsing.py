"""`audit log`: the entries that an auditor asks for, streamed. SQLite picks them by the bytes of the entry itself.

The offsets are those of protocol/journal_entry.py, counted from 1 as SQL does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.audit.entry_reports import EntryReport, entry_report, place_of
from gateway.core.lifecycle import EntryKind, State
from gateway.journal.log_reader import LogDamaged, LogEntry, LogReader
from protocol.journal_entry import EntryError, decode_entry

STEP: Final = 50_000
"""Entries that are looked through between two words about progress."""

KIND: Final = "substr(body, 2, 1)"
STATE: Final = "substr(body, 3, 1)"
TIME: Final = "substr(body, 12, 8)"
TRANSACTION: Final = "substr(body, 20, 8)"
AMOUNT: Final = "substr(body, 32, 8)"

Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries are wanted; what is None or empty is not asked.

    Attributes:
        since_ms, until_ms: UTC, both inclusive.
        amount_min, amount_max: minor units, both inclusive.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    terminal: str = ""
    states: frozenset[State] = frozenset()
    kinds: frozenset[EntryKind] = frozenset()
    amount_min: int | None = None
    amount_max: int | None = None

    def condition(self) -> tuple[str, list[object]]:
        """As SQL over `body`, and its values."""
        asked: list[str] = []
        values: list[object] = []
        for column, operator, bound in (
            (TIME, ">=", self.since_ms),
            (TIME, "<=", self.until_ms),
            (AMOUNT, ">=", self.amount_min),
            (AMOUNT, "<=", self.amount_max),
        ):
            if bound is not None:
                asked.append(f"{column} {operator} ?")
                values.append(min(max(bound, 0), (1 << 64) - 1).to_bytes(8))
        for column, chosen in ((STATE, self.states), (KIND, self.kinds)):
            if chosen:
                asked.append(f"{column} IN ({', '.join('?' * len(chosen))})")
                values += [bytes([each]) for each in sorted(chosen)]
        if self.terminal:
            asked.append("instr(body, ?) > 0")
            values.append(f"|{self.terminal}|".encode())
        return " AND ".join(asked) or "1", values


def log(reader: LogReader, wanted: Filter, *, oldest: bool, limit: int, tell: Tell) -> Iterator[EntryReport]:
    """The entries that `wanted` lets through, newest first, or oldest first; at most `limit`, 0 for all.

    Raises:
        LogDamaged: an entry cannot be read.
    """
    found = 0
    for stored in matching(reader, *wanted.condition(), oldest=oldest, tell=tell):
        if wanted.terminal and not _is_of(stored, wanted.terminal):
            continue
        yield entry_report(reader, stored)
        found += 1
        if found == limit:
            return


def matching(
    reader: LogReader,
    condition: str,
    values: list[object],
    *,
    oldest: bool = True,
    start: int = 1,
    tell: Tell = lambda _what, _part: None,
) -> Iterator[LogEntry]:
    """Entries from sequence `start` on for which an SQL condition over `body` holds.

    Raises:
        LogDamaged: the file cannot be read on.
    """
    firsts = range(start, reader.size + 1, STEP)
    order = "ASC" if oldest else "DESC"
    sql = (
        f"SELECT sequence, body, leaf, account FROM entry WHERE sequence BETWEEN ? AND ? AND {condition} "  # noqa: S608
        f"ORDER BY sequence {order}"  # the condition is made of constants of this package; values are bound
    )
    for done, first in enumerate(firsts if oldest else reversed(firsts)):
        tell("looking through the journal", done / len(firsts))
        for row in reader.select(sql, first, min(first + STEP - 1, reader.size), *values):
            if not isinstance(row[1], bytes) or not isinstance(row[2], bytes):
                raise LogDamaged(f"entry {row[0]} is damaged; run audit verify", row[0])
            yield LogEntry(*row)


def _is_of(stored: LogEntry, terminal: str) -> bool:
    try:
        return place_of(decode_entry(stored.body).key)[1] == terminal
    except EntryError:
        return True  # what is damaged is shown as that
