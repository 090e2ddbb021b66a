"""The form of a dialect's TOML file, checked as a whole: every mistake is found in one go.

name = "acme"
extends = "unionpay"              # optional: a shipped dialect; the file then says what differs, see `extending`
tpdu = false                      # five bytes in front
header_bytes = 0                  # behind the TPDU
mti = "bcd"                       # or "ascii"
bitmap = "binary"                 # or "hex"
hex_case = "upper"                # of hex text on the wire

[framing]
length = "binary-2"               # or "ascii-4", "bcd-2"
limit_bytes = 4096

[defaults]                        # for every field; then by kind: n (also xn), z, text, b
length_encoding = "bcd"
[defaults.n]
encoding = "bcd"

[fields]
3 = { name = "Processing code", type = "n", length = 6 }                # exactly six
2 = { name = "PAN", type = "n", length = "LL", max = 19, pad = "right" } # up to nineteen
[terminal]                        # keys of TerminalRules
[host]                            # keys of HostRules
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.framing import LENGTH_MAX, Framing, LengthPrefix
from protocol.iso8583.dialect_rules import read_host, read_terminal
from protocol.iso8583.extending import extended, taken_over
from protocol.iso8583.fields import (
    HEX_LOWER,
    TRACK,
    Counts,
    FieldError,
    FieldSpec,
    FieldType,
    LengthEncoding,
    PadSide,
    ValueEncoding,
    field_writer,
)
from protocol.iso8583.layout import BitmapEncoding, MtiEncoding
from protocol.iso8583.mistakes import Mistakes, TableReader
from protocol.iso8583.rules import HostRules, TerminalRules

_PREFIX_DIGITS: Final = {"L": 1, "LL": 2, "LLL": 3, "LLLL": 4}
_FORMAT_KEYS: Final = (
    "encoding", "length_encoding", "counts", "pad", "pad_nibble", "separator",
)  # fmt: skip
_KINDS: Final = ("n", "z", "text", "b")


class DialectError(ValueError):
    """A dialect file is wrong.

    Attributes:
        mistakes: each names the file, the key, and what would be right.
    """

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A dialect file's meaning."""

    name: str
    framing: Framing
    tpdu: bool
    header_bytes: int
    mti: MtiEncoding
    bitmap: BitmapEncoding
    hex_upper: bool
    fields: dict[int, FieldSpec]
    terminal: TerminalRules
    host: HostRules


def read_contents(file: str, table: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Contents:
    """Read a parsed TOML table.

    Args:
        file: how mistakes name the file.
        base: the table of the dialect that the file extends, if it does.
    Raises:
        DialectError: with all mistakes.
    """
    if base is None:
        mistakes = Mistakes(file)
        top = TableReader(mistakes, "", table)
    else:
        origin = f" (taken over from {table['extends']})"
        mistakes = Mistakes(file, lambda key: origin if taken_over(table, base, key) else "")
        top = TableReader(mistakes, "", extended(table, base))
    name = top.text("name", "")
    top.take("extends")  # who reads the file has looked it up
    if not name:
        mistakes.add("name", "must be the dialect's name")
    hex_upper = top.choice("hex_case", ("upper", "lower"), "upper") == "upper"
    framing = _read_framing(mistakes, top.table("framing"))
    tpdu = top.flag("tpdu", default=False)
    header_bytes = top.number("header_bytes", 0, least=0, most=64)
    mti = MtiEncoding(top.choice("mti", tuple(MtiEncoding), "ascii"))
    bitmap = BitmapEncoding(top.choice("bitmap", tuple(BitmapEncoding), "binary"))
    defaults = _read_defaults(mistakes, top.table("defaults"))
    field_table = top.table("fields")
    fields = _read_fields(mistakes, field_table, defaults, framing.limit_bytes, hex_upper=hex_upper)
    if not fields and not mistakes:
        mistakes.add("fields", "must hold at least one field")
    # A field with a mistake of its own is there all the same: rules that name it are right.
    known = {int(key) for key in field_table if key.isascii() and key.isdecimal() and len(key) <= 3}
    terminal = read_terminal(mistakes, top.table("terminal"), known)
    host_table = top.table("host")
    host = read_host(mistakes, host_table, known)
    if "echo_fields" in host_table:
        _check_echo(mistakes, host, fields)
    top.finish()
    if mistakes:
        raise DialectError(mistakes.all())
    return Contents(
        name=name,
        framing=framing,
        tpdu=tpdu,
        header_bytes=header_bytes,
        mti=mti,
        bitmap=bitmap,
        hex_upper=hex_upper,
        fields=fields,
        terminal=terminal,
        host=host,
    )


def _read_framing(mistakes: Mistakes, table: Mapping[str, Any]) -> Framing:
    reader = TableReader(mistakes, "framing", table)
    length = LengthPrefix(reader.choice("length", tuple(LengthPrefix), "binary-2"))
    limit_bytes = reader.number("limit_bytes", 4096, least=16, most=LENGTH_MAX[length])
    reader.finish()
    return Framing(length, limit_bytes)


def _read_defaults(mistakes: Mistakes, table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each kind of field takes where it says nothing itself, by kind; checked where a field uses it."""
    shared = {key: value for key, value in table.items() if key not in _KINDS}
    _refuse_unknown(mistakes, "defaults", shared, _FORMAT_KEYS)
    merged = {}
    for kind in _KINDS:
        own = table.get(kind, {})
        if not isinstance(own, dict):
            mistakes.add(f"defaults.{kind}", "must be a table")
            own = {}
        _refuse_unknown(mistakes, f"defaults.{kind}", own, _FORMAT_KEYS)
        merged[kind] = {**shared, **own}
    return merged


def _refuse_unknown(mistakes: Mistakes, place: str, table: Iterable[str], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            mistakes.add(f"{place}.{key}", f"is not known; known are {', '.join(known)}")


def _kind(field_type: FieldType) -> str:
    if field_type in (FieldType.N, FieldType.XN):
        return "n"
    if field_type in (FieldType.Z, FieldType.B):
        return field_type.value
    return "text"


def _read_fields(
    mistakes: Mistakes,
    table: Mapping[str, Any],
    defaults: Mapping[str, Mapping[str, Any]],
    limit_bytes: int,
    *,
    hex_upper: bool,
) -> dict[int, FieldSpec]:
    fields: dict[int, FieldSpec] = {}
    for key, own in table.items():
        place = f"fields.{key}"
        number = int(key) if key.isascii() and key.isdecimal() and len(key) <= 3 else 0
        if not 2 <= number <= 128 or number == 65 or str(number) != key:
            mistakes.add(place, "must be a field number from 2 to 128, not 65")
        elif not isinstance(own, dict):
            mistakes.add(place, "must be a table with type and length")
        else:
            before = len(mistakes)
            spec = _read_field(TableReader(mistakes, place, own), defaults, limit_bytes, hex_upper=hex_upper)
            if len(mistakes) == before:
                fields[number] = spec
    return dict(sorted(fields.items()))


def _read_field(
    reader: TableReader, defaults: Mapping[str, Mapping[str, Any]], limit_bytes: int, *, hex_upper: bool
) -> FieldSpec:
    reader.require("type")
    reader.require("length")
    field_type = FieldType(reader.choice("type", tuple(FieldType), "ans"))
    reader.fall_back_on(defaults[_kind(field_type)])
    prefix_digits, length = _read_length(reader, limit_bytes)
    spec = FieldSpec(
        name=reader.text("name", ""),
        type=field_type,
        length=length,
        prefix_digits=prefix_digits,
        encoding=ValueEncoding(reader.choice("encoding", _encodings(field_type), _encodings(field_type)[0])),
        length_encoding=LengthEncoding(reader.choice("length_encoding", tuple(LengthEncoding), "ascii")),
        counts=Counts(reader.choice("counts", tuple(Counts), "bytes" if field_type is FieldType.B else "digits")),
        pad=PadSide(reader.choice("pad", tuple(PadSide), "left")),
        pad_nibble=reader.choice("pad_nibble", tuple(HEX_LOWER), "0"),
        separator=reader.text("separator", "="),
        hex_upper=hex_upper,
        tlv=reader.flag("tlv", default=False),
    )
    reader.finish()
    _check_combination(reader, spec)
    return spec


def _encodings(field_type: FieldType) -> tuple[str, ...]:
    """The value encodings of a type; the first is what it has where nothing says otherwise."""
    if field_type in (FieldType.N, FieldType.XN, FieldType.Z):
        return ("ascii", "bcd")
    return ("binary", "ascii") if field_type is FieldType.B else ("ascii", "binary")


def _read_length(reader: TableReader, limit_bytes: int) -> tuple[int, int]:
    """Digits of the length prefix (0: fixed), and the length or the most."""
    form = reader.take("length")
    if isinstance(form, int) and not isinstance(form, bool):
        if "max" in reader:
            reader.take("max")
            reader.mistake("max", "has no place beside a fixed length")
        if not 1 <= form <= limit_bytes:
            reader.mistake("length", f"must lie within 1 and {limit_bytes}")
        return 0, form
    if not isinstance(form, str) or form not in _PREFIX_DIGITS:
        if form is not None:
            reader.mistake("length", f'must be a number, or one of {", ".join(_PREFIX_DIGITS)} with "max"')
        reader.take("max")
        return 0, 1
    reader.require("max")
    return _PREFIX_DIGITS[form], reader.number("max", 1, least=1, most=limit_bytes)


def _check_combination(reader: TableReader, spec: FieldSpec) -> None:
    """Refuse what each part allows and the whole does not."""
    if spec.prefix_digits:
        if spec.type is FieldType.XN:
            reader.mistake("length", "must be a number: xn has a fixed length")
        most = 10**spec.prefix_digits - 1
        if spec.length_encoding is LengthEncoding.BINARY:
            most = 256**spec.prefix_bytes - 1
        if spec.count_max > most:
            reader.mistake("max", f"is more than the length can say, {most}")
    if len(spec.separator) != 1 or (spec.separator != "=" and (spec.separator in TRACK or spec.separator > "~")):
        reader.mistake("separator", 'must be "=" or one ASCII letter that track data does not hold otherwise')
    if spec.tlv and not spec.is_hex:
        reader.mistake("tlv", "needs a field of type b")


def _check_echo(mistakes: Mistakes, host: HostRules, fields: Mapping[int, FieldSpec]) -> None:
    for number, value in host.echo_fields.items():
        if number not in fields:
            continue
        try:
            field_writer(fields[number])(value)
        except FieldError as fault:
            mistakes.add(f"host.echo_fields.{number}", f"must fit the field: {fault.reason}")
