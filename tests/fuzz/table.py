"""Dialect files that are TOML all the same: values in odd places, which wounded text seldom is."""

from __future__ import annotations

import copy
import tomllib
from datetime import date
from typing import Any, Final

from protocol.iso8583.dialect import DialectError, dialect_of
from tests.fuzz.surface import Surface, must
from tests.fuzz.text import EXTENDS, SHORT
from tests.fuzz.wire import read_message

_BASES: Final = tuple(tomllib.loads(text) for text in (SHORT, EXTENDS))
_ODD: Final[tuple[Any, ...]] = (
    [], {}, [[]], [{}], "", "x", "ascii", "bcd", "binary", "LLLL", "LL", 0, 1, -1, 2, 9, 128, 129, 4096, 9999, 65_535,
    1 << 70, 1 << 20_000, True, False, 1.5, float("nan"), date(2026, 11, 22), "=", "f", "\U0001f4b3", ["00"], [2, 3],
    [1 << 70], {"2": "x"}, {"type": "b", "length": "LL", "max": 40}, {"length": 3}, "batch", "unionpay", "no-such",
)  # fmt: skip
_CHANGES_MAX: Final = 12


def _places(table: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every key, with the table that it stands in."""
    found: list[tuple[dict[str, Any], str]] = []
    waiting = [table]
    while waiting:
        one = waiting.pop()
        for key, value in one.items():
            found.append((one, key))
            if isinstance(value, dict):
                waiting.append(value)
    return found


def _changed(data: bytes) -> dict[str, Any]:
    """A table as the bytes have it: which to begin from, then a place and a value in turn."""
    table = copy.deepcopy(_BASES[data[0] % len(_BASES)] if data else _BASES[0])
    for at in range(1, min(len(data) - 2, 3 * _CHANGES_MAX), 3):
        places = _places(table)
        if not places:
            break
        inside, key = places[data[at] % len(places)]
        value = copy.deepcopy(_ODD[data[at + 1] % len(_ODD)])
        match data[at + 2] % 4:
            case 0:
                del inside[key]
            case 1:
                inside[("pad", "max", "extends", "64", "counts", "no-such")[data[at + 2] // 4 % 6]] = value
            case _:
                inside[key] = value
    return table


def _read_table(data: bytes) -> None:
    table = _changed(data)
    try:
        dialect = dialect_of("fuzzed.toml", table)
    except DialectError as error:
        must(error.mistakes and all(error.mistakes), "a refusal without a mistake")
        must(len(str(error)) < 100_000, "a refusal of many pages")
        return
    read_message(dialect, data)


def table_surface() -> Surface:
    """Tables that are read as dialects."""
    return Surface(
        name="dialect-table",
        read=_read_table,
        make_seeds=lambda: [bytes([base, *range(first, first + 9)]) for base in (0, 1) for first in range(0, 200, 20)],
        size_max=3 * _CHANGES_MAX + 1,
        worst=(b"\x00", b"\x01", b"\x03"),
    )
