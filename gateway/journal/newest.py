"""The newest transactions: in memory, until they are put in the tables that transactions are found by.

One by one each would rewrite pages of its own in every such table. A table in the order of lanes has a page for each
lane, too, and a few dozen sales of as many terminals would rewrite them all in every commit. So a few thousand gather,
which is a *generation*. While the next one gathers, it goes into the tables, a slice of neighbouring rows with each
commit, so that nobody waits long for it:

    gathering   in memory only
    leaving     in memory, and more and more of it in the tables
    left        in the tables; `head.indexed` says so in the commit of the last slice, and then memory lets go of it,
                a few with each commit

Who asks memory first and the tables then misses nothing, and has to be content with finding some twice.

A crash between two slices leaves rows of transactions that `head.indexed` does not claim. The start reads those
transactions back into memory, all of them, and they leave again; a row that is there already is left as it is.

What they owe, and whether they are final, may change while they leave. The slices take what is so at their time. What a
later commit changes of a leaving transaction, it changes in the tables as well (Draft.queued): so `owing` and
`unsettled` have all that belongs there, and nothing else, once the last slice is in. What is owed and sent, or in doubt
and answered, before its slice never goes through a table. Neither table ever has what is not so any more: what a crash
between two slices has left there is changed with its transaction, too (Draft.listed).

A damaged one goes into quarantine and out of both tables, and its row cannot say later whether it has been there since.
So what is in quarantine is not unsettled in memory: if it moves on, `unsettled` is told at once (Newest.aside).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache, partial
from heapq import nsmallest
from itertools import chain, islice
from typing import Any, Final

from gateway.core.lifecycle import FINAL, REPLAYABLE, State
from gateway.journal.bulk import insert_rows
from gateway.journal.groups import LOWER, batch_numbers, batch_of, stan_number, terminal_number
from gateway.journal.rows import Row, RowCodec

SLICE_ROWS: Final = 128
"""Rows of one table that are put away at a time: they take some tenths of a millisecond."""

_NUMBERS_KEPT: Final = 4_096
_REGION_BITS: Final = 32
"""Rows of a lookup table that differ in these bits alone are mostly of one terminal: sorted at once."""
_SORTED_AT_ONCE: Final = 256
_SORTING_COST: Final = _SORTED_AT_ONCE // 8
_LET_GO_AT_ONCE: Final = 128
"""Of a generation that has left; all of it at once would hold a commit up by milliseconds."""
_INSERT: Final = "INSERT OR IGNORE INTO {} (hash, id) VALUES"


@dataclass(slots=True, frozen=True)
class Slice:
    """A part of a generation.

    Attributes:
        cost: of how many rows of a lookup table this takes the time.
        write: puts them in their table, within a commit of the caller's; if that fails, it may be called again.
    """

    cost: int
    write: Callable[[], None]


def in_slices(write: Callable[[list[Any]], None], rows: Iterator[Any], size: int, cost: int = 1) -> Iterator[Slice]:
    """All the rows, so many at a time, each made when its turn comes; `cost` is that of one row."""
    while part := list(islice(rows, size)):
        yield Slice(cost * len(part), partial(write, part))


def _nothing() -> None:
    """Write nothing."""


class Generation:
    """Transactions that came one after the other. Changed on the writer's thread after a commit, read on any."""

    __slots__ = (
        "_batch_numbers", "_by_batch", "_by_terminal", "_count", "_older", "_owing", "_terminal_number", "_unsettled",
        "keys",
    )  # fmt: skip

    def __init__(
        self, numbers_of_batch: Callable[[str], tuple[int, int]], number_of_terminal: Callable[[str], int]
    ) -> None:
        self._batch_numbers = numbers_of_batch
        self._terminal_number = number_of_terminal
        self.keys: dict[str, tuple[int, int, int]] = {}
        """Id of the newest transaction of each key and second key, and that key's two hashes."""
        self._older: list[tuple[int, int, int]] = []
        """The same of those whose key came again: the tables have them all."""
        self._by_batch: dict[str, tuple[tuple[int, int], list[int]]] = {}
        self._by_terminal: dict[str, tuple[int, list[tuple[int, str]]]] = {}
        self._owing: dict[str, dict[int, int]] = {}
        self._unsettled: dict[int, State] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: Sequence[Row], hashes: Mapping[str, tuple[int, int]]) -> None:
        """Take in new transactions, in the order of ids, and the hashes of their keys."""
        keys, by_batch, by_terminal, owing = self.keys, self._by_batch, self._by_terminal, self._owing
        unsettled = self._unsettled
        self._count += len(rows)
        for row in rows:
            number, key, terminal = row.id, row.key, row.terminal
            first, second = hashes[key]
            if key in keys:
                self._older.append(keys[key])
            keys[key] = (number, first, second)
            if row.alias:
                first, second = hashes[row.alias]
                keys[row.alias] = (number, first, second)
            if batch := batch_of(key):
                members = by_batch.get(batch)
                if members is None:
                    by_batch[batch] = (self._batch_numbers(batch), [number])
                else:
                    members[1].append(number)
            sent = by_terminal.get(terminal)
            if sent is None:
                sent = by_terminal[terminal] = (self._terminal_number(terminal), [])
            sent[1].append((number, row.stan or row.sent_stan))
            if row.state not in FINAL:
                unsettled[number] = row.state
            if row.state in REPLAYABLE:
                lane = row.lane
                places = owing.get(lane)
                if places is None:
                    owing[lane] = {number: row.place}
                else:
                    places[number] = row.place

    def add_damaged(self, number: int, key: str, hashes: Mapping[str, tuple[int, int]]) -> None:
        """Take in one of which only the keys are known: that its batch is not whole must not be missed.

        Args:
            key: the first of them.
            hashes: of each of them.
        """
        self._count += 1
        if key in self.keys:
            self._older.append(self.keys[key])
        for each, (first, second) in hashes.items():
            self.keys[each] = (number, first, second)
        if batch := batch_of(key):
            self._by_batch.setdefault(batch, (self._batch_numbers(batch), []))[1].append(number)

    def owe(self, row: Row) -> None:
        """Take in what one of them owes now, at its place in the lane, or that it owes nothing any more."""
        if row.state in REPLAYABLE:
            self._owing.setdefault(row.lane, {})[row.id] = row.place
        else:
            self.disown(row.lane, row.id)

    def disown(self, lane: str, number: int) -> None:
        """Forget what a transaction owes: it is sent, or damaged and in quarantine."""
        places = self._owing.get(lane)
        if places is not None and places.pop(number, None) is not None and not places:
            del self._owing[lane]

    def stand(self, number: int, state: State) -> None:
        """Take in the state that one of them is in now."""
        if state in FINAL:
            self.settle(number)
        else:
            self._unsettled[number] = state

    def settle(self, number: int) -> None:
        """Forget that a transaction is unsettled: it is final, or damaged and in quarantine."""
        self._unsettled.pop(number, None)

    def state_of(self, number: int) -> State | None:
        """The state of one of them that is not final."""
        return self._unsettled.get(number)

    def unsettled(self) -> list[tuple[int, State]]:
        """(id, state) of those that are not final, in no order."""
        return list(self._unsettled.items())

    def oldest_unsettled(self) -> list[int]:
        """Id of the first of them that is not final, if there is one."""
        return [min(numbers)] if (numbers := list(self._unsettled)) else []

    def owed(self, lane: str) -> list[tuple[int, int]]:
        """(place, id) of all that a lane owes of them."""
        places = self._owing.get(lane)
        return [(place, number) for number, place in list(places.items())] if places else []

    def owing_lanes(self) -> list[str]:
        """Lanes that owe any of them."""
        return list(self._owing)

    def of_batch(self, batch: str) -> tuple[int, ...]:
        """Ids of a batch's."""
        members = self._by_batch.get(batch)
        return () if members is None else tuple(members[1])

    def of_terminal(self, terminal: str, stan: str) -> tuple[int, ...]:
        """Ids of a terminal's, or of one STAN of it."""
        sent = self._by_terminal.get(terminal)
        return () if sent is None else tuple([number for number, each in tuple(sent[1]) if stan in ("", each)])

    # -- leaving; nothing but what is owed, and what is unsettled, changes any more

    def slices(self, connection: sqlite3.Connection) -> Iterator[Slice]:
        """All that goes into the tables, table by table, neighbours together."""
        yield from self._slices_by_key(connection, "by_key", 1)
        yield from self._slices_by_key(connection, "by_key_again", 2)
        for table, rows in (
            ("by_batch", self._rows_by_batch(0)),
            ("by_batch_again", self._rows_by_batch(1)),
            ("by_terminal", self._rows_by_terminal()),
        ):
            yield from in_slices(partial(insert_rows, connection, _INSERT.format(table), 2), rows, SLICE_ROWS)
        yield from in_slices(partial(self._write_owing, connection), self._rows_owing(), SLICE_ROWS)
        yield from in_slices(partial(self._write_unsettled, connection), self._rows_unsettled(), SLICE_ROWS)

    def _slices_by_key(self, connection: sqlite3.Connection, table: str, place: int) -> Iterator[Slice]:
        # Sorted in parts, because all at once takes milliseconds; some slices only sort.
        regions: dict[int, list[tuple[int, int]]] = {}
        for count, known in enumerate(chain(self.keys.values(), self._older), 1):
            hashed = known[place]
            regions.setdefault(hashed >> _REGION_BITS, []).append((hashed, known[0]))
            if not count % _SORTED_AT_ONCE:
                yield Slice(_SORTING_COST, _nothing)
        rows = (row for region in sorted(regions) for row in sorted(regions[region]))
        yield from in_slices(partial(insert_rows, connection, _INSERT.format(table), 2), rows, SLICE_ROWS)

    def let_go(self) -> bool:
        """Let go of a few, once all of them have left; whether there are more."""
        parts: tuple[dict[Any, Any], ...] = (
            self.keys, self._by_batch, self._by_terminal, self._owing, self._unsettled
        )  # fmt: skip
        for part in parts:
            for _ in range(min(_LET_GO_AT_ONCE, len(part))):
                part.popitem()
        return any(parts)

    def _rows_by_batch(self, place: int) -> Iterator[tuple[int, int]]:
        for hashed, members in sorted([(numbers[place], members) for numbers, members in self._by_batch.values()]):
            for number in members:
                yield hashed, number

    def _rows_by_terminal(self) -> Iterator[tuple[int, int]]:
        for every, sent in sorted(self._by_terminal.values()):
            upper = every & ~LOWER
            yield from sorted([(upper | stan_number(stan), number) for number, stan in sent])
            for number, _ in sent:
                yield every, number

    def _rows_owing(self) -> Iterator[tuple[str, int, int]]:
        for lane in sorted(self._owing):
            for place, number in sorted(self.owed(lane)):
                yield lane, place, number

    def _write_owing(self, connection: sqlite3.Connection, rows: Sequence[tuple[str, int, int]]) -> None:
        """Put in the queue what of these rows is still owed at that place."""
        owing, none = self._owing, dict[int, int]()
        still = [
            (lane.encode(), place, number) for lane, place, number in rows if owing.get(lane, none).get(number) == place
        ]
        insert_rows(connection, "INSERT OR IGNORE INTO owing (lane, place, id) VALUES", 3, still)

    def _rows_unsettled(self) -> Iterator[tuple[State, int]]:
        # State by state: ids come nearly in order, and sorting them takes no time then; pairs would take milliseconds.
        left = self.unsettled()
        while left:
            state = left[0][1]
            for number in sorted([number for number, each in left if each is state]):
                yield state, number
            left = [pair for pair in left if pair[1] is not state]

    def _write_unsettled(self, connection: sqlite3.Connection, rows: Sequence[tuple[State, int]]) -> None:
        """List as unsettled what of these rows is still in that state."""
        unsettled = self._unsettled
        still = [(state.value, number) for state, number in rows if unsettled.get(number) is state]
        insert_rows(connection, "INSERT OR IGNORE INTO unsettled (state, id) VALUES", 2, still)


class Newest:
    """The generation that gathers, and the one that leaves; what is asked is asked of both."""

    def __init__(self, codec: RowCodec) -> None:
        self._codec = codec
        # Terminals come again in each generation: their numbers are not made anew for each.
        self._batch_numbers = lru_cache(_NUMBERS_KEPT)(partial(batch_numbers, codec))
        self._terminal_number = lru_cache(_NUMBERS_KEPT)(partial(terminal_number, codec))
        self._gathering = self._begun()
        self._leaving: Generation | None = None
        self._left: Generation | None = None
        self._all: tuple[Generation, ...] = (self._gathering,)
        self._through = 0
        self.aside: frozenset[int] = frozenset()
        """Those of them that are in quarantine. If they are unsettled all the same, the table says so."""

    def _begun(self) -> Generation:
        return Generation(self._batch_numbers, self._terminal_number)

    def __len__(self) -> int:
        """How many transactions gather."""
        return len(self._gathering)

    def add(self, rows: Sequence[Row], hashes: Mapping[str, tuple[int, int]]) -> None:
        """Take in new transactions, in the order of ids, and the hashes of their keys."""
        self._gathering.add(rows, hashes)

    def add_row(self, row: Row) -> None:
        """Take in one that is read back."""
        self._gathering.add((row,), self._hashes(row.keys))
        if row.id in self.aside:
            self._gathering.settle(row.id)

    def add_damaged(self, number: int, key: str, alias: str) -> None:
        """Take in one of which only key and second key are known; `alias` is empty where it has none."""
        self._gathering.add_damaged(number, key, self._hashes((key, alias) if alias else (key,)))

    def _hashes(self, keys: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        return {key: self._codec.key_hashes(key) for key in keys}

    def _with(self, number: int) -> Generation:
        leaving = self._leaving
        return self._gathering if leaving is None or number > self._through else leaving

    def change(self, row: Row) -> None:
        """Take in what one of them owes now, or that it owes nothing any more, and its state."""
        self._with(row.id).owe(row)
        self.stand(row.id, row.state)

    def stand(self, number: int, state: State) -> None:
        """Take in the state that one of them is in now."""
        if number not in self.aside:
            self._with(number).stand(number, state)

    def put_aside(self, numbers: frozenset[int]) -> None:
        """Take in which of them are in quarantine."""
        for number in numbers - self.aside:
            for generation in self._all:
                generation.settle(number)
        self.aside = numbers

    def disown(self, lane: str, number: int) -> None:
        """Forget what a transaction owes."""
        for generation in self._all:
            generation.disown(lane, number)

    def leave(self, through: int) -> Generation:
        """Let what has gathered leave, which is all up to the transaction `through`, and begin to gather anew.

        Nothing must be leaving already.
        """
        assert self._leaving is None, "one generation leaves at a time"
        leaving, gathering = self._gathering, self._begun()
        # At once: who reads on another thread has to find each of them somewhere at any time.
        self._all = (gathering, leaving)
        self._leaving, self._gathering, self._through = leaving, gathering, through
        return leaving

    def left(self) -> None:
        """All of what was leaving is committed to the tables: let go of it, bit by bit."""
        self._all = (self._gathering,)
        self._left, self._leaving = self._leaving, None
        self.aside = frozenset([number for number in self.aside if number > self._through])

    def let_go(self) -> None:
        """Let go of some of what has left. Who still asks it misses nothing, for the tables had it before."""
        if self._left is not None and not self._left.let_go():
            self._left = None

    def of_key(self, key: str) -> int | None:
        """Id of the newest transaction of a key or second key, if it is among them."""
        for generation in self._all:
            known = generation.keys.get(key)
            if known is not None:
                return known[0]
        return None

    def owing_of(self, lane: str, limit: int) -> list[tuple[int, int]]:
        """(place, id) of the first `limit` of them that a lane owes."""
        owed = [each for generation in self._all for each in generation.owed(lane)]
        return nsmallest(limit, owed) if owed else []

    def owing_lanes(self) -> list[str]:
        """Lanes that owe any of them; one may come twice."""
        return [lane for generation in self._all for lane in generation.owing_lanes()]

    def state_of(self, number: int) -> State | None:
        """The state of one of them that is not final."""
        return next((state for each in self._all if (state := each.state_of(number)) is not None), None)

    def unsettled(self, states: Set[State]) -> list[int]:
        """Ids of those of them that are in one of these states, none of which is final; one may come twice."""
        return [number for generation in self._all for number, state in generation.unsettled() if state in states]

    def oldest_unsettled(self) -> list[int]:
        """Ids of some that are not final, the first of them among these; none if all are."""
        return [number for generation in self._all for number in generation.oldest_unsettled()]

    def of_batch(self, batch: str) -> tuple[int, ...]:
        """Ids of a batch's."""
        return tuple([number for generation in self._all for number in generation.of_batch(batch)])

    def of_terminal(self, terminal: str, stan: str = "") -> tuple[int, ...]:
        """Ids of a terminal's, or of one STAN of it."""
        return tuple([number for generation in self._all for number in generation.of_terminal(terminal, stan)])
