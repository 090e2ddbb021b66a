"""Which transactions belong together: those of a batch, of a terminal, of a terminal's STAN, and where they are listed.

A group is a number of 64 bits. Its upper 40 bits are a keyed hash of the terminal, its lower 24 tell the terminal's
groups apart: what a terminal adds lies close together in each table, so that a few thousand transactions change a few
pages for each terminal, and not one for each transaction. Two groups may have one number; every row is verified.

    by_batch, by_batch_again   hash of the terminal | hash of the batch    two independent ones, as for keys: a hidden
                                                                           transaction would make a batch's totals wrong
    by_terminal                hash of the terminal | 1,000,001            all that it sent
                               hash of the terminal | STAN                 one STAN of it, whatever the batch

The newest transactions are in no table yet. They are in `Newest`, and go into the tables in the same later commit as
their keys (Batcher.tidy). The same holds for what they owe: a table in the order of lanes has a page for each lane, and
a few dozen sales of as many terminals would rewrite them all in every commit. What is owed and sent again before that
later commit never goes through the table.
"""

from __future__ import annotations

import sqlite3
from heapq import nsmallest
from typing import Final

from gateway.core.lifecycle import REPLAYABLE
from gateway.core.transaction import Kind
from gateway.journal.bulk import insert_rows
from gateway.journal.rows import Row, RowCodec

_LOWER: Final = (1 << 24) - 1
_OTHER_STANS: Final = 1_000_000  # whatever has not six digits
_ALL: Final = 1_000_001


def batch_of(key: str) -> str:
    """`PERIOD|MERCHANT|TERMINAL` of a key that goes on after it, else nothing."""
    parts = key.split("|", 3)
    return key[: -len(parts[3]) - 1] if len(parts) == 4 else ""


def batch_numbers(codec: RowCodec, batch: str) -> tuple[int, int]:
    """The group of a batch in `by_batch` and in `by_batch_again`."""
    upper, upper_again = codec.key_hashes(batch.rpartition("|")[2])
    lower, lower_again = codec.key_hashes(batch)
    return upper & ~_LOWER | lower & _LOWER, upper_again & ~_LOWER | lower_again & _LOWER


def terminal_number(codec: RowCodec, terminal: str, stan: str = "") -> int:
    """The group in `by_terminal` of a terminal, or of one STAN of it."""
    return codec.key_hashes(terminal)[0] & ~_LOWER | (_stan_number(stan) if stan else _ALL)


def _stan_number(stan: str) -> int:
    return int(stan) if len(stan) == 6 and stan.isascii() and stan.isdecimal() else _OTHER_STANS


class Newest:
    """The transactions that are in no table of groups yet: a few thousand at most.

    Changed on the writer's thread after a commit, read on any. Another one takes its place once the tables have been
    committed: who asked before that still has these, and who asks later finds them there.
    """

    __slots__ = ("_by_batch", "_by_terminal", "_count", "_owing")

    def __init__(self) -> None:
        self._by_batch: dict[str, list[int]] = {}
        self._by_terminal: dict[str, list[tuple[int, str]]] = {}
        self._owing: dict[str, dict[int, int]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many transactions there are."""
        return self._count

    def add(self, row: Row) -> None:
        """Take in a new transaction; in the order of ids."""
        self._count += 1
        number = row.id
        if row.kind is not Kind.ALIAS and (batch := batch_of(row.key)):
            self._by_batch.setdefault(batch, []).append(number)
        self._by_terminal.setdefault(row.terminal, []).append((number, row.stan or row.sent_stan))
        if row.state in REPLAYABLE:
            self.owe(row)

    def owe(self, row: Row) -> None:
        """Take in what one of them owes now, at its place in the lane, or that it owes nothing any more."""
        lane = row.lane
        if row.state in REPLAYABLE:
            self._owing.setdefault(lane, {})[row.id] = row.place
        elif lane in self._owing:
            self.disown(lane, row.id)

    def disown(self, lane: str, number: int) -> None:
        """Forget what a transaction owes: it is sent, or damaged and in quarantine."""
        owing = self._owing.get(lane)
        if owing is not None and owing.pop(number, None) is not None and not owing:
            del self._owing[lane]

    def owing_of(self, lane: str, limit: int) -> list[tuple[int, int]]:
        """(place, id) of the first `limit` of them that a lane owes."""
        owing = self._owing.get(lane)
        return nsmallest(limit, [(place, number) for number, place in list(owing.items())]) if owing else []

    def owing_lanes(self) -> list[str]:
        """Lanes that owe any of them."""
        return list(self._owing)

    def add_damaged(self, number: int, key: str) -> None:
        """Take in one of which only the key is known: that its batch is not whole must not be missed."""
        self._count += 1
        if batch := batch_of(key):
            self._by_batch.setdefault(batch, []).append(number)

    def of_batch(self, batch: str) -> tuple[int, ...]:
        """Ids of a batch's."""
        return tuple(self._by_batch.get(batch, ()))

    def of_terminal(self, terminal: str, stan: str = "") -> tuple[int, ...]:
        """Ids of a terminal's, or of one STAN of it."""
        return tuple([number for number, sent in tuple(self._by_terminal.get(terminal, ())) if stan in ("", sent)])

    def put_away(self, connection: sqlite3.Connection, codec: RowCodec) -> None:
        """Write all of them to their tables, sorted, within a commit of the caller's."""
        first, second, terminals = [], [], []
        for batch, numbers in self._by_batch.items():
            one, two = batch_numbers(codec, batch)
            first += [(one, number) for number in numbers]
            second += [(two, number) for number in numbers]
        for terminal, sent in self._by_terminal.items():
            every = terminal_number(codec, terminal)
            upper = every & ~_LOWER
            terminals += [(every, number) for number, _ in sent]
            terminals += [(upper | _stan_number(stan), number) for number, stan in sent]
        insert_rows(connection, "INSERT OR IGNORE INTO by_batch (hash, id) VALUES", 2, sorted(first))
        insert_rows(connection, "INSERT OR IGNORE INTO by_batch_again (hash, id) VALUES", 2, sorted(second))
        insert_rows(connection, "INSERT OR IGNORE INTO by_terminal (hash, id) VALUES", 2, sorted(terminals))
        queue = [(lane.encode(), place, each) for lane, owing in self._owing.items() for each, place in owing.items()]
        insert_rows(connection, "INSERT OR IGNORE INTO owing (lane, place, id) VALUES", 3, sorted(queue))
