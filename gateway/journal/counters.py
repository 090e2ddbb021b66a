"""Exposure counters: durable, judged and changed in the commit that reserves or releases (D21)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from gateway.core.effects import Limit
from gateway.journal.reading import Damage
from gateway.journal.rows import RowCodec

SELECT_COUNTERS: Final = "SELECT name, count, amount_minor, since_ms, tag FROM counter WHERE name IN "

_Value = tuple[int, int, int]
_ZERO: Final[_Value] = (0, 0, 0)


class Counters:
    """The counters that one batch touches. A value is (count, amount in minor units, UTC time since above zero)."""

    def __init__(self, connection: sqlite3.Connection, codec: RowCodec) -> None:
        self._connection = connection
        self._codec = codec
        self._values: dict[str, _Value | None] = {}
        self._changed: set[str] = set()
        self.noted: list[Damage] = []

    def begin(self) -> None:
        """Forget the last batch."""
        self._values = {}
        self._changed = set()
        self.noted = []

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
        for limit in reserve:
            value = self._values.get(limit.counter, _ZERO)
            if value is None:
                return limit.reason
            count, amount, since_ms = value
            if (
                (limit.count_max is not None and count + 1 > limit.count_max)
                or (limit.amount_minor_max is not None and amount + amount_minor > limit.amount_minor_max)
                or (limit.age_ms_max is not None and count > 0 and now_ms - since_ms > limit.age_ms_max)
            ):
                return limit.reason
        return None

    def reserve(self, limits: tuple[Limit, ...], amount_minor: int, now_ms: int) -> None:
        """Add (1, amount) to each counter, once for each even if two limits bound the same one."""
        values, changed = self._values, self._changed
        for name in {limit.counter for limit in limits} if len(limits) > 1 else (limits[0].counter,):
            value = values.get(name, _ZERO)
            if value is not None:
                values[name] = (value[0] + 1, value[1] + amount_minor, value[2] if value[0] else now_ms)
                changed.add(name)

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
            self._values[name] = (count, amount, value[2] if count else 0)
            self._changed.add(name)

    def flush(self) -> None:
        """Write what changed. A counter at zero has no row, so that old cards and terminals leave none behind."""
        tag = self._codec.counter_tag
        kept = []
        zero = []
        for name in self._changed:
            value = self._values[name]
            if value is None:
                continue
            if value == _ZERO:
                zero.append((name,))
            else:
                kept.append((name, *value, tag(name, *value)))
        if kept:
            self._connection.executemany(
                "INSERT OR REPLACE INTO counter (name, count, amount_minor, since_ms, tag) VALUES (?, ?, ?, ?, ?)",
                kept,
            )
        if zero:
            self._connection.executemany("DELETE FROM counter WHERE name = ?", zero)
