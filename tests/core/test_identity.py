"""Keys, fingerprints and what is refused before it has either (D1, D2, D4, D12)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.core.card_data import pan_of
from gateway.core.fingerprint import KeyedHash
from gateway.core.identity import request_from
from gateway.core.parts import BadRequest
from gateway.core.transaction import Kind, Request
from protocol.iso8583.message import Fields, Message
from protocol.iso8583.rules import Period, TerminalRules
from protocol.settlement import Totals
from tests.core.messages import (
    ISO,
    MASTERCARD,
    MERCHANT,
    UNIONPAY,
    UNIONPAY_RULES,
    VISA,
    reversal,
    sale,
    settlement,
    unionpay_sale,
    upload,
    upload_end,
)

HASHING = KeyedHash(bytes(range(32)))
HORIZON = replace(ISO, period=Period.HORIZON)
DE_7 = replace(ISO, date_field=7)
LANE = f"{MERCHANT}|TERM0001"


def utc_ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


NOON = utc_ms(2025, 11, 21, 12)


def made(mti: str, fields: Fields, rules: TerminalRules = ISO, now_ms: int = NOON) -> Request:
    return request_from(Message(mti, fields), rules, HASHING, now_ms)


def refusal(mti: str, fields: Fields, rules: TerminalRules = ISO) -> str:
    with pytest.raises(BadRequest) as refused:
        made(mti, fields, rules)
    assert not any(value in str(refused.value) for value in (VISA, MASTERCARD, UNIONPAY))
    return refused.value.code


def test_d1_a_key_is_period_merchant_terminal_class_and_stan() -> None:
    assert made("0200", sale(7)).key == f"D20251121|{LANE}|2|000007"
    assert made("0100", sale(7)).key == f"D20251121|{LANE}|1|000007"
    assert made("0200", sale(7)).lane == LANE


def test_d1_the_batch_number_is_the_period_where_the_dialect_carries_one() -> None:
    assert made("0200", unionpay_sale(7, batch="000042"), UNIONPAY_RULES).key.startswith("B000042|")


def test_d1_without_a_batch_number_the_date_is_the_period_and_without_a_date_the_horizon() -> None:
    fields = unionpay_sale(7)
    del fields[60]
    unsettled = replace(UNIONPAY_RULES, totals_field=0)
    assert made("0200", fields | {13: "1121"}, unsettled).key.startswith("D20251121|")
    without = made("0200", fields, unsettled)
    assert without.key.startswith("H|")
    assert without.horizon_ms == 24 * 3_600_000


def test_d1_a_dated_key_has_no_horizon() -> None:
    assert made("0200", sale()).horizon_ms == 0


def test_d1_field_7_can_be_the_date() -> None:
    assert made("0200", sale() | {7: "1120235959"}, DE_7).key.startswith("D20251120|")


@pytest.mark.parametrize(
    ("now", "month_day", "period"),
    [
        ((2026, 1, 1, 0, 5), "1231", "D20251231"),
        ((2025, 12, 31, 23, 55), "0101", "D20260101"),
        ((2024, 2, 29, 12), "0229", "D20240229"),
        ((2025, 3, 1, 0, 1), "0228", "D20250228"),
    ],
)
def test_d1_a_date_means_the_year_in_which_it_is_closest_to_today(
    now: tuple[int, ...], month_day: str, period: str
) -> None:
    assert made("0200", sale() | {13: month_day}, now_ms=utc_ms(*now)).key.startswith(period + "|")


def test_d1_a_retry_after_midnight_that_repeats_its_date_has_the_same_key() -> None:
    before = made("0200", sale(), now_ms=utc_ms(2025, 11, 21, 23, 59, 59))
    after = made("0201", sale(), now_ms=utc_ms(2025, 11, 22, 0, 0, 1))
    assert before.key == after.key
    assert before.fingerprint == after.fingerprint


def test_d4_a_stan_that_has_wrapped_is_another_transaction_in_another_batch_or_on_another_day() -> None:
    assert made("0200", sale(1)).key != made("0200", sale(1) | {13: "1122"}).key
    assert (
        made("0200", unionpay_sale(1, batch="000001"), UNIONPAY_RULES).key
        != made("0200", unionpay_sale(1, batch="000002"), UNIONPAY_RULES).key
    )
    assert made("0200", sale(999_999)).stan == "999999"


@pytest.mark.parametrize(
    "changed",
    [{2: MASTERCARD}, {4: "000000001001"}, {49: "840"}, {3: "010000"}],
    ids=["card", "amount", "money", "code"],
)
def test_d2_another_card_amount_currency_or_processing_code_is_another_fingerprint(changed: Fields) -> None:
    assert made("0200", sale()).fingerprint != made("0200", sale() | changed).fingerprint
    assert made("0200", sale()).key == made("0200", sale() | changed).key


def test_d2_a_fingerprint_does_not_change_with_what_a_retry_makes_fresh() -> None:
    assert made("0200", sale()).fingerprint == made("0201", sale() | {7: "1121120500", 64: "00" * 8}).fingerprint


def test_d2_fingerprints_are_keyed_and_card_hashes_are_apart_from_them() -> None:
    other = KeyedHash(bytes(32))
    assert other.card(VISA) != HASHING.card(VISA)
    assert HASHING.card(VISA) != HASHING.fingerprint(VISA, 0, "", "")
    assert len(HASHING.card(VISA)) == 16
    assert HASHING.card("") == b""
    with pytest.raises(ValueError, match="32 bytes"):
        KeyedHash(b"short")


def test_d2_text_that_no_encoding_knows_does_not_stop_the_fingerprint() -> None:
    assert len(HASHING.fingerprint("\ud800", 1, "银", "")) == 16


def test_the_default_currency_counts_where_field_49_is_absent() -> None:
    fields = sale()
    del fields[49]
    assert made("0200", fields).fingerprint == made("0200", sale()).fingerprint
    assert made("0200", fields).currency == "156"


def test_d1_the_card_number_is_found_in_a_track_and_in_chip_data() -> None:
    assert pan_of({35: f"{VISA}=30121010000000000"}) == VISA
    assert pan_of({35: f"{VISA}d30121010000000000"}) == VISA
    assert pan_of({55: f"5a08{VISA}"}) == VISA
    assert pan_of({55: f"5a0a{UNIONPAY}f"}) == UNIONPAY
    assert pan_of({55: f"5711{VISA}d3012101000000000f"}) == VISA
    assert pan_of({2: MASTERCARD, 35: f"{VISA}=3012"}) == MASTERCARD
    assert pan_of({55: "5aff"}) == ""
    assert pan_of({55: "no hex"}) == ""


def test_inv_8_an_encrypted_track_gives_no_card_number() -> None:
    track = "8F3A" * 9
    assert pan_of({35: track}) == ""
    assert pan_of({35: "4" * 37}) == ""  # no separator: behind the number would stand what must not be kept
    fields = sale() | {35: track}
    del fields[2]
    request = made("0200", fields)
    assert request.card == b""
    assert request.card_mask == ""
    assert request.fields.get(2) is None


def test_track_only_and_number_only_sales_of_one_card_have_one_fingerprint() -> None:
    fields = sale() | {35: f"{VISA}=30121010000000000"}
    del fields[2]
    assert made("0200", fields).fingerprint == made("0200", sale()).fingerprint
    assert made("0200", fields).pan == VISA


def test_inv_8_sensitive_fields_and_macs_are_kept_apart_from_the_rest() -> None:
    fields = sale() | {35: f"{VISA}=3012", 52: "aa" * 8, 55: "9f2608" + "00" * 8, 64: "bb" * 8, 128: "cc" * 8}
    request = made("0200", fields)
    assert set(request.sensitive) == {35, 52, 55}
    assert not {35, 52, 55, 64, 128} & set(request.fields)
    assert VISA not in repr(request)
    assert request.card_mask == "411111******1111"


@pytest.mark.parametrize(
    "changed",
    [
        {11: "12345"}, {11: "12345a"}, {11: "١٢٣٤٥٦"}, {11: ""}, {3: "0000"}, {4: "1000"}, {4: "00000000100-"},
        {41: ""}, {41: "A|B"}, {41: "A\nB"}, {42: "M|X"}, {13: "11"}, {13: "1|2|"}, {13: "ABCD"}, {2: "41111X"},
        {2: "4" * 20},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_field_is_answered_with_30_and_stored_nowhere(changed: Fields) -> None:
    assert refusal("0200", sale() | changed) == "30"


@pytest.mark.parametrize("missing", [3, 4, 11, 41])
def test_a_missing_field_is_answered_with_30(missing: int) -> None:
    fields = sale()
    del fields[missing]
    assert refusal("0200", fields) == "30"


def test_a_batch_number_that_is_not_digits_is_answered_with_30() -> None:
    assert refusal("0200", unionpay_sale() | {60: "22ABC|EF000"}, UNIONPAY_RULES) == "30"


@pytest.mark.parametrize("mti", ["0300", "0210", "9999", "", "0202"])
def test_a_message_type_that_we_do_not_know_is_answered_with_30(mti: str) -> None:
    assert refusal(mti, sale()) == "30"


@pytest.mark.parametrize("mti", ["0500", "0320"])
def test_terminals_whose_dialect_does_not_settle_are_answered_30(mti: str) -> None:
    assert refusal(mti, sale()) == "30"


@pytest.mark.parametrize(
    ("mti", "changed"),
    [
        ("0500", {48: "0" * 61}), ("0500", {48: ""}), ("0500", {60: "00"}), ("0500", {60: ""}), ("0500", {11: "1"}),
        ("0500", {41: ""}), ("0320", {48: "0100"}), ("0320", {48: "09" + "0" * 361}),
        ("0320", {60: "00X00001201"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_settlement_is_answered_30(mti: str, changed: Fields) -> None:
    fields = settlement(1, Totals()) if mti == "0500" else upload(1)
    assert refusal(mti, fields | changed, UNIONPAY_RULES) == "30"


def test_an_upload_is_known_by_its_network_code() -> None:
    assert made("0320", upload(1), UNIONPAY_RULES).kind is Kind.UPLOAD
    for code in ("202", "207"):
        end = upload_end(1) | {60: f"00000001{code}"}
        assert made("0320", end, UNIONPAY_RULES).kind is Kind.SETTLEMENT


@pytest.mark.parametrize(
    ("mti", "changed", "kind"),
    [
        ("0200", {3: "310000"}, Kind.INQUIRY),
        ("0100", {3: "310000"}, Kind.INQUIRY),
        ("0220", {3: "310000"}, Kind.ADVICE),
        ("0800", {60: "00000001360"}, Kind.INQUIRY),
        ("0800", {60: "00000001003"}, Kind.NETWORK),
        ("0820", {60: "00000001301"}, Kind.NETWORK),
        ("0200", {60: "36000001000"}, Kind.ADVICE),
        ("0220", {60: "36000001000"}, Kind.ADVICE),
        ("0220", {3: "200000"}, Kind.SALE),
    ],
    ids=str,
)
def test_what_a_unionpay_message_is(mti: str, changed: Fields, kind: Kind) -> None:
    assert made(mti, unionpay_sale() | changed, UNIONPAY_RULES).kind is kind


def test_an_inquiry_names_its_terminal_and_its_stan() -> None:
    for missing in (11, 41, 42):
        fields = {n: v for n, v in unionpay_sale().items() if n != missing} | {3: "310000"}
        assert refusal("0200", fields, UNIONPAY_RULES) == "30"


def test_network_messages_need_neither_stan_nor_terminal() -> None:
    request = made("0800", {70: "301"})
    assert request.kind is Kind.NETWORK
    assert request.key == ""


def test_d12_a_reversal_with_field_90_names_class_and_stan_of_its_original() -> None:
    request = made("0400", reversal(sale(7), 8))
    assert request.key == f"D20251121|{LANE}|4|000008"
    assert request.original_keys == (f"D20251121|{LANE}|2|000007",)
    assert made("0420", reversal(sale(7), 8, mti="0100")).original_keys == (f"D20251121|{LANE}|1|000007",)


def test_d12_a_reversal_after_midnight_is_looked_for_on_both_days() -> None:
    fields = reversal(sale(7) | {7: "1120235900"}, 8)
    assert made("0400", fields).original_keys == (f"D20251121|{LANE}|2|000007", f"D20251120|{LANE}|2|000007")
    by_field_7 = made("0400", fields | {7: "1121000100"}, DE_7)
    assert by_field_7.original_keys == (f"D20251120|{LANE}|2|000007", f"D20251121|{LANE}|2|000007")


def test_d12_a_reversal_under_a_horizon_names_its_original_within_it() -> None:
    request = made("0400", reversal(sale(7), 8), HORIZON)
    assert request.original_keys == (f"H|{LANE}|2|000007",)
    assert request.horizon_ms == 24 * 3_600_000


def test_d12_a_unionpay_reversal_has_the_stan_of_its_original_whichever_class_that_is() -> None:
    request = made("0400", unionpay_sale(7), UNIONPAY_RULES)
    assert request.key == f"B000001|{LANE}|4|000007"
    assert request.original_keys == (f"B000001|{LANE}|2|000007", f"B000001|{LANE}|1|000007")


def test_d12_field_61_names_the_batch_of_an_original_of_an_older_batch() -> None:
    request = made("0400", unionpay_sale(7, batch="000002") | {61: "0000010000071121"}, UNIONPAY_RULES)
    assert request.original_keys[:2] == (f"B000001|{LANE}|2|000007", f"B000001|{LANE}|1|000007")
    assert f"B000002|{LANE}|2|000007" in request.original_keys


def test_d12_the_reversal_of_a_void_never_means_the_sale_that_the_void_names_in_field_61() -> None:
    fields = unionpay_sale(9, batch="000002") | {3: "200000", 61: "0000010000071121"}
    assert made("0400", fields, UNIONPAY_RULES).original_keys == (
        f"B000002|{LANE}|2|000009",
        f"B000002|{LANE}|1|000009",
    )


@pytest.mark.parametrize("named", ["0200", "02000000071121", "0200 0000071121120000", "٠٢٠٠" + "0" * 38])
def test_a_malformed_field_90_is_answered_with_30(named: str) -> None:
    assert refusal("0400", sale() | {90: named}) == "30"


def test_a_reversal_of_a_reversal_is_answered_with_12() -> None:
    assert refusal("0400", reversal(sale(7), 8, mti="0400")) == "12"


def test_a_reversal_may_come_without_an_amount_but_not_with_a_malformed_one() -> None:
    fields = reversal(sale(7), 8)
    del fields[4]
    assert made("0400", fields).amount_minor == 0
    assert refusal("0400", fields | {4: "10"}) == "30"


@pytest.mark.parametrize("currency", ["15", "1 6", "15\xe9", "    "])
def test_a_currency_that_is_none_is_answered_30_and_cannot_reach_the_journal(currency: str) -> None:
    with pytest.raises(BadRequest, match="field 49") as refused:
        request_from(Message("0200", {**sale(), 49: currency}), TerminalRules(), HASHING, 1_763_726_400_000)
    assert refused.value.code == "30"


def test_an_identifier_that_no_journal_entry_could_hold_is_answered_30() -> None:
    with pytest.raises(BadRequest, match="field 42 is longer"):
        request_from(Message("0200", {**sale(), 42: "M" * 41}), TerminalRules(), HASHING, 1_763_726_400_000)
