"""Rows hold every value of a transaction, and no row passes for another."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise

import msgspec
import pytest
from msgspec.structs import astuple, fields, replace

from gateway.core.lifecycle import State
from gateway.core.transaction import Kind, Transaction
from gateway.journal.rows import RowCodec, RowDamaged, row_of

WHOLE = Transaction(
    key="key",
    kind=Kind.REVERSAL,
    state=State.PARKED,
    lane="lane",
    terminal="terminal",
    merchant="merchant",
    stan="000001",
    fingerprint=b"fingerprint",
    card=b"card",
    card_mask="424242******4242",
    amount_minor=100,
    currency="156",
    accepted_ms=1,
    changed_ms=2,
    id=3,
    position=4,
    attempts=5,
    not_before_ms=6,
    response="00",
    reason="reason",
    resume=State.STORED,
    exposed=True,
    original=7,
    advised=True,
    approval="123456",
    revision=8,
    alias="alias",
    alias_digest=b"d" * 16,
    booked=True,
)


def test_a_row_holds_every_value_of_a_transaction() -> None:
    unset = Transaction("", Kind.SALE, State.ASKING, "", "", "", "", b"", b"", "", 0, "", 0, 0)
    for field in fields(Transaction):
        assert getattr(WHOLE, field.name) != getattr(unset, field.name), f"{field.name} is not told apart here"
    codec = RowCodec(b"k" * 32)
    row = row_of(WHOLE, 3, 4, 7, answered_at=3, retained=True)
    assert codec.unpack(3, codec.pack(row)).transaction() == WHOLE


def test_a_row_from_before_bookings_were_noted_is_read_as_not_known() -> None:
    codec = RowCodec(b"k" * 32)
    values = astuple(row_of(WHOLE, 3, 4, 7, answered_at=3, retained=True))[:-1]
    packed = msgspec.msgpack.encode(values)
    tag = blake2b(packed, key=b"k" * 32, digest_size=16, person=b"holdfast row").digest()
    assert codec.unpack(3, packed + tag).transaction() == replace(WHOLE, booked=False)


def test_every_flipped_bit_of_a_row_is_noticed() -> None:
    codec = RowCodec(b"k" * 32)
    packed = codec.pack(row_of(WHOLE, 3, 4, 7, answered_at=3, retained=True))
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RowDamaged):
            codec.unpack(3, bytes(flipped))


@pytest.mark.parametrize("stored", [None, 7, "text", b"", b"short"])
def test_what_is_no_row_is_damaged(stored: object) -> None:
    with pytest.raises(RowDamaged):
        RowCodec(b"k" * 32).unpack(3, stored)


def test_a_row_under_another_id_or_key_is_damaged() -> None:
    codec = RowCodec(b"k" * 32)
    packed = codec.pack(row_of(replace(WHOLE), 3, 4, 7, answered_at=0, retained=False))
    with pytest.raises(RowDamaged, match="another id"):
        codec.unpack(4, packed)
    with pytest.raises(RowDamaged):
        RowCodec(b"l" * 32).unpack(3, packed)


CODEC = RowCodec(b"k" * 32)


def numbers(keys: Iterable[str], table: int) -> list[int]:
    return [CODEC.key_hashes(key)[table] for key in keys]


@pytest.mark.parametrize("table", [0, 1])
def test_what_a_terminal_sends_in_a_period_lies_together_in_the_order_of_its_stans(table: int) -> None:
    stans = [1, 2, 17, 499_999, 500_000, 999_999]
    found = numbers([f"D20261121|M|T|2|{stan:06}" for stan in stans], table)
    assert [number - found[0] for number in found] == [stan - 1 for stan in stans]


@pytest.mark.parametrize("table", [0, 1])
def test_nothing_of_another_terminal_class_or_day_lies_between(table: int) -> None:
    begins = [f"{period}|M|T{n}|{kind}" for period in ("D20261121", "B000007", "H") for n in range(99) for kind in "12"]
    regions = sorted(numbers([f"{each}|{stan:06}" for stan in (0, 999_999)], table) for each in begins)
    assert all(one[1] < following[0] for one, following in pairwise(regions))


@pytest.mark.parametrize("table", [0, 1])
def test_what_is_of_one_period_lies_together(table: int) -> None:
    found = numbers([f"D20261121|M|T{n}|2|000001" for n in range(500)], table)
    assert len({number >> 52 for number in found}) == 1
    assert len({number >> 20 for number in found}) == 500


@pytest.mark.parametrize("table", [0, 1])
def test_second_keys_of_a_terminal_lie_together_and_are_told_apart(table: int) -> None:
    found = numbers([f"idem|M|T|order-{n}" for n in range(500)], table)
    assert len({number >> 32 for number in found}) == 1
    assert len(set(found)) == 500
    (other,) = numbers(["idem|M|U|order-1"], table)
    assert other >> 32 != found[0] >> 32


def test_the_two_tables_have_independent_numbers() -> None:
    begins = [f"D20261121|M|T{n}|2|000001" for n in range(200)]
    first, second = numbers(begins, 0), numbers(begins, 1)
    assert not set(first) & set(second)
    assert sorted(range(200), key=first.__getitem__) != sorted(range(200), key=second.__getitem__)
