"""The tables `fields`, `constants` and `answer` of a mapping file, made into slots; mistakes are gathered."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.acquirers.mapping_values import (
    DATE_FORMS,
    LONGEST,
    JsonValue,
    Path,
    Slot,
    ValueType,
    date_tokens,
)
from protocol.iso8583.mistakes import Mistakes, TableReader

Place = tuple[str, Path]
"""What stands at a path, in words, and the path."""

_PATH: Final = re.compile(r"[A-Za-z0-9_$@-]+(\.[A-Za-z0-9_$@-]+){0,7}")
_LABEL: Final = re.compile(r"([1-9][0-9]{0,2})(\.[1-9][0-9]?)?")
_CODE: Final = re.compile(r"[0-9A-Z]{2}")
_MAC_FIELDS: Final = (64, 128)


@dataclass(frozen=True, slots=True)
class AnswerSlots:
    """What a table `answer` says; None takes a shared slot away."""

    slots: dict[int, Slot] = field(default_factory=dict)
    constants: dict[int, str] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()

    @property
    def numbers(self) -> set[int]:
        """The fields that an answer gets."""
        return set(self.slots) | set(self.constants)

    def with_own(self, own: AnswerSlots) -> AnswerSlots:
        """This shared table with a message's own in front."""
        gone = own.numbers | own.removed
        return AnswerSlots(
            {**{n: s for n, s in self.slots.items() if n not in gone}, **own.slots},
            {**{n: c for n, c in self.constants.items() if n not in gone}, **own.constants},
        )


def read_slots(
    mistakes: Mistakes, place: str, table: Mapping[str, Any], known: Container[str] = ()
) -> dict[str, Slot | None]:
    """What a message's fields become, by label; None takes away a slot of the labels in `known`."""
    slots: dict[str, Slot | None] = {}
    for label, one in table.items():
        found = _LABEL.fullmatch(label)
        if found is None or not 2 <= int(found[1]) <= 128:
            mistakes.add(f"{place}.{label}", 'must be a field, 2 to 128, or a part of one such as "60.2"')
        elif one is False:
            if label not in known:
                mistakes.add(f"{place}.{label}", "takes away what [fields] does not have")
            slots[label] = None
        elif not isinstance(one, dict):
            mistakes.add(f"{place}.{label}", 'must be a table such as { path = "amount" }, or false')
        else:
            reader = TableReader(mistakes, f"{place}.{label}", one)
            slots[label] = _sent_slot(reader, label, int(found[1]), part=found[2] is not None)
            reader.finish()
    return slots


def _sent_slot(reader: TableReader, label: str, number: int, *, part: bool) -> Slot:
    path = path_of(reader, "path")
    kind = ValueType(reader.choice("type", tuple(ValueType), "text"))
    start = length = 0
    if part:
        reader.require("start")
        reader.require("length")
        start = reader.number("start", 0, least=0, most=998)
        length = reader.number("length", 1, least=1, most=999)
    codes = _codes(reader, kind, to_field=None)
    forms = _forms(reader, kind, number, part=part, into_json=True)
    return Slot(
        label=label,
        number=number,
        paths=(path,),
        type=kind,
        start=start,
        length=length,
        codes=codes,
        date_field=forms[0],
        date_json=forms[1],
        required=reader.flag("required", default=False),
    )


def read_answer(mistakes: Mistakes, place: str, table: Mapping[str, Any], match_fields: tuple[int, ...]) -> AnswerSlots:
    """What an answer's JSON becomes, by field."""
    slots: dict[int, Slot] = {}
    constants: dict[int, str] = {}
    removed = set()
    for label, one in table.items():
        number = int(label) if label.isascii() and label.isdecimal() and len(label) <= 3 else 0
        if not 2 <= number <= 127 or number in _MAC_FIELDS:
            mistakes.add(f"{place}.{label}", "must be a field, 2 to 127, and none of a MAC")
        elif one is False:
            removed.add(number)
        elif not isinstance(one, dict):
            mistakes.add(f"{place}.{label}", 'must be a table such as { path = "id" }, or false')
        else:
            reader = TableReader(mistakes, f"{place}.{label}", one)
            if "constant" in reader:
                constant = reader.text("constant", "")
                if number in match_fields:
                    reader.mistake("constant", "must not stand for a match field")
                elif number == 39 and _CODE.fullmatch(constant) is None:
                    reader.mistake("constant", 'must be a code such as "00"')
                constants[number] = constant
            else:
                slots[number] = _read_slot(reader, number, matches=number in match_fields)
            reader.finish()
    return AnswerSlots(slots, constants, frozenset(removed))


def _read_slot(reader: TableReader, number: int, *, matches: bool) -> Slot:
    value = reader.take("path")
    if isinstance(value, list) and value and not matches:
        paths = tuple(_path(reader, "path", one) for one in value)
    else:
        paths = (_path(reader, "path", value),)
    kind = ValueType(reader.choice("type", tuple(ValueType), "text"))
    if matches and "codes" in reader:
        reader.mistake("codes", "must not stand for a match field")
    codes = _codes(reader, kind, to_field=number)
    if number == 39 and kind is not ValueType.TEXT:
        reader.mistake("type", 'must be "text" for field 39')
    if number == 39 and not codes and "codes" not in reader and not _gives_codes(reader):
        reader.mistake("codes", 'must name the host\'s words for outcomes, such as { approved = "00" }')
    digits = reader.number("digits", 0, least=1, most=18)
    if kind is ValueType.NUMBER and not digits and not matches:
        reader.mistake("digits", "must be the width of the field")
    forms = _forms(reader, kind, number, part=False, into_json=matches)
    required = reader.flag("required", default=matches or number == 39)
    if number == 39 and not required:
        reader.mistake("required", "must be true for field 39: an answer without it is none")
    return Slot(
        label=str(number),
        number=number,
        paths=paths,
        type=kind,
        codes=codes,
        date_field=forms[0],
        date_json=forms[1],
        digits=digits,
        longest=reader.number("longest", LONGEST.get(number, 999), least=1, most=LONGEST.get(number, 999)),
        required=required,
    )


def _gives_codes(reader: TableReader) -> bool:
    """Whether the host itself speaks in codes of ISO 8583: `iso = true`."""
    return reader.flag("iso", default=False)


def read_constants(mistakes: Mistakes, place: str, table: Mapping[str, Any]) -> dict[Path, JsonValue]:
    """Values that are the same in every request, by path."""
    constants: dict[Path, JsonValue] = {}
    for key, value in table.items():
        if _PATH.fullmatch(key) is None:
            mistakes.add(f"{place}.{key}", 'must be a path in quotes, such as "terminal.kind"')
        elif not isinstance(value, str | bool | int):
            mistakes.add(f"{place}.{key}", "must be a string, a whole number, true or false")
        else:
            constants[tuple(key.split("."))] = value
    return constants


def path_of(reader: TableReader, key: str) -> Path:
    """A dotted path; a mistake where it is none."""
    return _path(reader, key, reader.take(key))


def _path(reader: TableReader, key: str, value: Any) -> Path:
    if not isinstance(value, str) or _PATH.fullmatch(value) is None:
        reader.mistake(key, 'must be names with dots between them, such as "amount.minor"')
        return ("?",)
    return tuple(value.split("."))


def _codes(reader: TableReader, kind: ValueType, to_field: int | None) -> dict[str, str]:
    if "codes" not in reader:
        return {}
    table = reader.table("codes")
    if not table or not all(isinstance(word, str) and word for word in table.values()):
        reader.mistake("codes", 'must be a table of words, such as { approved = "00" }')
        return {}
    if kind is not ValueType.TEXT:
        reader.mistake("codes", 'goes with type = "text" only')
    if to_field == 39:
        for word, code in table.items():
            if _CODE.fullmatch(code) is None:
                reader.mistake(f"codes.{word}", 'must be a code of field 39, such as "51"')
    return dict(table)


def _forms(reader: TableReader, kind: ValueType, number: int, *, part: bool, into_json: bool) -> tuple[str, str]:
    """The forms of a date in the field and in the JSON."""
    if kind is not ValueType.DATE:
        return "", ""
    field_key, json_key = ("from", "to") if into_json else ("to", "from")
    known = "" if part else DATE_FORMS.get(number, "")
    form = reader.text(field_key, known)
    reader.require(json_key)
    json_form = reader.text(json_key, "")
    field_tokens, json_tokens = date_tokens(form), date_tokens(json_form)
    if not field_tokens:
        reader.mistake(field_key, 'must be how the field has it, such as "YYMM"')
    came, goes = (field_tokens, json_tokens) if into_json else (json_tokens, field_tokens)
    if len(set(came)) != len(came) or not set(goes) <= set(came) or not json_tokens:
        reader.mistake(json_key, f"must be made of {', '.join(field_tokens)}, and of each at most once")
    return form, json_form
