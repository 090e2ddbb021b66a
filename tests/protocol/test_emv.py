"""Chip data is parsed without loss, and what is not TLV is refused with its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.emv import Tlv, TlvError, build_tlv, parse_tlv

CHIP_DATA = "9f2608010203040506070882027c009f360200019a03260102"
TAGS = st.sampled_from(["82", "95", "9F26", "DF31", "5F2A", "DF8101", "9FFF8001"])
ROWS = st.lists(
    st.builds(Tlv, TAGS, st.one_of(st.binary(max_size=12), st.binary(min_size=126, max_size=300))), max_size=6
)


def test_tags_of_one_and_of_two_bytes_are_told_apart() -> None:
    row = parse_tlv(bytes.fromhex(CHIP_DATA))
    assert [(entry.tag, entry.value.hex()) for entry in row] == [
        ("9F26", "0102030405060708"),
        ("82", "7c00"),
        ("9F36", "0001"),
        ("9A", "260102"),
    ]


@settings(max_examples=200, deadline=None)
@given(row=ROWS)
def test_what_was_built_is_parsed_again(row: list[Tlv]) -> None:
    data = build_tlv(row)
    assert parse_tlv(data) == row
    assert build_tlv(parse_tlv(data)) == data


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=60))
def test_hostile_bytes_are_given_back_the_same_or_refused(data: bytes) -> None:
    try:
        row = parse_tlv(data)
    except TlvError as error:
        place = error.offset
        assert 0 <= place <= len(data)
    else:
        assert build_tlv(row) == data


def test_a_length_in_long_form_stays_in_long_form() -> None:
    data = bytes.fromhex("82 8102 7c00 95 820005 0000000000")
    row = parse_tlv(data)
    assert [len(entry.value) for entry in row] == [2, 5]
    assert build_tlv(row) == data


def test_long_values_have_long_lengths() -> None:
    for size, prefix in ((127, "7f"), (128, "8180"), (255, "81ff"), (256, "820100"), (70_000, "83011170")):
        data = build_tlv([Tlv("9F10", bytes(size))])
        assert data[2:].hex().startswith(prefix)
        assert parse_tlv(data) == [Tlv("9F10", bytes(size))]


def test_a_constructed_value_unfolds_on_demand() -> None:
    outer = parse_tlv(bytes.fromhex("7109" + "9f1804" + "01020304" + "8600"))
    assert outer[0].is_constructed
    assert outer[0].children() == [Tlv("9F18", bytes.fromhex("01020304")), Tlv("86", b"")]
    assert parse_tlv(bytes.fromhex("9f1800"))[0].children() == []


@pytest.mark.parametrize(
    ("data", "offset", "word"),
    [
        ("9f", 0, "tag is cut"),
        ("82027c009f", 4, "tag is cut"),
        ("82", 1, "length is missing"),
        ("8281", 1, "length is cut"),
        ("828200", 1, "length is cut"),
        ("8280", 1, "indefinite"),
        ("82850000000001", 1, "four bytes"),
        ("9fffffffff0100", 0, "four bytes"),
        ("82037c00", 1, "promised"),
        ("8284ffffffff00", 1, "promised"),
    ],
)
def test_an_error_names_the_offset(data: str, offset: int, word: str) -> None:
    with pytest.raises(TlvError, match=word) as caught:
        parse_tlv(bytes.fromhex(data))
    assert caught.value.offset == offset


@pytest.mark.parametrize("tag", ["", "9F", "8295", "zz", "9F26A", "9FFFFFFFFF01"])
def test_what_is_not_one_tag_is_not_built(tag: str) -> None:
    with pytest.raises(TlvError, match="tag"):
        build_tlv([Tlv(tag, b"")])


def test_parsing_costs_no_more_than_the_bytes() -> None:
    assert len(parse_tlv(bytes.fromhex("8200") * 100_000)) == 100_000
