"""What has gathered in memory goes into its tables: slices of one generation, each within a commit of the batcher's.

newest.py says what a generation is, and counters.py the same of counters. A slice and what the commit around it writes
are durable together or not at all. Runs on the writer's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain
from typing import Final

from gateway.journal.counters import Counters
from gateway.journal.draft import Draft
from gateway.journal.newest import Newest, Slice

_ROWS_DUE: Final = 14
"""So much (Slice.cost) is put in the tables for each entry that is written meanwhile. A transaction costs seven,
two more if it has a second key, and four for each counter that it alone has: so one generation is in the tables before
the next one has gathered."""


class Leaving:
    """The generation that is on its way into the tables, if there is one."""

    def __init__(self, connection: sqlite3.Connection, newest: Newest, counters: Counters, indexed: int) -> None:
        """`indexed` is what the head says: transactions up to it are in the tables."""
        self._connection = connection
        self._newest = newest
        self._counters = counters
        self.through = indexed
        """Transactions up to this one are in the tables or on the way there."""
        self._slices: Iterator[Slice] | None = None
        self._taken: list[Slice] = []
        self._due = 0

    @property
    def under_way(self) -> bool:
        """Whether a generation is on its way."""
        return self._slices is not None

    @property
    def written(self) -> bool:
        """Whether the commit that is being made puts anything away."""
        return bool(self._taken)

    def begin(self, through: int) -> None:
        """Let all that has gathered leave, which is up to this transaction. Nothing must be on its way.

        That is in memory only: a slice is what changes the tables.
        """
        self.through = through
        leaving = self._newest.leave(through)
        self._slices = chain(self._counters.leave(), leaving.slices(self._connection))
        self._due = 0

    def entries_written(self, count: int) -> None:
        """So many entries are durable: as much is due in the tables as goes with them."""
        self._due += _ROWS_DUE * count

    def hasten(self) -> None:
        """One slice is due, whatever was written."""
        self._due = max(self._due, 1)

    def write(self, draft: Draft, *, all_of_it: bool = False) -> None:
        """Write the slices whose turn it is, within a commit and before anything else of it.

        With the last one, `head.indexed` says that the tables have everything. A crash before that leaves rows of
        transactions that the start reads back.
        """
        slices = self._slices
        while slices is not None and (all_of_it or self._due > 0):
            part = next(slices, None)
            if part is None:
                draft.head.indexed = self.through
                break
            self._taken.append(part)
            self._due -= part.cost
            part.write()

    def committed(self, indexed: int) -> None:
        """What `write` has written is durable, and the head says `indexed`."""
        self._taken.clear()
        if self._slices is not None and indexed == self.through:
            self._slices = None
            # Only now: who does not find something in memory finds it in the tables.
            self._newest.left()
            self._counters.left()

    def taken_back(self) -> None:
        """What `write` has written was rolled back: it is due again."""
        if self._slices is not None:
            self._due += sum(each.cost for each in self._taken)
            self._slices = chain(tuple(self._taken), self._slices)
        self._taken.clear()
