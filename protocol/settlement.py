"""Field 48 of a UnionPay settlement: the totals of a batch (0500, 0510) and its details (0320). Digits only.

    0500  debit amount 12, count 3, credit amount 12, count 3, result 1; twice: domestic cards, then foreign ones
    0320  number of details 2; each: kind 2, STAN 6, card number 20 (zeros in front), amount 12

The result is 0 in a request; in an answer 1 balanced, 2 out of balance, 3 error. Source: UNIONPAY notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

TOTALS_DIGITS: Final = 62
DETAIL_DIGITS: Final = 40
DETAILS_MAX: Final = 8
"""Details in one 0320: field 48 has room for 322 digits."""

_HALF: Final = TOTALS_DIGITS // 2
_AMOUNT_MAX: Final = 10**12 - 1
_COUNT_MAX: Final = 999


class SettlementFieldError(ValueError):
    """Field 48 is not what it should be. Holds nothing of it."""


class Balance(StrEnum):
    """What an answer says of the totals."""

    ASKED = "0"
    BALANCED = "1"
    OUT_OF_BALANCE = "2"
    ERROR = "3"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of a batch; amounts in minor units.

    Debits are what the shop gets (sales, completions), credits what it gives back (voids, refunds).
    """

    debit_minor: int = 0
    debit_count: int = 0
    credit_minor: int = 0
    credit_count: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.debit_minor + other.debit_minor,
            self.debit_count + other.debit_count,
            self.credit_minor + other.credit_minor,
            self.credit_count + other.credit_count,
        )

    @property
    def fits(self) -> bool:
        """Whether field 48 can say them."""
        return max(self.debit_minor, self.credit_minor) <= _AMOUNT_MAX and (
            max(self.debit_count, self.credit_count) <= _COUNT_MAX
        )


@dataclass(frozen=True, slots=True)
class Detail:
    """One approved transaction of an upload."""

    stan: str
    amount_minor: int
    pan: str = field(repr=False)
    kind: str = "00"


def parse_totals(text: str) -> tuple[Totals, Totals]:
    """The two halves of field 48 of a 0500: domestic and foreign.

    Raises:
        SettlementFieldError: not 62 digits.
    """
    if len(text) != TOTALS_DIGITS or not _digits(text):
        raise SettlementFieldError(f"the totals must be {TOTALS_DIGITS} digits")
    return _half(text[:_HALF]), _half(text[_HALF:])


def totals_text(domestic: Totals, foreign: Totals = Totals(), result: Balance = Balance.ASKED) -> str:
    """Field 48 of a 0500 or 0510; `parse_totals` gives the totals back.

    Raises:
        SettlementFieldError: an amount or a count that has too many digits.
    """
    return "".join(_half_text(half, result) for half in (domestic, foreign))


def halves(totals: Totals) -> tuple[Totals, Totals]:
    """Totals for the two halves of the field: all in the first, and in the second what its counts cannot say."""
    debits, credits_ = min(totals.debit_count, _COUNT_MAX), min(totals.credit_count, _COUNT_MAX)
    first = Totals(totals.debit_minor, debits, totals.credit_minor, credits_)
    return first, Totals(0, totals.debit_count - debits, 0, totals.credit_count - credits_)


def result_of(text: str) -> Balance:
    """What field 48 of a 0510 says: out of balance or an error if either half says so.

    Raises:
        SettlementFieldError: not 62 digits, or a result that there is none of.
    """
    parse_totals(text)
    try:
        return max(Balance(text[_HALF - 1]), Balance(text[-1]))
    except ValueError:
        raise SettlementFieldError("the result must be 0 to 3") from None


def with_result(text: str, result: Balance) -> str:
    """The field 48 of a request as its answer says it."""
    return f"{text[: _HALF - 1]}{result}{text[_HALF:-1]}{result}"


def parse_details(text: str) -> tuple[Detail, ...]:
    """The details in field 48 of a 0320.

    Raises:
        SettlementFieldError: not digits, or another number of details than it says.
    """
    if len(text) < 2 or not _digits(text):
        raise SettlementFieldError("the details must be digits")
    count = int(text[:2])
    if len(text) != 2 + count * DETAIL_DIGITS:
        raise SettlementFieldError(f"{count} details have {2 + count * DETAIL_DIGITS} digits")
    starts = range(2, len(text), DETAIL_DIGITS)
    return tuple(
        Detail(
            kind=text[at : at + 2],
            stan=text[at + 2 : at + 8],
            pan=text[at + 8 : at + 28].lstrip("0"),
            amount_minor=int(text[at + 28 : at + 40]),
        )
        for at in starts
    )


def details_text(details: Sequence[Detail]) -> str:
    """Field 48 of a 0320 with up to `DETAILS_MAX` details.

    Raises:
        SettlementFieldError: too many of them, or one that does not fit.
    """
    if len(details) > DETAILS_MAX:
        raise SettlementFieldError(f"field 48 has room for {DETAILS_MAX} details")
    text = f"{len(details):02}" + "".join(f"{d.kind}{d.stan}{d.pan:0>20}{d.amount_minor:012}" for d in details)
    if len(text) != 2 + len(details) * DETAIL_DIGITS or not _digits(text):
        raise SettlementFieldError("a detail has a kind of 2, a STAN of 6, a card number and an amount of 12 digits")
    return text


def _half(text: str) -> Totals:
    return Totals(int(text[:12]), int(text[12:15]), int(text[15:27]), int(text[27:30]))


def _half_text(totals: Totals, result: Balance) -> str:
    if not totals.fits:
        raise SettlementFieldError("an amount has at most 12 digits, a count 3")
    return f"{totals.debit_minor:012}{totals.debit_count:03}{totals.credit_minor:012}{totals.credit_count:03}{result}"


def _digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()
