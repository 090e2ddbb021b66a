"""The layout of a dialect's frames, and the error that names the place where a frame departs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.iso8583.fields import FieldSpec
from protocol.iso8583.message import Message

TPDU_BYTES: Final = 5


class BitmapEncoding(StrEnum):
    """How each bitmap stands on the wire: eight bytes, or sixteen hex digits."""

    BINARY = "binary"
    HEX = "hex"


class MtiEncoding(StrEnum):
    """How the message type stands on the wire: four characters, or two bytes."""

    ASCII = "ascii"
    BCD = "bcd"


class CodecError(ValueError):
    """A frame or a message does not fit the dialect. Its text never holds a value of a field.

    Attributes:
        field: the field at fault; None where the fault lies in TPDU, header, MTI, bitmap or behind the last field.
        offset: bytes from the frame's start, length prefix not counted; when encoding, where the field would begin.
        reason: what is wrong.
        partial: when decoding, what could be read all the same, so that an answer can say whom it is for; else None.
    """

    def __init__(self, field: int | None, offset: int, reason: str, partial: Message | None = None) -> None:
        place = "frame" if field is None else f"field {field}"
        super().__init__(f"{place} at offset {offset}: {reason}")
        self.field = field
        self.offset = offset
        self.reason = reason
        self.partial = partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a codec needs to know of a dialect.

    Attributes:
        tpdu: whether a TPDU of five bytes comes first.
        header_bytes: length of the header behind it, 0 for none.
        hex_upper: whether hex text (bitmap, `b` fields) is in upper case on the wire.
        fields: formats by field number, 2 to 128 without 65.
    """

    tpdu: bool
    header_bytes: int
    mti: MtiEncoding
    bitmap: BitmapEncoding
    hex_upper: bool
    fields: Mapping[int, FieldSpec]

    @property
    def tpdu_bytes(self) -> int:
        """Length of the TPDU, 0 for none."""
        return TPDU_BYTES if self.tpdu else 0

    @property
    def mti_offset(self) -> int:
        """Where the message type begins, in bytes."""
        return self.tpdu_bytes + self.header_bytes

    @property
    def bitmap_offset(self) -> int:
        """Where the primary bitmap begins, in bytes."""
        return self.mti_offset + (4 if self.mti is MtiEncoding.ASCII else 2)

    @property
    def bitmap_bytes(self) -> int:
        """Length of one bitmap on the wire."""
        return 8 if self.bitmap is BitmapEncoding.BINARY else 16

    @property
    def has_secondary(self) -> bool:
        """Whether the dialect knows fields beyond 64; if not, bit 1 of the bitmap is an error."""
        return any(number > 64 for number in self.fields)
