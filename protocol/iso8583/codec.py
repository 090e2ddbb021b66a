"""Frames to messages and back, for one dialect, without loss.

`decode` accepts a frame only if `encode` of the result gives the same bytes; what could not be given back the same (a
wrong pad nibble, bytes behind the last field, a field that the dialect does not have) is an error with its place.
"""

from __future__ import annotations

from typing import Final

from protocol.iso8583.compiler import IRREGULAR, compile_decoder
from protocol.iso8583.fields import FieldError, field_writer
from protocol.iso8583.layout import BitmapEncoding, CodecError, Layout, MtiEncoding
from protocol.iso8583.message import Message
from protocol.iso8583.walker import walk

__all__ = ["Codec", "CodecError", "Layout"]

_BITS: Final = tuple(0 if number == 0 else 1 << (128 - number) for number in range(129))
"""The bit of each field in the two bitmaps together."""


class Codec:
    """Decodes and encodes the frames of one dialect; its decoder is compiled when it is made.

    Safe to share: nothing in it changes after it is made.
    """

    __slots__ = ("_decode", "_layout", "_writers")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._decode = compile_decoder(layout)
        self._writers = {number: (_BITS[number], field_writer(spec)) for number, spec in layout.fields.items()}

    @property
    def layout(self) -> Layout:
        """What this codec was made for."""
        return self._layout

    def decode(self, frame: bytes) -> Message:
        """Read a frame, its length prefix removed.

        Raises:
            CodecError: the first departure from the dialect, with field and offset.
        """
        try:
            return self._decode(frame)
        except IRREGULAR:
            return walk(self._layout, frame)

    def encode(self, message: Message) -> bytes:
        """Write a message as a frame without length prefix.

        Raises:
            CodecError: a value does not have its field's format, or a part is missing or not known to the dialect.
        """
        layout = self._layout
        pieces = [b""]  # the front is known only when every field has been seen
        bits = 0
        number = 0
        writers = self._writers
        fields = message.fields
        try:
            for number in sorted(fields):
                bit, write = writers[number]
                bits |= bit
                pieces.append(write(fields[number]))
        except KeyError:
            raise CodecError(number, self._place(pieces, bits), "the dialect does not have this field") from None
        except FieldError as fault:
            raise CodecError(number, self._place(pieces, bits), fault.reason) from None
        tpdu, header, mti = message.tpdu, message.header, message.mti
        if len(tpdu) != layout.tpdu_bytes:
            raise CodecError(None, 0, f"a TPDU of {len(tpdu)} bytes, not {layout.tpdu_bytes}")
        if len(header) != layout.header_bytes:
            raise CodecError(None, layout.tpdu_bytes, f"a header of {len(header)} bytes, not {layout.header_bytes}")
        if len(mti) != 4 or not mti.isascii() or not mti.isdecimal():
            raise CodecError(None, layout.mti_offset, "the message type is not four digits")
        kind = bytes.fromhex(mti) if layout.mti is MtiEncoding.BCD else mti.encode()
        pieces[0] = tpdu + header + kind + self._bitmap(bits)
        return b"".join(pieces)

    def _bitmap(self, bits: int) -> bytes:
        secondary = bits & 0xFFFF_FFFF_FFFF_FFFF
        raw = (bits | _BITS[1]).to_bytes(16, "big") if secondary else (bits >> 64).to_bytes(8, "big")
        if self._layout.bitmap is BitmapEncoding.BINARY:
            return raw
        text = raw.hex()
        return (text.upper() if self._layout.hex_upper else text).encode()

    def _place(self, pieces: list[bytes], bits: int) -> int:
        """Where the next field would begin; a secondary bitmap counts once a field beyond 64 was met."""
        layout = self._layout
        bitmaps = 2 if bits & 0xFFFF_FFFF_FFFF_FFFF else 1
        return layout.bitmap_offset + bitmaps * layout.bitmap_bytes + sum(map(len, pieces))
