"""The simulated acquirer's books: booked once, netted to zero, remembered."""

from __future__ import annotations

import pytest

from bench.books import Books, Order
from bench.records import LedgerEvent
from protocol.iso8583.message import Message

BASE = {
    2: "4111111111111111",
    3: "000000",
    4: "000000001000",
    11: "000001",
    41: "T1      ",
    42: "M1             ",
    49: "156",
}
KEY = "M1/T1/000001"


def message(mti: str, **fields: str) -> Message:
    return Message(mti, BASE | {int(name[1:]): value for name, value in fields.items()})


def acts(books: Books, *messages: Message) -> list[tuple[str, str]]:
    events = [books.decide(each, 0.0) for each in messages]
    return [(event.act, event.answer) for event in events]


@pytest.mark.parametrize(
    ("mti", "act", "code"),
    [
        ("0200", "duplicate", "94"),
        ("0201", "duplicate", "00"),
        ("0220", "duplicate", "00"),
        ("0221", "duplicate", "00"),
    ],
)
def test_a_key_is_booked_once_whatever_brings_it_again(mti: str, act: str, code: str) -> None:
    books = Books()
    assert acts(books, message("0200"), message(mti)) == [("booked", "00"), (act, code)]
    assert (books.booked, books.net(KEY)) == (1, 1)


def test_a_repeated_advice_is_answered_by_setting() -> None:
    books = Books(duplicate_advice_code="94")
    assert acts(books, message("0220"), message("0221")) == [("booked", "00"), ("duplicate", "94")]


@pytest.mark.parametrize("mti", ["0400", "0420", "0401", "0421"])
def test_a_reversal_nets_its_original_to_zero_once(mti: str) -> None:
    books = Books()
    assert acts(books, message("0200"), message(mti), message(mti)) == [
        ("booked", "00"),
        ("reversed", "00"),
        ("reversal-duplicate", "00"),
    ]
    assert (books.net(KEY), books.reversed) == (0, 1)


def test_a_reversal_finds_its_original_by_field_90() -> None:
    books = Books()
    reversal = message("0420", f11="000009", f90="0200" + "000001" + "0102030405" + "0" * 22)
    assert acts(books, message("0200"), reversal) == [("booked", "00"), ("reversed", "00")]
    assert books.net(KEY) == 0


def test_a_reversal_of_something_unknown_is_remembered_and_its_original_refused() -> None:
    books = Books()
    assert acts(books, message("0400"), message("0200"), message("0220")) == [
        ("reversal-unknown", "25"),
        ("refused-late", "12"),
        ("refused-late", "12"),
    ]
    assert books.booked == 0


def test_an_advice_after_its_reversal_is_not_booked_again() -> None:
    books = Books()
    acts(books, message("0220"), message("0400"), message("0221"))
    assert (books.booked, books.net(KEY)) == (1, 0)


def test_a_request_without_money_is_declined_and_an_advice_is_taken() -> None:
    books = Books()
    assert acts(books, message("0200", f4="000000001051"), message("0220", f4="000000001051", f11="000002")) == [
        ("declined", "51"),
        ("booked", "00"),
    ]


def test_a_code_can_be_answered_with_and_without_effect() -> None:
    books = Books()
    first = books.decide(message("0200"), 0.0, Order(code="91", booking=True))
    second = books.decide(message("0200", f11="000002"), 0.0, Order(code="91", booking=False))
    third = books.decide(message("0220", f11="000003"), 0.0, Order(code="91", booking=False))
    assert [(event.act, event.answer) for event in (first, second, third)] == [
        ("booked", "91"),
        ("declined", "91"),
        ("refused", "91"),
    ]
    assert acts(books, message("0221", f11="000003")) == [("booked", "00")]


def test_what_is_thrown_away_has_no_effect() -> None:
    books = Books()
    assert books.decide(message("0200"), 0.0, Order(ignored=True, answered=False)).act == "ignored"
    assert books.booked == 0


def test_no_line_of_the_ledger_holds_a_card_number() -> None:
    event = Books().decide(message("0200"), 0.0)
    assert event.card == "411111******1111"
    assert BASE[2] not in repr(event)


def test_a_digest_tells_a_changed_repeat_from_one_with_fresh_time_and_mac() -> None:
    books = Books()

    def digest(**fields: str) -> str:
        return books.decide(message("0220", **fields), 0.0).digest

    assert digest() == digest(f7="0102030405", f64="00" * 8)
    assert digest() != digest(f4="000000001001")


def test_books_rebuilt_from_their_ledger_decide_alike() -> None:
    sequence = [
        message("0200"),
        message("0220", f11="000002"),
        message("0400", f11="000002"),
        message("0400", f11="000003"),
    ]
    sequence.append(message("0200", f11="000004", f4="000000000051"))
    books, events = Books(), list[LedgerEvent]()
    events.extend(books.decide(each, 0.0) for each in sequence)
    rebuilt = Books()
    for event in events:
        rebuilt.apply(event)
    again = [
        message("0201"),
        message("0220", f11="000002"),
        message("0400", f11="000002"),
        message("0200", f11="000003"),
    ]
    again.append(message("0201", f11="000004"))
    assert acts(rebuilt, *again) == acts(books, *again)
    assert (rebuilt.booked, rebuilt.reversed, len(rebuilt)) == (books.booked, books.reversed, len(books))
