"""Shows an ISO 8583 frame in words: what stands behind `holdfast decode`."""

from __future__ import annotations

import json
import string
from typing import Final

from protocol.emv import TAG_NAMES, Tlv, TlvError, parse_tlv
from protocol.framing import Framing, FramingError
from protocol.iso8583.codec import CodecError
from protocol.iso8583.dialect import Dialect, DialectError, load_dialect
from protocol.iso8583.message import Message
from protocol.masking import masked_fields
from protocol.response_codes import response_text

DEFAULT_DIALECT: Final = "unionpay"
AS_TEXT: Final = "this looks like text, not hex: give its bytes as hex (printf %s FRAME | xxd -p | holdfast decode -)"
_STRANGE_SHARE: Final = 0.25  # a slip of the pen in hex is less than this, text is more
_TAG_DEPTH_MAX: Final = 8  # a hostile field may nest as deep as it is long


class DecodingError(ValueError):
    """What was given cannot be shown; the text says why, in words for the person who gave it."""


def decode_command(dialect: str, text: str, as_json: bool) -> str:
    """Decode one frame from hex and show it, its card masked.

    Args:
        dialect: a shipped dialect's name, or the path of a dialect file.
        text: hex in either case, with any white space; with or without the dialect's length prefix.
        as_json: one JSON object (`dialect`, `tpdu`, `header`, `mti`, `fields`) in place of a table.
    Returns:
        text without a line break at its end.
    Raises:
        DecodingError: no such dialect or mistakes in it, no hex, no frame of this dialect, or one that reads both ways.
    """
    try:
        known = load_dialect(dialect)
    except DialectError as error:
        raise DecodingError(str(error)) from error
    try:
        message = _decode(known, _bytes_of(text))
    except DecodingError as error:
        if _is_text(known, text):
            raise DecodingError(f"{error}; {AS_TEXT}") from error
        raise
    return _as_json(known, message) if as_json else _as_table(known, message)


def _bytes_of(text: str) -> bytes:
    digits = "".join(text.split())
    if not digits:
        raise DecodingError("no frame given: expected hex digits")
    for place, digit in enumerate(digits, start=1):
        if digit not in string.hexdigits:
            raise DecodingError(f"character {place} (white space not counted) is no hex digit")
    if len(digits) % 2:
        raise DecodingError(f"{len(digits)} hex digits are no whole number of bytes")
    return bytes.fromhex(digits)


def _is_text(dialect: Dialect, given: str) -> bool:
    """Whether what is no hex of a frame looks like the frame itself, as its characters."""
    text = given.strip()
    if not text or not (text.isascii() and text.isprintable()):
        return False
    digits = "".join(text.split())
    strange = sum(digit not in string.hexdigits for digit in digits)
    if strange > _STRANGE_SHARE * len(digits):
        return True
    if not _in_characters(dialect):
        return False
    if len(digits) % 2 and not strange:
        return True
    try:
        dialect.codec.decode(text.encode())
    except CodecError:
        return False
    return True


def _in_characters(dialect: Dialect) -> bool:
    """Whether the dialect's frames carry the message type in characters."""
    probe = Message("0800", {}, bytes(5) if dialect.tpdu else b"", bytes(dialect.header_bytes))
    return b"0800" in dialect.codec.encode(probe)


def _decode(dialect: Dialect, raw: bytes) -> Message:
    """Try the bytes as a frame, and, where they begin with their own length, as a frame behind its prefix."""
    bare = _unwrapped(dialect.framing, raw)
    if bare is None:
        return _decode_one(dialect, raw)
    try:
        message = dialect.codec.decode(bare)
    except CodecError as error:
        try:
            return dialect.codec.decode(raw)
        except CodecError:
            raise DecodingError(f"not a frame of {dialect.name}: behind the length, {error}") from error
    try:
        dialect.codec.decode(raw)
    except CodecError:
        return message
    raise DecodingError("these bytes are a frame both with and without a length in front; leave the length out")


def _decode_one(dialect: Dialect, raw: bytes) -> Message:
    try:
        return dialect.codec.decode(raw)
    except CodecError as error:
        raise DecodingError(f"not a frame of {dialect.name}: {error}") from error


def _unwrapped(framing: Framing, raw: bytes) -> bytes | None:
    reader = framing.reader()
    try:
        frames = reader.feed(raw)
    except FramingError:
        return None
    return frames[0] if len(frames) == 1 and not reader.pending_bytes and not reader.keepalives else None


def _as_json(dialect: Dialect, message: Message) -> str:
    shown = {
        "dialect": dialect.name,
        "tpdu": message.tpdu.hex(),
        "header": message.header.hex(),
        "mti": message.mti,
        "fields": {str(number): value for number, value in masked_fields(message.fields).items()},
    }
    return json.dumps(shown, ensure_ascii=False, indent=2)


def _as_table(dialect: Dialect, message: Message) -> str:
    shown = masked_fields(message.fields)
    rows = [("", "Message type", message.mti)]
    if message.tpdu:
        rows.append(("", "TPDU", message.tpdu.hex()))
    if message.header:
        rows.append(("", "Header", message.header.hex()))
    tags: list[str] = []
    for number, value in shown.items():
        spec = dialect.fields[number]
        text = _visible(value) + (f"  ({response_text(value)})" if number == 39 else "")
        rows.append((str(number), spec.name, text))
        if spec.tlv:
            tags += ["", f"Tags of field {number}", *_tag_lines(value)]
    width = max(len(name) for _, name, _ in rows)
    lines = [f"{number:>3}  {name:<{width}}  {value}".rstrip() for number, name, value in rows]
    return "\n".join([f"Dialect {dialect.name}", *lines, *tags])


def _visible(text: str) -> str:
    """Text that cannot move a terminal's cursor: what is not printable is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _tag_lines(value: str) -> list[str]:
    try:
        rows = _tag_rows(parse_tlv(bytes.fromhex(value)), depth=1)
    except (TlvError, ValueError):
        return ["  not readable as tags"]
    tag_width = max((len(tag) for tag, _, _ in rows), default=0)
    width = max((len(name) for _, name, _ in rows), default=0)
    return [f"{tag:<{tag_width}}  {name:<{width}}  {text}".rstrip() for tag, name, text in rows]


def _tag_rows(entries: list[Tlv], depth: int) -> list[tuple[str, str, str]]:
    """Tag (indented by its depth), name and value of each entry, a constructed one followed by what it holds."""
    rows = []
    for entry in entries:
        inner = entry.children() if depth < _TAG_DEPTH_MAX else []
        rows.append(("  " * depth + entry.tag, TAG_NAMES.get(entry.tag, ""), "" if inner else entry.value.hex()))
        rows += _tag_rows(inner, depth + 1)
    return rows
