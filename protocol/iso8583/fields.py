"""The format of one field, built of orthogonal parts, and the plain reader and writer of its value.

Values are the same in every dialect, so that a message can be moved from one to another:

- `n`: decimal digits. `xn`: "C" or "D" (credit, debit) and digits.
- `z`: track data in the sixteen characters of ISO 7811-2, `0123456789:;<=>?`; packed, each is the nibble of the same
  order, so the separator is "=" in a value and the nibble d on a packed wire. A dialect whose ASCII wire shows the
  separator as another letter says so with `separator`.
- `a`, `an`, `ans` and so on: latin-1 text exactly as received, trailing spaces included; its characters are not
  policed, because makes put other alphabets there.
- `b`, and text with `encoding = "binary"`: lower-case hex.

The reader here is the slow one. It says which field is wrong and where; the compiled decoder is checked against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DIGITS: Final = "0123456789"
HEX_LOWER: Final = "0123456789abcdef"
HEX_UPPER: Final = "0123456789ABCDEF"
TRACK: Final = "0123456789:;<=>?"
TRACK_OF_NIBBLE: Final = str.maketrans(HEX_LOWER, TRACK)
NIBBLE_OF_TRACK: Final = str.maketrans(TRACK, HEX_LOWER)


class FieldType(StrEnum):
    """What a field's value is made of (ISO 8583:1987, 4.3)."""

    N = "n"
    XN = "xn"
    Z = "z"
    A = "a"
    AN = "an"
    AS = "as"
    NS = "ns"
    ANP = "anp"
    ANS = "ans"
    B = "b"


class ValueEncoding(StrEnum):
    """How a value stands on the wire; `ascii` for a `b` field means hex text in the dialect's `hex_case`."""

    ASCII = "ascii"
    BCD = "bcd"
    BINARY = "binary"


class LengthEncoding(StrEnum):
    """How the length of a variable field stands on the wire."""

    ASCII = "ascii"
    BCD = "bcd"
    BINARY = "binary"


class Counts(StrEnum):
    """What the length of a variable field counts.

    digits: digits of `n` and `z`, hex digits of `b`, characters of text.
    bytes: bytes that packed digits fill, bytes of `b`, characters of text. An odd number of packed digits can then be
    told from an even one only where the pad is no digit.
    """

    DIGITS = "digits"
    BYTES = "bytes"


class PadSide(StrEnum):
    """Where the pad nibble of an odd number of packed digits stands."""

    LEFT = "left"
    RIGHT = "right"


class FieldError(ValueError):
    """A value or its bytes do not have the field's format; `at` is the offset in bytes, where reading."""

    def __init__(self, reason: str, at: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """The format of one field.

    Attributes:
        name: for people.
        length: digits, characters or bytes (of `b` and of text sent as binary): exact where fixed, else the most.
            The sign of `xn` is not counted.
        prefix_digits: 0 for a fixed length, else 1 to 4 for L to LLLL.
        pad_nibble: one lower-case hex digit.
        separator: the ASCII wire's letter for the "=" of track data.
        hex_upper: whether hex text on the wire is in upper case.
        tlv: the value is BER-TLV (EMV).
    """

    name: str
    type: FieldType
    length: int
    prefix_digits: int = 0
    encoding: ValueEncoding = ValueEncoding.ASCII
    length_encoding: LengthEncoding = LengthEncoding.ASCII
    counts: Counts = Counts.DIGITS
    pad: PadSide = PadSide.LEFT
    pad_nibble: str = "0"
    separator: str = "="
    hex_upper: bool = True
    tlv: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the value is text, not digits or hex."""
        return self.type not in (FieldType.N, FieldType.XN, FieldType.Z) and not self.is_hex

    @property
    def is_hex(self) -> bool:
        """Whether the value is lower-case hex."""
        return self.type is FieldType.B or self.encoding is ValueEncoding.BINARY

    @property
    def is_packed(self) -> bool:
        """Whether two digits share a byte."""
        return self.encoding is ValueEncoding.BCD

    @property
    def counts_hex_digits(self) -> bool:
        """Whether the length counts two for each byte."""
        return self.type is FieldType.B and self.counts is Counts.DIGITS

    @property
    def prefix_bytes(self) -> int:
        """Bytes of the length on the wire; as usual, binary L and LL take one byte, LLL and LLLL two."""
        if self.length_encoding is LengthEncoding.ASCII:
            return self.prefix_digits
        return (self.prefix_digits + 1) // 2

    @property
    def count_max(self) -> int:
        """The largest number that the length may say, in what it counts."""
        if self.counts_hex_digits:
            return self.length * 2
        if self.is_packed and self.counts is Counts.BYTES:
            return (self.length + 1) // 2
        return self.length

    @property
    def strips_pad(self) -> bool:
        """Whether only the pad itself tells an odd number of digits from an even one."""
        return (
            self.is_packed and self.prefix_digits > 0 and self.counts is Counts.BYTES and self.pad_nibble not in DIGITS
        )


# --- reading -----------------------------------------------------------------------------------------------------


def _take(frame: bytes, at: int, size: int, what: str) -> bytes:
    piece = frame[at : at + size]
    if len(piece) < size:
        raise FieldError(f"the frame ends within {what}", at)
    return piece


def read_field(spec: FieldSpec, frame: bytes, at: int) -> tuple[str, int]:
    """Read one field at offset `at`: its value, and the offset behind it.

    Raises:
        FieldError: the bytes do not have the field's format, or writing the value would give other bytes.
    """
    if spec.prefix_digits == 0:
        return _read_value(spec, frame, at, spec.length)
    start = at
    count = _read_count(spec, frame, at)
    at += spec.prefix_bytes
    if count > spec.count_max:
        raise FieldError(f"length {count} is over the most, {spec.count_max}", start)
    if spec.counts_hex_digits:
        if count % 2:
            raise FieldError("an odd number of hex digits", start)
        count //= 2
    if spec.is_packed and spec.counts is Counts.BYTES:
        value, end = _read_value(spec, frame, at, count * 2)
        return _without_pad(spec, value, at), end
    return _read_value(spec, frame, at, count)


def field_end(spec: FieldSpec, frame: bytes, at: int) -> int | None:
    """Where a field ends by its format and length alone, whatever its value; None where even that cannot be told."""
    units = spec.length
    if spec.prefix_digits:
        try:
            units = _read_count(spec, frame, at)
        except FieldError:
            return None
        if units > spec.count_max:
            return None
        at += spec.prefix_bytes
        if spec.counts_hex_digits:
            units //= 2
        elif spec.is_packed and spec.counts is Counts.BYTES:
            units *= 2
    if spec.is_hex:
        size = units if spec.encoding is ValueEncoding.BINARY else 2 * units
    elif spec.is_packed:
        size = (units + 1) // 2
    else:
        size = units
    if spec.type is FieldType.XN:
        size += 1
    return at + size if at + size <= len(frame) else None


def _read_count(spec: FieldSpec, frame: bytes, at: int) -> int:
    raw = _take(frame, at, spec.prefix_bytes, "the length")
    if spec.length_encoding is LengthEncoding.BINARY:
        return int.from_bytes(raw, "big")
    digits = raw.decode("latin-1") if spec.length_encoding is LengthEncoding.ASCII else raw.hex()
    if not digits.isdecimal():  # of latin-1 text: exactly 0-9
        raise FieldError("the length is not made of digits", at)
    return int(digits)


def _without_pad(spec: FieldSpec, value: str, at: int) -> str:
    if spec.strips_pad:
        pad = spec.pad_nibble.translate(TRACK_OF_NIBBLE) if spec.type is FieldType.Z else spec.pad_nibble
        value = value.removesuffix(pad) if spec.pad is PadSide.RIGHT else value.removeprefix(pad)
    if len(value) > spec.length:
        raise FieldError(f"more than {spec.length} digits", at)
    if spec.type is FieldType.N and value and not value.isdecimal():
        raise FieldError("not made of decimal digits", at)
    return value


def _read_value(spec: FieldSpec, frame: bytes, at: int, units: int) -> tuple[str, int]:
    """Read `units` digits, characters or bytes without a length in front."""
    if spec.is_hex:
        if spec.encoding is ValueEncoding.BINARY:
            return _take(frame, at, units, "the value").hex(), at + units
        text = _take(frame, at, units * 2, "the value").decode("latin-1")
        if text.strip(HEX_UPPER if spec.hex_upper else HEX_LOWER):
            case = "upper" if spec.hex_upper else "lower"
            raise FieldError(f"not {case}-case hex digits", at)
        return text.lower(), at + units * 2
    if spec.type is FieldType.XN:
        sign = _take(frame, at, 1, "the value").decode("latin-1")
        if sign not in ("C", "D"):
            raise FieldError("the sign is neither C nor D", at)
        digits, end = _read_digits(spec, frame, at + 1, units)
        return sign + digits, end
    if spec.is_text:
        return _take(frame, at, units, "the value").decode("latin-1"), at + units
    return _read_digits(spec, frame, at, units)


def _read_digits(spec: FieldSpec, frame: bytes, at: int, units: int) -> tuple[str, int]:
    if spec.is_packed:
        size = (units + 1) // 2
        text = _take(frame, at, size, "the value").hex()
        if units % 2:
            pad, text = (text[0], text[1:]) if spec.pad is PadSide.LEFT else (text[-1], text[:-1])
            if pad != spec.pad_nibble:
                raise FieldError(f"the pad nibble is not {spec.pad_nibble}", at)
        if spec.type is FieldType.Z:
            return text.translate(TRACK_OF_NIBBLE), at + size
    else:
        size = units
        text = _take(frame, at, size, "the value").decode("latin-1")
        if spec.type is FieldType.Z:
            if text.strip(TRACK.replace("=", spec.separator)):
                raise FieldError("not made of track characters", at)
            return text.replace(spec.separator, "="), at + size
    if text and not text.isdecimal() and not spec.strips_pad:
        raise FieldError("not made of decimal digits", at)
    return text, at + size


# --- writing -----------------------------------------------------------------------------------------------------

Writer = Callable[[str], bytes]
"""From a field's value to its bytes, the length included. Raises FieldError."""


def field_writer(spec: FieldSpec) -> Writer:
    """The writer of one field, with everything decided beforehand that does not depend on the value."""
    if spec.is_hex:
        return _hex_writer(spec)
    if spec.is_text:
        return _text_writer(spec)
    if spec.type is FieldType.XN:
        return _signed_writer(spec)
    return _packed_writer(spec) if spec.is_packed else _ascii_digits_writer(spec)


def length_prefixes(spec: FieldSpec) -> tuple[bytes, ...]:
    """The length on the wire for every count that is allowed; one empty prefix per count for a fixed length."""
    if spec.prefix_digits == 0:
        return (b"",) * (spec.count_max + 1)
    size = spec.prefix_bytes
    if spec.length_encoding is LengthEncoding.BINARY:
        return tuple(n.to_bytes(size, "big") for n in range(spec.count_max + 1))
    if spec.length_encoding is LengthEncoding.BCD:
        return tuple(bytes.fromhex(f"{n:0{size * 2}d}") for n in range(spec.count_max + 1))
    return tuple(b"%0*d" % (size, n) for n in range(spec.count_max + 1))


def _length_fault(spec: FieldSpec, size: int, unit: str) -> FieldError:
    if spec.prefix_digits == 0:
        return FieldError(f"{size} {unit}, not exactly {spec.length}")
    return FieldError(f"{size} {unit}, more than {spec.length}")


def _hex_writer(spec: FieldSpec) -> Writer:
    prefixes = length_prefixes(spec)
    fixed = spec.prefix_digits == 0
    scale = 2 if spec.counts_hex_digits and not fixed else 1
    as_text = spec.encoding is ValueEncoding.ASCII
    upper = spec.hex_upper
    most = spec.length

    def write(value: str) -> bytes:
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raise FieldError("not an even number of hex digits") from None
        if raw.hex() != value:  # fromhex also takes upper case and spaces
            raise FieldError("not lower-case hex digits")
        size = len(raw)
        if size > most or (fixed and size != most):
            raise _length_fault(spec, size, "bytes")
        if as_text:
            return prefixes[size * scale] + (value.upper() if upper else value).encode()
        return prefixes[size * scale] + raw

    return write


def _text_writer(spec: FieldSpec) -> Writer:
    prefixes = length_prefixes(spec)
    fixed = spec.prefix_digits == 0
    most = spec.length

    def write(value: str) -> bytes:
        size = len(value)
        if size > most or (fixed and size != most):
            raise _length_fault(spec, size, "characters")
        try:
            return prefixes[size] + value.encode("latin-1")
        except UnicodeEncodeError:
            raise FieldError("characters outside latin-1") from None

    return write


def _signed_writer(spec: FieldSpec) -> Writer:
    digits = _packed_writer(spec) if spec.is_packed else _ascii_digits_writer(spec)

    def write(value: str) -> bytes:
        if value[:1] not in ("C", "D"):
            raise FieldError("the sign is neither C nor D")
        return value[0].encode() + digits(value[1:])

    return write


def _ascii_digits_writer(spec: FieldSpec) -> Writer:
    prefixes = length_prefixes(spec)
    fixed = spec.prefix_digits == 0
    most = spec.length
    track = spec.type is FieldType.Z
    separator = spec.separator

    def write(value: str) -> bytes:
        if track:
            if value.strip(TRACK):
                raise FieldError("not made of track characters")
            value = value.replace("=", separator)
        elif value and not (value.isascii() and value.isdecimal()):
            raise FieldError("not made of decimal digits")
        size = len(value)
        if size > most or (fixed and size != most):
            raise _length_fault(spec, size, "digits")
        return prefixes[size] + value.encode()

    return write


def _packed_writer(spec: FieldSpec) -> Writer:
    prefixes = length_prefixes(spec)
    fixed = spec.prefix_digits == 0
    most = spec.length
    track = spec.type is FieldType.Z
    by_bytes = spec.counts is Counts.BYTES and not fixed
    strips_pad = spec.strips_pad
    pad, left = spec.pad_nibble, spec.pad is PadSide.LEFT

    def write(value: str) -> bytes:
        if track:
            if value.strip(TRACK):
                raise FieldError("not made of track characters")
            value = value.translate(NIBBLE_OF_TRACK)
        elif value and not (value.isascii() and value.isdecimal()):
            raise FieldError("not made of decimal digits")
        size = len(value)
        if size > most or (fixed and size != most):
            raise _length_fault(spec, size, "digits")
        if size & 1:
            if by_bytes and not strips_pad:
                raise FieldError("an odd number of digits cannot be told where the length counts bytes")
            value = pad + value if left else value + pad
        elif strips_pad and (value.startswith(pad) if left else value.endswith(pad)):
            raise FieldError("the last digit would be taken for the pad")
        return prefixes[(size + 1) // 2 if by_bytes else size] + bytes.fromhex(value)

    return write
