"""Frames to messages and back, for one dialect, without loss.

`decode` accepts a frame only if `encode` of the result gives the same bytes; what could not be given back the same (a
wrong pad nibble, bytes behind the last field, a field that the dialect does not have) is an error with its place.
"""

from __future__ import annotations

from typing import Final

from protocol.iso8583.compiler import IRREGULAR, Irregular, compile_decoder
from protocol.iso8583.encoder import Encoder, bitmap_of, compile_encoder
from protocol.iso8583.fields import FieldError, field_writer
from protocol.iso8583.layout import CodecError, Layout, MtiEncoding
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.walker import walk

__all__ = ["Codec", "CodecError", "Layout"]

ENCODERS_MAX: Final = 256
"""Compiled encoders of one dialect: one for each set of fields met, in their order. Above, the plain way is taken."""


class Codec:
    """Decodes and encodes the frames of one dialect; its decoder is compiled when it is made, encoders as they are met.

    Safe to share: what is remembered of it changes no result.
    """

    __slots__ = ("_decode", "_encoders", "_kinds", "_layout", "_writers")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._decode = compile_decoder(layout)
        self._writers = {number: field_writer(spec) for number, spec in layout.fields.items()}
        self._encoders: dict[tuple[int, ...], Encoder] = {}
        self._kinds: dict[str, bytes] = {}

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
        fields, mti, tpdu, header = message.fields, message.mti, message.tpdu, message.header
        layout = self._layout
        if len(tpdu) == layout.tpdu_bytes and len(header) == layout.header_bytes:
            shape = tuple(fields)
            try:
                encoder = self._encoders.get(shape) or self._encoder(shape)
                return tpdu + header + (self._kinds.get(mti) or self._kind(mti)) + encoder(fields)
            except IRREGULAR:
                pass
        return self._encode_plainly(message)

    def _encoder(self, shape: tuple[int, ...]) -> Encoder:
        if len(self._encoders) >= ENCODERS_MAX:
            return _no_encoder
        encoder = self._encoders[shape] = compile_encoder(self._layout, shape)
        return encoder

    def _kind(self, mti: str) -> bytes:
        if len(mti) != 4 or not mti.isascii() or not mti.isdecimal():
            raise Irregular
        kind = self._kinds[mti] = bytes.fromhex(mti) if self._layout.mti is MtiEncoding.BCD else mti.encode()
        return kind

    def _encode_plainly(self, message: Message) -> bytes:
        """Field by field, so that what does not fit can be told with its place."""
        layout = self._layout
        pieces: list[bytes] = []
        numbers = sorted(message.fields)
        number = 0
        try:
            for number in numbers:
                pieces.append(self._writers[number](message.fields[number]))
        except KeyError:
            raise CodecError(
                number, self._place(pieces, numbers[: len(pieces)]), "the dialect does not have this field"
            ) from None
        except FieldError as fault:
            place = self._place(pieces, numbers[: len(pieces) + 1])
            raise CodecError(number, place, fault.reason) from None
        tpdu, header, mti = message.tpdu, message.header, message.mti
        if len(tpdu) != layout.tpdu_bytes:
            raise CodecError(None, 0, f"a TPDU of {len(tpdu)} bytes, not {layout.tpdu_bytes}")
        if len(header) != layout.header_bytes:
            raise CodecError(None, layout.tpdu_bytes, f"a header of {len(header)} bytes, not {layout.header_bytes}")
        try:
            kind = self._kind(mti)
        except Irregular:
            raise CodecError(None, layout.mti_offset, "the message type is not four digits") from None
        return b"".join([tpdu, header, kind, bitmap_of(layout, numbers), *pieces])

    def _place(self, pieces: list[bytes], met: list[int]) -> int:
        """Where the next field would begin; a secondary bitmap counts once a field beyond 64 was met."""
        layout = self._layout
        bitmaps = 2 if met and met[-1] > 64 else 1
        return layout.bitmap_offset + bitmaps * layout.bitmap_bytes + sum(map(len, pieces))


def _no_encoder(_: Fields) -> bytes:
    raise Irregular
