"""The plain decoder: one field after another, and exact about what is wrong and where.

It runs when the compiled decoder has met something irregular, and in tests as the compiled decoder's judge. It looks at
each byte a bounded number of times, so a hostile frame costs no more than its length.
"""

from __future__ import annotations

from protocol.iso8583.fields import HEX_LOWER, HEX_UPPER, FieldError, field_end, read_field
from protocol.iso8583.layout import BitmapEncoding, CodecError, Layout, MtiEncoding
from protocol.iso8583.message import Message


def walk(layout: Layout, frame: bytes) -> Message:
    """Decode `frame` field by field.

    Raises:
        CodecError: the first departure from the layout, in the order of the bytes.
    """
    tpdu_end = layout.tpdu_bytes
    if len(frame) < tpdu_end:
        raise CodecError(None, 0, "the frame ends within the TPDU")
    if len(frame) < layout.mti_offset:
        raise CodecError(None, tpdu_end, "the frame ends within the header")
    mti = _read_mti(layout, frame)
    at = layout.bitmap_offset
    present = _read_bitmap(layout, frame, at, 0)
    at += layout.bitmap_bytes
    if 1 in present:
        if not layout.has_secondary:
            raise CodecError(1, layout.bitmap_offset, "the dialect has no secondary bitmap")
        beyond = _read_bitmap(layout, frame, at, 64)
        if 65 in beyond:
            raise CodecError(65, at, "a third bitmap is not known")
        if not beyond:
            raise CodecError(1, at, "the secondary bitmap is empty")
        present = present[1:] + beyond
        at += layout.bitmap_bytes

    message = Message(mti, {}, frame[:tpdu_end], frame[tpdu_end : layout.mti_offset])
    fault = _read_fields(layout, frame, at, present, message)
    if fault is not None:
        raise fault
    return message


def _read_fields(layout: Layout, frame: bytes, at: int, present: list[int], message: Message) -> CodecError | None:
    """Read what the bitmap promises into `message`, also behind a field at fault; returns the first fault."""
    first: CodecError | None = None
    for number in present:
        spec = layout.fields.get(number)
        if spec is None:
            return first or CodecError(number, at, "the dialect does not have this field", message)
        try:
            message.fields[number], at = read_field(spec, frame, at)
        except FieldError as fault:
            first = first or CodecError(number, fault.at, fault.reason, message)
            end = field_end(spec, frame, at)
            if end is None:
                return first
            at = end
    if at != len(frame) and first is None:
        # No partial message: where a frame ends cannot be trusted any more.
        first = CodecError(None, at, f"{len(frame) - at} bytes behind the last field")
    return first


def _read_mti(layout: Layout, frame: bytes) -> str:
    at = layout.mti_offset
    raw = frame[at : layout.bitmap_offset]
    if at + len(raw) < layout.bitmap_offset:
        raise CodecError(None, at, "the frame ends within the message type")
    mti = raw.decode("latin-1") if layout.mti is MtiEncoding.ASCII else raw.hex()
    if not mti.isdecimal():  # of latin-1 text: exactly 0-9
        raise CodecError(None, at, "the message type is not four digits")
    return mti


def _read_bitmap(layout: Layout, frame: bytes, at: int, base: int) -> list[int]:
    """The numbers of the fields that a bitmap promises, in order; `base` is 0 or 64."""
    raw = frame[at : at + layout.bitmap_bytes]
    field = 1 if base else None
    if len(raw) < layout.bitmap_bytes:
        raise CodecError(field, at, "the frame ends within the bitmap")
    if layout.bitmap is BitmapEncoding.HEX:
        text = raw.decode("latin-1")
        if text.strip(HEX_UPPER if layout.hex_upper else HEX_LOWER):
            case = "upper" if layout.hex_upper else "lower"
            raise CodecError(field, at, f"the bitmap is not {case}-case hex digits")
        raw = bytes.fromhex(text)
    bits = int.from_bytes(raw, "big")
    return [base + number for number in range(1, 65) if bits >> (64 - number) & 1]
