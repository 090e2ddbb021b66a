"""Surfaces of bytes on the wire and in the journal: framing, the codec of every dialect, BER-TLV, journal entries."""

from __future__ import annotations

import random
from typing import Final

from protocol.emv import Tlv, TlvError, build_tlv, parse_tlv
from protocol.framing import PREFIX_BYTES, Framing, FramingError, LengthPrefix
from protocol.iso8583.dialect import Dialect, load_dialect, shipped_dialects
from protocol.iso8583.layout import CodecError
from protocol.iso8583.message import Message
from protocol.iso8583.walker import walk
from protocol.journal_entry import Entry, EntryError, PartCommitment, decode_entry, encode_entry
from tests.fuzz.surface import Surface, must
from tests.protocol.generated import some_message

FRAME_BYTES_MAX: Final = 4096
_SEEDS: Final = 12
_CHIP: Final = "9f2608010203040506070882027c009f360200019a032601029f1081020102710986049f180201028600"

# --- framing -----------------------------------------------------------------------------------------------------


def _cut(framing: Framing, data: bytes, step: int) -> tuple[list[bytes], bool, int]:
    """Frames, whether the stream broke, and keep-alives, when fed `step` bytes at a time."""
    reader = framing.reader()
    frames: list[bytes] = []
    broke = False
    for at in range(0, len(data), step):
        try:
            frames += reader.feed(data[at : at + step])
        except FramingError as error:
            frames += error.frames
            broke = True
            break
        must(reader.pending_bytes <= PREFIX_BYTES[framing.length] + framing.limit_bytes, "more held than a frame")
    return frames, broke, reader.keepalives


def _read_frames(framing: Framing, data: bytes) -> None:
    """The first byte says how the rest is cut up."""
    step, stream = (data[0] + 1, data[1:]) if data else (1, b"")
    whole = _cut(framing, stream, max(1, len(stream)))
    must(_cut(framing, stream, step) == whole, f"fed {step} bytes at a time it reads otherwise")
    frames = whole[0]
    must(sum(map(len, frames)) <= len(stream), "more came out than went in")
    must(all(0 < len(frame) <= framing.limit_bytes for frame in frames), "a frame over the limit")
    again = b"".join(map(framing.wrap, frames))
    must(_cut(framing, again, step)[0] == frames, "what was cut cannot be put together again")


def _framing_seeds(framing: Framing) -> list[bytes]:
    dice = random.Random(1)
    rows = [[dice.randbytes(dice.randint(0, 60)) for _ in range(dice.randint(1, 6))] for _ in range(_SEEDS)]
    return [bytes([dice.randint(0, 40)]) + b"".join(map(framing.wrap, row)) for row in rows]


def _framing_surface(length: LengthPrefix) -> Surface:
    framing = Framing(length, 300)
    return Surface(
        name=f"framing-{length}",
        read=lambda data: _read_frames(framing, data),
        make_seeds=lambda: _framing_seeds(framing),
        size_max=FRAME_BYTES_MAX,
        worst=(framing.wrap(b""), framing.wrap(b"x"), framing.wrap(b"x" * 299)),
    )


# --- ISO 8583 ----------------------------------------------------------------------------------------------------


def read_message(dialect: Dialect, frame: bytes) -> None:
    """Decode, and judge the compiled decoder by the plain one; what is taken must come back as the same bytes."""
    codec = dialect.codec
    try:
        message = codec.decode(frame)
    except CodecError as error:
        must(0 <= error.offset <= len(frame), f"an error at offset {error.offset} of {len(frame)}")
        must(error.partial is None or _size(error.partial) <= 2 * len(frame), "a partial message beyond its frame")
        return
    must(walk(codec.layout, frame) == message, "the two decoders differ")
    must(_size(message) <= 2 * len(frame), "a message beyond its frame")
    again = codec.encode(message)
    must(again == frame, "the frame does not come back")
    must(codec.decode(again) == message, "the message does not come back")


def _size(message: Message) -> int:
    return sum(map(len, message.fields.values()))


def _codec_seeds(dialect: Dialect) -> list[bytes]:
    dice = random.Random(2)
    frames = (dialect.codec.encode(some_message(dialect, dice)) for _ in range(4 * _SEEDS))
    return [frame for frame in frames if len(frame) <= FRAME_BYTES_MAX][: 2 * _SEEDS]


def _codec_surface(name: str) -> Surface:
    dialect = load_dialect(name)
    return Surface(
        name=f"codec-{name}",
        read=lambda data: read_message(dialect, data),
        make_seeds=lambda: _codec_seeds(dialect),
        size_max=FRAME_BYTES_MAX,
        worst=(b"\xff", b"\x00", b"9", b"F", b"\x99", b"60000300000200"),
    )


# --- BER-TLV -----------------------------------------------------------------------------------------------------


def _read_tlv(data: bytes) -> None:
    waiting = [data]
    seen = 0
    while waiting:
        row = waiting.pop()
        seen += len(row)
        # Each level of constructed values is two bytes shorter than the one around it.
        must(seen <= (len(data) + 2) ** 2, "more inside than outside")
        try:
            entries = parse_tlv(row)
        except TlvError as error:
            must(0 <= error.offset <= len(row), f"an error at offset {error.offset} of {len(row)}")
            continue
        must(build_tlv(entries) == row, "the bytes do not come back")
        must(all(_same(entry) for entry in entries), "an entry does not come back")
        if len(data) <= 300:
            waiting += [entry.value for entry in entries if entry.is_constructed]


def _same(entry: Tlv) -> bool:
    return parse_tlv(build_tlv([entry])) == [entry]


# --- journal entries ---------------------------------------------------------------------------------------------


def _read_entry(data: bytes) -> None:
    try:
        entry = decode_entry(data)
    except EntryError as error:
        must(0 <= error.offset <= max(len(data), 1), f"an error at offset {error.offset} of {len(data)}")
        return
    must(encode_entry(entry) == data, "the bytes do not come back")


def _entry_seeds() -> list[bytes]:
    dice = random.Random(3)
    seeds = []
    for count in range(_SEEDS):
        parts = tuple(
            PartCommitment(n, dice.getrandbits(32), dice.randbytes(32), dice.randbytes(32)) for n in range(count % 4)
        )
        seeds.append(
            encode_entry(
                Entry(
                    kind=dice.randint(1, 255), state=dice.randint(0, 255), sequence=dice.randint(1, 2**64 - 1),
                    time_ms=dice.getrandbits(64), transaction=dice.getrandbits(64), attempts=dice.getrandbits(32),
                    amount_minor=dice.getrandbits(64), key="M|T|000001|200|000001"[: count * 2],
                    fingerprint=dice.randbytes(count), currency=("", "156")[count % 2], response="00"[: count % 3],
                    reason="standin.floor-limit"[:count], detail="商户"[: count % 3], parts=parts,
                )
            )
        )  # fmt: skip
    return seeds


def wire_surfaces() -> list[Surface]:
    """One surface for each length prefix and each shipped dialect, TLV and journal entries."""
    return [
        *map(_framing_surface, LengthPrefix),
        *map(_codec_surface, shipped_dialects()),
        Surface(
            name="tlv",
            read=_read_tlv,
            make_seeds=lambda: [bytes.fromhex(_CHIP)[:size] for size in (5, 11, 17, 22, 27, 33, 40, 42)],
            size_max=FRAME_BYTES_MAX,
            worst=(b"\x82\x00", b"\x71\x80", b"\x9f\x80\x80", b"\x71\x81\x7f", b"\x1f"),
        ),
        Surface(
            name="journal-entry",
            read=_read_entry,
            make_seeds=_entry_seeds,
            size_max=FRAME_BYTES_MAX,
            worst=(b"\x01", b"\xff", b"\x01\x05\x03" + bytes(7) + b"\x01"),
        ),
    ]
