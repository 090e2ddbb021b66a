"""How one field's value stands in a host's JSON, both ways: text, numbers, minor units, dates, words for codes.

Plain functions of values. Amounts are integers on both sides; a JSON number with a point or an exponent is never an
amount (INV-5). No message of an error holds a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
Path = tuple[str, ...]
"""A dotted path into JSON, cut at its dots. Within a list a part is an index from 0."""

AMOUNT_DIGITS: Final = 12
_PRINTABLE: Final = re.compile(r"[ -~]*")
_DIGITS: Final = re.compile(r"[0-9]+")
_DATE_TOKEN: Final = re.compile(r"YY|MM|DD|hh|mm|ss")
DATE_FORMS: Final = {7: "MMDDhhmmss", 12: "hhmmss", 13: "MMDD", 14: "YYMM", 15: "MMDD", 16: "MMDD", 17: "MMDD"}
"""How ISO 8583:1987 writes its dates and times, by field."""

LONGEST: Final = {4: 12, 11: 6, 37: 12, 38: 6, 39: 2, 41: 8, 42: 15, 44: 25}
"""Most characters of fields that a host may fill in, by ISO 8583:1987; 999 elsewhere."""


class ValueType(StrEnum):
    """The types that a mapping file may name."""

    TEXT = "text"  # as it is, without the blanks that fill a fixed length up
    NUMBER = "number"  # digits, as a whole JSON number
    MINOR = "minor"  # an amount in minor units, as a whole JSON number
    DATE = "date"  # digits of a date or time, rearranged


class ValueMistake(ValueError):
    """A value does not fit its type; the text says what would be right, and never the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one field, or a part of it, stands in a JSON text, and how.

    Attributes:
        label: how mistakes and reports name it: "4", or "60.2" for a part of field 60.
        paths: one path for what is sent; for what is read, the first one that fits counts.
        start, length: the part of the field, in characters from 0; length 0 for all of it.
        codes: words in the place of values, from what comes in to what goes out; empty for none.
        date_field, date_json: forms of a date on either side, such as "YYMM" and "20YY-MM".
        digits: width of a number that is read; the field is filled up with zeros in front.
        longest: most characters of a text that is read.
        required: a message without it is not sent; an answer without it cannot be read.
    """

    label: str
    number: int
    paths: tuple[Path, ...]
    type: ValueType = ValueType.TEXT
    start: int = 0
    length: int = 0
    codes: Mapping[str, str] = field(default_factory=dict)
    date_field: str = ""
    date_json: str = ""
    digits: int = 0
    longest: int = 999
    required: bool = False

    def to_json(self, value: str) -> str | int | None:
        """The value as the host wants it; None where the field holds nothing but blanks, or ends before the part.

        Raises:
            ValueMistake: it does not fit the type.
        """
        if self.length:
            value = value[self.start : self.start + self.length]
            if len(value) < self.length:
                return None
        value = value.rstrip(" ")
        if not value:
            return None
        if self.codes:
            if value not in self.codes:
                raise ValueMistake(f"field {self.label} holds a value that codes does not name")
            return self.codes[value]
        if self.type is ValueType.DATE:
            return rearranged(value, self.date_field, self.date_json, self.label)
        if self.type is ValueType.TEXT:
            return value
        if _DIGITS.fullmatch(value) is None:
            raise ValueMistake(f"field {self.label} must be digits")
        if self.type is ValueType.MINOR and len(value) > AMOUNT_DIGITS:
            raise ValueMistake(f"field {self.label} must have at most {AMOUNT_DIGITS} digits")
        return int(value)

    def from_json(self, value: JsonValue) -> str:
        """The field's value out of the host's JSON.

        Raises:
            ValueMistake: it does not fit the type.
        """
        if self.codes:
            word = _word(value)
            if word is None or word not in self.codes:
                raise ValueMistake(f"field {self.label}: a word that codes does not name")
            return self.codes[word]
        if self.type in (ValueType.NUMBER, ValueType.MINOR):
            width = AMOUNT_DIGITS if self.type is ValueType.MINOR else self.digits
            if type(value) is not int or not 0 <= value < 10**width:  # bool is an int, and 10.0 is none
                raise ValueMistake(f"field {self.label}: no whole number of at most {width} digits")
            return f"{value:0{width}}"
        if not isinstance(value, str) or not value or _PRINTABLE.fullmatch(value) is None:
            raise ValueMistake(f"field {self.label}: no text of printable ASCII")
        if self.type is ValueType.DATE:
            return rearranged(value, self.date_json, self.date_field, self.label)
        if len(value) > self.longest:
            raise ValueMistake(f"field {self.label}: longer than {self.longest} characters")
        return value


def _word(value: JsonValue) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    return None


def date_tokens(form: str) -> list[str]:
    """The parts of a date's form: YY, MM, DD, hh, mm, ss."""
    return _DATE_TOKEN.findall(form)


def rearranged(value: str, came: str, goes: str, label: str) -> str:
    """A date of the form `came` in the form `goes`, whose parts are among those of `came`.

    Raises:
        ValueMistake: the value does not have the form.
    """
    pattern, last = "", 0
    for token in _DATE_TOKEN.finditer(came):
        pattern += re.escape(came[last : token.start()]) + f"(?P<{token[0]}>[0-9]{{2}})"
        last = token.end()
    found = re.fullmatch(pattern + re.escape(came[last:]), value)
    if found is None:
        raise ValueMistake(f"field {label} must have the form {came}")
    return _DATE_TOKEN.sub(lambda token: found[token[0]], goes)


def at(tree: JsonValue, path: Path) -> JsonValue:
    """What stands at a path; None where nothing does, as for null."""
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.isascii() and part.isdecimal() and int(part[:6]) < len(tree):
            tree = tree[int(part[:6])]
        else:
            return None
    return tree


def put(tree: dict[str, JsonValue], path: Path, value: JsonValue) -> None:
    """Set a path, making the objects on the way. No other path may end on the way (checked when a file is read)."""
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise TypeError("two paths of a mapping collide")
        tree = inner
    tree[path[-1]] = value
