"""The tables `[terminal]` and `[host]` of a dialect file, made into rules."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from protocol.iso8583.mistakes import Mistakes, TableReader
from protocol.iso8583.mti import answer_mti
from protocol.iso8583.rules import HostRules, OriginalForm, Period, TerminalRules

_Reader = Callable[[TableReader, str, Any, Container[int]], Any]
"""Reads one key: from the table, its name, its default, and the fields that the dialect has."""


def read_terminal(mistakes: Mistakes, table: Mapping[str, Any], known: Container[int]) -> TerminalRules:
    """The rules of the table `[terminal]`.

    Args:
        known: the dialect's fields; a rule that names another one is a mistake.
    """
    return TerminalRules(**_read(TableReader(mistakes, "terminal", table), fields(TerminalRules), known))


def read_host(mistakes: Mistakes, table: Mapping[str, Any], known: Container[int]) -> HostRules:
    """The rules of the table `[host]`; `known` as for `read_terminal`."""
    return HostRules(**_read(TableReader(mistakes, "host", table), fields(HostRules), known))


def _read(reader: TableReader, rules: tuple[Field[Any], ...], known: Container[int]) -> dict[str, Any]:
    values = {}
    for rule in rules:
        # Where the file says nothing, the rule's own default holds, even for fields that the dialect does not have.
        if rule.name in reader:
            default = rule.default if rule.default is not MISSING else None
            values[rule.name] = _READERS[str(rule.type)](reader, rule.name, default, known)
        else:
            reader.take(rule.name)
    reader.finish()
    return values


def _field_list(reader: TableReader, key: str, _default: Any, known: Container[int]) -> tuple[int, ...]:
    value = reader.take(key)
    if not isinstance(value, list) or not all(type(entry) is int for entry in value):
        reader.mistake(key, "must be a list of field numbers")
        return ()
    for entry in value:
        if entry not in known:
            reader.mistake(key, f"must name fields of the dialect; {entry} is none")
    return tuple(value)


def _field_set(reader: TableReader, key: str, default: Any, known: Container[int]) -> frozenset[int]:
    return frozenset(_field_list(reader, key, default, known))


def _code_set(reader: TableReader, key: str, _default: Any, _known: Container[int]) -> frozenset[str]:
    value = reader.take(key)
    if not isinstance(value, list) or not all(isinstance(code, str) and len(code) == 2 for code in value):
        reader.mistake(key, "must be a list of two-character codes")
        return frozenset()
    return frozenset(value)


def _field_values(reader: TableReader, key: str, _default: Any, known: Container[int]) -> dict[int, str]:
    values = {}
    for name, value in reader.table(key).items():
        number = int(name) if name.isascii() and name.isdecimal() and len(name) <= 3 else 0
        if number not in known:
            reader.mistake(f"{key}.{name}", "must be a field of the dialect")
        elif not isinstance(value, str):
            reader.mistake(f"{key}.{name}", "must be a string")
        else:
            values[number] = value
    return values


def _flag(reader: TableReader, key: str, default: Any, _known: Container[int]) -> bool:
    return reader.flag(key, default=default)


def _number(reader: TableReader, key: str, default: Any, known: Container[int]) -> int:
    if not key.endswith("_field"):
        return reader.number(key, default, least=0 if key == "batch_start" else 1, most=9999)
    number = reader.number(key, default, least=0, most=128)
    if number not in known and not (number == 0 and key == "reason_field"):
        reader.mistake(key, f"must be a field of the dialect; {number} is none")
    return number


def _text(reader: TableReader, key: str, default: Any, _known: Container[int]) -> str:
    value = reader.text(key, default)
    if key.endswith("_mti"):
        try:
            answer_mti(value)
        except ValueError as error:
            reader.mistake(key, f"must be the message type of a first send: {error}")
    elif len(value) != 3 or not value.isascii() or not value.isdecimal():
        reader.mistake(key, "must be an ISO 4217 code of three digits")
    return value


def _period(reader: TableReader, key: str, default: Any, _known: Container[int]) -> Period:
    return Period(reader.choice(key, tuple(Period), default))


def _original(reader: TableReader, key: str, default: Any, _known: Container[int]) -> OriginalForm:
    return OriginalForm(reader.choice(key, tuple(OriginalForm), default))


# By annotation as `rules` writes it.
_READERS: Final[dict[str, _Reader]] = {
    "int": _number,
    "bool": _flag,
    "str": _text,
    "Period": _period,
    "OriginalForm": _original,
    "tuple[int, ...]": _field_list,
    "frozenset[int]": _field_set,
    "frozenset[str]": _code_set,
    "dict[int, str]": _field_values,
}
