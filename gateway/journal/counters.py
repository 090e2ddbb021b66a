"""Exposure counters: durable, judged and changed in the commit that reserves or releases (D21).

A sale changes a counter of its card, and cards come in no order: written in place, each would rewrite a page of its own
in every commit. So a commit logs the values that it leaves (`counter_log`, one row), and a few thousand of them go to
their places later, sorted, and in slices as the newest transactions do (newest.py). Until then they are in memory; a
crash leaves the log, which is read at opening.

The log of those that leave goes when the last of them is in its place, its oldest rows first. So after a crash between
two slices the values in the log, in the order of their rows, are the newest; and a counter that the log does not have
any more stands in its place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import partial
from typing import Any, Final

import msgspec

from gateway.core.effects import Limit
from gateway.journal.bulk import insert_rows
from gateway.journal.newest import Slice, in_slices
from gateway.journal.reading import Damage
from gateway.journal.rows import RowCodec

SELECT_COUNTERS: Final = "SELECT name, count, amount_minor, since_ms, tag FROM counter WHERE name IN"

SLICE_COUNTERS: Final = 32
"""Counters that are put in their places at a time."""

_COUNTER_COST: Final = 4
"""Each gets a tag, and counters are larger than rows of the lookup tables."""

SLICE_LOGGED: Final = 128
"""Logged values that are removed at a time, about."""

_Value = tuple[int, int, int]
_ZERO: Final[_Value] = (0, 0, 0)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, _Value]).decode


class Counters:
    """All counters. A value is (count, amount in minor units, UTC time since above zero); None is damaged."""

    def __init__(self, connection: sqlite3.Connection, codec: RowCodec) -> None:
        self._connection = connection
        self._codec = codec
        self._logged: dict[str, _Value] = {}
        self._leaving: dict[str, _Value] = {}
        self._log: list[tuple[int, int]] = []  # sequence of each row of the log, and how many values it has
        self._values: dict[str, _Value | None] = {}
        self._changed: dict[str, _Value] = {}
        self.noted: list[Damage] = []

    def __len__(self) -> int:
        """How many are logged, and neither in their places nor on the way there."""
        return len(self._logged)

    def recover(self) -> list[Damage]:
        """Read the log that the last run has left; what of it is damaged."""
        damages = []
        logged = self._connection.execute("SELECT sequence, packed, tag FROM counter_log ORDER BY sequence")
        for sequence, packed, tag in logged.fetchall():
            self._log.append((sequence, 1))
            if isinstance(packed, bytes) and self._codec.log_tag(sequence, packed) == tag:
                self._logged.update(_decode(packed))
            else:
                damages.append(Damage(0, f"counters logged at {sequence}"))
        return damages

    def begin(self, names: Set[str]) -> list[str]:
        """Start a batch that touches `names`; those whose stored values it has to `load`."""
        self._changed = {}
        self.noted = []
        logged, leaving, values = self._logged, self._leaving, dict[str, _Value | None]()
        unknown = []
        for name in names:
            value = logged.get(name) or leaving.get(name)
            if value is None:
                unknown.append(name)
            else:
                values[name] = value
        self._values = values
        return unknown

    def load(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Take in the stored counters of a batch, as `SELECT_COUNTERS` gives them; a damaged one is noted."""
        for name, count, amount_minor, since_ms, tag in rows:
            whole = isinstance(name, str) and all(isinstance(each, int) for each in (count, amount_minor, since_ms))
            if whole and self._codec.counter_tag(name, count, amount_minor, since_ms) == tag:
                self._values[name] = (count, amount_minor, since_ms)
            else:
                self._values[str(name)] = None
                self.noted.append(Damage(0, f"counter {name}"))

    def refusal(self, reserve: tuple[Limit, ...], amount_minor: int, now_ms: int) -> str | None:
        """Reason of the first limit that refuses, or None.

        A damaged counter refuses: what it stood at is not known, and refusing a stand-in loses nothing (INV-9).
        """
        values = self._values
        for limit in reserve:
            value = values.get(limit.counter, _ZERO)
            if value is None:
                return limit.reason
            count, amount, since_ms = value
            if (bound := limit.count_max) is not None and count >= bound:
                return limit.reason
            if (bound := limit.amount_minor_max) is not None and amount + amount_minor > bound:
                return limit.reason
            if (bound := limit.age_ms_max) is not None and count > 0 and now_ms - since_ms > bound:
                return limit.reason
        return None

    def reserve(self, limits: tuple[Limit, ...], amount_minor: int, now_ms: int) -> None:
        """Add (1, amount) to each counter, once for each even if two limits bound the same one."""
        values, changed = self._values, self._changed
        for name in {limit.counter for limit in limits}:
            value = values.get(name, _ZERO)
            if value is not None:
                count, amount, since_ms = value
                values[name] = changed[name] = (count + 1, amount + amount_minor, since_ms if count else now_ms)

    def release(self, names: tuple[str, ...], amount_minor: int) -> None:
        """Take (1, amount) from each counter. One that has less than that has lost something: noted, and set to 0."""
        for name in names:
            value = self._values.get(name, _ZERO)
            if value is None:
                continue
            count, amount = value[0] - 1, value[1] - amount_minor
            if count < 0 or amount < 0:
                self.noted.append(Damage(0, f"counter {name} had less than was released"))
            count, amount = max(count, 0), max(amount, 0)
            self._values[name] = self._changed[name] = (count, amount, value[2] if count else 0)

    def flush(self, sequence: int) -> None:
        """Log what the batch changed, within its commit; `sequence` is that of its last entry."""
        if self._changed:
            packed = _encode(self._changed)
            self._connection.execute(
                "INSERT INTO counter_log (sequence, packed, tag) VALUES (?, ?, ?)",
                (sequence, packed, self._codec.log_tag(sequence, packed)),
            )

    def committed(self, sequence: int) -> None:
        """The batch is durable: its values are what the next one starts from; `sequence` is that of its last entry."""
        if self._changed:
            self._log.append((sequence, len(self._changed)))
            self._logged.update(self._changed)

    def leave(self) -> Iterator[Slice]:
        """Let what is logged leave for its places: slices, to be written in their order and then followed by `left`."""
        assert not self._leaving, "one generation leaves at a time"
        log, self._log = self._log, []
        self._leaving, self._logged = self._logged, {}
        return self._slices(log)

    def _slices(self, log: Sequence[tuple[int, int]]) -> Iterator[Slice]:
        yield from in_slices(self._put_in_place, iter(sorted(self._leaving)), SLICE_COUNTERS, _COUNTER_COST)
        values = 0
        for place, (sequence, more) in enumerate(log, 1):
            values += more
            if values >= SLICE_LOGGED or place == len(log):
                yield Slice(values, partial(self._unlog, sequence))
                values = 0

    def _put_in_place(self, names: Sequence[str]) -> None:
        """A counter at zero has no row, so that old cards and terminals leave none behind."""
        tag = self._codec.counter_tag
        values = [(name, self._leaving[name]) for name in names]
        insert_rows(
            self._connection,
            "INSERT OR REPLACE INTO counter (name, count, amount_minor, since_ms, tag) VALUES",
            5,
            [(name, *value, tag(name, *value)) for name, value in values if value != _ZERO],
        )
        gone = [(name,) for name, value in values if value == _ZERO]
        if gone:
            self._connection.executemany("DELETE FROM counter WHERE name = ?", gone)

    def _unlog(self, through: int) -> None:
        self._connection.execute("DELETE FROM counter_log WHERE sequence <= ?", (through,))

    def left(self) -> None:
        """All that was leaving is durable in its place."""
        self._leaving = {}
