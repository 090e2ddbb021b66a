"""A decoded ISO 8583 message: plain values that no dialect's encoding shows through."""

from __future__ import annotations

from dataclasses import dataclass

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
    fields: Fields
    tpdu: bytes
    header: bytes

    # Every message is made by it: where this runs compiled, the one that `dataclass` writes would not be.
    def __init__(self, mti: str, fields: Fields | None = None, tpdu: bytes = b"", header: bytes = b"") -> None:
        self.mti = mti
        self.fields = {} if fields is None else fields
        self.tpdu = tpdu
        self.header = header
