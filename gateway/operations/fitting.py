"""Looks for the change to a dialect after which frames that do not fit it would: small changes, each one tried.

Nothing is believed: a change counts only if the loader takes the changed file, frames get past the place where they
departed, and no frame that fitted departs on account of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from protocol.iso8583.dialect import (
    Dialect,
    DialectError,
    dialect_of,
    layout_of,
    load_dialect,
    read_toml,
    shipped_dialects,
    shipped_table,
)
from protocol.iso8583.extending import extended
from protocol.iso8583.fields import Counts, FieldSpec, LengthEncoding
from protocol.iso8583.layout import TPDU_BYTES, BitmapEncoding, CodecError, Layout, MtiEncoding
from protocol.iso8583.walker import walk

HEADER_BYTES_TRIED: Final = 16
_GETS_PAST: Final = 0.9
"""The part of the frames that a change must help; for a longer maximum, which is all that can be wrong, half."""
_FRONT_BETTER_BY: Final = 0.25
_MANY: Final = 10
_PRIVATE: Final = frozenset({46, 47, 48, *range(55, 64), *range(105, 128)})
_NAMELESS: Final = "Not known"


@dataclass(frozen=True, slots=True)
class Edit:
    """A change: keys of one table of the file.

    Attributes:
        place: the table, e.g. ("fields", "60"); empty for the top.
        guess: the frames allow it, and could allow other things as well.
    """

    place: tuple[str, ...]
    keys: Mapping[str, Any]
    guess: bool = False


class Draft:
    """A dialect file with the changes that were taken so far; a shipped dialect is extended, a file's own is copied."""

    def __init__(self, name_or_path: str) -> None:
        """Raises DialectError: there is no such dialect, or its file has mistakes."""
        self.file = name_or_path
        if name_or_path in shipped_dialects():
            self.base = name_or_path
            self._table: dict[str, Any] = {"name": f"{name_or_path}-own", "extends": name_or_path}
        else:
            load_dialect(name_or_path)  # tells of a name that is not known
            self.base = ""
            self._table = read_toml(Path(name_or_path))
        self.edits: list[Edit] = []
        self.layout = layout_of(self.file, self._table)

    def take(self, edit: Edit) -> bool:
        """Take a change for good; False, and nothing is changed, where the loader does not take it."""
        table = self._with(edit)
        try:
            self.layout = layout_of(self.file, table)
        except DialectError:
            return False
        self._table = table
        self.edits = [one for one in self.edits if one.place != edit.place or set(one.keys) - set(edit.keys)] + [edit]
        return True

    def tried(self, edit: Edit) -> Layout | None:
        """The layout with one field changed; None where the loader does not take the field."""
        number = edit.place[1]
        whole = self._with(edit)
        if "extends" in whole:
            whole = extended(whole, shipped_table(whole["extends"]))
        # The other fields are as they were: the loader need not read them again for each change that is tried.
        alone = {key: whole[key] for key in whole if key not in ("extends", "terminal", "host")}
        alone["fields"] = {number: whole["fields"][number]}
        try:
            changed = layout_of(self.file, alone).fields
        except DialectError:
            return None
        return replace(self.layout, fields={**self.layout.fields, **changed})

    def dialect(self) -> Dialect:
        """The dialect as it stands."""
        return dialect_of(self.file, self._table)

    def toml(self) -> str:
        """What to write: a whole file that extends a shipped dialect, or the changed lines of one's own file."""
        tables: dict[tuple[str, ...], dict[str, Any]] = {}
        if self.base:
            tables[()] = {"name": self._table["name"], "extends": self.base}
        for edit in self.edits:
            if edit.place[:1] == ("fields",):
                tables.setdefault(("fields",), {})[edit.place[1]] = self._table["fields"][edit.place[1]]
            else:
                tables.setdefault(edit.place, {}).update(edit.keys)
        lines = []
        for place in sorted(tables, key=lambda place: (len(place), place[:1] == ("fields",))):
            lines += [f"[{'.'.join(place)}]"] if place else []
            numbers = sorted(tables[place], key=int) if place == ("fields",) else list(tables[place])
            lines += [f"{key} = {toml_value(tables[place][key])}" for key in numbers]
        return "\n".join(lines)

    def _with(self, edit: Edit) -> dict[str, Any]:
        table = copy.deepcopy(self._table)
        target = table
        for part in edit.place:
            held = target.get(part)
            if not isinstance(held, dict):
                held = target[part] = {}
            target = held
        if isinstance(edit.keys.get("length"), int):
            target.pop("max", None)
        target.update(edit.keys)
        return table


def toml_value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def promised(layout: Layout, frame: bytes) -> tuple[str, list[int]] | None:
    """The message type and the fields that a frame's bitmaps promise; None where they make no sense.

    The type must be one of ISO 8583 and there must be fields: a frame that is read from the wrong place has mostly not.
    """
    raw = frame[layout.mti_offset : layout.bitmap_offset]
    mti = raw.hex() if layout.mti is MtiEncoding.BCD else raw.decode("latin-1")
    if (
        len(mti) != 4
        or mti[0] not in "012"
        or mti[1] not in "12345678"
        or mti[2] not in "012345"
        or mti[3] not in "012345"
    ):
        return None
    bits: list[int] = []
    at = layout.bitmap_offset
    for base in (0, 64):
        part = frame[at : at + layout.bitmap_bytes]
        if layout.bitmap is BitmapEncoding.HEX:
            try:
                part = bytes.fromhex(part.decode("ascii"))
            except ValueError:
                return None
        if len(part) != 8:
            return None
        value = int.from_bytes(part, "big")
        bits += [base + number for number in range(1, 65) if value >> (64 - number) & 1]
        if bits[:1] != [1]:
            break
        at += layout.bitmap_bytes
    numbers = [number for number in bits if number != 1]
    return (mti, numbers) if numbers else None


def find_front(draft: Draft, frames: Sequence[bytes]) -> Edit | None:
    """Another TPDU, header, message type or bitmap with which clearly more of the frames can be read."""
    if not frames:
        return None
    now = draft.layout
    chosen, best = now, _readable(now, frames) + _FRONT_BETTER_BY
    for tpdu, header_bytes, mti, bitmap, upper in product(
        (now.tpdu, not now.tpdu), range(HEADER_BYTES_TRIED + 1), MtiEncoding, BitmapEncoding, (True, False)
    ):
        if bitmap is BitmapEncoding.BINARY and upper != now.hex_upper:
            continue
        other = replace(now, tpdu=tpdu, header_bytes=header_bytes, mti=mti, bitmap=bitmap, hex_upper=upper)
        score = _readable(other, frames)
        if score > best and score >= 0.5:
            chosen, best = other, score
    if (
        chosen is not now
        and not chosen.tpdu
        and chosen.header_bytes >= TPDU_BYTES
        and all(f[:1] == b"\x60" for f in frames)
    ):
        # The same place of the message type: a TPDU and what is left, for 60 is how a TPDU begins.
        chosen = replace(chosen, tpdu=True, header_bytes=chosen.header_bytes - TPDU_BYTES)
    keys: dict[str, Any] = {
        key: getattr(chosen, key)
        for key in ("tpdu", "header_bytes", "mti", "bitmap")
        if getattr(chosen, key) != getattr(now, key)
    }
    if chosen.hex_upper != now.hex_upper:
        keys["hex_case"] = "upper" if chosen.hex_upper else "lower"
    return Edit((), keys) if keys else None


def _readable(layout: Layout, frames: Sequence[bytes]) -> float:
    """How much sense the frames make, from 0 to 1.

    A frame that does not fit counts up to 0.9: by its message type (of version 0, which is what dialects are about), by
    bitmaps that promise fields which the dialect has, above all the STAN and the terminal, and by how far it is read.
    """
    total = 0.0
    for frame in frames:
        known = promised(layout, frame)
        if known is None:
            continue
        mti, numbers = known
        try:
            walk(layout, frame)
            total += 1
        except CodecError as fault:
            read = len(numbers) if fault.field is None else sum(number < fault.field for number in numbers)
            total += 0.25 if mti[0] == "0" else 0.05
            total += 0.25 * sum(number in layout.fields for number in numbers) / len(numbers)
            total += 0.15 * (11 in numbers) + 0.1 * (41 in numbers) + 0.15 * read / len(numbers)
    return total / len(frames)


@dataclass(frozen=True, slots=True)
class Departure:
    """Frames that depart from a dialect in one place, and some that fit it.

    Attributes:
        field: where; None for bytes behind the last field.
        over_long: a length is over the most.
    """

    field: int | None
    frames: Sequence[bytes]
    fitting: Sequence[bytes]
    over_long: bool = False


def find_edit(draft: Draft, departure: Departure) -> Edit | None:
    """The change that helps most of the frames and breaks none; None where none does."""
    best: tuple[int, int] = (0, 0)
    chosen: Edit | None = None
    for edit, target, must_fit in _candidates(draft.layout, departure):
        layout = draft.tried(edit)
        if layout is None or any(_outcome(layout, frame, target) < 2 for frame in departure.fitting):
            continue
        outcomes = [_outcome(layout, frame, target) for frame in departure.frames]
        fits, past = outcomes.count(2), len(outcomes) - outcomes.count(0)
        raised = departure.over_long and set(edit.keys) == {"max"}
        plain = raised or set(edit.keys) <= {"pad", "pad_nibble"}
        # Few frames get past a place by chance, whatever is changed there.
        helped = fits if must_fit or not (plain or len(outcomes) >= _MANY) else past
        if helped and helped >= (0.5 if raised else _GETS_PAST) * len(outcomes) and (fits, past) > best:
            best, chosen = (fits, past), edit if plain or fits else replace(edit, guess=True)
    return chosen


def _outcome(layout: Layout, frame: bytes, target: int) -> int:
    """2: the frame fits; 1: it departs behind the field `target`; 0: there or before."""
    try:
        walk(layout, frame)
    except CodecError as fault:
        return int(fault.offset > layout.bitmap_offset and (fault.field is None or fault.field > target))
    return 2


def _candidates(layout: Layout, departure: Departure) -> Iterator[tuple[Edit, int, bool]]:
    """Changes to try, the likelier first: each with the field it is about, and whether frames must then fit fully."""
    number = departure.field
    if number is not None and number not in layout.fields:
        # A field that the standard gives a meaning is mostly as there; a private one must make whole frames fit.
        private = number in _PRIVATE
        for keys in _formats_elsewhere(number):
            yield Edit(("fields", str(number)), keys, guess=True), number, private or keys["name"] == _NAMELESS
        return
    if number is not None:
        for keys in _alternatives(layout.fields[number], over_long=departure.over_long):
            yield Edit(("fields", str(number)), keys), number, False
    before = _field_before(layout, departure)
    if before is None:
        return
    # A field that was read too short or too long is found out only behind it.
    spec = layout.fields[before]
    for keys in _alternatives(spec, over_long=False):
        yield Edit(("fields", str(before)), keys, guess=True), before, True
    if number is None and not spec.prefix_digits:
        for more in range(1, 33):
            yield Edit(("fields", str(before)), {"length": spec.length + more}, guess=True), before, True


def _field_before(layout: Layout, departure: Departure) -> int | None:
    """The field that stands before the departure in all of the frames."""
    found = set()
    for frame in departure.frames:
        known = promised(layout, frame)
        numbers = [n for n in known[1] if departure.field is None or n < departure.field] if known else []
        found.add(numbers[-1] if numbers else None)
    one = found.pop() if len(found) == 1 else None
    return one if one in layout.fields else None


def longest(spec: FieldSpec) -> int:
    """The largest maximum that the length of a variable field can say."""
    most: int = (
        256**spec.prefix_bytes - 1 if spec.length_encoding is LengthEncoding.BINARY else 10**spec.prefix_digits - 1
    )
    if spec.counts_hex_digits:
        most //= 2
    elif spec.is_packed and spec.counts is Counts.BYTES:
        most *= 2
    return min(most, 4096)


def _alternatives(spec: FieldSpec, *, over_long: bool) -> Iterator[dict[str, Any]]:
    """Other values for keys of a field's format, first one at a time, then in pairs that go together."""
    if over_long:
        yield {"max": longest(spec)}
    if spec.is_packed:
        yield from _other_pads(spec)
    lengths = [str(one) for one in LengthEncoding if one is not spec.length_encoding] if spec.prefix_digits else []
    if spec.prefix_digits:
        yield from _other_counts(spec)
        yield from ({"length_encoding": one} for one in lengths)
        yield from ({"length": form, "max": spec.length} for form in ("LL", "LLL") if len(form) != spec.prefix_digits)
    if spec.type in ("n", "z", "xn"):
        other = "ascii" if spec.is_packed else "bcd"
    else:
        other = "ascii" if spec.encoding == "binary" else "binary"
    yield {"encoding": other}
    yield from ({"encoding": other, "length_encoding": one} for one in lengths)
    if spec.type == "n":
        whole = {"name": spec.name, "length": "L" * spec.prefix_digits or spec.length}
        whole |= {"max": spec.length} if spec.prefix_digits else {}
        yield {**whole, "type": "z"}
        if not spec.is_packed:
            yield {**whole, "type": "ans"}


def _other_pads(spec: FieldSpec) -> Iterator[dict[str, Any]]:
    side = "right" if spec.pad == "left" else "left"
    yield {"pad": side}
    for nibble in ("0", "f"):
        if nibble != spec.pad_nibble:
            yield {"pad_nibble": nibble}
            yield {"pad": side, "pad_nibble": nibble}


def _other_counts(spec: FieldSpec) -> Iterator[dict[str, Any]]:
    if spec.is_packed or spec.is_hex:
        yield {"counts": "bytes" if spec.counts is Counts.DIGITS else "digits"}


def _formats_elsewhere(number: int) -> Iterator[dict[str, Any]]:
    """A field that the dialect does not have, as shipped dialects have it, and as makes' own fields mostly are."""
    seen = []
    for name in shipped_dialects():
        spec = load_dialect(name).fields.get(number)
        if spec is None:
            continue
        keys: dict[str, Any] = {
            "name": spec.name,
            "type": str(spec.type),
            "length": "L" * spec.prefix_digits or spec.length,
        }
        keys |= {"max": spec.length} if spec.prefix_digits else {}
        if keys not in seen:
            seen.append(keys)
            yield keys
    for form, most in (("LLL", 999), ("LL", 99)):
        yield {"name": _NAMELESS, "type": "ans", "length": form, "max": most, "encoding": "binary"}
