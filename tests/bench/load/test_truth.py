"""The judgement finds what is lost, doubled, reordered, changed and unsettled, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load.books import Books, read_books, save_books
from bench.load.frames import Amounts
from bench.load.terminals import Told
from bench.load.truth import Truth, judge

AMOUNTS = Amounts()
NAME = "L0000001"
WIRE = NAME.encode()


class Shop:
    """One terminal and what the host has of it: five sales, all told approved, all booked."""

    def __init__(self, path: Path) -> None:
        self.told = bytearray([Told.APPROVED] * 5)
        self.books = Books(AMOUNTS)
        self._path = path / "books"

    def book(self, stan: int, *, amount: int | None = None, repeat: bool = False, advice: bool = True) -> bytes:
        minor = AMOUNTS.minor(stan) if amount is None else amount
        return self.books.book(self.books.lane(WIRE), stan, minor, repeat=repeat, advice=advice)

    def book_all(self, *stans: int) -> None:
        for stan in stans or range(1, 6):
            self.book(stan)

    def reverse(self, stan: int) -> bytes:
        return self.books.reverse(self.books.lane(WIRE), stan)

    def judged(self) -> Truth:
        save_books(self.books, self._path)
        return judge({NAME: bytes(self.told)}, read_books(self._path))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_what_was_told_and_booked_once_in_order_is_clean(shop: Shop) -> None:
    shop.book_all()
    truth = shop.judged()
    assert truth.clean
    assert (truth.approvals, truth.booked) == (5, 5)


def test_an_approval_that_is_not_booked_is_lost(shop: Shop) -> None:
    shop.book_all(1, 2, 4, 5)
    truth = shop.judged()
    assert (truth.lost, truth.clean) == (1, False)
    assert truth.examples == [f"lost: terminal {NAME}, STAN 3"]


def test_an_approval_is_lost_where_the_host_knows_nothing_of_its_terminal(shop: Shop) -> None:
    assert shop.judged().lost == 5


def test_an_approval_that_was_reversed_behind_the_terminals_back_is_lost(shop: Shop) -> None:
    shop.book_all()
    shop.reverse(2)
    assert shop.judged().lost == 1


def test_a_second_booking_that_does_not_say_that_it_is_a_repeat_is_doubled(shop: Shop) -> None:
    shop.book_all()
    assert shop.book(3) == b"00"
    truth = shop.judged()
    assert (truth.doubled, truth.booked, truth.clean) == (1, 5, False)


def test_a_repeat_is_no_second_booking(shop: Shop) -> None:
    shop.book_all()
    shop.book(3, repeat=True)
    assert shop.judged().clean


def test_a_request_for_what_is_booked_is_answered_94(shop: Shop) -> None:
    shop.book_all()
    assert shop.book(3, advice=False) == b"94"


def test_a_booking_that_nobody_sold_is_doubled(shop: Shop) -> None:
    shop.book_all()
    shop.book(6)
    assert shop.judged().doubled == 1
    shop.told.append(Told.UNKNOWN)
    assert shop.judged().clean, "of one that gave up nobody knows"


def test_a_booking_of_a_terminal_that_nobody_knows_is_doubled(shop: Shop) -> None:
    shop.book_all()
    shop.books.book(shop.books.lane(b"STRANGER"), 1, AMOUNTS.minor(1), repeat=False, advice=True)
    assert shop.judged().doubled == 1


def test_a_first_booking_behind_a_later_one_is_out_of_order(shop: Shop) -> None:
    shop.book_all(1, 3, 2, 4, 5)
    truth = shop.judged()
    assert (truth.out_of_order, truth.lost, truth.clean) == (1, 0, False)


def test_another_amount_than_was_sold_is_found(shop: Shop) -> None:
    shop.book_all(1, 2, 3, 4)
    shop.book(5, amount=AMOUNTS.minor(5) + 1)
    truth = shop.judged()
    assert (truth.changed, truth.clean) == (1, False)


@pytest.mark.parametrize("told", [Told.DECLINED, Told.REFUSED, Told.REVERSED])
def test_what_is_booked_although_its_terminal_was_told_otherwise_is_unsettled(shop: Shop, told: Told) -> None:
    shop.book_all()
    shop.told[1] = told
    truth = shop.judged()
    assert (truth.unsettled, truth.clean) == (1, False)
    shop.reverse(2)
    assert shop.judged().clean, "its reversal settles it"


def test_a_reversal_that_comes_first_makes_its_original_void(shop: Shop) -> None:
    shop.book_all(1)
    assert shop.reverse(2) == b"25"
    assert shop.book(2) == b"12"
    shop.book_all(3, 4, 5)
    shop.told[1] = Told.REVERSED
    assert shop.judged().clean


def test_books_grow_with_any_stan(shop: Shop) -> None:
    shop.book_all()
    shop.book(999_999)
    assert shop.judged().doubled == 1
