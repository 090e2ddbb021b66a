"""Frames to messages and back, for one dialect, without loss.

`decode` accepts a frame only if `encode` of the result gives the same bytes; what could not be given back the same (a
wrong pad nibble, bytes behind the last field, a field that the dialect does not have) is an error with its place.
"""

from __future__ import annotations

from typing import Final

from protocol.iso8583.compiler import IRREGULAR, Decoder, Irregular, compile_decoder
from protocol.iso8583.encoder import Encoder, bitmap_of, compile_encoder
from protocol.iso8583.fields import FieldError, field_writer
from protocol.iso8583.layout import CodecError, Layout, MtiEncoding
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.walker import walk

__all__ = ["Codec", "CodecError", "Layout"]

DECODERS_MAX: Final = 128
"""Decoders of one dialect that are compiled for a single bitmap. What has another is read by the dialect's own."""

ENCODERS_MAX: Final = 256
"""Compiled encoders of one dialect: one for each set of fields met, in their order. Above, the plain way is taken."""


class Codec:
    """Decodes and encodes the frames of one dialect.

    Its decoder is compiled when it is made; encoders, and decoders of single bitmaps, as they are met.

    Safe to share: what is remembered of it changes no result.
    """

    __slots__ = (
        "_bitmap_at",
        "_bitmap_end",
        "_decode",
        "_decoders",
        "_encoders",
        "_header_bytes",
        "_kinds",
        "_layout",
        "_tpdu_bytes",
        "_writers",
    )

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._decode = compile_decoder(layout)
        self._decoders: dict[bytes, Decoder] = {}
        self._tpdu_bytes, self._header_bytes = layout.tpdu_bytes, layout.header_bytes
        self._bitmap_at = layout.bitmap_offset
        self._bitmap_end = layout.bitmap_offset + layout.bitmap_bytes
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
        bitmap = frame[self._bitmap_at : self._bitmap_end]
        decoder = self._decoders.get(bitmap)
        try:
            return decoder(frame) if decoder is not None else self._decode_first(frame, bitmap)
        except IRREGULAR:
            return walk(self._layout, frame)

    def _decode_first(self, frame: bytes, bitmap: bytes) -> Message:
        """Read a frame with a bitmap that was not met yet; the next one will be read faster."""
        message = self._decode(frame)
        if len(self._decoders) < DECODERS_MAX:
            self._decoders[bitmap] = compile_decoder(self._layout, bitmap)
        return message

    def writes(self, numbers: tuple[int, ...]) -> bool:
        """Whether messages with these fields, in this order, have been written, so that the dialect has all of them."""
        return numbers in self._encoders

    def encode(self, message: Message) -> bytes:
        """Write a message as a frame without length prefix.

        Raises:
            CodecError: a value does not have its field's format, or a part is missing or not known to the dialect.
        """
        fields, mti, tpdu, header = message.fields, message.mti, message.tpdu, message.header
        if len(tpdu) == self._tpdu_bytes and len(header) == self._header_bytes:
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
