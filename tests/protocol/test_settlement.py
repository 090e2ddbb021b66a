"""Field 48 of a settlement: totals and details come back as they were said, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.settlement import (
    DETAILS_MAX,
    TOTALS_DIGITS,
    Balance,
    Detail,
    SettlementFieldError,
    Totals,
    details_text,
    parse_details,
    parse_totals,
    result_of,
    totals_text,
    with_result,
)

AMOUNTS = st.integers(0, 10**12 - 1)
COUNTS = st.integers(0, 999)
TOTALS = st.builds(Totals, AMOUNTS, COUNTS, AMOUNTS, COUNTS)
DETAILS = st.builds(
    Detail,
    stan=st.from_regex(r"[0-9]{6}", fullmatch=True),
    amount_minor=AMOUNTS,
    pan=st.from_regex(r"[1-9][0-9]{12,18}", fullmatch=True),
    kind=st.sampled_from(["00", "01"]),
)


def test_a_known_field() -> None:
    text = totals_text(Totals(123_456, 3, 100, 1), result=Balance.BALANCED)
    assert text == "000000123456003000000000100001100000000000000000000000000000" + "01"
    assert len(text) == TOTALS_DIGITS


@given(TOTALS, TOTALS, st.sampled_from(Balance))
def test_totals_come_back(domestic: Totals, foreign: Totals, result: Balance) -> None:
    text = totals_text(domestic, foreign, result)
    assert parse_totals(text) == (domestic, foreign)
    assert result_of(text) is result
    assert parse_totals(with_result(text, Balance.ERROR)) == (domestic, foreign)
    assert result_of(with_result(text, Balance.ERROR)) is Balance.ERROR


@given(st.lists(DETAILS, max_size=DETAILS_MAX))
def test_details_come_back(details: list[Detail]) -> None:
    assert list(parse_details(details_text(details))) == details


@pytest.mark.parametrize("text", ["", "0" * 61, "0" * 63, "0" * 61 + "x", "\u0661" * 62])
def test_totals_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettlementFieldError):
        parse_totals(text)


@pytest.mark.parametrize("text", ["", "0", "01", "01" + "0" * 39, "0x", "02" + "0" * 40, "01" + "0" * 39 + "x"])
def test_details_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettlementFieldError):
        parse_details(text)


def test_a_result_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(SettlementFieldError):
        result_of("0" * 61 + "7")


@pytest.mark.parametrize("totals", [Totals(10**12), Totals(0, 1000), Totals(0, 0, 10**12), Totals(0, 0, 0, 1000)])
def test_totals_that_do_not_fit_are_refused(totals: Totals) -> None:
    with pytest.raises(SettlementFieldError):
        totals_text(totals)


def test_one_half_out_of_balance_is_enough() -> None:
    text = totals_text(Totals(), result=Balance.BALANCED)
    assert result_of(text[:-1] + "2") is Balance.OUT_OF_BALANCE
    assert result_of(text[:30] + "2" + text[31:]) is Balance.OUT_OF_BALANCE


def test_no_card_number_is_shown() -> None:
    assert "6212345678900000003" not in repr(Detail("000001", 1, "6212345678900000003"))
