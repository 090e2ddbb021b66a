"""A decoded ISO 8583 message: plain values that no dialect's encoding shows through."""

from __future__ import annotations

from dataclasses import dataclass, field

Fields = dict[int, str]
"""Field number to value: digits or text as the field's type says, lower-case hex for binary fields."""


@dataclass(slots=True)
class Message:
    """One ISO 8583 message.

    Attributes:
        mti: four digits, e.g. "0200".
        fields: values by field number (2..128); field 1 (secondary bitmap) never appears.
        tpdu: five bytes where the dialect carries a TPDU, else empty.
        header: the dialect's header as received, else empty.
    """

    mti: str
    fields: Fields = field(default_factory=dict)
    tpdu: bytes = b""
    header: bytes = b""
