"""The tables `[terminal]` and `[host]` of a dialect file, made into rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from protocol.iso8583.mistakes import Mistakes, TableReader
from protocol.iso8583.mti import answer_mti
from protocol.iso8583.rules import HostRules, MacKeys, OriginalForm, Period, TerminalRules
from protocol.mac_method import MacMethod

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


_CODE_FORMS: Final = {
    "sign_on_codes": (re.compile(r"[0-9]{1,6}"), "network codes of digits"),
    "upload_end_codes": (re.compile(r"[0-9]{1,6}"), "network codes of digits"),
    "debit_types": (re.compile(r"0[1-4][0246]0/[0-9]{2}"), 'entries such as "0200/00": message type and DE 3'),
    "credit_types": (re.compile(r"0[1-4][0246]0/[0-9]{2}"), 'entries such as "0200/20": message type and DE 3'),
}
_TWO_CHARACTERS: Final = (re.compile(r"..", re.DOTALL), "two-character codes")


def _code_set(reader: TableReader, key: str, _default: Any, _known: Container[int]) -> frozenset[str]:
    value = reader.take(key)
    form, words = _CODE_FORMS.get(key, _TWO_CHARACTERS)
    if not isinstance(value, list) or not all(isinstance(code, str) and form.fullmatch(code) for code in value):
        reader.mistake(key, f"must be a list of {words}")
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


_BOUNDS: Final = {
    "batch_start": (0, 9999),
    "type_start": (0, 9999),
    "network_start": (0, 9999),
    "check_value_bytes": (3, 8),
    "requirement_digit": (-1, 127),
    "clock_offset_min": (-14 * 60, 14 * 60),
    "work_key_hours": (1, 24 * 366),
}
_MAY_BE_NONE: Final = frozenset({"reason_field", "type_field", "network_field", "totals_field", "key_serial_field"})
_MAC_FIELDS: Final = (64, 128)


def _number(reader: TableReader, key: str, default: Any, known: Container[int]) -> int:
    if not key.endswith("_field"):
        least, most = _BOUNDS.get(key, (1, 9999))
        return reader.number(key, default, least=least, most=most)
    number = reader.number(key, default, least=0, most=128)
    if number not in known and not (number == 0 and key in _MAY_BE_NONE):
        reader.mistake(key, f"must be a field of the dialect; {number} is none")
    elif key == "mac_field" and number not in _MAC_FIELDS:
        reader.mistake(key, "must be 64 or 128")
    return number


def _text(reader: TableReader, key: str, default: Any, _known: Container[int]) -> str:
    value = reader.text(key, default)
    if key.endswith("_mti"):
        try:
            answer_mti(value)
        except ValueError as error:
            reader.mistake(key, f"must be the message type of a first send: {error}")
    elif key == "requirement_sign_on":
        if len(value) != 1 or value not in "0123456789ABCDEFabcdef":
            reader.mistake(key, "must be one hexadecimal digit")
    elif len(value) != 3 or not value.isascii() or not value.isdecimal():
        reader.mistake(key, "must be an ISO 4217 code of three digits")
    return value


def _period(reader: TableReader, key: str, default: Any, _known: Container[int]) -> Period:
    return Period(reader.choice(key, tuple(Period), default))


def _original(reader: TableReader, key: str, default: Any, _known: Container[int]) -> OriginalForm:
    return OriginalForm(reader.choice(key, tuple(OriginalForm), default))


def _mac_method(reader: TableReader, key: str, default: Any, _known: Container[int]) -> MacMethod:
    return MacMethod(reader.choice(key, tuple(MacMethod), default))


def _mac_keys(reader: TableReader, key: str, default: Any, _known: Container[int]) -> MacKeys:
    return MacKeys(reader.choice(key, tuple(MacKeys), default))


# By annotation as `rules` writes it.
_READERS: Final[dict[str, _Reader]] = {
    "int": _number,
    "bool": _flag,
    "str": _text,
    "Period": _period,
    "OriginalForm": _original,
    "MacMethod": _mac_method,
    "MacKeys": _mac_keys,
    "tuple[int, ...]": _field_list,
    "frozenset[int]": _field_set,
    "frozenset[str]": _code_set,
    "dict[int, str]": _field_values,
}
