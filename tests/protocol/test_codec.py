"""The codec gives back the same bytes, agrees with its plain twin, and says where a frame is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.iso8583.codec import DECODERS_MAX, ENCODERS_MAX, Codec, CodecError
from protocol.iso8583.compiler import IRREGULAR, Decoder, compile_decoder
from protocol.iso8583.dialect import Dialect, load_dialect, shipped_dialects
from protocol.iso8583.message import Message
from protocol.iso8583.walker import walk
from tests.protocol.generated import messages, some_message, some_value, user_made_dialects

PAN = "4111111111111111"


@cache
def user_made() -> tuple[Dialect, ...]:
    with TemporaryDirectory() as folder:
        return tuple(load_dialect(str(path)) for path in user_made_dialects(Path(folder)))


def every_dialect() -> list[Dialect]:
    return [*map(load_dialect, shipped_dialects()), *user_made()]


def dialect_ids(dialect: Dialect) -> str:
    return dialect.name


BITMAPS_MET: dict[tuple[str, bytes], Decoder] = {}
"""Decoders for a single bitmap, by dialect, of every bitmap that a good frame had."""


def primary_bitmap(dialect: Dialect, frame: bytes) -> bytes:
    layout = dialect.codec.layout
    return frame[layout.bitmap_offset : layout.bitmap_offset + layout.bitmap_bytes]


def judged_alike(dialect: Dialect, frame: bytes) -> Message | None:
    """Decode by the compiled decoders and by the plain one; they must agree, and what is accepted must be lossless."""
    codec = dialect.codec
    try:
        plain: Message | None = walk(codec._layout, frame)
    except CodecError:
        plain = None
    try:
        compiled: Message | None = codec._decode(frame)
    except IRREGULAR:
        compiled = None
    assert compiled == plain
    met = (dialect.name, primary_bitmap(dialect, frame))
    if plain is not None and met not in BITMAPS_MET:
        BITMAPS_MET[met] = compile_decoder(codec.layout, met[1])
    if met in BITMAPS_MET:
        try:
            for_bitmap: Message | None = BITMAPS_MET[met](frame)
        except IRREGULAR:
            for_bitmap = None
        assert for_bitmap == plain
    if plain is not None:
        assert list(plain.fields) == sorted(plain.fields)
        assert codec.encode(plain) == frame
    return plain


@pytest.mark.parametrize("dialect", every_dialect(), ids=dialect_ids)
def test_generated_messages_come_back_the_same(dialect: Dialect) -> None:
    rng = random.Random(f"round trip {dialect.name}")
    for _ in range(200):
        message = some_message(dialect, rng)
        frame = dialect.codec.encode(message)
        assert dialect.codec.decode(frame) == message
        assert judged_alike(dialect, frame) == message


def encoded(encode: Callable[[Message], bytes], message: Message) -> bytes | str:
    """The frame, or what the error says."""
    try:
        return encode(message)
    except CodecError as error:
        return f"{error} {error.field} {error.offset}"


SPOILT = ("", "1", "12", "123456789", " 1", "٣٤", "١٢", "0x", "AB", "ab", "abc", "\u4e2d", "{v2}", "1" * 400, "D1", "C")


@pytest.mark.parametrize("dialect", every_dialect(), ids=dialect_ids)
def test_the_compiled_encoders_and_the_plain_one_agree_on_values_that_fit_and_on_those_that_do_not(
    dialect: Dialect,
) -> None:
    rng = random.Random(f"encoders {dialect.name}")
    codec = Codec(dialect.codec.layout)
    refused = 0
    for _ in range(250):
        message = some_message(dialect, rng)
        assert codec.encode(message) == codec._encode_plainly(message)
        if message.fields:
            number = rng.choice(list(message.fields))
            now = message.fields[number]
            message.fields[number] = rng.choice(
                (*SPOILT, now[1:], now + "1", now[::-1], now.upper(), now.replace("1", " "))
            )
        both = encoded(codec.encode, message), encoded(codec._encode_plainly, message)
        assert both[0] == both[1], (dialect.name, sorted(message.fields))
        refused += isinstance(both[0], str)
    assert refused > 25
    assert len(codec._encoders) > 100


def test_when_the_compiled_encoders_are_full_messages_are_written_all_the_same() -> None:
    dialect = load_dialect("unionpay")
    codec = Codec(dialect.codec.layout)
    rng = random.Random(1)
    numbers = list(dialect.fields)
    for _ in range(ENCODERS_MAX + 50):
        shape = rng.sample(numbers, 7)
        message = Message("0200", {n: some_value(dialect.fields[n], rng) for n in shape}, bytes(5), bytes(6))
        assert codec.encode(message) == codec._encode_plainly(message)
    assert len(codec._encoders) == ENCODERS_MAX


def test_when_the_compiled_decoders_are_full_frames_are_read_all_the_same() -> None:
    dialect = load_dialect("unionpay")
    codec = Codec(dialect.codec.layout)
    rng = random.Random(1)
    numbers = list(dialect.fields)
    for _ in range(DECODERS_MAX + 50):
        shape = sorted(rng.sample(numbers, 7))
        message = Message("0200", {n: some_value(dialect.fields[n], rng) for n in shape}, bytes(5), bytes(6))
        frame = codec.encode(message)
        assert [codec.decode(frame), codec.decode(frame)] == [message, message]
    assert len(codec._decoders) == DECODERS_MAX


def test_a_frame_that_is_refused_leaves_no_decoder_behind() -> None:
    dialect = load_dialect("unionpay")
    codec = Codec(dialect.codec.layout)
    frame = codec.encode(Message("0200", {3: "000000", 11: "000001"}, bytes(5), bytes(6)))
    for bad in (frame[:-1], frame + b"0", frame[:13], b""):
        with pytest.raises(CodecError):
            codec.decode(bad)
    assert not codec._decoders


@pytest.mark.parametrize("name", shipped_dialects())
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_message_of_a_shipped_dialect_comes_back_the_same(name: str, data: st.DataObject) -> None:
    dialect = load_dialect(name)
    message = data.draw(messages(dialect))
    assert dialect.codec.decode(dialect.codec.encode(message)) == message


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_message_of_a_user_made_dialect_comes_back_the_same(data: st.DataObject) -> None:
    dialect = data.draw(st.sampled_from(user_made()))
    message = data.draw(messages(dialect))
    assert dialect.codec.decode(dialect.codec.encode(message)) == message


@pytest.mark.parametrize("dialect", every_dialect(), ids=dialect_ids)
def test_damaged_frames_are_refused_or_lossless_and_both_decoders_agree(dialect: Dialect) -> None:
    rng = random.Random(f"damage {dialect.name}")
    for _ in range(100):
        frame = bytearray(dialect.codec.encode(some_message(dialect, rng)))
        assert judged_alike(dialect, bytes(frame)) is not None
        for _ in range(6):
            damaged = bytearray(frame)
            place = rng.randrange(len(damaged))
            match rng.randrange(5):
                case 0:
                    damaged[place] ^= 1 << rng.randrange(8)
                case 1:
                    damaged[place] = rng.choice(b"\x00\x0f\xf0\xff 09:aAF+-_\xb2\xa0")
                case 2:
                    del damaged[place:]
                case 3:
                    del damaged[place]
                case _:
                    damaged.insert(place, rng.randrange(256))
            judged_alike(dialect, bytes(damaged))


@pytest.mark.parametrize("dialect", every_dialect()[:6], ids=dialect_ids)
@settings(max_examples=150, deadline=None)
@given(frame=st.binary(max_size=200))
def test_hostile_bytes_raise_nothing_but_a_codec_error(dialect: Dialect, frame: bytes) -> None:
    if judged_alike(dialect, frame) is None:
        with pytest.raises(CodecError) as caught:
            dialect.codec.decode(frame)
        assert 0 <= caught.value.offset <= len(frame)


@pytest.mark.parametrize("name", shipped_dialects())
def test_every_prefix_of_a_frame_is_refused(name: str) -> None:
    dialect = load_dialect(name)
    rng = random.Random(1)
    frame = dialect.codec.encode(some_message(dialect, rng))
    while len(frame) < 100:
        frame = dialect.codec.encode(some_message(dialect, rng))
    for size in range(min(len(frame), 600)):
        with pytest.raises(CodecError) as caught:
            dialect.codec.decode(frame[:size])
        assert caught.value.offset <= size


@pytest.mark.parametrize(
    "value", ["\u00b2", "\u0663", " ", "+", "_", "a", ":", "\xa0"], ids=lambda value: f"{ord(value):#x}"
)
def test_only_the_ten_digits_are_digits(value: str) -> None:
    codec = load_dialect("iso87-ascii").codec
    with pytest.raises(CodecError) as caught:
        codec.encode(Message("0200", {3: "00000" + value}))
    assert caught.value.field == 3
    with pytest.raises(CodecError) as caught:
        codec.encode(Message("020" + value, {}))
    assert caught.value.field is None
    if ord(value) < 256:
        with pytest.raises(CodecError) as caught:
            codec.decode(b"0200" + b"2000000000000000" + b"00000" + value.encode("latin-1"))
        assert caught.value.field == 3
        with pytest.raises(CodecError) as caught:
            codec.decode(b"0200" + b"4000000000000000" + value.encode("latin-1") + b"1" + b"1")
        assert caught.value.field == 2


# Offsets: MTI at 11, bitmap at 13, first field at 21.
UNIONPAY_FRONT = "6000030000" + "603100310100"
BAD_UNIONPAY_FRAMES = {
    "nothing at all": ("", None, 0, "TPDU"),
    "cut within the TPDU": ("600003", None, 0, "TPDU"),
    "cut within the header": ("6000030000" + "6031", None, 5, "header"),
    "cut before the message type": (UNIONPAY_FRONT, None, 11, "message type"),
    "message type with a letter": (UNIONPAY_FRONT + "02a0" + "00" * 8, None, 11, "four digits"),
    "cut within the bitmap": (UNIONPAY_FRONT + "0200" + "20000000", None, 13, "bitmap"),
    "secondary bitmap": (UNIONPAY_FRONT + "0200" + "80" + "00" * 7 + "00" * 8, 1, 13, "secondary"),
    "a field that the dialect has not": (UNIONPAY_FRONT + "0200" + "02" + "00" * 7 + "00" * 5, 7, 21, "have"),
    "a promised field is missing": (UNIONPAY_FRONT + "0200" + "30" + "00" * 7 + "000000", 4, 24, "ends"),
    "a fixed field is cut": (UNIONPAY_FRONT + "0200" + "30" + "00" * 7 + "000000" + "0000000111", 4, 24, "ends"),
    "letter in packed digits": (UNIONPAY_FRONT + "0200" + "20" + "00" * 7 + "00000a", 3, 21, "decimal"),
    "letter in a packed length": (UNIONPAY_FRONT + "0200" + "40" + "00" * 7 + "1a" + "41" * 8, 2, 21, "digits"),
    "length over the most": (UNIONPAY_FRONT + "0200" + "40" + "00" * 7 + "20" + "41" * 10, 2, 21, "most"),
    "value shorter than its length": (UNIONPAY_FRONT + "0200" + "40" + "00" * 7 + "16" + "41" * 7, 2, 22, "ends"),
    "length missing": (UNIONPAY_FRONT + "0200" + "40" + "00" * 7, 2, 21, "ends"),
    "length cut": (UNIONPAY_FRONT + "0200" + "00" * 6 + "0200" + "02", 55, 21, "ends"),
    "pad behind is not zero": (UNIONPAY_FRONT + "0200" + "0000" + "04" + "00" * 5 + "0511", 22, 21, "pad"),
    "pad in front is not zero": (UNIONPAY_FRONT + "0200" + "0000" + "02" + "00" * 5 + "1001", 23, 21, "pad"),
    "pad of a variable field": (UNIONPAY_FRONT + "0200" + "40" + "00" * 7 + "03" + "4111", 2, 22, "pad"),
    "bytes behind the last field": (UNIONPAY_FRONT + "0200" + "20" + "00" * 7 + "00000000", None, 24, "behind"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_UNIONPAY_FRAMES)
def test_an_error_names_field_and_offset(case: str) -> None:
    frame, field, offset, word = BAD_UNIONPAY_FRAMES[case]
    with pytest.raises(CodecError, match=word) as caught:
        load_dialect("unionpay").codec.decode(bytes.fromhex(frame))
    assert (caught.value.field, caught.value.offset) == (field, offset)
    assert str(caught.value).startswith("frame" if field is None else f"field {field} at offset {offset}")


# Offsets: bitmap at 4, first field at 20, or at 36 behind a secondary bitmap.
BAD_ASCII_FRAMES = {
    "bitmap in lower case": ("0200" + "a000000000000000", None, 4, "upper"),
    "bitmap with a space": ("0200" + "20 0000000000000", None, 4, "upper"),
    "cut within the secondary bitmap": ("0200" + "8000000000000000" + "0400", 1, 20, "ends"),
    "empty secondary bitmap": ("0200" + "8" + "0" * 15 + "0" * 16, 1, 20, "empty"),
    "third bitmap": ("0200" + "8" + "0" * 15 + "8" + "0" * 15, 65, 20, "third"),
    "secondary bitmap without hex": ("0200" + "8" + "0" * 15 + "x" + "0" * 15, 1, 20, "hex"),
    "length of a sign": ("0200" + "4" + "0" * 15 + "+1" + "1", 2, 20, "digits"),
    "length of a space": ("0200" + "4" + "0" * 15 + " 1" + "1", 2, 20, "digits"),
    "no sign": ("0200" + "0000001000000000" + "X00000001", 28, 20, "sign"),
    "sign without digits": ("0200" + "0000001000000000" + "C0000000X", 28, 21, "decimal"),
    "MAC in lower case": ("0200" + "0" * 15 + "1" + "00112233445566aa", 64, 20, "upper"),
    "track with a letter": ("0200" + "0000000020000000" + "02" + "4D", 35, 22, "track"),
    "field behind the secondary bitmap": ("0800" + "8" + "0" * 15 + "04" + "0" * 14 + "30", 70, 36, "ends"),
}


@pytest.mark.parametrize("case", BAD_ASCII_FRAMES)
def test_an_error_in_characters_names_field_and_offset(case: str) -> None:
    frame, field, offset, word = BAD_ASCII_FRAMES[case]
    with pytest.raises(CodecError, match=word) as caught:
        load_dialect("iso87-ascii").codec.decode(frame.encode("latin-1"))
    assert (caught.value.field, caught.value.offset) == (field, offset)


BAD_VALUES = {
    "too long": ({2: "4" * 20}, 2, 21),
    "letters": ({2: "411a"}, 2, 21),
    "fixed, too short": ({3: "00000"}, 3, 21),
    "fixed, empty": ({3: ""}, 3, 21),
    "behind another field": ({3: "000000", 4: "1"}, 4, 24),
    "half a byte": ({52: "0" * 15}, 52, 21),
    "upper-case hex": ({52: "00112233445566AA"}, 52, 21),
    "hex with spaces": ({62: "00 11"}, 62, 21),
    "no hex": ({62: "zz"}, 62, 21),
    "too many bytes": ({55: "00" * 256}, 55, 21),
    "text too long": ({41: "123456789"}, 41, 21),
    "text too short": ({41: "1"}, 41, 21),
    "characters outside latin-1": ({41: "1234567\u94f6"}, 41, 21),
    "no track": ({35: "4111D"}, 35, 21),
    "field beyond 64": ({70: "301"}, 70, 21),
    "the secondary bitmap itself": ({1: "00"}, 1, 21),
    "a field that the dialect has not": ({7: "0102030405"}, 7, 21),
    "no field number": ({129: "1"}, 129, 21),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_value_that_does_not_fit_is_not_sent(case: str) -> None:
    fields, field, offset = BAD_VALUES[case]
    with pytest.raises(CodecError) as caught:
        load_dialect("unionpay").codec.encode(Message("0200", fields, b"12345", b"123456"))
    assert (caught.value.field, caught.value.offset) == (field, offset)


@pytest.mark.parametrize(
    ("mti", "tpdu", "header", "offset"),
    [
        ("0200", b"", b"123456", 0),
        ("0200", b"12345", b"12345", 5),
        ("200", b"12345", b"123456", 11),
        ("02\u06620", b"12345", b"123456", 11),
    ],
)
def test_a_front_that_does_not_fit_is_not_sent(mti: str, tpdu: bytes, header: bytes, offset: int) -> None:
    with pytest.raises(CodecError) as caught:
        load_dialect("unionpay").codec.encode(Message(mti, {}, tpdu, header))
    assert (caught.value.field, caught.value.offset) == (None, offset)


def test_no_error_holds_a_value() -> None:
    codec = load_dialect("unionpay").codec
    message = Message("0200", {2: PAN, 35: PAN + "=30122010000012300"}, b"12345", b"123456")
    frame = codec.encode(message)
    texts = []
    for size in range(len(frame)):
        with pytest.raises(CodecError) as caught:
            codec.decode(frame[:size])
        texts.append(str(caught.value))
    for fields in ({2: PAN + "X"}, {2: PAN * 2}, {35: PAN + "D"}, {41: PAN}, {55: PAN + "x"}):
        with pytest.raises(CodecError) as caught:
            codec.encode(Message("0200", fields, b"12345", b"123456"))
        texts.append(str(caught.value))
    assert not any("4111" in text or "411111" in text for text in texts)


def test_a_message_moves_from_one_dialect_to_another_unchanged() -> None:
    fields = {
        2: "6212345678900000003",
        3: "000000",
        4: "000000012345",
        11: "000042",
        22: "051",
        23: "001",
        35: "6212345678900000003=30122010000012300",
        36: "996212345678900000003=1561560",
        41: "10000001",
        42: "100000000000001",
        49: "156",
        52: "0123456789abcdef",
        55: "9f2608010203040506070882027c00",
    }
    packed, text, unionpay = map(load_dialect, ("iso87-binary", "iso87-ascii", "unionpay"))
    for start, end in ((packed, text), (text, packed), (text, unionpay)):
        tpdu, header = bytes(5 if start.tpdu else 0), bytes(start.header_bytes)
        received = start.codec.decode(start.codec.encode(Message("0200", fields, tpdu, header)))
        received.tpdu, received.header = bytes(5 if end.tpdu else 0), bytes(end.header_bytes)
        assert end.codec.decode(end.codec.encode(received)).fields == fields


def test_trailing_spaces_and_other_alphabets_stay_as_received() -> None:
    codec = load_dialect("iso87-ascii").codec
    fields = {41: "T1      ", 43: "Caf\xe9".ljust(40), 44: "\xd2\xf8\xc1\xaa\x00 "}
    assert codec.decode(codec.encode(Message("0210", fields))).fields == fields


def test_fields_are_written_in_order_whatever_the_order_of_the_message() -> None:
    codec = load_dialect("iso87-ascii").codec
    forward = Message("0200", {3: "000000", 11: "000001", 70: "301"})
    backward = Message("0200", {70: "301", 11: "000001", 3: "000000"})
    assert codec.encode(forward) == codec.encode(backward)


PADDED_BY_BYTES = """
name = "by-bytes"
mti = "bcd"
[defaults]
length_encoding = "bcd"
counts = "bytes"
encoding = "bcd"
[fields]
2 = { type = "n", length = "LL", max = 19, pad = "right", pad_nibble = "f" }
32 = { type = "n", length = "LL", max = 11, pad = "left", pad_nibble = "0" }
35 = { type = "z", length = "LL", max = 37, pad = "right", pad_nibble = "f" }
36 = { type = "z", length = "LLL", max = 104, pad = "left", pad_nibble = "f" }
"""


@pytest.fixture
def by_bytes(tmp_path: Path) -> Dialect:
    file = tmp_path / "by-bytes.toml"
    file.write_text(PADDED_BY_BYTES, encoding="utf-8")
    return load_dialect(str(file))


@pytest.mark.parametrize(
    ("field", "value", "wire"),
    [
        (2, "411", "02411f"),
        (2, "4111", "024111"),
        (2, "", "00"),
        (32, "1234", "021234"),
        (35, "411=3", "03411d3f"),
        (36, "99411=3", "0004f99411d3"),
    ],
)
def test_a_pad_that_is_no_digit_tells_odd_from_even_where_a_length_counts_bytes(
    by_bytes: Dialect, field: int, value: str, wire: str
) -> None:
    frame = by_bytes.codec.encode(Message("0200", {field: value}))
    assert frame[10:].hex() == wire
    assert by_bytes.codec.decode(frame).fields == {field: value}


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [(32, "123", "odd number"), (35, "411?", "pad"), (36, "?411", "pad"), (2, "4" * 20, "more than 19")],
)
def test_digits_that_would_come_back_otherwise_are_not_sent(
    by_bytes: Dialect, field: int, value: str, word: str
) -> None:
    with pytest.raises(CodecError, match=word) as caught:
        by_bytes.codec.encode(Message("0200", {field: value}))
    assert caught.value.field == field


@pytest.mark.parametrize("wire", ["0141", "024f11", "02f411", "01ff", "0a" + "41" * 10, "11" + "41" * 11])
def test_pads_elsewhere_and_digits_over_the_most_are_refused(by_bytes: Dialect, wire: str) -> None:
    good = wire == "0141"
    frame = bytes.fromhex("0200" + "4000000000000000" + wire)
    assert (judged_alike(by_bytes, frame) is not None) == good


def test_a_track_separator_of_ones_own_is_an_equals_sign_in_the_value(tmp_path: Path) -> None:
    file = tmp_path / "letter.toml"
    file.write_text(
        'name = "letter"\n[fields]\n35 = { type = "z", length = "LL", max = 37, separator = "D" }', encoding="utf-8"
    )
    codec = load_dialect(str(file)).codec
    frame = codec.encode(Message("0200", {35: "411=3"}))
    assert frame.endswith(b"05411D3")
    assert codec.decode(frame).fields == {35: "411=3"}
    with pytest.raises(CodecError, match="track"):
        codec.decode(frame.replace(b"D", b"="))


def test_a_dialect_file_cannot_put_code_into_the_decoder(tmp_path: Path) -> None:
    file = tmp_path / "code.toml"
    file.write_text(
        'name = "\'); raise SystemExit #"\n[fields]\n'
        '2 = { name = "\\"\\"\\"; raise SystemExit", type = "z", length = "LL", max = 9, separator = "\'" }\n'
        '3 = { type = "z", length = 2, separator = "\\\\" }\n',
        encoding="utf-8",
    )
    codec = load_dialect(str(file)).codec
    frame = codec.encode(Message("0200", {2: "4=1", 3: "1="}))
    assert frame.endswith(b"034'11\\")
    assert codec.decode(frame).fields == {2: "4=1", 3: "1="}
