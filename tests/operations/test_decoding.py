"""`holdfast decode` shows a frame in words, without the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.operations.decoding import DecodingError, decode_command
from protocol.iso8583.dialect import load_dialect
from protocol.iso8583.message import Message

PAN = "6212345678900000003"
SALE = Message(
    "0210",
    {
        2: PAN,
        3: "000000",
        4: "000000012345",
        11: "000042",
        35: PAN + "=30122010000012300",
        39: "51",
        41: "10000001",
        42: "100000000000001",
        55: "9f2608010203040506070882027c005a0a6212345678900000003f710486020a0b",
        63: "303120",
    },
    bytes.fromhex("6000030000"),
    bytes.fromhex("603100310100"),
)


def frame(message: Message = SALE, dialect: str = "unionpay") -> bytes:
    return load_dialect(dialect).codec.encode(message)


def test_the_table_names_fields_and_tags_and_hides_the_card() -> None:
    text = decode_command("unionpay", frame().hex(), as_json=False)
    for part in (
        "0210", "6000030000", "603100310100", "000000012345", "621234*********0003", "51  (Not sufficient funds)",
        "System trace audit number", "9F26  Application cryptogram", "82", "7c00", "621234fffffffff0003f", "    86",
    ):  # fmt: skip
        assert part in text, part
    assert PAN not in text
    assert "30122010000012300" not in text


def test_json_has_every_field_by_its_number_and_hides_the_card() -> None:
    text = decode_command("unionpay", frame().hex(), as_json=True)
    shown = json.loads(text)
    assert list(shown) == ["dialect", "tpdu", "header", "mti", "fields"]
    assert shown["dialect"] == "unionpay"
    assert shown["tpdu"] == "6000030000"
    assert shown["header"] == "603100310100"
    assert shown["mti"] == "0210"
    assert list(shown["fields"]) == [str(number) for number in SALE.fields]
    assert shown["fields"]["2"] == "621234*********0003"
    assert shown["fields"]["4"] == "000000012345"
    assert PAN not in text


@pytest.mark.parametrize("dialect", ["unionpay", "iso87-ascii", "iso87-binary"])
def test_hex_may_have_spaces_upper_case_and_a_length_in_front(dialect: str) -> None:
    message = Message("0800", {11: "000042"}, *((SALE.tpdu, SALE.header) if dialect == "unionpay" else ()))
    raw = frame(message, dialect)
    plain = decode_command(dialect, raw.hex(), as_json=True)
    assert json.loads(plain)["fields"] == {"11": "000042"}
    wrapped = load_dialect(dialect).framing.wrap(raw)
    for text in (raw.hex(" ").upper(), f"\n{raw[:9].hex()}\r\n\t{raw[9:].hex()}\n", wrapped.hex(), wrapped.hex(" ")):
        assert decode_command(dialect, text, as_json=True) == plain


def test_a_dialect_file_of_ones_own_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[fields]\n3 = { name = "Code", type = "n", length = 6 }', encoding="utf-8")
    raw = b"0200" + bytes.fromhex("2000000000000000") + b"000000"
    assert "Code" in decode_command(str(file), raw.hex(), as_json=False)


def test_bytes_that_read_both_ways_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    file.write_text(
        """
name = "both"
mti = "bcd"
[fields]
7 = { type = "b", length = 8 }
64 = { type = "b", length = 6 }
""",
        encoding="utf-8",
    )
    # The length, 0x0010, is also a message type, and the type 0200 the beginning of a bitmap that promises field 7.
    inner = bytes.fromhex("0200" + "0000000000000001" + "112233445566")
    both = load_dialect(str(file)).framing.wrap(inner)
    assert decode_command(str(file), inner.hex(), as_json=False)
    with pytest.raises(DecodingError, match="both with and without"):
        decode_command(str(file), both.hex(), as_json=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no frame"),
        (" \n ", "no frame"),
        ("60 0", "whole number of bytes"),
        ("600z", "character 4"),
        ("6000", "TPDU"),
        ("60000300006031003101000200" + "2000000000000000" + "00000a", "field 3 at offset 21"),
        ("0018" + "60000300006031003101000200" + "2000000000000000" + "00000a", "behind the length, field 3"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(DecodingError, match=words):
        decode_command("unionpay", text, as_json=False)


ASCII_FRAME = "0800822000000000000004000000000000001121101530000079301"


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("iso87-ascii", ASCII_FRAME),
        ("iso87-ascii", ASCII_FRAME[:-2]),
        ("iso87-ascii", frame(Message("0800", {11: "000042"}), "iso87-ascii").decode()),
        ("unionpay", "no hex, only words"),
        ("iso87-binary", '{"mti": "0800"}'),
    ],
)
def test_text_in_place_of_hex_is_told_apart(dialect: str, text: str) -> None:
    with pytest.raises(DecodingError, match="looks like text, not hex"):
        decode_command(dialect, text, as_json=False)


@pytest.mark.parametrize(
    ("dialect", "text"), [("unionpay", "60 0"), ("unionpay", "600z"), ("unionpay", "6000"), ("iso87-ascii", "3038")]
)
def test_hex_that_is_merely_wrong_is_not_called_text(dialect: str, text: str) -> None:
    with pytest.raises(DecodingError) as refused:
        decode_command(dialect, text, as_json=False)
    assert "looks like text" not in str(refused.value)


def test_a_dialect_that_is_not_there_is_told() -> None:
    with pytest.raises(DecodingError, match="shipped are"):
        decode_command("visa", "00", as_json=False)


def test_control_characters_do_not_reach_the_screen() -> None:
    message = Message("0210", {39: "\x1b[", 41: "\x1b[2J\x07abc"}, SALE.tpdu, SALE.header)
    text = decode_command("unionpay", frame(message).hex(), as_json=False)
    assert "\\x1b[2J\\x07abc" in text
    assert "\x1b" not in text


def test_chip_data_that_is_none_is_said_to_be() -> None:
    message = Message("0210", {55: "9f"}, SALE.tpdu, SALE.header)
    assert "not readable as tags" in decode_command("unionpay", frame(message).hex(), as_json=False)
