"""No more than the first six and last four digits of a card are shown, wherever a message carries it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.emv import Tlv, build_tlv, parse_tlv
from protocol.masking import (
    contains_pan,
    find_pans,
    luhn_holds,
    mask_chip_data,
    mask_pan,
    mask_pans,
    mask_track,
    masked_fields,
)

PAN = "4111111111111111"
TEST_PANS = [PAN, "5555555555554444", "6212345678900000003", "378282246310005", "30569309025904"]


@pytest.mark.parametrize(
    ("pan", "shown"),
    [
        (PAN, "411111******1111"),
        ("6212345678900000003", "621234*********0003"),
        ("378282246310005", "37828******0005"),
        ("4222222222222", "422******2222"),
        ("41111111111", "4******1111"),
        ("4111111111", "**********"),
        ("1", "*"),
        ("", ""),
    ],
)
def test_a_pan_shows_at_most_six_and_four(pan: str, shown: str) -> None:
    assert mask_pan(pan) == shown


@given(pan=st.text("0123456789", max_size=28))
def test_six_digits_at_least_stay_hidden(pan: str) -> None:
    shown = mask_pan(pan)
    assert len(shown) == len(pan)
    assert shown.count("*") >= min(6, len(pan))
    assert len(shown.split("*")[0]) <= 6


@pytest.mark.parametrize("pan", TEST_PANS)
def test_no_field_shows_the_card(pan: str) -> None:
    track2 = pan + "=30122010000012300"
    packed = (pan + "d30122010000012300").ljust(40, "f")
    chip = [
        Tlv("9F26", bytes(8)),
        Tlv("5A", bytes.fromhex(pan if len(pan) % 2 == 0 else pan + "f")),
        Tlv("57", bytes.fromhex(packed[: len(packed) // 2 * 2])),
        Tlv("9F6B", bytes.fromhex(packed[: len(packed) // 2 * 2])),
        Tlv("9F20", b"30122010000012300"),
        Tlv("56", f"B{pan}^TEST/CARD^3012".encode()),
        Tlv("5F20", b"TEST/CARD"),
        Tlv("70", build_tlv([Tlv("5A", bytes.fromhex(pan if len(pan) % 2 == 0 else pan + "f"))])),
    ]
    fields = {
        2: pan,
        34: pan,
        35: track2,
        36: "99" + track2,
        45: f"B{pan}^TEST/CARD^30122010000012300",
        48: f"card {pan} said the cashier",
        55: build_tlv(chip).hex(),
        62: f"PAN={pan};".encode().hex(),
        63: f"\x00{pan[:4]} {pan[4:8]} {pan[8:]}",
        102: pan,
    }
    shown = masked_fields(fields)
    assert set(shown) == set(fields)
    for number, value in shown.items():
        assert number in (55, 62) or not contains_pan(value, inside_runs=True), number
        assert pan not in value, number
        assert "30122010000012300" not in value, number
        assert pan.encode().hex() not in value, number
        assert b"TEST/CARD".hex() not in value, number
        assert len(value) == len(fields[number]), number
    assert fields[2] == pan


@pytest.mark.parametrize("number", [37, 48, 60, 61, 63, 98])
@pytest.mark.parametrize("front", ["", "01 ", "0001", PAN])
def test_the_messages_own_card_is_masked_in_every_field_also_within_longer_digits(number: int, front: str) -> None:
    for written in (front + PAN, (front + PAN).encode().hex()):
        shown = masked_fields({2: PAN, number: written})[number]
        assert len(shown) == len(written)
        assert PAN not in shown
        assert PAN.encode().hex() not in shown


@pytest.mark.parametrize("separator", "=Dd")
@pytest.mark.parametrize("front", ["", "01 ", PAN])
@pytest.mark.parametrize("number", [48, 61, 62])
def test_a_track_shows_nothing_behind_its_card_in_any_field(number: int, front: str, separator: str) -> None:
    card, behind = "5555555555554444", "29122011943877"
    track = f"{front}{card}{separator}{behind}"
    in_text, in_bytes = track, track.encode().hex()
    shown = masked_fields({2: PAN, number: in_text})[number]
    shown_bytes = bytes.fromhex(masked_fields({2: PAN, number: in_bytes})[number]).decode("latin-1")
    for each in (shown, shown_bytes):
        assert len(each) == len(track)
        assert card not in each
        assert behind[:4] not in each
        assert each.endswith(f"4444{separator}{'*' * len(behind)}")


def test_an_answer_that_does_not_name_the_card_is_masked_by_the_requests() -> None:
    assert masked_fields({61: "0" + PAN}, (PAN,)) == {61: "0" + mask_pan(PAN)}


@pytest.mark.parametrize("pan", TEST_PANS)
@pytest.mark.parametrize("shape", ["{}=30122010000012300", "99{}=1561560", "B{}^TEST/CARD^3012", "{}D3012", "{}"])
def test_a_track_shows_at_most_ten_digits(pan: str, shape: str) -> None:
    track = shape.format(pan)
    shown = mask_track(track)
    assert len(shown) == len(track)
    assert sum(character.isdigit() for character in shown) <= 10


def test_chip_data_keeps_its_other_tags() -> None:
    chip = [Tlv("9F26", b"\x01" * 8), Tlv("5A", bytes.fromhex(PAN)), Tlv("9F36", b"\x00\x01")]
    shown = parse_tlv(bytes.fromhex(mask_chip_data(build_tlv(chip).hex())))
    assert [entry.value.hex() for entry in shown] == ["01" * 8, "411111ffffff1111", "0001"]


@pytest.mark.parametrize("value", ["5a08" + PAN[:14], "zz", "5", "7f" * 40, "71" * 1, "7f21" * 200])
def test_chip_data_that_is_none_is_hidden_whole(value: str) -> None:
    assert mask_chip_data(value) == "*" * len(value)


def test_chip_data_nested_without_end_is_hidden_whole() -> None:
    data = b""
    for _ in range(60):
        data = build_tlv([Tlv("71", data)])
    assert set(mask_chip_data(data.hex())) == {"*"}


def test_fields_without_a_card_are_shown_as_they_are() -> None:
    fields = {
        3: "000000",
        4: "000000012345",
        11: "000042",
        37: "260102000042",
        52: "0123456789abcdef",
        60: "22000001000",
    }
    assert masked_fields(fields) == fields


def test_a_merchant_number_is_not_taken_for_a_card() -> None:
    fields = {42: "411111111111111", 41: "41111111", 90: "020000004201021015300000041111111111111111"}
    assert masked_fields(fields) == fields


@pytest.mark.parametrize("pan", TEST_PANS)
def test_a_card_in_text_is_found(pan: str) -> None:
    assert luhn_holds(pan)
    for text in (pan, f"pan={pan}!", f"x{pan}y", f"a {pan[:4]} {pan[4:8]} {pan[8:]} b", f"{pan[:4]}-{pan[4:]}"):
        assert contains_pan(text), text
        assert not contains_pan(mask_pans(text)), text
        assert len(mask_pans(text)) == len(text)


def test_what_is_no_card_is_not_found() -> None:
    for text in ("", "4111111111111112", "000000000000000000", "1700000000000", "411111111111", "4111 1111", "4" * 16):
        assert not contains_pan(text), text


def test_a_card_inside_packed_bytes_is_found_on_demand() -> None:
    dump = "0200" + "4000" + "16" + PAN + "000000"
    assert not contains_pan(dump)
    assert any(dump[start:end] == PAN for start, end in find_pans(dump, inside_runs=True))


def test_each_card_of_a_text_is_found() -> None:
    text = ", ".join(TEST_PANS)
    assert [text[start:end] for start, end in find_pans(text)] == TEST_PANS


@given(text=st.text("0123456789 -a", max_size=200))
def test_masking_text_leaves_no_card_and_nothing_longer(text: str) -> None:
    assert not contains_pan(mask_pans(text))
    assert len(mask_pans(text)) == len(text)


def test_a_long_run_of_digits_is_searched_in_time() -> None:
    assert not contains_pan("4 " * 200_000)
    assert not contains_pan("123456789012 x" * 20_000)
