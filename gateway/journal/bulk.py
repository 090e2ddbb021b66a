"""Few statements over many rows.

Each statement that SQLite steps through lets other threads run, and has to wait for its turn again: with a row a
statement, a batch of 64 would wait hundreds of times where an event loop is busy beside it. Widths are few, so that
each statement is prepared once and stays in the connection's cache.

Many rows in one statement take half the time of as many statements. For fewer than sixteen it is the other way round:
then one statement that is prepared once and stepped again takes less.

Python's sqlite3 takes int, float, str and bytearray as they are. Of any other value, bytes and enumerations among
them, it first looks for an adapter, which costs three times as much as to bind it: so what is written for every
transaction is a bytearray or a plain number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

_SELECT_WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_INSERT_WIDTHS: Final = (64, 16)


def select_in(connection: sqlite3.Connection, select: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
    """Rows of `select`, which ends in "IN", for all of the values; in no order. A value that fills up is repeated."""
    start = 0
    while start < len(values):
        left = len(values) - start
        width = next((each for each in _SELECT_WIDTHS if each >= left), _SELECT_WIDTHS[-1])
        chunk = list(values[start : start + width])
        chunk += [chunk[-1]] * (width - len(chunk))
        yield from connection.execute(_select(select, width), chunk).fetchall()
        start += width


def insert_rows(
    connection: sqlite3.Connection, insert: str, columns: int, rows: Sequence[tuple[object, ...]], tail: str = ""
) -> None:
    """Insert rows, in their order; `insert` ends in "VALUES".

    Args:
        columns: values of each row.
        tail: what stands behind the values, such as ON CONFLICT.
    """
    start = 0
    for width in _INSERT_WIDTHS:
        while len(rows) - start >= width:
            flat = list(chain.from_iterable(rows[start : start + width]))
            connection.execute(_insert(insert, columns, width, tail), flat)
            start += width
    if start < len(rows):
        connection.executemany(_insert(insert, columns, 1, tail), rows[start:] if start else rows)


@lru_cache(maxsize=256)
def _select(select: str, width: int) -> str:
    return f"{select} ({','.join('?' * width)})"


@lru_cache(maxsize=256)
def _insert(insert: str, columns: int, width: int, tail: str) -> str:
    row = f"({','.join('?' * columns)})"
    return f"{insert} {','.join([row] * width)} {tail}"
